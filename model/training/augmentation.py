"""Changed training examples, drawn anew in each epoch: what is drawn for which, and the changed tokens; no tensors.

Everything about an example depends on the seed, the epoch, and the example's number alone, so that all ranks agree and
a resumed run sees what the uninterrupted one would have seen. Lengths are known before any text is changed, as upper
bounds: an example that would get longer is left as it was.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.text.tokenizer import MARKERS, NUM_PLACEHOLDERS, Tokenizer
from model.text.variations import (
    Pair,
    lower_case,
    no_final_punctuation,
    title_case,
    typing_errors,
    upper_case,
)
from model.training.corpus import Corpus
from model.training.markings import mark
from model.training.word_lexicon import WordLexicon
from model.training_config import AugmentationConfig

LongArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
Ids = list[int]

UPPER, TITLE, LOWER = 1, 2, 3
"""Kinds of letter case; 0 means as it is."""
_GROWTH = {0: 1.0, UPPER: 3.2, TITLE: 1.75, LOWER: 1.1}
"""Tokens of a changed side over those it had, which about one in fifteen exceeds, ..."""
_MORE = 2
"""... and as many more for short sides."""
_TYPO_GROWTH = 1.3
_MAX_JOINED = 4
_FEW = (0.5, 0.25, 0.13)
"""How often there are one, two or three placeholders in an example that has some; else up to NUM_PLACEHOLDERS."""


@dataclass(frozen=True)
class Plan:
    """What is drawn for some examples, one entry each.

    Attributes:
        examples: ``2 * pair + direction``.
        keys: random bits that decide the rest.
        cases: kind of letter case.
        unpunctuated, mistyped: whether the side loses its final punctuation, or gets typing errors.
        joined: (n, 3) pairs that follow the example's own; -1 for none.
        num_placeholders, num_terms: how many are wanted.
        changed: whether the text changes, besides being joined.
        source_lengths, target_lengths: bounds of the numbers of tokens, without special tokens around them.
    """

    examples: LongArray
    keys: npt.NDArray[np.uint64]
    cases: LongArray
    unpunctuated: BoolArray
    mistyped: BoolArray
    joined: LongArray
    num_placeholders: LongArray
    num_terms: LongArray
    changed: BoolArray
    source_lengths: LongArray
    target_lengths: LongArray


class Augmentation:
    """The changes of one run's examples.

    A *draw* is the number of an example in an epoch: ``2 * pair + direction``, plus ``2 * len(corpus)`` for each time
    that the epoch has had it before, so that a pair with a weight above one is changed differently each time.

    Args:
        corpus: the tokenised pairs.
        tokenizer: made their tokens.
        languages: of the corpus' two sides.
        config: the shares.
        max_tokens: most tokens of a changed side.
        seed: of the run.
        lexicon: word translations; needed for placeholders and terms.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: Tokenizer,
        languages: tuple[str, str],
        config: AugmentationConfig,
        max_tokens: int,
        seed: int,
        lexicon: WordLexicon | None = None,
    ) -> None:
        assert lexicon is not None or not config.markers, "placeholders and terms need a word lexicon"
        self.corpus = corpus
        self.tokenizer = tokenizer
        self.languages = languages
        self.config = config
        self.max_tokens = max_tokens
        self.seed = seed
        self.lexicon = lexicon
        self._lengths = (corpus.lengths(0), corpus.lengths(1))
        # Pairs of one source stand together, so that a source is a range of pairs.
        self._starts = np.searchsorted(corpus.source_of, np.arange(len(corpus.weights)), side="left")
        self._ends = np.searchsorted(corpus.source_of, np.arange(len(corpus.weights)), side="right")

    def plan(self, draws: LongArray, epoch: int) -> Plan:
        """Return what is drawn for each of the given draws of an epoch."""
        keys = _keys(self.seed, epoch, draws)
        examples = draws % (2 * len(self.corpus))
        config = self.config
        cases = np.searchsorted(
            np.cumsum([config.upper_case, config.title_case, config.lower_case]), _uniform(keys, 0), side="right"
        )
        cases = np.where(cases < 3, cases + 1, 0)
        unpunctuated = _uniform(keys, 1) < config.no_final_punctuation
        mistyped = _uniform(keys, 2) < config.typos
        joined, lengths = self._join(examples, keys)
        num_placeholders = np.where(_uniform(keys, 3) < config.placeholders, _num_placeholders(keys), 0)
        num_terms = np.where(_uniform(keys, 4) < config.terms, 1 + np.searchsorted([0.6, 0.85], _uniform(keys, 5)), 0)
        # What 19 of 20 examples with placeholders and terms need at most, as measured on French and English.
        added = np.ceil(1.5 * num_placeholders).astype(np.int64) + 2 * (num_placeholders > 0)
        annotated = 6 * num_terms + 2 * (num_terms > 0)
        factors = np.array([_GROWTH[case] for case in range(4)])[cases]
        growth = (np.where(mistyped, factors * _TYPO_GROWTH, factors), (cases > 0) | mistyped, added + annotated)
        source_lengths = self._bounds(lengths[0], *growth)
        target_lengths = self._bounds(lengths[1], factors, cases > 0, added)
        return Plan(
            examples,
            keys,
            cases,
            unpunctuated,
            mistyped,
            joined,
            num_placeholders,
            num_terms,
            (cases > 0) | unpunctuated | mistyped | (num_placeholders > 0) | (num_terms > 0),
            source_lengths,
            target_lengths,
        )

    def example(self, plan: Plan, index: int) -> tuple[Ids, Ids]:
        """Return source and target tokens, without special tokens around them, of one of a plan's examples."""
        pair, direction = divmod(int(plan.examples[index]), 2)
        pairs = [pair, *(int(other) for other in plan.joined[index] if other >= 0)]
        source, target = (
            [token for each in pairs for token in self.corpus.side(side, each).tolist()]
            for side in (direction, 1 - direction)
        )
        if not plan.changed[index]:
            return source, target
        changed = self._changed(plan, index, direction, source, target)
        fits = len(changed[0]) <= plan.source_lengths[index] and len(changed[1]) <= plan.target_lengths[index]
        return changed if fits and changed[0] and changed[1] else (source, target)

    def _changed(self, plan: Plan, index: int, direction: int, source: Ids, target: Ids) -> tuple[Ids, Ids]:
        """Return the tokens after all changes of the text."""
        draw = random.Random(int(plan.keys[index]))
        decode = self.tokenizer.decode
        pair = Pair(decode(source), decode(target), self.languages[direction], self.languages[1 - direction])
        if any(marker in pair.source or marker in pair.target for marker in MARKERS):
            return source, target
        if plan.unpunctuated[index]:
            pair = no_final_punctuation(pair)
        case = plan.cases[index]
        if case == UPPER:
            pair = upper_case(pair, draw)
        elif case == TITLE:
            pair = title_case(pair)
        elif case == LOWER:
            pair = lower_case(pair, draw)
        if plan.mistyped[index]:
            pair = typing_errors(pair, draw)
        wanted = int(plan.num_placeholders[index]), int(plan.num_terms[index])
        if any(wanted):
            assert self.lexicon is not None
            pair = mark(pair, self.lexicon, direction, *wanted, draw)
        encode = self.tokenizer.encode_target_marked
        return encode(pair.source), encode(pair.target)

    def _bounds(self, lengths: LongArray, factors: FloatArray, changed: BoolArray, added: LongArray) -> LongArray:
        """Return the most tokens that changed sides may have; one that is too long already stays as it is."""
        grown = np.ceil(lengths * factors).astype(np.int64) + _MORE * changed + added
        return np.maximum(lengths, np.minimum(grown, self.max_tokens))

    def _join(self, examples: LongArray, keys: npt.NDArray[np.uint64]) -> tuple[LongArray, tuple[LongArray, LongArray]]:
        """Return the pairs that follow each example's own, and the numbers of tokens of both sides with them."""
        pairs, directions = examples // 2, examples % 2
        totals = [np.where(directions == side, self._lengths[0][pairs], self._lengths[1][pairs]) for side in (0, 1)]
        joined = np.full((len(examples), _MAX_JOINED - 1), -1, dtype=np.int64)
        counts = np.where(
            _uniform(keys, 6) < self.config.joined, 1 + np.searchsorted([0.6, 0.85], _uniform(keys, 7)), 0
        )
        (rows,) = np.nonzero(counts)
        sources = self.corpus.source_of[pairs[rows]]
        starts, ends = self._starts[sources], self._ends[sources]
        for place in range(_MAX_JOINED - 1):
            others = starts + (_uniform(keys[rows], 8 + place) * (ends - starts)).astype(np.int64)
            new = [
                totals[side][rows]
                + np.where(directions[rows] == side, self._lengths[0][others], self._lengths[1][others])
                for side in (0, 1)
            ]
            # One that is too long leaves its place empty, and the next one may still fit.
            fits = (counts[rows] > place) & (np.maximum(new[0], new[1]) <= self.max_tokens)
            joined[rows, place] = np.where(fits, others, -1)
            for side in (0, 1):
                totals[side][rows] = np.where(fits, new[side], totals[side][rows])
        return joined, (totals[0], totals[1])


def _num_placeholders(keys: npt.NDArray[np.uint64]) -> LongArray:
    few = 1 + np.searchsorted(np.cumsum(_FEW), _uniform(keys, 11))
    many = 4 + (_uniform(keys, 12) ** 3 * (NUM_PLACEHOLDERS - 3)).astype(np.int64)
    return np.where(few < 4, few, many)


def _keys(seed: int, epoch: int, draws: LongArray) -> npt.NDArray[np.uint64]:
    """Return random bits for each draw."""
    start = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
    return _mixed(draws.astype(np.uint64) + start)


def _uniform(keys: npt.NDArray[np.uint64], stream: int) -> FloatArray:
    """Return a number from 0 to below 1 for each key, another one for each ``stream``."""
    salt = _mixed(np.array([stream + 1], dtype=np.uint64))
    return (_mixed(keys ^ salt) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return SplitMix64 of each value (Steele et al. 2014): every bit of a value changes half of the result's bits."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
