"""Which word of a sentence stands for which of its translation, by IBM model 1 both ways; it knows no tokens."""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.text.tokenizer import Tokenizer
from model.training.corpus import Corpus
from model.training.lexicon import bounded, estimate_lexicon

MAX_PAIRS = 100_000
"""Sentence pairs that are read, evenly spaced over the corpus."""
_MAX_LINKS = 25_000_000
_MAX_WORDS = 100_000
"""The most frequent words of each language that get translations."""
_NUM_FREQUENT = 120
"""The most frequent words, nearly all of them function words, which nobody puts into a glossary."""
_MIN_SCORE = 0.01
"""Least product of the two probabilities of a pair: a tenth in either direction."""
_WORD = re.compile(r"\d+(?:[.,:/]\d+)*|[^\W\d_]+(?:-[^\W\d_]+)*")


@dataclass(frozen=True)
class Word:
    """A word or a number in a text: its span in characters, and how the lexicon spells it."""

    start: int
    end: int
    key: str


@dataclass(frozen=True)
class Link:
    """A source word and the target word that stands for it, as indices; 0 < score <= 1, 1 for the same word."""

    source: int
    target: int
    score: float


def words_of(text: str) -> list[Word]:
    """Return the words and numbers of a text; elided articles ("l'") are words of their own."""
    return [Word(match.start(), match.end(), match.group().lower()) for match in _WORD.finditer(text)]


@dataclass(frozen=True)
class WordLexicon:
    """Translations of the words of two languages, both ways.

    Attributes:
        translations: for each of the two languages, word to its translations with their scores: the product of the
            probabilities t(target | source) and t(source | target).
        frequent: for each language, its most frequent words.
    """

    translations: tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]
    frequent: tuple[frozenset[str], frozenset[str]]

    def links(self, source: Sequence[Word], target: Sequence[Word], source_index: int) -> list[Link]:
        """Return which words of two sentences stand for each other, in the order of the source.

        A pair is linked if either word is the other's best in the sentence (competitive linking, Melamed 2000). Words
        that occur twice in a sentence are left out, since nothing here tells which is which.

        Args:
            source: words of the source.
            target: words of the target.
            source_index: which of the lexicon's languages the source is in.
        """
        places = {word: index for index, word in _once(target)}
        table, frequent = self.translations[source_index], self.frequent[source_index]
        best_of_source: dict[int, tuple[float, int]] = {}
        best_of_target: dict[int, tuple[float, int]] = {}
        for index, word in _once(source):
            # "comment" and "pain" are words of both languages; among rarer words that is nearly always a name.
            same = word in places and word not in frequent
            row = {word: 1.0} if same else table.get(word, {})
            for translation in row.keys() & places.keys():
                score, place = row[translation], places[translation]
                best_of_source[index] = max(best_of_source.get(index, (0.0, 0)), (score, place))
                best_of_target[place] = max(best_of_target.get(place, (0.0, 0)), (score, index))
        return [
            Link(index, place, score)
            for index, (score, place) in best_of_source.items()
            if best_of_target[place] == (score, index)
        ]


def load_word_lexicon(corpus: Corpus, tokenizer: Tokenizer, cache: Path | None = None) -> WordLexicon:
    """Estimate a lexicon from a corpus, or read it from ``cache``, which the caller names after all that decides it."""
    if cache is not None and (cached := _read(cache)) is not None:
        return cached
    lexicon = estimate_word_lexicon(corpus, tokenizer)
    if cache is not None:
        _write(cache, lexicon)
    return lexicon


def estimate_word_lexicon(corpus: Corpus, tokenizer: Tokenizer) -> WordLexicon:
    """Estimate a lexicon from up to MAX_PAIRS sentence pairs; it depends on the arguments alone."""
    num_used = min(MAX_PAIRS, len(corpus))
    pairs = [index * len(corpus) // num_used for index in range(num_used)]
    sides = [[words_of(tokenizer.decode(corpus.side(i, pair).tolist())) for pair in pairs] for i in (0, 1)]
    counts = [Counter(word.key for words in side for word in words) for side in sides]
    # By count and then by spelling: a counter's own order depends on the order of the text only, but so it is plain.
    vocabulary = [sorted(count, key=lambda word: (-count[word], word))[:_MAX_WORDS] for count in counts]
    vocab_size = max(1, *map(len, vocabulary))
    words = _word_corpus(sides, vocabulary)
    used = bounded(words, np.arange(num_used, dtype=np.int64), _MAX_LINKS)
    forward, backward = (estimate_lexicon(words, used, source, vocab_size) for source in (0, 1))
    firsts = np.repeat(np.arange(vocab_size), np.diff(forward.offsets))
    seconds = np.repeat(np.arange(vocab_size), np.diff(backward.offsets))
    keys = (firsts * vocab_size + forward.target_ids, backward.target_ids.astype(np.int64) * vocab_size + seconds)
    common, at_forward, at_backward = np.intersect1d(*keys, return_indices=True)
    scores = forward.probabilities[at_forward] * backward.probabilities[at_backward]
    kept = scores >= _MIN_SCORE
    entries = zip((common[kept] // vocab_size).tolist(), (common[kept] % vocab_size).tolist(), strict=True)
    rows = [(vocabulary[0][a], vocabulary[1][b], s) for (a, b), s in zip(entries, scores[kept].tolist(), strict=True)]
    return _lexicon(rows, [names[:_NUM_FREQUENT] for names in vocabulary])


def _lexicon(rows: Iterable[tuple[str, str, float]], frequent: Sequence[Sequence[str]]) -> WordLexicon:
    tables: tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]] = ({}, {})
    for first, second, score in rows:
        tables[0].setdefault(first, {})[second] = score
        tables[1].setdefault(second, {})[first] = score
    return WordLexicon(tables, (frozenset(frequent[0]), frozenset(frequent[1])))


def _once(words: Sequence[Word]) -> list[tuple[int, str]]:
    counts = Counter(word.key for word in words)
    return [(index, word.key) for index, word in enumerate(words) if counts[word.key] == 1]


def _word_corpus(sides: Sequence[Sequence[Sequence[Word]]], vocabulary: Sequence[Sequence[str]]) -> Corpus:
    """Return the words as if they were tokens, without those that are not in the vocabulary."""
    ids: list[npt.NDArray[np.int32]] = []
    offsets: list[npt.NDArray[np.int64]] = []
    for side, names in zip(sides, vocabulary, strict=True):
        numbers = {name: number for number, name in enumerate(names)}
        rows = [[numbers[word.key] for word in words if word.key in numbers] for words in side]
        ids.append(np.array([number for row in rows for number in row], dtype=np.int32))
        offsets.append(np.cumsum([0, *map(len, rows)], dtype=np.int64))
    return Corpus((ids[0], ids[1]), (offsets[0], offsets[1]), np.zeros(len(sides[0]), dtype=np.int32), (1.0,))


def _write(path: Path, lexicon: WordLexicon) -> None:
    rows = [(a, b, score) for a, row in lexicon.translations[0].items() for b, score in row.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp.npz")
    np.savez(
        temporary,
        firsts=_packed(a for a, _, _ in rows),
        seconds=_packed(b for _, b, _ in rows),
        scores=np.array([score for _, _, score in rows], dtype=np.float64),
        frequent0=_packed(sorted(lexicon.frequent[0])),
        frequent1=_packed(sorted(lexicon.frequent[1])),
    )
    temporary.replace(path)


def _read(path: Path) -> WordLexicon | None:
    """Return what an earlier call wrote, or None where there is nothing, or nothing that can be read."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            firsts, seconds = _unpacked(arrays["firsts"]), _unpacked(arrays["seconds"])
            rows = zip(firsts, seconds, arrays["scores"].tolist(), strict=True)
            return _lexicon(rows, [_unpacked(arrays[f"frequent{language}"]) for language in (0, 1)])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def _packed(words: Iterable[str]) -> npt.NDArray[np.uint8]:
    return np.frombuffer("\n".join(words).encode(), dtype=np.uint8)


def _unpacked(array: npt.NDArray[np.uint8]) -> list[str]:
    return array.tobytes().decode().split("\n") if array.size else []
