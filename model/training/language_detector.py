"""Trains the language detector of model/text/languages.py: logistic regression on character n-grams, in numpy alone.

It learns from whole lines and from random spans of one word and more, so that single words work. It does not decide
which corpora are good for that: general text, dialogue and short strings are.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.errors import CorpusError
from model.text.languages import calibration_scale, sample_words, word_spans
from model.training.corpus import read_pairs

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]

SPAN_LENGTHS = (1, 2, 3, 5)
"""Words of the spans drawn from every line beside the line itself."""
_GROUP_WEIGHTS = {1: 0.4, 2: 0.2, 3: 0.15, 5: 0.1, 0: 0.15}
"""Share of each span length (0 is the whole line) in the loss."""
_WORD_POWER = 0.6
"""A word seen n times counts n ** this among the single words, so that rare words matter."""
_STRIPPED_SHARE = 0.2
"""Share of the lines whose accents are removed."""
_WHOLE_LINE_SHARE = 0.25
"""Share of the lines that are also seen whole: they are easy, and most of the words."""
_HELD_OUT = 0.06
"""Share of the lines kept for the calibration and the report."""
_REGULARIZATION = 1e-6
"""Factor on the squared norm of the weights, against a loss that is a mean over snippets."""
_LEARNING_RATE = 0.2
"""Of the first step; it falls to zero in a straight line."""
_NUM_BINS = 15
"""Bins of the calibration error (Naeini et al. 2015)."""


@dataclass(frozen=True)
class DetectorReport:
    """What a training run of the detector measured on held-out lines."""

    num_lines: int
    """Line pairs read."""
    num_ngrams: int
    """Features kept."""
    num_bytes: int
    """Size of the file."""
    accuracy: dict[int, float]
    """Share of right answers by words in the span; 0 is the whole line."""
    calibration_error: float
    """Expected calibration error over all spans."""


@dataclass(frozen=True)
class _Snippets:
    """Spans of words: N snippets with W word ids in all."""

    words: Ids  # (W,)
    starts: Ids  # (N,) index of the first word of each snippet
    labels: Floats  # (N, L) probability of each language
    weights: Floats  # (N,) in the loss
    groups: Ids  # (N,) span length

    @cached_property
    def snippet_of(self) -> Ids:  # (W,)
        """The snippet that each word belongs to."""
        return np.repeat(np.arange(len(self.starts)), np.diff(self.starts, append=len(self.words)))


def train_detector(
    corpora: Sequence[Path],
    out: Path,
    seed: int = 0,
    *,
    languages: tuple[str, str] = ("fr", "en"),
    max_lines: int = 8_000,
    max_ngrams: int = 150_000,
    num_steps: int = 100,
) -> DetectorReport:
    """Train a detector on parallel corpora and write it to a file that ``LanguageDetector`` reads.

    Args:
        corpora: tab-separated pairs, plain or compressed.
        out: where to write the ``.npz``.
        seed: of the choice of lines and spans.
        languages: codes of the two columns, in order.
        max_lines: most lines taken from one corpus, evenly spread.
        max_ngrams: features kept after pruning.
        num_steps: full-batch steps before pruning; half as many follow it.

    Raises:
        CorpusError: a corpus cannot be read, or none has a usable line.
    """
    random = np.random.default_rng(seed)
    lines = [line for path in corpora for line in _read(path, max_lines)]
    if len(lines) < 20:
        raise CorpusError(f"too few usable lines for a language detector: {len(lines)}")
    vocabulary: dict[str, int] = {}
    held = random.random(len(lines)) < _HELD_OUT
    held[:2] = False, True  # whatever the draw, neither part is empty
    train = _snippets([line for line, is_held in zip(lines, held, strict=True) if not is_held], vocabulary, random)
    check = _snippets([line for line, is_held in zip(lines, held, strict=True) if is_held], vocabulary, random)
    num_train_words = int(train.words.max()) + 1

    features = _Features(list(vocabulary), num_train_words)
    weights = _fit(features, train, num_steps, np.zeros((len(languages) - 1, len(features.ngrams))))
    features, weights = features.keep(weights, train, max_ngrams)
    weights = _fit(features, train, num_steps // 2, weights)
    quantized, scales = _quantize(_with_first(weights, axis=0))
    scores = features.snippet_scores(quantized * scales[:, None], check)
    letters = features.letters(check)
    calibration = _calibrate(scores, letters, check)
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("wb") as stream:
        np.savez_compressed(
            stream,
            languages=np.array(list(languages)),
            ngrams=np.frombuffer("\n".join(features.ngrams).encode("utf-8"), dtype=np.uint8),
            weights=quantized.astype(np.int8),
            scales=scales.astype(np.float32),
            calibration=np.array(calibration, dtype=np.float64),
        )
    return _report(len(lines), features, out, _probabilities(scores, letters, calibration), check)


def _read(path: Path, max_lines: int) -> Iterator[tuple[list[str], list[str]]]:
    """Words of the usable line pairs of a corpus, evenly spread: both sides have words, and they differ."""
    pairs = list(read_pairs(path))
    for pair in pairs[:: max(1, -(-len(pairs) // max_lines))]:
        first, second = map(sample_words, pair)
        if first and second and first != second:
            yield first, second


def _snippets(
    lines: Sequence[tuple[list[str], list[str]]], vocabulary: dict[str, int], random: np.random.Generator
) -> _Snippets:
    """Draw the spans; single words are counted instead of drawn, each with the share of the languages it occurs in."""
    words: list[int] = []
    spans: list[tuple[int, int, int]] = []  # first word, language, span length
    single: Counter[tuple[int, int]] = Counter()
    for line in lines:
        stripped = random.random() < _STRIPPED_SHARE
        for row, texts in enumerate(line):
            ids = [vocabulary.setdefault(_strip(text) if stripped else text, len(vocabulary)) for text in texts]
            single.update((word, row) for word in ids)
            if random.random() < _WHOLE_LINE_SHARE:
                spans.append((len(words), row, 0))
                words += ids
            for length in SPAN_LENGTHS[1:]:
                if len(ids) > length:
                    first = int(random.integers(len(ids) - length + 1))
                    spans.append((len(words), row, length))
                    words += ids[first : first + length]
    counts = np.zeros((len(vocabulary), len(lines[0])))
    for (word, row), count in single.items():
        counts[word, row] = count
    return _assemble(np.array(words, dtype=np.int64), np.array(spans, dtype=np.int64).reshape(-1, 3), counts)


def _assemble(words: Ids, spans: Ids, counts: Floats) -> _Snippets:
    """Join spans, (N, 3) as in ``_snippets``, and single words, counted by language in (V, L)."""
    seen = np.flatnonzero(counts.sum(axis=1))
    totals = counts[seen].sum(axis=1)
    weights = np.concatenate([np.ones(len(spans)), totals**_WORD_POWER])
    groups = np.concatenate([spans[:, 2], np.ones(len(seen), dtype=np.int64)])
    for group, share in _GROUP_WEIGHTS.items():
        chosen = groups == group
        weights[chosen] *= share / max(weights[chosen].sum(), 1e-9)
    return _Snippets(
        words=np.concatenate([words, seen]),
        starts=np.concatenate([spans[:, 0], len(words) + np.arange(len(seen))]),
        labels=np.concatenate([np.eye(counts.shape[1])[spans[:, 1]], counts[seen] / totals[:, None]]),
        weights=weights / weights.sum(),
        groups=groups,
    )


def _strip(word: str) -> str:
    """A word as it is typed without accents."""
    decomposed = unicodedata.normalize("NFD", word)
    return "".join(c for c in decomposed if unicodedata.category(c) != "Mn").replace("œ", "oe").replace("æ", "ae")


class _Features:
    """Which n-grams each word of the vocabulary has: a sparse matrix of V words by F n-grams, in two index arrays."""

    def __init__(self, words: Sequence[str], num_train_words: int, ngrams: dict[str, int] | None = None) -> None:
        self.words = words
        self.num_train_words = num_train_words
        known = ngrams if ngrams is not None else self._collect()
        self.ngrams = list(known)
        indices: list[int] = []
        rows: list[int] = []
        for row, word in enumerate(words):
            found = [known[ngram] for ngram in _ngrams(word) if ngram in known]
            indices += found
            rows += [row] * len(found)
        self.indices = np.array(indices, dtype=np.int32)
        self.rows = np.array(rows, dtype=np.int32)

    def _collect(self) -> dict[str, int]:
        """N-grams that occur in two words of the training lines at least, and every whole word of up to 12 letters."""
        counts: Counter[str] = Counter()
        for word in self.words[: self.num_train_words]:
            counts.update(set(_ngrams(word)))
        kept = [
            ngram for ngram, count in counts.items() if count > 1 or (ngram[0] == ngram[-1] == " " and len(ngram) < 15)
        ]
        return {ngram: index for index, ngram in enumerate(sorted(kept))}

    def keep(self, weights: Floats, train: _Snippets, number: int) -> tuple[_Features, Floats]:
        """The same with only the most useful n-grams, those with large weights in much text, and their weights."""
        words = np.bincount(train.words, weights=train.weights[train.snippet_of], minlength=len(self.words))
        mass = np.bincount(self.indices, weights=words[self.rows], minlength=len(self.ngrams))
        usefulness = np.abs(weights).max(axis=0) * np.sqrt(mass)
        kept = np.sort(np.argsort(-usefulness, kind="stable")[:number])
        ngrams = {self.ngrams[index]: position for position, index in enumerate(kept)}
        return _Features(self.words, self.num_train_words, ngrams), weights[:, kept]

    def snippet_scores(self, weights: Floats, snippets: _Snippets) -> Floats:
        """Summed weights of each snippet: (L, F) -> (N, L)."""
        columns = []
        for row in weights:
            words = np.bincount(self.rows, weights=row[self.indices], minlength=len(self.words))
            columns.append(np.add.reduceat(words[snippets.words], snippets.starts))
        return np.stack(columns, axis=1)

    def gradient(self, errors: Floats, snippets: _Snippets) -> Floats:
        """Derivative of the summed weights: (N, L) -> (L, F)."""
        rows = []
        for column in errors.T:
            words = np.bincount(snippets.words, weights=column[snippets.snippet_of], minlength=len(self.words))
            rows.append(np.bincount(self.indices, weights=words[self.rows], minlength=len(self.ngrams)))
        return np.stack(rows)

    def letters(self, snippets: _Snippets) -> Floats:
        """Letters of each snippet, (N,)."""
        lengths = np.array([len(word) for word in self.words], dtype=np.float64)
        letters: Floats = np.add.reduceat(lengths[snippets.words], snippets.starts)
        return letters


def _ngrams(word: str) -> list[str]:
    padded = f" {word} "
    return [padded[start:end] for start, end in word_spans(len(padded))]


def _softmax(scores: Floats) -> Floats:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities: Floats = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def _fit(features: _Features, train: _Snippets, num_steps: int, weights: Floats) -> Floats:
    """Full-batch Adam (Kingma and Ba 2015) on the cross-entropy plus a squared norm.

    Weights are those of all languages but the first, (L - 1, F), whose weights are zero: only differences count.
    """
    mean, square = np.zeros_like(weights), np.zeros_like(weights)
    for step in range(1, num_steps + 1):
        scores = _with_first(features.snippet_scores(weights, train), axis=1)
        errors = (_softmax(scores) - train.labels) * train.weights[:, None]
        gradient = features.gradient(errors[:, 1:], train) + _REGULARIZATION * weights
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.98 * square + 0.02 * gradient**2
        rate = _LEARNING_RATE * (1 - step / (num_steps + 1))
        weights = weights - rate * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.98**step)) + 1e-8)
    return weights


def _with_first(values: Floats, axis: int) -> Floats:
    """Put the zeros of the first language in front."""
    shape = (len(values), 1) if axis == 1 else (1, values.shape[1])
    return np.concatenate([np.zeros(shape), values], axis=axis)


def _quantize(weights: Floats) -> tuple[Floats, Floats]:
    """Whole numbers from -127 to 127, (L, F), and the scale of each row, (L,); what all languages share is dropped."""
    weights = weights - weights.mean(axis=0)
    scales = np.maximum(np.abs(weights).max(axis=1), 1e-9) / 127
    return np.round(weights / scales[:, None]), scales


def _probabilities(scores: Floats, letters: Floats, calibration: tuple[float, float]) -> Floats:
    scale = np.array([calibration_scale(int(count), *calibration) for count in letters])
    return _softmax(scores * scale[:, None])


def _calibrate(scores: Floats, letters: Floats, check: _Snippets) -> tuple[float, float]:
    """Intercept and slope of ``calibration_scale`` with the least held-out cross-entropy: a grid, refined."""
    best, width = (0.0, 0.0), np.array([2.0, 1.0])
    for _ in range(5):
        grid = [(best[0] + width[0] * i / 4, best[1] + width[1] * j / 4) for i in range(-4, 5) for j in range(-4, 5)]
        losses = [_cross_entropy(_probabilities(scores, letters, pair), check) for pair in grid]
        best = grid[int(np.argmin(losses))]
        width = width / 3
    return best


def _cross_entropy(probabilities: Floats, check: _Snippets) -> float:
    terms = -(check.labels * np.log(np.maximum(probabilities, 1e-12))).sum(axis=1)
    return float((terms * check.weights).sum())


def expected_calibration_error(confidences: Floats, correct: Floats, weights: Floats) -> float:
    """Mean distance of confidence and accuracy over equal bins of confidence (Naeini et al. 2015); all are (N,)."""
    bins = np.minimum((confidences * _NUM_BINS).astype(np.int64), _NUM_BINS - 1)
    gaps = np.abs(np.bincount(bins, weights=(confidences - correct) * weights, minlength=_NUM_BINS))
    return float(gaps.sum() / weights.sum())


def _report(num_lines: int, features: _Features, out: Path, probabilities: Floats, check: _Snippets) -> DetectorReport:
    best = probabilities.argmax(axis=1)
    correct = check.labels[np.arange(len(best)), best]
    return DetectorReport(
        num_lines=num_lines,
        num_ngrams=len(features.ngrams),
        num_bytes=out.stat().st_size,
        accuracy={
            group: round(float(np.average(correct[chosen], weights=check.weights[chosen])), 4)
            for group in (*SPAN_LENGTHS, 0)
            if (chosen := check.groups == group).any()
        },
        calibration_error=expected_calibration_error(probabilities.max(axis=1), correct, check.weights),
    )
