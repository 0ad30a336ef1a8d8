"""Beam search over one request's rows; where the log-probabilities come from is not its business.

The rules, which are CTranslate2's and fairseq's where they agree:

- Each step ranks all continuations of all live rows by summed log-probability. An end token among the first K finishes
  its hypothesis; the first K other tokens are the next live rows, so finishing never narrows the beam.
- The search ends when ``round(K * patience)`` hypotheses have finished (Kasai et al. 2022), when no live row can still
  enter the n-best (see ``_best_possible_score``), at the token limit, or when no continuation is allowed any more.
- Live rows at the limit are cut. They are returned, with reason "length", only behind finished hypotheses and only when
  there are fewer of these than were asked for: a loop that never ends is probable at every step and would otherwise
  win over a whole sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from model.config import GenerationConfig
from model.generation.hypothesis import Hypothesis, PartialHypothesis, best_first, normalized_score
from model.generation.records import num_wanted


class _Continuation(NamedTuple):
    total: float  # summed log-probability with the new token
    row: int
    token_id: int
    log_prob: float


class BeamSearch:
    """Implements ``Search``: starts with one row and fans out to ``beam_size`` rows."""

    def __init__(self, config: GenerationConfig, limit: int, eos_id: int) -> None:
        self.finished = False
        self.parents: list[int] = []
        self.next_tokens: list[int] = []
        self._config = config
        self._limit = limit
        self._eos_id = eos_id
        self._length = 0
        self._live = [PartialHypothesis()]
        self._ended: list[Hypothesis] = []
        self._wanted = num_wanted(config)

    @property
    def num_rows(self) -> int:
        """Live hypotheses."""
        return len(self._live)

    @property
    def num_candidates(self) -> int:
        """One more than K: the first K of all continuations and the first K without end token are then among them."""
        return self._config.beam_size + 1

    @property
    def forced_token(self) -> int | None:
        """The next token of the target prefix."""
        prefix = self._config.target_prefix
        return prefix[self._length] if self._length < len(prefix) else None

    def history(self) -> list[tuple[int, ...]]:
        """Return the tokens of each live row."""
        return [partial.token_ids for partial in self._live]

    def advance(self, token_ids: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]]) -> None:
        """Rank the continuations, finish those that end, and keep the best others."""
        live: list[PartialHypothesis] = []
        parents: list[int] = []
        for rank, (_, row, token_id, log_prob) in enumerate(self._ranked(token_ids, log_probs)):
            in_beam = rank < self._config.beam_size
            if token_id == self._eos_id:
                if in_beam:
                    ended = self._live[row].extend(token_id, log_prob)
                    self._ended.append(ended.finish("end", self._config.length_penalty))
            elif len(live) < self._config.beam_size:
                live.append(self._live[row].extend(token_id, log_prob))
                parents.append(row)
            elif not in_beam:
                break
        self._live = live
        self._length += 1
        self.finished = self._is_finished()
        self.parents = [] if self.finished else parents
        self.next_tokens = [] if self.finished else [partial.token_ids[-1] for partial in live]

    def hypotheses(self) -> list[Hypothesis]:
        """Return the n-best: the ended ones by score, then, if these are too few, the ones that were cut."""
        chosen = best_first(self._ended)
        if len(chosen) < self._config.num_hypotheses:
            chosen += best_first(partial.finish("length", self._config.length_penalty) for partial in self._live)
        return chosen[: self._config.num_hypotheses]

    def _ranked(self, token_ids: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]]) -> list[_Continuation]:
        """Return all continuations, best first; among equals the better parent, then the better candidate, is first."""
        continuations = [
            _Continuation(self._live[row].log_prob + log_prob, row, token_id, log_prob)
            for row, candidates in enumerate(zip(token_ids, log_probs, strict=True))
            for token_id, log_prob in zip(*candidates, strict=True)
        ]
        continuations.sort(key=lambda continuation: -continuation.total)
        return continuations

    def _is_finished(self) -> bool:
        if not self._live or self._length == self._limit or len(self._ended) >= self._wanted:
            return True
        n_best = self._config.num_hypotheses
        if len(self._ended) < n_best:
            return False
        worst_kept = best_first(self._ended)[n_best - 1].score
        return self._best_possible_score(self._live[0].log_prob) <= worst_kept

    def _best_possible_score(self, log_prob: float) -> float:
        """Return a score that no ended hypothesis grown from a live one with ``log_prob`` can exceed.

        Log-probabilities are at most 0, so a sum can only fall: its final value s' is at most ``log_prob``, and its
        final length L lies between the next one and the limit. ``s' / L ** p`` is then greatest for s' = ``log_prob``
        and, as this is not positive, for the greatest ``L ** p``: the limit with a positive penalty p, the next length
        with a negative one. Stopping on this bound therefore never changes the result.
        """
        penalty = self._config.length_penalty
        length = self._limit if penalty > 0 else self._length + 1
        return normalized_score(log_prob, length, penalty)
