"""Which words of a source and its translation stand for each other, from attention weights; it runs no network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Span = tuple[int, int]
"""Beginning and end in characters."""
FloatArray = NDArray[np.floating]

_WORD = re.compile(
    r"""
    (?:[Aa]ujourd|[Pp]rud)['\u2019]hui\b                                       # the two that keep their apostrophe
  | (?:[ldjmtscnçLDJMTSCNÇ]|(?:lorsq|puisq|jusq|quoiq|q)u|Qu|QU)['\u2019](?=\w)  # French elision: a word of its own
  | \d+(?:[.,:/\u00a0\u202f]\d+)*                                   # a number with its separators
  | [\u2e80-\u9fff\uac00-\ud7ff\uf900-\ufaff]                       # scripts without spaces: each character
  | [^\W\d_\u2e80-\u9fff](?:[^\W_\u2e80-\u9fff]|[\u0300-\u036f])*(?:['\u2019][^\W\d_]+)*   # letters, digits, don't
  | (?P<mark>[^\w\s]|_)(?P=mark)*                                   # punctuation, one or more of the same
  | \S                                                              # whatever is left
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class WordAlignment:
    """Words of a source and a target, and which of them stand for each other."""

    source_words: tuple[Span, ...]
    """Where each word begins and ends, in characters; every character but white space is in a word."""
    target_words: tuple[Span, ...]
    """The same of the target."""
    links: tuple[tuple[int, int], ...]
    """Pairs (index of a source word, index of a target word), in order; a word may have none or several."""
    weights: tuple[float, ...] = ()
    """How much of the target word's attention the source word has, from 0 to 1, one a link."""


def find_words(text: str) -> tuple[Span, ...]:
    """Return the spans of a text's words; punctuation marks are words too, and so is an elided article (``l'``)."""
    return tuple(match.span() for match in _WORD.finditer(text))


def piece_attention(cross_attention: FloatArray, num_tokens: int) -> FloatArray:
    """Return the weights (T, S) that align T target tokens with S source tokens.

    The mean over the heads of the last decoder layer at the step that predicts a token. On the pairs of
    ``benchmarks/word_alignment`` this has a lower alignment error rate than the first layer, most single heads, and
    the step after, which has the token as its input.

    Args:
        cross_attention: (layers, H, steps, S) as forced decoding returns it; the step of the end token is left out.
        num_tokens: T, without the end token.
    """
    weights: FloatArray = cross_attention[-1].mean(axis=0)[:num_tokens]
    return weights


def align_words(
    source: str,
    target: str,
    source_spans: Sequence[Span],
    target_spans: Sequence[Span],
    attention: FloatArray,
    reverse_attention: FloatArray | None = None,
) -> WordAlignment:
    """Align the words of a source with those of its translation.

    Each word's best partner is looked for from both sides; pairs that agree are linked, then their neighbours where
    only one side says so, then words that have no link yet (grow-diag-final, Koehn et al. 2003).

    Args:
        source: the source text.
        target: the target text.
        source_spans: for each of the S source tokens its span in ``source``; empty for a special token.
        target_spans: for each of the T target tokens its span in ``target``.
        attention: (T, S) weights as :func:`piece_attention` returns them.
        reverse_attention: (S, T) the same of the target as it is translated back to the source, with rows and columns
            that belong to the spans above. It makes the alignment better, and costs a second pass through the network.
    """
    source_words, target_words = find_words(source), find_words(target)
    if not source_words or not target_words:
        return WordAlignment(source_words, target_words, ())
    from_source = _shares(source_spans, source_words)  # (S, source words)
    from_target = _shares(target_spans, target_words)  # (T, target words)
    weights = _word_weights(attention, from_target, from_source).T  # (source words, target words)
    both = weights
    if reverse_attention is not None:
        both = (weights + _word_weights(reverse_attention, from_source, from_target)) / 2
    links = [(int(i), int(j)) for i, j in zip(*np.nonzero(_grow_diag_final(both)), strict=True)]
    return WordAlignment(
        source_words, target_words, tuple(links), tuple(round(min(1.0, float(both[link])), 4) for link in links)
    )


def _shares(spans: Sequence[Span], words: Sequence[Span]) -> FloatArray:
    """Return (tokens, words): which part of each token lies in each word; each row sums to one, or is zero."""
    shares = np.zeros((len(spans), len(words)))
    first = 0
    for token, (start, end) in enumerate(spans):
        while first < len(words) and words[first][1] <= start:
            first += 1
        word = first
        while word < len(words) and words[word][0] < end:
            shares[token, word] = min(end, words[word][1]) - max(start, words[word][0])
            word += 1
    return _normalized(shares)


def _word_weights(attention: FloatArray, rows: FloatArray, columns: FloatArray) -> FloatArray:
    """Return (row words, column words): how a row word's tokens share their attention among the column words."""
    over_words = _normalized(attention @ columns)  # without what went to special tokens
    num_tokens = np.maximum(rows.sum(axis=0)[:, None], 1e-9)
    weights: FloatArray = (rows.T @ over_words) / num_tokens
    return weights


def _normalized(rows: FloatArray) -> FloatArray:
    """Return rows that sum to one; those that are zero stay so."""
    sums = rows.sum(axis=1, keepdims=True)
    normalized: FloatArray = np.divide(rows, sums, out=np.zeros_like(rows), where=sums > 0)
    return normalized


def _grow_diag_final(weights: FloatArray) -> NDArray[np.bool_]:
    """Return which pairs (source words, target words) are linked."""
    source_of = np.zeros(weights.shape, dtype=np.bool_)  # the best source word of each target word
    source_of[weights.argmax(axis=0), np.arange(weights.shape[1])] = True
    target_of = np.zeros(weights.shape, dtype=np.bool_)  # the best target word of each source word
    target_of[np.arange(weights.shape[0]), weights.argmax(axis=1)] = True
    known = weights > 0
    linked = source_of & target_of & known
    either = (source_of | target_of) & known
    waiting = [(int(i), int(j)) for i, j in zip(*np.nonzero(linked), strict=True)]
    while waiting:
        i, j = waiting.pop(0)
        for row in range(max(0, i - 1), min(len(weights), i + 2)):
            for column in range(max(0, j - 1), min(weights.shape[1], j + 2)):
                alone = not linked[row].any() or not linked[:, column].any()
                if either[row, column] and alone and not linked[row, column]:
                    linked[row, column] = True
                    waiting.append((row, column))
    for direction in (source_of, target_of):
        for row, column in zip(*np.nonzero(direction & known), strict=True):
            if not linked[row].any() or not linked[:, column].any():
                linked[row, column] = True
    return linked
