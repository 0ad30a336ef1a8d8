"""Documents on the disk: claimed once, kept piece by piece, cleaned away; their names, pieces and options."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import app.portions
from app.database import DATABASE_NAME
from app.document_names import safe_name
from app.document_options import read_options, write_options
from app.document_store import DocumentRecord, DocumentStore
from app.portions import split_pieces
from model import (
    ConfigurationError,
    Glossary,
    MarkupOptions,
    Protection,
    TextOptions,
)
from tests.service.line_document import LineText

if TYPE_CHECKING:
    pass


def record(number: int = 1, **values: Any) -> DocumentRecord:
    fields: dict[str, Any] = {
        "id": f"{number:032x}", "owner": "a", "name": "x.lines", "source": "fr", "target": "en", "model": "stub",
        "options": "{}", "created": float(number), "num_bytes": 3,
    }  # fmt: skip
    return DocumentRecord(**{**fields, **values})


@pytest.fixture
def store(tmp_path: Path) -> DocumentStore:
    return DocumentStore(tmp_path)


# The store


def test_what_is_added_comes_back(store: DocumentStore) -> None:
    whole = record(secret=b"\x00k", is_shared=True, characters=7, month="2026-01", finished=None)
    store.add(whole, b"abc")
    assert store.get(whole.id) == whole
    assert store.get(record(2).id) is None
    claim = store.claim(whole.id)
    assert claim is not None
    assert claim.file.read() == b"abc"
    assert claim.record == replace(whole, state="translating")
    claim.close()


def test_a_document_is_claimed_once_until_it_is_let_go(store: DocumentStore, tmp_path: Path) -> None:
    store.add(record(), b"abc")
    other = DocumentStore(tmp_path)  # as another process has it
    first = store.claim(record().id)
    assert first is not None
    assert (store.claim(record().id), other.claim(record().id)) == (None, None)
    first.close()
    second = other.claim(record().id)
    assert second is not None
    other.finish(record().id, b"result", ".txt", "text/plain", 5.0)
    second.close()
    assert store.claim(record().id) is None  # it is done
    assert store.result(record().id) == b"result"


def test_texts_and_progress_are_kept_together_and_forgotten_with_the_end(store: DocumentStore, tmp_path: Path) -> None:
    store.add(record(characters=9), b"abc")
    assert store.keep(record().id, [(b"1", "one"), (b"2", "two")], 6)
    assert store.translations(record().id) == {b"1": "one", b"2": "two"}
    found = store.get(record().id)
    assert found is not None
    assert found.translated_characters == 6
    store.finish(record().id, b"result!", ".txt", "text/plain", 5.0)
    assert store.translations(record().id) == {}
    assert store.get(record().id) == record(
        state="done", characters=9, translated_characters=9, num_bytes=7, suffix=".txt", media_type="text/plain",
        finished=5.0,
    )  # fmt: skip
    assert [path.name for path in (tmp_path / "documents" / record().id).iterdir()] == ["result"]


def test_the_end_of_a_deleted_document_leaves_nothing(store: DocumentStore, tmp_path: Path) -> None:
    store.add(record(), b"abc")
    assert store.delete(record().id)
    assert not store.delete(record().id)
    assert not store.keep(record().id, [(b"1", "one")], 3)
    store.finish(record().id, b"late", ".txt", "text/plain", 5.0)
    store.fail(record().id, "late", 5.0)
    assert store.get(record().id) is None
    assert list((tmp_path / "documents").iterdir()) == []


def test_totals_count_what_waits_and_what_is_stored(store: DocumentStore) -> None:
    for number in (1, 2, 3):
        store.add(record(number), b"abc")
    store.finish(record(1).id, b"longer", ".txt", "text/plain", 5.0)
    store.fail(record(2).id, "broken", 5.0)
    assert store.totals() == (1, 6 + 0 + 3)
    assert [each.id for each in store.unfinished()] == [record(3).id]
    assert [each.id for each in store.of_owner("a")] == [record(number).id for number in (3, 2, 1)]
    assert store.of_owner("b") == []


def test_cleaning_spares_what_is_young_or_unfinished(store: DocumentStore, tmp_path: Path) -> None:
    for number, finished in ((1, 10.0), (2, 20.0), (3, None)):
        store.add(record(number), b"abc")
        if finished is not None:
            store.finish(record(number).id, b"r", ".txt", "text/plain", finished)
    left_over, young = (tmp_path / "documents" / name for name in ("e" * 32, "f" * 32))
    left_over.mkdir()
    os.utime(left_over, (1.0, 1.0))
    young.mkdir()  # its row may be just about to come
    assert [each.id for each in store.clean(15.0)] == [record(1).id]
    assert sorted(path.name for path in (tmp_path / "documents").iterdir()) == [record(2).id, record(3).id, "f" * 32]


def test_files_are_for_nobody_else(store: DocumentStore, tmp_path: Path) -> None:
    store.add(record(), b"abc")
    folder = tmp_path / "documents" / record().id
    assert folder.stat().st_mode & 0o077 == 0
    assert (folder / "source").stat().st_mode & 0o077 == 0


def test_deleted_text_is_overwritten(store: DocumentStore, tmp_path: Path) -> None:
    store.add(record(), b"abc")
    store.keep(record().id, [(b"1", "tell-tale")], 3)
    store.delete(record().id)
    store.close()  # which moves the log into the file
    assert b"tell-tale" not in (tmp_path / DATABASE_NAME).read_bytes()


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="data_directory must be a folder"):
        DocumentStore(tmp_path / "file")


# Names, pieces and options


@pytest.mark.parametrize(
    ("given", "safe"),
    [
        ("../../etc/passwd.txt", "passwd.txt"),
        ("C:\\Users\\me\\brief.docx", "brief.docx"),
        ("/", "document"),
        ("..", "document"),
        ("a\r\nX-Evil: 1.txt", "aX-Evil: 1.txt"),
        ("été 😀.txt", "été 😀.txt"),
        ("n" * 500 + ".txt", "n" * 116 + ".txt"),
        ("x." + "y" * 500, "x." + "y" * 19),
        ("\u202etxt.exe", "txt.exe"),
    ],
)
def test_names_are_made_safe(given: str, safe: str) -> None:
    assert safe_name(given) == safe


def test_plain_text_is_cut_between_lines_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.portions, "PIECE_CHARACTERS", 10)
    text = "short\r\nlines\n\n" + "x" * 30 + "\nend"
    pieces = [piece.text for piece in split_pieces(LineText(text))]
    assert pieces == ["short\r\n", "lines\n\n", "x" * 30 + "\n", "end"]
    assert [piece.text for piece in split_pieces(LineText("<p>" + text))] == ["<p>" + text]
    assert [piece.text for piece in split_pieces(LineText(""))] == [""]


def test_pieces_of_another_format_are_others() -> None:
    class Html(LineText):
        format = "html"

    [plain], [html] = split_pieces(LineText("a")), split_pieces(Html("a"))
    assert plain.digest != html.digest


def test_options_survive_as_json() -> None:
    options = TextOptions(
        markup=MarkupOptions(ignore_tags=("x",), splitting_tags=("y",), non_splitting_tags=("z",)),
        protection=Protection(presets=(), patterns=(r"\d+",), literals=("Dragoman",)),
        glossaries=(Glossary("id", "name", "fr", "en", (("chat", "cat"), ("été", "summer"))),),
        splitting="lines",
        guard=False,
    )
    assert read_options(write_options(options)) == options
    assert read_options(write_options(TextOptions())) == TextOptions()
