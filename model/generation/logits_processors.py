"""Rules about which tokens may come next, applied to one request's rows; they rank and choose nothing.

There are two kinds. *Shaping* changes logits before they are normalised. *Banning* sets log-probabilities to minus
infinity after that, without renormalising the rest: a score stays the probability that the model gives to the tokens,
and a hypothesis is not rewarded for having few alternatives. Forced prefixes are exempt from both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from model.config import GenerationConfig

History = Sequence[Sequence[int]]
"""The tokens generated so far for each of a request's rows, all of the same length."""

BANNED = float("-inf")


class LogitsProcessor(Protocol):
    """One rule of one request."""

    def __call__(self, logits: Tensor, history: History) -> None:
        """Change the logits or log-probabilities (R, V) of the request's R rows in place."""


class RepetitionPenalty:
    """Makes tokens that were already generated less probable (Keskar et al. 2019, section 4.1).

    A positive logit is divided by the penalty and a negative one multiplied, so that above 1 both fall.
    """

    def __init__(self, penalty: float) -> None:
        self._penalty = penalty

    def __call__(self, logits: Tensor, history: History) -> None:
        """Penalise each row's own history, each token once however often it occurred."""
        seen = torch.tensor(history, dtype=torch.long, device=logits.device)  # (R, T)
        if seen.numel():
            values = logits.gather(1, seen)
            logits.scatter_(1, seen, torch.where(values > 0, values / self._penalty, values * self._penalty))


class NoRepeatNgram:
    """Forbids the token that would complete an n-gram which the row already has (Paulus et al. 2018, section 2.5)."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __call__(self, logits: Tensor, history: History) -> None:
        """Ban, in each row, what followed earlier occurrences of its last ``size - 1`` tokens."""
        for row, tokens in enumerate(history):
            banned = completing_tokens(tokens, self._size)
            if banned:
                logits[row, banned] = BANNED


class MinNewTokens:
    """Forbids the end token before a number of tokens."""

    def __init__(self, minimum: int, eos_id: int) -> None:
        self._minimum = minimum
        self._eos_id = eos_id

    def __call__(self, logits: Tensor, history: History) -> None:
        """Ban the end token while the rows are too short."""
        if len(history[0]) < self._minimum:
            logits[:, self._eos_id] = BANNED


class BannedTokens:
    """Forbids tokens everywhere."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        self._token_ids = torch.tensor(token_ids, dtype=torch.long)

    def __call__(self, logits: Tensor, history: History) -> None:
        """Ban the tokens in every row."""
        del history
        self._token_ids = self._token_ids.to(logits.device)
        logits.index_fill_(1, self._token_ids, BANNED)


def completing_tokens(tokens: Sequence[int], size: int) -> list[int]:
    """Return the tokens that would repeat an n-gram of ``size`` tokens, in the order of the n-grams; linear time."""
    stem = size - 1
    tail = tokens[len(tokens) - stem :]
    return [tokens[i + stem] for i in range(len(tokens) - stem) if tokens[i : i + stem] == tail]


def shaping_processors(config: GenerationConfig) -> list[LogitsProcessor]:
    """Return what a request asks to be done before normalisation; mostly nothing."""
    return [RepetitionPenalty(config.repetition_penalty)] if config.repetition_penalty != 1.0 else []


def banning_processors(config: GenerationConfig, eos_id: int) -> list[LogitsProcessor]:
    """Return what a request asks to be done after normalisation; mostly nothing."""
    processors: list[LogitsProcessor] = []
    if config.no_repeat_ngram_size:
        processors.append(NoRepeatNgram(config.no_repeat_ngram_size))
    if config.min_new_tokens:
        processors.append(MinNewTokens(config.min_new_tokens, eos_id))
    if config.banned_tokens:
        processors.append(BannedTokens(config.banned_tokens))
    return processors
