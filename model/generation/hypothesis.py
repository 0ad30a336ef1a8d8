"""Hypotheses, finished and growing, and how they are scored; nothing here decides which one grows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["end", "length"]
"""The end token was generated, or the token limit was reached before it."""


@dataclass(frozen=True)
class Hypothesis:
    """One finished target of one request."""

    token_ids: tuple[int, ...]
    """The target, a forced prefix included, without start and end tokens."""
    score: float
    """``log_prob / length ** length_penalty``; the length counts the end token where there is one."""
    log_prob: float
    """Sum of ``token_log_probs``."""
    token_log_probs: tuple[float, ...]
    """Natural-logarithm probability of every token, and then of the end token where there is one."""
    finish_reason: FinishReason
    """Why it stopped growing."""
    unmet_phrases: int = 0
    """How many of the required phrases it lacks, because the token limit came first."""


@dataclass(slots=True)
class PartialHypothesis:
    """A target that may still grow; never changed in place, because several beams can share a parent."""

    token_ids: tuple[int, ...] = ()
    """What was generated so far, in the end also the end token."""
    token_log_probs: tuple[float, ...] = ()
    """The log-probability of each."""
    log_prob: float = 0.0
    """Their sum."""

    def extend(self, token_id: int, log_prob: float) -> PartialHypothesis:
        """Return this hypothesis with one more token."""
        return PartialHypothesis(
            (*self.token_ids, token_id), (*self.token_log_probs, log_prob), self.log_prob + log_prob
        )

    def finish(self, reason: FinishReason, length_penalty: float, unmet_phrases: int = 0) -> Hypothesis:
        """Return the finished hypothesis; with reason ``"end"`` the last token is the end token and is left out."""
        return Hypothesis(
            token_ids=self.token_ids[:-1] if reason == "end" else self.token_ids,
            score=normalized_score(self.log_prob, len(self.token_log_probs), length_penalty),
            log_prob=self.log_prob,
            token_log_probs=self.token_log_probs,
            finish_reason=reason,
            unmet_phrases=unmet_phrases,
        )


def normalized_score(log_prob: float, length: int, length_penalty: float) -> float:
    """Return ``log_prob / length ** length_penalty``, as in Marian and CTranslate2; higher is better.

    Args:
        log_prob: summed log-probability, at most 0.
        length: generated tokens, end token included, at least 1.
        length_penalty: 0 ranks by the bare sum, 1 by the mean; above 0 favours long targets, below 0 short ones.
    """
    return float(log_prob / length**length_penalty)


def best_first(hypotheses: Iterable[Hypothesis]) -> list[Hypothesis]:
    """Return the hypotheses by falling score; among equals the one that finished first stays in front."""
    return sorted(hypotheses, key=lambda hypothesis: -hypothesis.score)
