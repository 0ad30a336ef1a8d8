"""Placeholders and term annotations in a segment's text, and the way back from what a model wrote."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.pipeline.markers import find_pieces, mark_source, restore_target
from model.pipeline.preparation import PreparedSegment, ProtectedSpan
from model.text.glossary import TermMatch
from model.text.tokenizer import PLACEHOLDERS, TERM_AS, TERM_BEGIN, TERM_END


def segment(text: str, *pieces: str, terms: tuple[TermMatch, ...] = ()) -> PreparedSegment:
    spans, position = [], 0
    for piece in pieces:
        start = text.index(piece, position)
        position = start + len(piece)
        spans.append(ProtectedSpan(start, position, None))
    return PreparedSegment(0, 0, len(text), text, tuple(spans), terms)


def test_placeholders_and_terms_stand_in_the_source() -> None:
    term = TermMatch(11, 15, "chat", "feline", "g", False)
    marked = mark_source(segment("{name} voit chat %s", "{name}", "%s", terms=(term.moved(1),)), True, (term.moved(1),))
    first, second = PLACEHOLDERS[:2]
    assert marked.text == f"{first} voit {TERM_BEGIN}chat{TERM_AS}feline{TERM_END} {second}"
    assert marked.original(0, 1) == (0, 6)
    assert marked.original(2, 6) == (7, 11)
    assert marked.original(len(marked.text) - 1, len(marked.text)) == (17, 19)


def test_without_placeholders_the_text_stays() -> None:
    assert mark_source(segment("Bonjour {name}", "{name}"), False, ()).text == "Bonjour {name}"


def test_pieces_come_back_in_the_place_of_their_placeholders() -> None:
    first, second = PLACEHOLDERS[:2]
    restored = restore_target(f"{second} of {first}!", ["{name}", "%s"])
    assert (restored.text, restored.missing) == ("%s of {name}!", ())
    assert restored.protected == ((0, 2, 1), (6, 12, 0))
    assert restored.marked.original(5, 6) == (6, 12)


@pytest.mark.parametrize(("written", "missing"), [("no piece", (0, 1)), (f"{PLACEHOLDERS[0] * 2}", (0, 1))])
def test_lost_and_doubled_placeholders_are_told(written: str, missing: tuple[int, ...]) -> None:
    assert restore_target(written, ["{a}", "{b}"]).missing == missing


def test_pieces_are_found_as_often_as_they_should_be() -> None:
    found = find_pieces("{b} and {a}, {a}", ["{a}", "{b}", "{a}"])
    assert (found.missing, found.protected) == ((), ((0, 3, 1), (8, 11, 0), (13, 16, 2)))
    assert find_pieces("{a}", ["{a}", "{a}"]).missing == (0, 1)
    assert find_pieces("{ab}", ["{ab}", "ab"]).missing == (1,)


@given(st.lists(st.sampled_from(["{a}", "{bb}", "%s", "x@y.z"]), max_size=6), st.text("abc ", max_size=20))
def test_marking_and_restoring_gives_the_text_back(pieces: list[str], between: str) -> None:
    text = between + "".join(piece + between for piece in pieces)
    prepared = segment(text, *pieces)
    marked = mark_source(prepared, True, ())
    restored = restore_target(marked.text, prepared.pieces())
    assert (restored.text, restored.missing) == (text, ())
    assert [text[start:end] for start, end, _ in restored.protected] == pieces
