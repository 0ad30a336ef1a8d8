"""The store of glossaries: what is kept, who sees it, what a refused change leaves, and several users of one file."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import app.glossaries
from app.database import DATABASE_NAME
from app.errors import DICTIONARY_NOT_FOUND, GLOSSARY_NOT_FOUND, Kind, RequestError
from app.glossaries import Dictionary, DictionaryInfo, GlossaryStore, parse_dictionary
from model import ConfigurationError, InvalidRequestError

ANIMALS = Dictionary("fr", "en", [("chat", "cat"), ("chien", "dog")])
BACK = Dictionary("en", "fr", [("cat", "chat")])
NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def store() -> Iterator[GlossaryStore]:
    """A store in memory."""
    made = GlossaryStore()
    yield made
    made.close()


def refused(kind: Kind, action: Callable[[], object]) -> str:
    """Return the sentence of the refusal that ``action`` must end in."""
    with pytest.raises(RequestError) as caught:
        action()
    assert caught.value.kind is kind
    return str(caught.value.detail)


def test_a_glossary_comes_back_as_it_was_made(store: GlossaryStore) -> None:
    before = datetime.now(UTC)
    made = store.create("ann", "animals", [ANIMALS, BACK])
    assert made.name == "animals"
    assert made.dictionaries == (DictionaryInfo("fr", "en", 2), DictionaryInfo("en", "fr", 1))
    # SQLite keeps seconds as a 64-bit float, which is exact to about a microsecond today.
    assert before - timedelta(microseconds=10) <= made.created <= datetime.now(UTC) + timedelta(microseconds=10)
    assert store.get("ann", made.id) == made
    assert store.all_glossaries("ann") == [made]
    read = store.read("ann", made.id, "fr", "en")
    assert (read.id, read.name, read.source_language, read.target_language) == (made.id, "animals", "fr", "en")
    assert read.entries == (("chat", "cat"), ("chien", "dog"))


def test_glossaries_are_listed_in_the_order_of_their_making(store: GlossaryStore) -> None:
    names = [f"glossary {number}" for number in range(5)]
    for name in names:
        store.create("ann", name, [ANIMALS])
    assert [info.name for info in store.all_glossaries("ann")] == names


def test_nobody_sees_or_changes_the_glossaries_of_another(store: GlossaryStore) -> None:
    made = store.create("ann", "animals", [ANIMALS])
    assert store.all_glossaries("bob") == []
    for action in (
        lambda: store.get("bob", made.id),
        lambda: store.read("bob", made.id, "fr", "en"),
        lambda: store.update("bob", made.id, name="mine"),
        lambda: store.delete("bob", made.id),
        lambda: store.delete_dictionary("bob", made.id, "fr", "en"),
        lambda: store.get("ann", NOBODY),
    ):
        refused(GLOSSARY_NOT_FOUND, action)
    assert store.get("ann", made.id) == made


def test_merging_adds_entries_and_replaces_those_of_the_same_term(store: GlossaryStore) -> None:
    made = store.create("ann", "animals", [ANIMALS])
    update = Dictionary("fr", "en", [("oiseau", "bird"), ("chat", "tomcat")])
    after = store.update("ann", made.id, dictionaries=[update, BACK])
    assert after.dictionaries == (DictionaryInfo("fr", "en", 3), DictionaryInfo("en", "fr", 1))
    entries = store.read("ann", made.id, "fr", "en").entries
    assert entries == (("chat", "tomcat"), ("chien", "dog"), ("oiseau", "bird"))


def test_replacing_forgets_the_entries_before(store: GlossaryStore) -> None:
    made = store.create("ann", "animals", [ANIMALS, BACK])
    after = store.update("ann", made.id, dictionaries=[Dictionary("fr", "en", [("ours", "bear")])], merge=False)
    assert after.dictionaries == (DictionaryInfo("fr", "en", 1), DictionaryInfo("en", "fr", 1))
    assert store.read("ann", made.id, "fr", "en").entries == (("ours", "bear"),)
    assert store.read("ann", made.id, "en", "fr").entries == (("cat", "chat"),)


def test_a_refused_update_changes_nothing(store: GlossaryStore) -> None:
    made = store.create("ann", "animals", [ANIMALS])
    good, bad = Dictionary("fr", "en", [("ours", "bear")]), Dictionary("en", "fr", [("cat", "")])
    with pytest.raises(InvalidRequestError):
        store.update("ann", made.id, name="other", dictionaries=[good, bad])
    assert store.get("ann", made.id) == made
    assert store.read("ann", made.id, "fr", "en").entries == tuple(ANIMALS.entries)


def test_a_read_glossary_is_the_same_object_until_it_changes(store: GlossaryStore) -> None:
    made = store.create("ann", "animals", [ANIMALS])
    first = store.read("ann", made.id, "fr", "en")
    assert store.read("ann", made.id, "fr", "en") is first
    store.update("ann", made.id, name="beasts")
    assert store.read("ann", made.id, "fr", "en").name == "beasts"
    store.update("ann", made.id, dictionaries=[Dictionary("fr", "en", [("chat", "tomcat")])])
    assert store.read("ann", made.id, "fr", "en").entries[0] == ("chat", "tomcat")


def test_the_cache_is_bounded(store: GlossaryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.glossaries, "_CACHED_ENTRIES", 3)
    ids = [store.create("ann", "animals", [ANIMALS]).id for _ in range(4)]
    first = store.read("ann", ids[0], "fr", "en")
    assert [len(store.read("ann", each, "fr", "en").entries) for each in ids] == [2, 2, 2, 2]
    again = store.read("ann", ids[0], "fr", "en")
    assert again == first
    assert again is not first


def test_deleting_takes_the_entries_along(tmp_path: Path) -> None:
    store = GlossaryStore(tmp_path)
    made = store.create("ann", "animals", [ANIMALS, BACK])
    store.delete_dictionary("ann", made.id, "fr", "en")
    assert store.get("ann", made.id).dictionaries == (DictionaryInfo("en", "fr", 1),)
    refused(DICTIONARY_NOT_FOUND, lambda: store.read("ann", made.id, "fr", "en"))
    refused(DICTIONARY_NOT_FOUND, lambda: store.delete_dictionary("ann", made.id, "fr", "en"))
    store.delete("ann", made.id)
    refused(GLOSSARY_NOT_FOUND, lambda: store.delete("ann", made.id))
    store.close()
    connection = sqlite3.connect(tmp_path / DATABASE_NAME)
    assert connection.execute("SELECT count(*) FROM glossary_dictionaries").fetchone() == (0,)
    connection.close()


@pytest.mark.parametrize("name", ["", "  ", "x" * 1025, "é" * 513, "a\nb", "a\x00b", "a\x85b"])
def test_names_have_rules(store: GlossaryStore, name: str) -> None:
    made = store.create("ann", "x" * 1024, [ANIMALS])
    with pytest.raises(InvalidRequestError, match="name must "):
        store.create("ann", name, [ANIMALS])
    with pytest.raises(InvalidRequestError, match="name must "):
        store.update("ann", made.id, name=name)


def test_a_pair_of_languages_stands_once_and_has_two_languages(store: GlossaryStore) -> None:
    with pytest.raises(InvalidRequestError, match="each pair of languages once"):
        store.create("ann", "animals", [ANIMALS, ANIMALS])
    with pytest.raises(InvalidRequestError, match="another language"):
        store.create("ann", "animals", [Dictionary("fr", "fr", [("chat", "chat")])])
    assert store.all_glossaries("ann") == []


def test_numbers_are_limited(store: GlossaryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.glossaries, "MAX_GLOSSARIES", 1)
    monkeypatch.setattr(app.glossaries, "MAX_DICTIONARIES", 1)
    made = store.create("ann", "animals", [ANIMALS])
    store.create("bob", "animals", [ANIMALS])
    with pytest.raises(InvalidRequestError, match="glossaries must be at most 1"):
        store.create("ann", "more", [ANIMALS])
    with pytest.raises(InvalidRequestError, match="dictionaries must be at most 1"):
        store.update("ann", made.id, dictionaries=[BACK])
    assert store.get("ann", made.id) == made


def test_a_file_outlives_its_store_and_may_be_shared(tmp_path: Path) -> None:
    first, second = GlossaryStore(tmp_path / "new" / "folder"), GlossaryStore(tmp_path / "new" / "folder")
    made = first.create("ann", "animals", [ANIMALS])
    assert second.read("ann", made.id, "fr", "en").entries == tuple(ANIMALS.entries)
    first.update("ann", made.id, dictionaries=[Dictionary("fr", "en", [("chat", "tomcat")])])
    assert second.read("ann", made.id, "fr", "en").entries[0] == ("chat", "tomcat")
    first.close()
    second.close()
    second.close()
    third = GlossaryStore(tmp_path / "new" / "folder")
    assert third.get("ann", made.id).name == "animals"
    third.close()


def test_nothing_is_written_without_a_folder(
    store: GlossaryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    GlossaryStore(None).create("ann", "animals", [ANIMALS])
    assert list(tmp_path.iterdir()) == []
    assert store.all_glossaries("ann") == []


def test_merges_from_many_threads_and_two_stores_lose_nothing(tmp_path: Path) -> None:
    stores = GlossaryStore(tmp_path), GlossaryStore(tmp_path)
    made = stores[0].create("ann", "animals", [ANIMALS])

    def merge(number: int) -> None:
        entry = (f"terme {number}", f"term {number}")
        stores[number % 2].update("ann", made.id, dictionaries=[Dictionary("fr", "en", [entry])])

    threads = [threading.Thread(target=merge, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = dict(stores[0].read("ann", made.id, "fr", "en").entries)
    assert entries == dict(ANIMALS.entries) | {f"terme {number}": f"term {number}" for number in range(16)}
    for store in stores:
        store.close()


def test_what_is_no_database_of_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ConfigurationError, match="data_directory"):
        GlossaryStore(tmp_path / "file")
    (tmp_path / DATABASE_NAME).write_text("no database, but long enough to be looked at" * 100)
    with pytest.raises(ConfigurationError, match="data_directory"):
        GlossaryStore(tmp_path)


def test_tables_of_a_later_version_are_left_alone(tmp_path: Path) -> None:
    GlossaryStore(tmp_path).close()
    connection = sqlite3.connect(tmp_path / DATABASE_NAME)
    connection.execute("UPDATE glossary_schema SET version = 2")
    connection.commit()
    connection.close()
    with pytest.raises(ConfigurationError, match="version 1 or before, got 2"):
        GlossaryStore(tmp_path)


def test_texts_of_entries() -> None:
    assert parse_dictionary("chat\tcat\n\nchien\tdog\n", "tsv", "fr", "en").entries == tuple(ANIMALS.entries)
    quoted = parse_dictionary('"chat, noir","black ""cat"""\n', "csv", "fr", "en")
    assert quoted == Dictionary("fr", "en", (("chat, noir", 'black "cat"'),))
    with pytest.raises(InvalidRequestError, match="line 2"):
        parse_dictionary("chat\tcat\nchien dog", "tsv", "fr", "en")
