"""IBM model 1 against a twin of dictionaries and loops, and the arrays that are made of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import CorpusError
from model.generation.shortlist import Shortlist
from model.training import lexicon as lexicon_module
from model.training.corpus import Corpus
from model.training.lexicon import Lexicon, bounded, estimate_lexicon
from model.training.shortlist_arrays import (
    MIN_PROBABILITY,
    Coverage,
    always_listed,
    direction_arrays,
    estimate_shortlist,
    measure_coverage,
    split_held_out,
    token_counts,
)
from tests.unit.tiny_tokenizer import VOCAB_SIZE, tiny_tokenizer

Pairs = Sequence[tuple[Sequence[int], Sequence[int]]]
LARGE_VOCABULARY = 70_000

THE, HOUSE, BOOK, A, GREEN, RARE = range(10, 16)
LA, MAISON, LIVRE, UN, VERT, LE = range(20, 26)
TOY: Pairs = [
    ([HOUSE], [MAISON]),
    ([THE, HOUSE], [LA, MAISON]),
    ([THE, BOOK], [LE, LIVRE]),
    ([A, BOOK], [UN, LIVRE]),
    ([A, GREEN, BOOK], [UN, LIVRE, VERT]),
    ([THE, GREEN, HOUSE, THE], [LA, MAISON, VERT, VERT]),
    ([RARE], [RARE]),
]

sides = st.lists(st.integers(0, 6), min_size=1, max_size=5)
pair_lists = st.lists(st.tuples(sides, sides), min_size=1, max_size=8)


def corpus_of(pairs: Pairs) -> Corpus:
    ids = [np.array([token for pair in pairs for token in pair[side]], np.int32) for side in (0, 1)]
    offsets = [np.cumsum([0, *(len(pair[side]) for pair in pairs)]).astype(np.int64) for side in (0, 1)]
    return Corpus((ids[0], ids[1]), (offsets[0], offsets[1]), np.zeros(len(pairs), np.int32), (1.0,))


def naive_model_1(pairs: Pairs, num_iterations: int) -> dict[int, dict[int, float]]:
    """Return t(target | source) by Brown et al. 1993, one word at a time; the empty word is None."""
    probability: dict[tuple[int | None, int], float] = defaultdict(lambda: 1.0)
    for _ in range(num_iterations):
        counts: dict[tuple[int | None, int], float] = defaultdict(float)
        for source, target in pairs:
            for t in target:
                total = sum(probability[s, t] for s in [None, *source])
                for s in [None, *source]:
                    counts[s, t] += probability[s, t] / total
        totals: dict[int | None, float] = defaultdict(float)
        for (s, _t), count in counts.items():
            totals[s] += count
        probability = defaultdict(float, {(s, t): count / totals[s] for (s, t), count in counts.items()})
    table: dict[int, dict[int, float]] = defaultdict(dict)
    for (s, t), value in probability.items():
        if s is not None:
            table[s][t] = value
    return table


def as_dictionary(lexicon: Lexicon) -> dict[int, dict[int, float]]:
    rows = {}
    for token in range(len(lexicon.offsets) - 1):
        row = slice(lexicon.offsets[token], lexicon.offsets[token + 1])
        if row.start < row.stop:
            targets = lexicon.target_ids[row].tolist()
            rows[token] = dict(zip(targets, lexicon.probabilities[row].tolist(), strict=True))
    return rows


def assert_same(found: dict[int, dict[int, float]], expected: dict[int, dict[int, float]]) -> None:
    assert found.keys() == expected.keys()
    for source, row in expected.items():
        # Both add the same few float64 numbers, in different orders.
        assert found[source] == pytest.approx(row, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("num_iterations", [1, 2, 7])
@pytest.mark.parametrize("source", [0, 1])
def test_the_lexicon_is_that_of_the_naive_twin(source: int, num_iterations: int) -> None:
    found = estimate_lexicon(corpus_of(TOY), np.arange(len(TOY)), source, 30, num_iterations)
    turned = [(pair[source], pair[1 - source]) for pair in TOY]
    assert_same(as_dictionary(found), naive_model_1(turned, num_iterations))


@settings(max_examples=50)
@given(pairs=pair_lists, num_iterations=st.integers(1, 4))
def test_the_lexicon_of_any_corpus_is_that_of_the_naive_twin(pairs: Pairs, num_iterations: int) -> None:
    found = estimate_lexicon(corpus_of(pairs), np.arange(len(pairs)), 0, 7, num_iterations)
    assert_same(as_dictionary(found), naive_model_1(pairs, num_iterations))


def test_blocks_do_not_change_the_lexicon(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = corpus_of(TOY)
    whole = estimate_lexicon(corpus, np.arange(len(TOY)), 0, 30)
    monkeypatch.setattr(lexicon_module, "_BLOCK_LINKS", 9)
    assert_same(as_dictionary(estimate_lexicon(corpus, np.arange(len(TOY)), 0, 30)), as_dictionary(whole))


def test_only_the_given_pairs_are_used() -> None:
    found = estimate_lexicon(corpus_of(TOY), np.array([1, 4]), 0, 30)
    assert_same(as_dictionary(found), naive_model_1([TOY[1], TOY[4]], 5))


def test_a_large_vocabulary_costs_nothing() -> None:
    shift = LARGE_VOCABULARY - 30
    moved = [([s + shift for s in source], [t + shift for t in target]) for source, target in TOY]
    found = as_dictionary(estimate_lexicon(corpus_of(moved), np.arange(len(TOY)), 0, LARGE_VOCABULARY))
    expected = naive_model_1(TOY, 5)
    assert_same(found, {s + shift: {t + shift: p for t, p in row.items()} for s, row in expected.items()})


def test_it_finds_translations() -> None:
    lexicon = as_dictionary(estimate_lexicon(corpus_of(TOY), np.arange(len(TOY)), 0, 30))
    best = {source: max(row, key=row.__getitem__) for source, row in lexicon.items()}
    assert best == {HOUSE: MAISON, BOOK: LIVRE, A: UN, GREEN: VERT, RARE: RARE, THE: LA}


def test_sentence_pairs_are_thinned_evenly() -> None:
    corpus = corpus_of([([1, 2, 3], [4])] * 1000)  # 4 * 2 links each
    every = np.arange(1000)
    assert bounded(corpus, every, 8000) is every
    assert bounded(corpus, every, 4000).tolist() == list(range(0, 1000, 2))
    assert bounded(corpus, every, 1).tolist() == [0]


@settings(max_examples=50)
@given(pairs=pair_lists, num_targets=st.integers(1, 4), least=st.sampled_from([0.0, 0.1, 0.3]))
def test_the_best_targets_are_the_most_probable(pairs: Pairs, num_targets: int, least: float) -> None:
    lexicon = estimate_lexicon(corpus_of(pairs), np.arange(len(pairs)), 0, 7)
    offsets, target_ids = lexicon.best(num_targets, least)
    rows = as_dictionary(lexicon)
    assert len(offsets) == 8
    for source in range(7):
        row = rows.get(source, {})
        likely = [target for target in row if row[target] >= least]
        expected = sorted(likely, key=lambda target: (-row[target], target))[:num_targets]
        assert target_ids[offsets[source] : offsets[source + 1]].tolist() == sorted(expected)


@settings(max_examples=50)
@given(pairs=pair_lists, chosen=st.sets(st.integers(0, 8)))
def test_tokens_are_counted(pairs: Pairs, chosen: set[int]) -> None:
    used = [number for number in sorted(chosen) if number < len(pairs)]
    expected = Counter(token for number in used for token in pairs[number][1])
    found = token_counts(corpus_of(pairs), np.array(used, np.int64), 1, 7)
    assert found.tolist() == [expected[token] for token in range(7)]


def test_frequent_tokens_and_bytes_and_the_end_token_are_always_listed() -> None:
    tokenizer = tiny_tokenizer()
    euro = tokenizer.encode_target("€")[1:]
    assert tokenizer.pieces(euro) == ["<0xE2>", "<0x82>", "<0xAC>"]
    counts = np.zeros(VOCAB_SIZE, np.int64)
    counts[[500, 600, 601, 610]] = 9, 7, 7, 7
    counts[euro] = 1
    end = tokenizer.eos_id
    assert always_listed(counts, tokenizer, 2).tolist() == sorted({500, 600, *euro, end})
    assert always_listed(counts, tokenizer, 3).tolist() == sorted({500, 600, 601, *euro, end})
    # What never occurs is not listed, even if there is room.
    assert always_listed(counts, tokenizer, 50).tolist() == sorted({500, 600, 601, 610, *euro, end})
    assert always_listed(counts, tokenizer, 0).tolist() == sorted({*euro, end})


@pytest.mark.parametrize(("vocab_size", "id_type"), [(2**16, np.uint16), (2**16 + 1, np.int32)])
def test_ids_are_stored_as_small_as_they_can_be(vocab_size: int, id_type: type) -> None:
    source = vocab_size - 1
    offsets = np.zeros(vocab_size + 1, np.int64)
    offsets[-1] = 4
    lexicon = Lexicon(offsets, np.array([2, 3, 5, source], np.int32), np.array([0.5, 0.3, 0.1999, 0.0001]))
    arrays = direction_arrays(4, lexicon, np.array([3, 5]), best=100)
    assert arrays["4.frequent"].tolist() == [3, 5]
    assert arrays["4.targets"].tolist() == [2]  # 3 and 5 are there anyway, the last is too improbable
    assert MIN_PROBABILITY > 0.0001
    assert arrays["4.offsets"].tolist() == [0] * vocab_size + [1]
    assert [arrays[f"4.{name}"].dtype for name in ("offsets", "targets", "frequent")] == [np.int32, id_type, id_type]


@pytest.mark.parametrize(("num_pairs", "held_out"), [(2, [1]), (99, [98]), (100, [99]), (199, [99]), (250, [99, 199])])
def test_pairs_are_held_out(num_pairs: int, held_out: list[int]) -> None:
    rest, kept_back = split_held_out(corpus_of([([1], [2])] * num_pairs))
    assert kept_back.tolist() == held_out
    assert rest.tolist() == [pair for pair in range(num_pairs) if pair not in held_out]


def test_one_pair_is_too_few() -> None:
    with pytest.raises(CorpusError, match="at least 2 sentence pairs, got 1"):
        split_held_out(corpus_of([([1], [2])]))


def test_both_directions_and_their_coverage() -> None:
    tokenizer = tiny_tokenizer()
    base = 400
    pairs = [([s + base for s in source], [t + base for t in target]) for source, target in TOY]
    unseen = ([THE + base, BOOK + base], [LE + base, LE + base, 600])
    corpus = corpus_of([*pairs, unseen])
    arrays = estimate_shortlist(corpus, np.arange(len(pairs)), ("en", "fr"), tokenizer, best=2, frequent=1)
    shortlist = Shortlist(arrays, VOCAB_SIZE, tokenizer.eos_id)
    for source, (language, frequent) in enumerate((("fr", MAISON), ("en", THE))):
        turned = [(pair[source], pair[1 - source]) for pair in pairs]
        naive = naive_model_1(turned, 5)
        for ids, _ in turned:
            likely = {t for s in ids for t in sorted(naive[s], key=lambda t: (-naive[s][t], t))[:2]}
            found = shortlist.candidates([tokenizer.language_id(language), *ids, tokenizer.eos_id]).tolist()
            assert found == sorted({*likely, *ids, frequent + base, tokenizer.eos_id})
    measured = np.arange(len(pairs) - 1, len(pairs) + 1)
    there, back = measure_coverage(shortlist, corpus, measured, ("en", "fr"), tokenizer)
    french = tokenizer.language_id("fr")
    size = np.mean([len(shortlist.candidates([french, *corpus.side(0, int(pair))])) for pair in measured])
    assert there == Coverage("en", "fr", 2, tokens=3 / 4, sentences=1 / 2, mean_size=float(size))
    assert (back.source, back.target, back.num_sentences) == ("fr", "en", 2)
    assert back.tokens == 1.0
