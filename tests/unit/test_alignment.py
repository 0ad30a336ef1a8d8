"""Word alignment: spans of words and pieces, links from made-up weights, and the embedded model on pairs of ours."""

from __future__ import annotations

import itertools
import unicodedata

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.word_alignment.measure import PAIRS, error_rate, load, measure, read_pairs
from model.text.alignment import WordAlignment, align_words, find_words, piece_attention
from model.text.offsets import piece_spans
from model.text.tokenizer import normalize
from tests.unit.tiny_tokenizer import tiny_tokenizer

any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
combining = st.text("e\u0301\u0327 a\u1100\u1161\u11a8\u0344\u0f71\u0f72\u0f73\u0958\u212b\u09c7\u09be  机🙂\u2581\xa0")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("L'élève n'a qu’un stylo.", ["L'", "élève", "n'", "a", "qu’", "un", "stylo", "."]),  # noqa: RUF001
        ("Aujourd'hui, I don't know...", ["Aujourd'hui", ",", "I", "don't", "know", "..."]),
        ("aujourd'hui", ["aujourd'hui"]),
        ("1,234.5 km à 7:30", ["1,234.5", "km", "à", "7:30"]),
        ("peut-être « oui »", ["peut", "-", "être", "«", "oui", "»"]),
        ("snake_case __x__", ["snake", "_", "case", "__", "x", "__"]),
        ("机器 ok", ["机", "器", "ok"]),
        ("e\u0301te\u0301 \u0301x", ["e\u0301te\u0301", "\u0301", "x"]),
        (" \n", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert [text[start:end] for start, end in find_words(text)] == words


@settings(max_examples=300, deadline=None)
@given(any_text)
def test_words_cover_every_character_but_space_once(text: str) -> None:
    covered = [index for start, end in find_words(text) for index in range(start, end)]
    assert covered == [index for index, character in enumerate(text) if not character.isspace()]


@settings(max_examples=400, deadline=None)
@given(st.one_of(any_text, combining))
@example("e\u0f73\u0300")  # NFC reorders three marks and joins one; the length stays
def test_pieces_have_the_span_of_what_they_were_made_from(text: str) -> None:
    tokenizer = tiny_tokenizer()
    ids, spans = tokenizer.encode_with_spans(text)
    assert ids == tokenizer.encode_target(text)
    assert len(spans) == len(ids)
    assert all(left[0] <= right[0] and left[1] <= right[1] for left, right in itertools.pairwise(spans))
    covered = {index for start, end in spans for index in range(start, end)}
    assert covered <= set(range(len(text)))
    assert covered >= {index for index, character in enumerate(text) if normalize(character).strip()}
    for (start, end), piece in zip(spans, tokenizer.pieces(ids), strict=True):
        if not piece.startswith("<0x"):
            assert piece.replace("\u2581", "") in normalize(text[start:end])


def test_spans_are_exact_where_nothing_is_composed() -> None:
    tokenizer = tiny_tokenizer()
    text = "  Ma sœur\u00a0 préfère l'été."
    ids, spans = tokenizer.encode_with_spans(text)
    shown = [piece.replace("\u2581", "") for piece in tokenizer.pieces(ids)]
    assert [text[start:end] for start, end in spans] == shown
    decomposed = unicodedata.normalize("NFD", text)
    again, wider = tokenizer.encode_with_spans(decomposed)
    assert again == ids
    assert [unicodedata.normalize("NFC", decomposed[start:end]) for start, end in wider] == shown


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 699), max_size=20))
def test_any_ids_have_spans_in_their_text(ids: list[int]) -> None:
    tokenizer = tiny_tokenizer()
    text, spans = tokenizer.decode_with_spans(ids)
    assert text == tokenizer.decode(ids)
    assert len(spans) == len(ids)
    covered = {index for start, end in spans for index in range(start, end)}
    assert covered >= {index for index, character in enumerate(text) if not character.isspace()}
    for token_id, (start, end), piece in zip(ids, spans, tokenizer.pieces(ids), strict=True):
        if token_id in tokenizer.special_ids:
            assert start == end
        elif not piece.startswith("<0x"):
            assert text[start:end] == piece.replace("\u2581", " ").strip(" ")


def test_bytes_of_one_character_share_its_span() -> None:
    assert piece_spans(["\u2581", *"机".encode(), "a"], "  机a") == [(2, 2), (2, 3), (2, 3), (2, 3), (3, 4)]
    assert piece_spans([0xFF, "a"], "\ufffda") == [(0, 1), (1, 2)]
    assert piece_spans(["", "a", ""], "a") == [(0, 0), (0, 1), (1, 1)]


def test_the_last_layers_mean_before_the_end_token_aligns() -> None:
    weights = np.zeros((2, 2, 3, 4))
    weights[0] = 9.0
    weights[1, 0, :, 1] = 0.5
    weights[1, 1, :, 2] = 1.0
    assert piece_attention(weights, 2).tolist() == [[0, 0.25, 0.5, 0], [0, 0.25, 0.5, 0]]


SOURCE, TARGET = "le chat noir", "the black cat"
SOURCE_SPANS = [(0, 0), (0, 2), (3, 5), (5, 7), (8, 12), (12, 12)]  # with language and end tokens
TARGET_SPANS = [(0, 3), (4, 9), (10, 13)]


def test_links_follow_the_weights() -> None:
    attention = np.array(
        [
            [0.5, 0.4, 0.1, 0.0, 0.0, 0.0],
            [0.0, 0.0, 0.1, 0.1, 0.8, 0.0],
            [0.2, 0.0, 0.2, 0.5, 0.0, 0.1],
        ]
    )
    found = align_words(SOURCE, TARGET, SOURCE_SPANS, TARGET_SPANS, attention)
    assert found.source_words == ((0, 2), (3, 7), (8, 12))
    assert found.target_words == ((0, 3), (4, 9), (10, 13))
    assert found.links == ((0, 0), (1, 2), (2, 1))
    assert found.weights == (0.8, 1.0, 0.8)  # of what the words together got


def test_the_other_direction_decides_where_one_does_not() -> None:
    unsure = np.array([[0, 0.5, 0.25, 0.25, 0, 0], [0, 0, 0.26, 0.26, 0.48, 0], [0, 0, 0.25, 0.24, 0.51, 0]])
    sure = np.array([[0, 0, 0], [1.0, 0, 0], [0, 0, 1.0], [0, 0, 1.0], [0, 1.0, 0], [0, 0, 0]])
    assert align_words(SOURCE, TARGET, SOURCE_SPANS, TARGET_SPANS, unsure).links != ((0, 0), (1, 2), (2, 1))
    assert align_words(SOURCE, TARGET, SOURCE_SPANS, TARGET_SPANS, unsure, sure).links == ((0, 0), (1, 2), (2, 1))


def test_nothing_is_linked_where_there_is_nothing() -> None:
    assert align_words("", "x", [], [(0, 1)], np.zeros((1, 0))) == WordAlignment((), ((0, 1),), ())
    assert align_words("x", " ", [(0, 1)], [], np.zeros((0, 1))) == WordAlignment(((0, 1),), (), ())
    assert align_words("x", "y", [(0, 1)], [(0, 1)], np.zeros((1, 1))).links == ()


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 10_000))
def test_every_word_is_linked_if_it_has_any_weight(num_source: int, num_target: int, seed: int) -> None:
    source, target = " ".join("a" * num_source), " ".join("b" * num_target)
    weights = np.random.default_rng(seed).dirichlet(np.ones(num_source), num_target)
    found = align_words(source, target, find_words(source), find_words(target), weights)
    assert {i for i, _ in found.links} == set(range(num_source))
    assert {j for _, j in found.links} == set(range(num_target))
    assert list(found.links) == sorted(set(found.links))
    assert all(0 < weight <= 1 for weight in found.weights)


def test_the_embedded_model_aligns_hand_aligned_pairs() -> None:
    network, tokenizer = load()
    pairs = read_pairs(PAIRS.read_text(encoding="utf-8"))
    assert len(pairs) == 40
    one, both = (measure(network, tokenizer, pairs, both) for both in (False, True))
    # Measured 0.13 and 0.10; room for another training run of the model. Weights without meaning give about 0.8.
    assert max(one.values()) < 0.2
    assert max(both.values()) < 0.16
    assert sum(both.values()) < sum(one.values())


def test_error_rate_of_known_cases() -> None:
    gold = [frozenset({(0, 0), (1, 1)}), frozenset({(0, 1)})]
    assert error_rate(gold, gold) == 0
    assert error_rate([frozenset({(0, 0)}), frozenset({(5, 5)})], gold) == pytest.approx(1 - 2 / 5)


def test_a_number_that_belongs_to_no_word_is_an_error() -> None:
    with pytest.raises(ValueError, match="behind words"):
        read_pairs("Le ch[1]at\nThe cat[1]")
