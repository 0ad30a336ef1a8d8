"""Other words that could follow a target's beginning, with their probabilities; what a word is, the caller says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.errors import InvalidOptionError, InvalidRequestError
from model.generation.forced import force_decode
from model.transformer import Transformer

MAX_WORD_TOKENS = 12
"""Tokens of a word; longer ones are returned as far as they got."""
MAX_WORDS = 32


@dataclass(frozen=True)
class NextWord:
    """A word that could come next."""

    token_ids: tuple[int, ...]
    """Its tokens; none if the target could end here."""
    log_prob: float
    """Natural-logarithm probability that exactly this word comes next: its tokens, then the beginning of another word
    or the end."""


def next_words(
    model: Transformer,
    source_ids: Sequence[int],
    prefix: Sequence[int],
    begins_word: NDArray[np.bool_],
    *,
    count: int = 8,
    banned: Sequence[int] = (),
) -> list[NextWord]:
    """Return the most probable next words after a target's beginning, best first; fewer where there are no more.

    A beam of ``count`` unfinished words grows token by token until no unfinished word is more probable than the
    worst of the ``count`` best finished ones.

    Args:
        model: in evaluation mode.
        source_ids: the source's tokens.
        prefix: the target's tokens before the word, which end with a whole word.
        begins_word: (V,) True for tokens that begin a word; the end token counts as one.
        count: how many words to return.
        banned: tokens that cannot come next, such as special tokens.

    Raises:
        InvalidOptionError: ``count`` is out of its range.
        InvalidRequestError: source or prefix do not fit the model.
    """
    if not 1 <= count <= MAX_WORDS:
        raise InvalidOptionError("count", f"must be between 1 and {MAX_WORDS}", count)
    eos_id = model.config.eos_id
    ends = begins_word.copy()
    ends[eos_id] = True
    room = model.config.max_target_length - 1 - len(prefix)
    if room < 0:
        rule = f"must have fewer than {model.config.max_target_length} tokens"
        raise InvalidRequestError("target_prefix", rule, len(prefix))
    finished: dict[tuple[int, ...], float] = {}
    growing: dict[tuple[int, ...], float] = {(): 0.0}
    for length in range(MAX_WORD_TOKENS + 1):
        rows = _next_log_probs(model, source_ids, prefix, list(growing), banned)
        grown: dict[tuple[int, ...], float] = {}
        for (tokens, total), row in zip(growing.items(), rows, strict=True):
            if tokens:
                finished[tokens] = total + _log_sum(row[ends])
            else:
                finished[()] = float(row[eos_id])
            going_on = row.copy()
            going_on[ends if tokens else [eos_id]] = -np.inf
            for token_id in np.argsort(-going_on, kind="stable")[:count]:
                if np.isfinite(going_on[token_id]):
                    grown[*tokens, int(token_id)] = total + float(going_on[token_id])
        worst = sorted(finished.values(), reverse=True)[count - 1] if len(finished) >= count else -np.inf
        best = sorted(((total, tokens) for tokens, total in grown.items() if total > worst), reverse=True)[:count]
        growing = {tokens: total for total, tokens in best}
        if not growing or length >= min(room, MAX_WORD_TOKENS):
            break
    ranked = sorted((finished | growing).items(), key=lambda pair: (-pair[1], pair[0]))
    return [NextWord(tokens, total) for tokens, total in ranked[:count] if np.isfinite(total)]


def _next_log_probs(
    model: Transformer,
    source_ids: Sequence[int],
    prefix: Sequence[int],
    words: Sequence[tuple[int, ...]],
    banned: Sequence[int],
) -> list[NDArray[np.float64]]:
    """Return for each unfinished word the log-probabilities (V,) of what follows it, minus infinity for the banned."""
    pairs = [(source_ids, [*prefix, *tokens]) for tokens in words]
    rows = []
    for decoding in force_decode(model, pairs, cross_attention=False, logits=True):
        assert decoding.logits is not None, "was asked for"
        logits = decoding.logits[-1].astype(np.float64)
        row = logits - _log_sum(logits)
        row[list(banned)] = -np.inf
        rows.append(row)
    return rows


def _log_sum(values: NDArray[np.float64]) -> float:
    """Return the logarithm of the sum of exponentials."""
    highest = values.max()
    return float(highest + np.log(np.exp(values - highest).sum())) if np.isfinite(highest) else float("-inf")
