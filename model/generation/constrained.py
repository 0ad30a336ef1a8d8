"""Beam search for hypotheses that must contain given phrases; it does not know where log-probabilities come from.

Lexically constrained decoding with dynamic beam allocation (Post and Vilar 2018): the beam is shared out among levels
of progress, so that hypotheses with a costly phrase are not pushed out by those without. Each row's candidates are its
best tokens and those that go on with a phrase. The end token is allowed once all phrases are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from model.config import GenerationConfig
from model.generation.hypothesis import Hypothesis, PartialHypothesis, best_first, normalized_score
from model.generation.records import num_wanted

Phrases = tuple[tuple[int, ...], ...]
MAX_READINGS = 16
"""Ways of finding phrases in one hypothesis that are followed; ordinary phrases have one or two."""


class Reading(NamedTuple):
    """One way of finding the phrases in a hypothesis: disjoint, in any order."""

    num_tokens: int = 0
    """Tokens of the phrases that were found, and of the one under way."""
    met: int = 0
    """Bit p is set where phrase p was found."""
    phrase: int = -1
    """The phrase that the last tokens are the beginning of, or -1."""
    length: int = 0
    """How many tokens of it."""


class PhraseProgress:
    """Which phrases a hypothesis has; what it says never changes.

    Overlapping phrases can be found in several ways, and a token may go on with a phrase, begin another one or break
    it: the readings that can still be of use are all kept.
    """

    def __init__(self, phrases: Phrases, readings: tuple[Reading, ...] = (Reading(),)) -> None:
        self._phrases = phrases
        self._readings = readings
        self.num_tokens = max(reading.num_tokens for reading in readings)
        """Most tokens of phrases that one reading has found."""
        self.num_unmet = len(phrases) - max(reading.met.bit_count() for reading in readings)
        """Fewest phrases that a reading lacks."""
        self._after: dict[int, PhraseProgress] = {}
        self._relevant: dict[int, list[Reading]] | None = None

    def extend(self, token_id: int) -> PhraseProgress:
        """Return the progress after one more token."""
        if not self.num_unmet:
            return self
        if self._relevant is None:
            self._relevant = self._relevant_tokens()
        key = token_id if token_id in self._relevant else -1  # all other tokens do the same
        if key not in self._after:
            broken = [Reading(each.num_tokens - each.length, each.met) for each in self._readings]
            grown = {*broken, *self._relevant.get(token_id, ())}
            useful = [each for each in grown if not any(_covers(other, each) for other in grown)]
            useful.sort(key=lambda each: (-each.num_tokens, each))
            self._after[key] = PhraseProgress(self._phrases, tuple(useful[:MAX_READINGS]))
        return self._after[key]

    def wanted(self) -> list[int]:
        """Return the tokens that go on with the phrase under way, or begin one that is missing."""
        tokens: dict[int, None] = {}
        for reading in self._readings:
            if reading.num_tokens < self.num_tokens:
                continue
            if reading.phrase >= 0:
                tokens[self._phrases[reading.phrase][reading.length]] = None
            else:
                tokens |= dict.fromkeys(self._phrases[phrase][0] for phrase in self._missing(reading.met))
        return list(tokens)

    def _relevant_tokens(self) -> dict[int, list[Reading]]:
        """Return the tokens that begin a phrase or go on with one, and the readings that follow from that."""
        relevant: dict[int, list[Reading]] = {}
        for num_tokens, met, phrase, length in self._readings:
            if phrase >= 0:
                token_id = self._phrases[phrase][length]
                relevant.setdefault(token_id, []).append(self._reached(num_tokens + 1, met, phrase, length + 1))
            for begun in self._missing(met):
                reached = self._reached(num_tokens - length + 1, met, begun, 1)
                relevant.setdefault(self._phrases[begun][0], []).append(reached)
        return relevant

    def _reached(self, num_tokens: int, met: int, phrase: int, length: int) -> Reading:
        if length == len(self._phrases[phrase]):
            return Reading(num_tokens, met | 1 << phrase)
        return Reading(num_tokens, met, phrase, length)

    def _missing(self, met: int) -> list[int]:
        """Return the phrases that are not met; of several equal ones the first."""
        missing: dict[tuple[int, ...], int] = {}
        for phrase, tokens in enumerate(self._phrases):
            if not met >> phrase & 1:
                missing.setdefault(tokens, phrase)
        return list(missing.values())


def _covers(one: Reading, other: Reading) -> bool:
    """Say whether whatever can follow ``other`` can follow ``one``, with as many phrases or more."""
    same_way = other.phrase < 0 or (one.phrase, one.length) == (other.phrase, other.length)
    return one != other and same_way and one.met | other.met == one.met


@dataclass(slots=True)
class _Live:
    partial: PartialHypothesis
    progress: PhraseProgress


class _Continuation(NamedTuple):
    total: float  # summed log-probability with the new token
    row: int
    token_id: int
    log_prob: float
    progress: PhraseProgress


class ConstrainedSearch:
    """Implements ``Search`` for ``config.required_phrases``: one row that fans out to K rows.

    K is ``beam_size`` and one more for each required token, so that each level of progress has a row.
    It ends as :class:`~model.generation.beam_search.BeamSearch` does, but with enough ended hypotheses only when no
    live one has a better score at its present length: those that got their phrases early, and badly, end first. If the
    token limit comes before all phrases are there, the hypotheses with the fewest missing are returned.
    """

    def __init__(self, config: GenerationConfig, limit: int, eos_id: int) -> None:
        self.finished = False
        self.parents: list[int] = []
        self.next_tokens: list[int] = []
        self._config = config
        self._beam_size = config.max_rows
        self._limit = limit
        self._eos_id = eos_id
        self._length = 0
        self._num_tokens = sum(map(len, config.required_phrases))
        self._live = [_Live(PartialHypothesis(), PhraseProgress(config.required_phrases))]
        self._ended: list[Hypothesis] = []
        self._wanted = num_wanted(config)

    @property
    def num_rows(self) -> int:
        """Live hypotheses."""
        return len(self._live)

    @property
    def num_candidates(self) -> int:
        """One more than K: the end token may be among them, and not be allowed yet."""
        return self._beam_size + 1

    @property
    def forced_token(self) -> int | None:
        """The next token of the target prefix, which may have phrases in it."""
        prefix = self._config.target_prefix
        return prefix[self._length] if self._length < len(prefix) else None

    def history(self) -> list[tuple[int, ...]]:
        """Return the tokens of each live row."""
        return [live.partial.token_ids for live in self._live]

    def required_tokens(self) -> list[list[int]]:
        """Return for each live row the tokens that must be among its candidates, whatever is banned."""
        return [live.progress.wanted() for live in self._live]

    def advance(self, token_ids: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]]) -> None:
        """Rank the continuations of each level, finish those that may end, and share out the beam."""
        ends, levels = self._ranked(token_ids, log_probs)
        shares = beam_shares({level: len(ranked) for level, ranked in levels.items()}, self._beam_size)
        chosen = [each for level, ranked in levels.items() for each in ranked[: shares[level]]]
        chosen.sort(key=lambda each: -each.total)
        self._finish(ends, levels, shares)
        parents = [each.row for each in chosen]
        self._live = [
            _Live(self._live[each.row].partial.extend(each.token_id, each.log_prob), each.progress) for each in chosen
        ]
        self._length += 1
        self.finished = self._is_finished()
        self.parents = [] if self.finished else parents
        self.next_tokens = [] if self.finished else [each.token_id for each in chosen]

    def hypotheses(self) -> list[Hypothesis]:
        """Return the n-best: the ended ones by score, then those that were cut, fewest missing phrases first."""
        chosen = best_first(self._ended)
        if len(chosen) < self._config.num_hypotheses:
            cut = best_first(
                live.partial.finish("length", self._config.length_penalty, live.progress.num_unmet)
                for live in self._live
            )
            chosen += sorted(cut, key=lambda hypothesis: hypothesis.unmet_phrases)
        return chosen[: self._config.num_hypotheses]

    def _ranked(
        self, token_ids: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]]
    ) -> tuple[list[_Continuation], dict[int, list[_Continuation]]]:
        """Return the allowed end tokens, and by level all other continuations; each best first."""
        ends: list[_Continuation] = []
        levels: dict[int, list[_Continuation]] = {}
        for row, (live, candidates) in enumerate(zip(self._live, zip(token_ids, log_probs, strict=True), strict=True)):
            for token_id, log_prob in zip(*candidates, strict=True):
                total = live.partial.log_prob + log_prob
                if token_id == self._eos_id:
                    if not live.progress.num_unmet:
                        ends.append(_Continuation(total, row, token_id, log_prob, live.progress))
                    continue
                progress = live.progress.extend(token_id)
                continuation = _Continuation(total, row, token_id, log_prob, progress)
                levels.setdefault(self._level(progress), []).append(continuation)
        for ranked in (ends, *levels.values()):
            ranked.sort(key=lambda continuation: -continuation.total)
            # Where several degrees of progress share a level, the row that is furthest must not be lost.
            furthest = max(ranked, key=lambda continuation: continuation.progress.num_tokens, default=None)
            if furthest is not None and furthest.progress.num_tokens > ranked[0].progress.num_tokens:
                ranked.remove(furthest)
                ranked.insert(0, furthest)
        return ends, levels

    def _level(self, progress: PhraseProgress) -> int:
        """Return how far a hypothesis is; the highest of at most K levels is for those with all phrases."""
        if self._num_tokens < self._beam_size:
            return progress.num_tokens
        return progress.num_tokens * (self._beam_size - 1) // self._num_tokens

    def _finish(
        self, ends: Sequence[_Continuation], levels: dict[int, list[_Continuation]], shares: dict[int, int]
    ) -> None:
        """End the hypotheses whose end token would have had a place among those with all phrases."""
        highest = min(self._num_tokens, self._beam_size - 1)
        rivals = levels.get(highest, [])
        places = shares.get(highest, 0) + self._beam_size - sum(shares.values())
        places = max(places, self._beam_size // (len(levels.keys() | {highest})))
        for rank, end in enumerate(ends):
            better = sum(1 for rival in rivals if rival.total > end.total)
            if rank + better < places:
                grown = self._live[end.row].partial.extend(end.token_id, end.log_prob)
                self._ended.append(grown.finish("end", self._config.length_penalty))

    def _is_finished(self) -> bool:
        if not self._live or self._length == self._limit:
            return True
        n_best, penalty = self._config.num_hypotheses, self._config.length_penalty
        if len(self._ended) < n_best:
            return False
        worst_kept = best_first(self._ended)[n_best - 1].score
        best = max(live.partial.log_prob for live in self._live)
        # The bound of BeamSearch: nothing that can still come is better.
        if normalized_score(best, self._limit if penalty > 0 else self._length + 1, penalty) <= worst_kept:
            return True
        return len(self._ended) >= self._wanted and normalized_score(best, self._length, penalty) <= worst_kept


def beam_shares(available: dict[int, int], beam_size: int) -> dict[int, int]:
    """Return how many rows each level of progress gets (Post and Vilar 2018, section 3.2).

    All levels get the same, and the highest ones what is left over; what a level has no candidates for goes to the
    others, the highest first.

    Args:
        available: number of candidates of each level, each at least 1; at most ``beam_size`` levels.
        beam_size: rows to share out, K.
    """
    shares = dict.fromkeys(available, 0)
    left = min(beam_size, sum(available.values()))
    while left:
        open_levels = sorted((level for level in available if shares[level] < available[level]), reverse=True)
        each = max(1, left // len(open_levels))
        for level in open_levels:
            taken = min(each, available[level] - shares[level], left)
            shares[level] += taken
            left -= taken
    return shares
