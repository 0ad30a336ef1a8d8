"""Sampling: random tokens from a row's own probabilities; a seed gives the same text whatever else is in the batch."""

from __future__ import annotations

import random
import secrets
from collections.abc import Sequence

import torch
from torch import Tensor

from model.config import GenerationConfig
from model.generation.hypothesis import Hypothesis, PartialHypothesis, best_first

NUCLEUS_GUESS = 256
"""Most nuclei are smaller, and finding the greatest few is ten times as fast as sorting a whole vocabulary."""


class SamplingSearch:
    """Implements ``Search`` for ``config.sampling``: ``num_hypotheses`` samples that do not know of each other.

    All samples share one row until the first token is drawn. Each has its own random numbers: those of sample i depend
    on the seed and i alone. They come from Python's Mersenne Twister, whose sequence is guaranteed across versions and
    platforms, one number for each token.
    """

    num_candidates = 0

    def __init__(self, config: GenerationConfig, limit: int, eos_id: int) -> None:
        self.finished = False
        self.parents: list[int] = []
        self.next_tokens: list[int] = []
        self._config = config
        self._limit = limit
        self._eos_id = eos_id
        seed = secrets.randbits(63) if config.seed is None else config.seed
        samples = [random.Random(derived_seed(seed, index)) for index in range(config.num_hypotheses)]
        self._live: list[tuple[PartialHypothesis, list[random.Random]]] = [(PartialHypothesis(), samples)]
        self._done: list[Hypothesis] = []

    @property
    def num_rows(self) -> int:
        """Samples that have not finished, or 1 before the first token is drawn."""
        return len(self._live)

    @property
    def forced_token(self) -> int | None:
        """The next token of the target prefix; inside it, no random numbers are used."""
        position, prefix = len(self._live[0][0].token_ids), self._config.target_prefix
        return prefix[position] if position < len(prefix) else None

    def history(self) -> list[tuple[int, ...]]:
        """Return the tokens of each live row."""
        return [partial.token_ids for partial, _ in self._live]

    def num_samples(self, row: int) -> int:
        """Return how many samples share a live row, each of which needs a token."""
        return len(self._live[row][1])

    def draw(self, row: int, logits: Tensor) -> list[int]:
        """Return one token for each sample on a live row.

        Args:
            row: index of the live row.
            logits: (V,) its logits or log-probabilities on the CPU, minus infinity where a token is banned; at least
                one token is not.
        """
        config = self._config
        probabilities = truncated_probabilities(logits, config.temperature, config.top_k, config.top_p)
        return [draw_token(probabilities, sample.random()) for sample in self._live[row][1]]

    def advance(self, token_ids: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]]) -> None:
        """Append to each row its forced token, or to each sample the token drawn for it."""
        forced = self.forced_token is not None
        rows, self._live = self._live, []
        self.parents, self.next_tokens = [], []
        for row, (partial, samples) in enumerate(rows):
            groups = [samples] if forced else [[sample] for sample in samples]
            for token_id, log_prob, group in zip(token_ids[row], log_probs[row], groups, strict=True):
                grown = partial.extend(token_id, log_prob)
                if token_id == self._eos_id:
                    self._done.append(grown.finish("end", self._config.length_penalty))
                elif len(grown.token_ids) == self._limit:
                    self._done.append(grown.finish("length", self._config.length_penalty))
                else:
                    self._live.append((grown, group))
                    self.parents.append(row)
                    self.next_tokens.append(token_id)
        self.finished = not self._live

    def hypotheses(self) -> list[Hypothesis]:
        """Return all samples, best score first; two samples may be equal."""
        return best_first(self._done)


def derived_seed(seed: int, index: int) -> int:
    """Return the seed of sample ``index``: ``seed`` itself for the first, so that asking for more keeps it.

    The others are SplitMix64's outputs (Steele, Lea and Flood 2014, figure 17), which are far apart even for
    neighbouring seeds.
    """
    if index == 0:
        return seed
    mask = 2**64 - 1
    mixed = (seed + index * 0x9E3779B97F4A7C15) & mask
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & mask
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
    return mixed ^ (mixed >> 31)


def truncated_probabilities(logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Return the (V,) float64 probabilities from which a token is drawn.

    In this order: divide by the temperature; keep the ``top_k`` most probable tokens; of these, keep the smallest set
    whose renormalised probabilities reach ``top_p`` (Holtzman et al. 2020, section 3.1), which always has the best
    token in it. Among equally probable tokens the one with the smaller id is kept first.
    """
    logits = logits.double()
    # Subtracted before dividing: a tiny temperature then gives 0 and minus infinity instead of infinity.
    weights = (logits - logits.max()).div_(temperature).exp_()
    if 0 < top_k < len(weights):
        weights *= _first_in_order(weights, top_k)
    probabilities = weights / weights.sum()
    if top_p < 1.0:
        probabilities *= _first_in_order(probabilities, _nucleus_size(probabilities, top_p))
        probabilities /= probabilities.sum()
    return probabilities


def draw_token(probabilities: Tensor, uniform: float) -> int:
    """Return the token in which ``uniform``, from [0, 1), falls when the tokens share that interval in order of id.

    The order of ids, rather than of probabilities, keeps the draw stable: rounding that changes with the batch moves
    borders a little, but cannot exchange two tokens.
    """
    sums = probabilities.cumsum(0)
    index = int(torch.searchsorted(sums, uniform * sums[-1], right=True))
    # uniform * sum can round up to the sum, which lies behind every token.
    return index if index < len(sums) else int(probabilities.nonzero()[-1])


def _nucleus_size(probabilities: Tensor, top_p: float) -> int:
    """Return how many of the greatest probabilities it takes to reach ``top_p``, at least 1."""
    vocab_size = len(probabilities)
    for fetched in (min(NUCLEUS_GUESS, vocab_size), vocab_size):
        sums = probabilities.topk(fetched).values.cumsum(0)
        if sums[-1] >= top_p:
            return int(torch.searchsorted(sums, top_p)) + 1
    return vocab_size  # rounding left the sum of all just below top_p


def _first_in_order(values: Tensor, count: int) -> Tensor:
    """Return a mask (V,) of the ``count`` greatest values, smaller indices first among equals."""
    threshold = values.topk(count).values[-1]
    mask = values > threshold
    ties = (values == threshold).nonzero()[:, 0]
    mask[ties[: count - int(mask.sum())]] = True
    return mask
