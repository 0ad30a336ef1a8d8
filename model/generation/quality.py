"""How likely a word of a translation is right, from its tokens' log-probabilities; the numbers are fitted elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.errors import CheckpointError

METADATA_KEY = "quality_calibration"
"""Where a checkpoint's metadata has the numbers."""
_MOST = 1e-6
"""Probabilities are kept this far from 0 and 1, whose odds are not finite."""

Span = tuple[int, int]


@dataclass(frozen=True)
class Calibration:
    """Platt scaling (Platt 1999): ``sigmoid(scale * logit(p) + bias)``; ``1 / scale`` is a temperature.

    The default changes nothing.
    """

    scale: float = 1.0
    bias: float = 0.0

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Calibration:
        """Return the calibration of a checkpoint, the default where it has none.

        Raises:
            CheckpointError: what it has is no calibration.
        """
        values = metadata.get(METADATA_KEY)
        if values is None:
            return cls()
        try:
            found = cls(float(values["scale"]), float(values["bias"]))
        except (TypeError, KeyError, ValueError) as error:
            raise CheckpointError(f"{METADATA_KEY} must have the numbers scale and bias, got {values!r}") from error
        if not (math.isfinite(found.scale) and math.isfinite(found.bias) and found.scale > 0):
            raise CheckpointError(f"{METADATA_KEY} must be finite with a positive scale, got {values!r}")
        return found

    def __call__(self, probability: float) -> float:
        """Return the calibrated probability."""
        value = self.scale * logit(probability) + self.bias
        return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


def quality(token_log_probs: Sequence[float], calibration: Calibration) -> float:
    """Return the estimated probability that a word is right, given the log-probabilities of its tokens."""
    return calibration(math.exp(min(0.0, sum(token_log_probs))))


def word_log_probs(words: Sequence[Span], spans: Sequence[Span], token_log_probs: Sequence[float]) -> list[list[float]]:
    """Return for each word the log-probabilities of the tokens that have characters of it.

    Args:
        words: spans of the words in the target's text, in order.
        spans: span of each token in it.
        token_log_probs: of each token; an end token behind them is left out.
    """
    found: list[list[float]] = [[] for _ in words]
    first = 0
    for (start, end), log_prob in zip(spans, token_log_probs, strict=False):
        while first < len(words) and words[first][1] <= start:
            first += 1
        word = first
        while word < len(words) and words[word][0] < end:
            found[word].append(log_prob)
            word += 1
    return found


def word_qualities(
    words: Sequence[Span], spans: Sequence[Span], token_log_probs: Sequence[float], calibration: Calibration
) -> list[float]:
    """Return :func:`quality` of each word, arguments as in :func:`word_log_probs`; a segment's quality is the mean."""
    return [quality(own, calibration) for own in word_log_probs(words, spans, token_log_probs)]


def logit(probability: float) -> float:
    """Return the logarithm of the odds."""
    kept = min(max(probability, _MOST), 1 - _MOST)
    return math.log(kept / (1 - kept))
