"""Fits the quality estimates of words to how often they are right, and measures how well they fit; it writes nothing.

A word of a translation counts as right if it occurs in the reference, each occurrence there once (clipped counts, as in
BLEU). That is strict: a good synonym counts as wrong.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.config import GenerationConfig
from model.errors import CorpusError
from model.generation.quality import Calibration, logit, word_log_probs
from model.text.alignment import find_words
from model.text.tokenizing import TextTokenizer
from model.translation import Translation
from model.translator import Translator

NUM_BINS = 10
FEWEST_WORDS = 100
"""Fewer words than this do not settle two numbers."""


@dataclass(frozen=True)
class WordExample:
    """One word of a translation."""

    probability: float
    """What the model gives to its tokens together."""
    is_right: bool


@dataclass(frozen=True)
class CalibrationResult:
    """What was fitted on one half of the lines, and how it does on the other."""

    calibration: Calibration
    num_fitted: int
    """Words that it was fitted on."""
    num_held_out: int
    """Words that it was measured on."""
    accuracy: float
    """Share of the held-out words that are right."""
    error_before: float
    """Expected calibration error of the bare probabilities on the held-out words."""
    error_after: float
    """The same of the calibrated ones."""


def calibrate(
    translator: Translator, sets: Sequence[tuple[Sequence[str], Sequence[str], str, str]]
) -> CalibrationResult:
    """Translate dev sets, fit on every second line, and measure on the others.

    Args:
        translator: the model.
        sets: source lines, reference lines, source language and target language of each set.

    Raises:
        CorpusError: lines do not match, or there are too few words.
    """
    fitted: list[WordExample] = []
    held_out: list[WordExample] = []
    for sources, references, source, target in sets:
        if len(sources) != len(references):
            raise CorpusError(f"{len(sources)} source lines must match {len(references)} reference lines")
        config = GenerationConfig(return_token_scores=True)
        translations = translator.translate(list(sources), source, target, config)
        for number, (translation, reference) in enumerate(zip(translations, references, strict=True)):
            (held_out if number % 2 else fitted).extend(word_examples(translation, reference, translator.tokenizer))
    if min(len(fitted), len(held_out)) < FEWEST_WORDS:
        raise CorpusError(f"the dev sets must give {2 * FEWEST_WORDS} words, got {len(fitted) + len(held_out)}")
    calibration = fit(fitted)
    return CalibrationResult(
        calibration,
        len(fitted),
        len(held_out),
        accuracy=sum(example.is_right for example in held_out) / len(held_out),
        error_before=calibration_error(held_out, Calibration()),
        error_after=calibration_error(held_out, calibration),
    )


def word_examples(translation: Translation, reference: str, tokenizer: TextTokenizer) -> Iterator[WordExample]:
    """Yield the words of a translation, without punctuation; parts that are not as they were decoded are left out."""
    left = Counter(reference[start:end].casefold() for start, end in find_words(reference))
    for segment in translation.segments:
        text, spans = tokenizer.decode_with_spans(segment.token_ids)
        words = find_words(text)
        usable = text == segment.text and len(segment.token_scores) >= len(spans)
        scores = word_log_probs(words, spans, segment.token_scores) if usable else [[] for _ in words]
        for (start, end), log_probs in zip(words, scores, strict=True):
            word = text[start:end].casefold()
            is_right = left[word] > 0
            left[word] -= is_right
            if log_probs and any(map(str.isalnum, word)):
                yield WordExample(math.exp(min(0.0, sum(log_probs))), is_right)


def fit(examples: Sequence[WordExample]) -> Calibration:
    """Return the maximum-likelihood calibration, by Newton's method.

    With Platt's targets (Platt 1999, section 2.2), so that examples which can be told apart perfectly have a finite
    answer too. The scale is kept positive: more probable words are never estimated worse.
    """
    values = np.array([logit(example.probability) for example in examples])
    labels = np.array([example.is_right for example in examples])
    num_right = int(labels.sum())
    num_wrong = len(labels) - num_right
    targets = np.where(labels, (num_right + 1) / (num_right + 2), 1 / (num_wrong + 2))
    inputs = np.stack([values, np.ones_like(values)], axis=1)  # (N, 2)
    weights = np.array([1.0, 0.0])
    for _ in range(100):
        step = _newton_step(inputs, targets, weights)
        weights = weights + step
        if np.abs(step).max() < 1e-9:
            break
    if weights[0] <= 0:
        share = (num_right + 1) / (len(labels) + 2)
        return Calibration(1e-6, math.log(share / (1 - share)))
    return Calibration(float(weights[0]), float(weights[1]))


def _newton_step(
    inputs: NDArray[np.float64], targets: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return a step that does not lower the likelihood: Newton's, halved as often as needed."""
    predicted = 1 / (1 + np.exp(-inputs @ weights))
    gradient = inputs.T @ (targets - predicted)
    curvature = (inputs * (predicted * (1 - predicted))[:, None]).T @ inputs + 1e-9 * np.eye(2)
    step: NDArray[np.float64] = np.linalg.solve(curvature, gradient).astype(np.float64)
    before = _log_likelihood(inputs, targets, weights)
    for _ in range(50):
        if _log_likelihood(inputs, targets, weights + step) >= before:
            return step
        step /= 2
    return np.zeros(2)


def _log_likelihood(inputs: NDArray[np.float64], targets: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    products = inputs @ weights
    return float((targets * products - np.logaddexp(0, products)).sum())


def calibration_error(examples: Sequence[WordExample], calibration: Calibration, num_bins: int = NUM_BINS) -> float:
    """Return the expected calibration error (Guo et al. 2017, section 2) over bins of equal width."""
    estimates = np.array([calibration(example.probability) for example in examples])
    labels = np.array([example.is_right for example in examples])
    bins = np.minimum((estimates * num_bins).astype(int), num_bins - 1)
    gaps = [abs(float((labels - estimates)[bins == each].sum())) for each in range(num_bins)]
    return sum(gaps) / len(examples)
