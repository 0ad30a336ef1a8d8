"""Beam search as in the textbook, with every option: whole vocabulary, no cache, no batch, no early exit.

The reference for the tests of generation; it shares no code with what it checks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from model.config import GenerationConfig
from model.generation import Hypothesis
from tests.unit.table_model import EOS, SPECIAL, log_softmax


class NextLogits(Protocol):
    """Any model that can say what comes next."""

    def next_logits(self, source_ids: Sequence[int], target_ids: Sequence[int]) -> list[float]:
        """Return the logits of the token after ``target_ids``."""


def allowed_log_probs(
    model: NextLogits, source: list[int], target: tuple[int, ...], config: GenerationConfig
) -> dict[int, float]:
    """The definition of all options that act on single tokens: what may come next, and how probable it is."""
    logits = model.next_logits(source, target)
    if len(target) < len(config.target_prefix):
        forced = config.target_prefix[len(target)]
        return {forced: log_softmax(logits)[forced]}
    for token in set(target):
        logits[token] *= config.repetition_penalty if logits[token] < 0 else 1 / config.repetition_penalty
    size = config.no_repeat_ngram_size
    seen = {target[start : start + size] for start in range(len(target) - size + 1)}
    log_probs = log_softmax(logits)
    allowed = {
        token: log_probs[token]
        for token in range(len(logits))
        if token not in (*SPECIAL, *config.banned_tokens)
        and not (token == EOS and len(target) < config.min_new_tokens)
        and not (size and (*target, token)[len(target) + 1 - size :] in seen and len(target) + 1 >= size)
    }
    return allowed or {EOS: log_probs[EOS]}


def naive_beam(model: NextLogits, source: list[int], config: GenerationConfig, limit: int) -> list[Hypothesis]:
    """Beam search as in the textbook: whole vocabulary, no cache, and no early exit."""
    live: list[tuple[tuple[int, ...], tuple[float, ...]]] = [((), ())]
    ended: list[Hypothesis] = []

    def finished(tokens: tuple[int, ...], scores: tuple[float, ...]) -> Hypothesis:
        end = tokens[-1] == EOS
        score = sum(scores) / len(scores) ** config.length_penalty
        return Hypothesis(tokens[:-1] if end else tokens, score, sum(scores), scores, "end" if end else "length")

    for _ in range(limit):
        grown = [
            ((*tokens, token), (*scores, log_prob))
            for tokens, scores in live
            for token, log_prob in allowed_log_probs(model, source, tokens, config).items()
        ]
        grown.sort(key=lambda pair: sum(pair[1]), reverse=True)
        ended += [finished(*pair) for pair in grown[: config.beam_size] if pair[0][-1] == EOS]
        live = [pair for pair in grown if pair[0][-1] != EOS][: config.beam_size]
        if len(ended) >= max(config.num_hypotheses, math.floor(config.beam_size * config.patience + 0.5)) or not live:
            break
    ranked = sorted(ended, key=lambda each: each.score, reverse=True)
    cut = sorted((finished(*pair) for pair in live), key=lambda each: each.score, reverse=True)
    return (ranked + cut)[: config.num_hypotheses]
