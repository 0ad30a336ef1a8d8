"""Which tokens are in a source's short-list, in that of a batch, and how arrays that do not fit are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import CheckpointError
from model.generation.shortlist import Shortlist

VOCAB_SIZE, EOS = 300, 3
LANGUAGE, OTHER_LANGUAGE, NO_TABLE = 4, 5, 6

tables = st.dictionaries(st.integers(0, VOCAB_SIZE - 1), st.sets(st.integers(0, VOCAB_SIZE - 1), max_size=6))
frequents = st.sets(st.integers(0, VOCAB_SIZE - 1), max_size=5)
token_lists = st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=6)


def arrays_of(language: int, table: Mapping[int, set[int]], frequent: set[int]) -> dict[str, np.ndarray[Any, Any]]:
    rows = [sorted(table.get(token, ())) for token in range(VOCAB_SIZE)]
    return {
        f"{language}.offsets": np.cumsum([0, *map(len, rows)]).astype(np.int32),
        f"{language}.targets": np.array([target for row in rows for target in row], np.uint16),
        f"{language}.frequent": np.array(sorted(frequent | {EOS}), np.uint16),
    }


def expected(table: Mapping[int, set[int]], frequent: set[int], source: list[int], also: list[int]) -> set[int]:
    """Return a short-list as the file's docstring tells it."""
    return {EOS, *frequent, *source, *also}.union(*(table.get(token, set()) for token in source))


@settings(max_examples=50)
@given(table=tables, frequent=frequents, source=token_lists, also=token_lists)
def test_candidates(table: dict[int, set[int]], frequent: set[int], source: list[int], also: list[int]) -> None:
    table.pop(LANGUAGE, None)  # no corpus has it inside a sentence
    shortlist = Shortlist(arrays_of(LANGUAGE, table, frequent), VOCAB_SIZE, EOS)
    found = shortlist.candidates([LANGUAGE, *source, EOS], also)
    assert found.tolist() == sorted(expected(table, frequent, [*source, EOS], also))


def test_each_language_has_its_table() -> None:
    arrays = arrays_of(LANGUAGE, {10: {20}}, {30}) | arrays_of(OTHER_LANGUAGE, {10: {21, 22}}, {31})
    shortlist = Shortlist(arrays, VOCAB_SIZE, EOS)
    assert shortlist.candidates([LANGUAGE, 10, EOS]).tolist() == [EOS, 10, 20, 30]
    assert shortlist.candidates([OTHER_LANGUAGE, 10, EOS]).tolist() == [EOS, 10, 21, 22, 31]


def test_a_language_without_a_table_has_the_whole_vocabulary() -> None:
    shortlist = Shortlist(arrays_of(LANGUAGE, {}, set()), VOCAB_SIZE, EOS)
    assert shortlist.candidates([NO_TABLE, 10, EOS]).tolist() == list(range(VOCAB_SIZE))


def test_nothing_is_remembered_from_one_source_to_the_next() -> None:
    shortlist = Shortlist(arrays_of(LANGUAGE, {10: {20}, 11: {21}}, set()), VOCAB_SIZE, EOS)
    shortlist.candidates([LANGUAGE, 10], also=[50])
    assert shortlist.candidates([LANGUAGE, 11]).tolist() == [EOS, 11, 21]


@settings(max_examples=50)
@given(
    table=tables,
    frequent=frequents,
    sources=st.lists(st.tuples(st.sampled_from([LANGUAGE, OTHER_LANGUAGE]), token_lists), min_size=1, max_size=4),
    also=token_lists,
    multiple=st.sampled_from([1, 8, 64, 128]),
)
def test_a_batch(
    table: dict[int, set[int]],
    frequent: set[int],
    sources: list[tuple[int, list[int]]],
    also: list[int],
    multiple: int,
) -> None:
    arrays = arrays_of(LANGUAGE, table, frequent) | arrays_of(OTHER_LANGUAGE, {}, frequent)
    shortlist = Shortlist(arrays, VOCAB_SIZE, EOS)
    rows = [[language, *source, EOS] for language, source in sources]
    batch = shortlist.for_batch(rows, also, multiple)
    token_ids = batch.token_ids.tolist()
    assert token_ids == sorted(set(token_ids))
    own = [shortlist.candidates(row, also).tolist() for row in rows]
    assert batch.allowed.shape == (len(rows), len(token_ids))
    assert [batch.token_ids[allowed].tolist() for allowed in batch.allowed] == own
    union = set().union(*own)
    assert union <= set(token_ids)
    assert len(token_ids) == min(-(-len(union) // multiple) * multiple, VOCAB_SIZE)


def changed(**arrays: object) -> dict[str, Any]:
    """Return good arrays with some replaced, or left out where they are None; ``_`` in a name stands for a point."""
    good = arrays_of(LANGUAGE, {10: {20, 21}, 11: {22}}, {30})
    return {
        name: array
        for name, array in (good | {name.strip("_").replace("_", "."): each for name, each in arrays.items()}).items()
        if array is not None
    }


OFFSETS = changed()["4.offsets"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "it has no language"),
        (changed(_4_offsets=None), "missing 4.offsets"),
        (changed(_4_targets=None, _4_frequent=None), "missing 4.frequent; missing 4.targets"),
        (changed(_4_extra=OFFSETS), "unknown 4.extra"),
        (changed(surplus=OFFSETS), "unknown surplus; surplus is no token id below 300"),
        (arrays_of(VOCAB_SIZE, {}, set()), "300 is no token id below 300"),
        ({f"0{name}": array for name, array in changed().items()}, "04 is no token id"),
        (changed(_4_offsets=OFFSETS[:-1]), "4.offsets must be 301 rising numbers from 0 to 3"),
        (changed(_4_offsets=OFFSETS + 1), "4.offsets must be 301 rising numbers"),
        (changed(_4_offsets=np.where(np.arange(VOCAB_SIZE + 1) == 50, 1, OFFSETS)), "4.offsets must be"),
        (changed(_4_targets=np.array([20, 21], np.uint16)), "numbers from 0 to 2"),
        (changed(_4_targets=np.array([20, 21, 300], np.uint16)), "4.targets must be token ids below 300"),
        (changed(_4_targets=np.array([20, 21, -1], np.int32)), "4.targets must be token ids below 300"),
        (changed(_4_targets=np.array([20.0, 21.0, 22.0])), "4.targets must be a row of integers"),
        (changed(_4_targets=np.array([[20], [21], [22]])), "4.targets must be a row of integers"),
        (changed(_4_frequent=np.array([EOS, 999], np.uint16)), "4.frequent must be token ids below 300"),
        (changed(_4_frequent=np.array([30], np.uint16)), "4.frequent must have the end token 3"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message.replace(".", r"\.")):
        Shortlist(arrays, VOCAB_SIZE, EOS)
