"""Names and codes of languages, and which of the installed ones a text is written in.

The table is data/languages.tsv; the detector is a linear classifier of character n-grams, trained by
model/training/language_detector.py. Nothing here loads a translation model.
"""

from __future__ import annotations

import math
import re
import unicodedata
import zipfile
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path

import numpy as np

from model.errors import CheckpointError, UnsupportedLanguageError

LONGEST_NGRAM = 5
"""Most characters of an n-gram, the spaces around a word included; the whole word is one more feature."""
LONGEST_WORD = 40
"""Most characters of a word that are looked at, the spaces around it included."""
SAMPLE_LENGTH = 1536
"""Most characters of a text that the detector looks at, so that its time is bounded."""

_REMEMBERED_WORDS = 16384
"""Words whose scores are kept, because most words of a text are common ones."""
_DETECTOR_FILE = "language_detector.npz"
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")  # noqa: RUF001
_NOT_LATIN = re.compile(r"[^\x00-\u024f\u1e00-\u1eff’]")  # noqa: RUF001
_SCRIPT_PENALTY = 12.0
"""Log-odds against a language whose script the text does not use at all."""
_SCRIPTS = (  # first code point, script; a script ends where the next begins
    (0x0000, ""),
    (0x0041, "Latn"),
    (0x0250, ""),
    (0x0370, "Grek"),
    (0x0400, "Cyrl"),
    (0x0530, "Armn"),
    (0x0590, "Hebr"),
    (0x0600, "Arab"),
    (0x0700, ""),
    (0x0750, "Arab"),
    (0x0780, ""),
    (0x0900, "Deva"),
    (0x0980, "Beng"),
    (0x0A00, "Guru"),
    (0x0A80, "Gujr"),
    (0x0B00, "Orya"),
    (0x0B80, "Taml"),
    (0x0C00, "Telu"),
    (0x0C80, "Knda"),
    (0x0D00, "Mlym"),
    (0x0D80, "Sinh"),
    (0x0E00, "Thai"),
    (0x0E80, "Laoo"),
    (0x0F00, "Tibt"),
    (0x1000, "Mymr"),
    (0x10A0, "Geor"),
    (0x1100, "Hang"),
    (0x1200, "Ethi"),
    (0x13A0, ""),
    (0x1780, "Khmr"),
    (0x1800, ""),
    (0x1C50, "Olck"),
    (0x1C80, ""),
    (0x1E00, "Latn"),
    (0x1F00, "Grek"),
    (0x2000, ""),
    (0x2D30, "Tfng"),
    (0x2D80, ""),
    (0x3040, "Jpan"),
    (0x3100, ""),
    (0x3400, "Hani"),
    (0xA000, ""),
    (0xAC00, "Hang"),
    (0xD7B0, ""),
)
_SCRIPT_STARTS = [start for start, _ in _SCRIPTS]
_HAN_SCRIPTS = frozenset({"Hans", "Hant", "Jpan"})


@dataclass(frozen=True)
class Language:
    """A language, as people and models call it."""

    code: str
    """Canonical code: ISO 639-1 where there is one, ISO 639-3 otherwise, with the script where a language has two."""
    name: str
    """English name."""
    aliases: tuple[str, ...]
    """Other codes and names that mean the same, in any case."""
    flores: str
    """FLORES-200 and NLLB code: ISO 639-3 and script, such as ``fra_Latn``."""


@dataclass(frozen=True)
class Detection:
    """One installed language and how probable it is."""

    language: str
    """The code, as the list of installed languages spells it."""
    confidence: float
    """Calibrated probability; those of one text sum to 1."""


@cache
def languages() -> tuple[Language, ...]:
    """All languages of the table, by code; which of them can be translated depends on the loaded models."""
    table = resources.files(__package__).joinpath("data", "languages.tsv").read_text(encoding="utf-8")
    known = []
    for line in table.splitlines():
        if not line.startswith("#"):
            code, flores, name, others = line.split("\t")
            three_letters = (flores[:3],) if "-" not in code and code != flores[:3] else ()
            known.append(Language(code, name, (*three_letters, flores, *filter(None, others.split(","))), flores))
    return tuple(known)


def language(code: str) -> Language:
    """Look up a language by code, alias or name in any case, such as ``fr``, ``fr-FR``, ``fra_Latn`` or ``French``.

    Raises:
        UnsupportedLanguageError: no language of the table is called so.
    """
    for candidate in _spellings(code):
        if candidate in _by_alias():
            return _by_alias()[candidate]
    raise UnsupportedLanguageError("language", "must be a known language code or name", code)


def resolve(code: str, installed: Sequence[str], name: str = "language") -> str:
    """Find which of the installed codes is meant by a code, alias or name; the answer is spelt as in ``installed``.

    Args:
        code: what the caller wrote; a regional code such as ``fr-CA`` finds its language.
        installed: codes that the loaded models have, in any spelling that ``language`` knows, or unknown to it.
        name: the caller's name of the field, for the error.

    Raises:
        UnsupportedLanguageError: none of the installed languages is meant.
    """
    known = _by_alias()
    exact = {_fold(item): item for item in reversed(installed)}
    same = {known[key].code: item for key, item in exact.items() if key in known}
    for candidate in _spellings(code):
        if candidate in exact:
            return exact[candidate]
        if candidate in known and known[candidate].code in same:
            return same[known[candidate].code]
    raise UnsupportedLanguageError(name, f"must be one of {', '.join(installed) or '(none installed)'}", code)


class LanguageDetector:
    """A linear classifier of character n-grams, one row of weights per language; threads may share it.

    The weights (logistic regression) of all n-grams of all words are added up, and the sum is scaled by a factor that
    depends on the number of letters and was fitted on held-out snippets, so that the confidence is calibrated
    (temperature scaling, Guo et al. 2017, with the temperature a function of the length).
    """

    def __init__(self, path: Path | None = None) -> None:
        """Load the weights that come with the package, or those of a file made by ``train_detector``.

        Raises:
            CheckpointError: the file is missing, damaged or not one of ours.
        """
        file = path or resources.files(__package__).joinpath("data", _DETECTOR_FILE)
        try:
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                self.languages: tuple[str, ...] = tuple(map(str, arrays["languages"]))
                ngrams = arrays["ngrams"].tobytes().decode("utf-8").split("\n")
                weights = arrays["weights"].astype(np.float32) * arrays["scales"].astype(np.float32)[:, None]
                self._intercept, self._slope = map(float, arrays["calibration"])
        except (OSError, KeyError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"language detector {file} cannot be loaded: {error}") from error
        if weights.shape != (len(self.languages), len(ngrams)):
            raise CheckpointError(f"language detector {file} has {len(ngrams)} n-grams but weights {weights.shape}")
        # Only differences between languages count, so the first language's weights are taken off all and need no table.
        self._tables = [
            {ngram: weight for ngram, weight in zip(ngrams, row, strict=True) if weight}
            for row in (weights[1:] - weights[0]).tolist()
        ]
        self._rows = {code: row for row, code in enumerate(self.languages)}
        self._only_latin = all(_script(code) == "Latn" for code in self.languages)
        self._word_scores = lru_cache(_REMEMBERED_WORDS)(self._score)

    def detect(self, text: str, installed: Sequence[str]) -> list[Detection]:
        """Say how probable each installed language is, best first; a text without letters gives an empty list.

        Only a sample of a long text is read. A language that the detector was not trained on has only its script as
        evidence: it wins where no other installed language uses the script, and counts as neutral otherwise.
        """
        words = sample_words(text)
        if not words or not installed:
            return []
        known = _by_alias()
        canonical = [known[key].code if (key := _fold(item)) in known else item for item in installed]
        shares: dict[str, float] = {}
        if _NOT_LATIN.search(joined := "".join(words)):
            shares = _script_shares(joined)
            if self._only_latin:  # other letters were noise in the training data
                words = [word for word in words if not _NOT_LATIN.search(word)]
        logits = self._logits(words)
        scores = [logits[self._rows[code]] if code in self._rows else 0.0 for code in canonical]
        if shares:
            for index, code in enumerate(canonical):
                scores[index] -= _SCRIPT_PENALTY * (1.0 - _share_in_script(shares, code))
        top = max(scores)
        powers = [math.exp(score - top) for score in scores]
        total = sum(powers)
        found = [Detection(item, power / total) for item, power in zip(installed, powers, strict=True)]
        return sorted(found, key=lambda detection: -detection.confidence)

    def _logits(self, words: Sequence[str]) -> list[float]:
        """Calibrated logits of the trained languages, with zero mean; all zero without words."""
        if not words:
            return [0.0] * len(self.languages)
        scale = calibration_scale(sum(map(len, words)), self._intercept, self._slope)
        raw = [0.0, *map(sum, zip(*map(self._word_scores, words), strict=True))]
        mean = sum(raw) / len(raw)
        return [scale * (value - mean) for value in raw]

    def _score(self, word: str) -> tuple[float, ...]:
        """Summed weights of the n-grams of a word, for each language but the first."""
        padded = f" {word} "
        ngrams = [padded[start:end] for start, end in word_spans(len(padded))]
        return tuple([sum([table.get(ngram, 0.0) for ngram in ngrams]) for table in self._tables])


def calibration_scale(num_letters: int, intercept: float, slope: float) -> float:
    """Factor on the summed weights of a text: ``exp(intercept + slope * log(num_letters))``."""
    return math.exp(intercept + slope * math.log(num_letters))


def sample_words(text: str) -> list[str]:
    """Lower-case words of the beginning, the middle and the end of a text, with plain apostrophes, composed (NFC)."""
    if len(text) > SAMPLE_LENGTH:
        part = SAMPLE_LENGTH // 3
        middle = (len(text) - part) // 2
        sample = f"{text[:part]} {text[middle : middle + part]} {text[-part:]}"
        if not _WORD.search(sample) and (first := _WORD.search(text)):
            sample = text[first.start() : first.start() + SAMPLE_LENGTH]
    else:
        sample = text
    if not sample.isascii():
        sample = unicodedata.normalize("NFC", sample).replace("’", "'")  # noqa: RUF001
    return [word for word in _WORD.findall(sample.lower()) if any(map(str.isalpha, word))]  # "²" is no letter


def word_spans(length: int) -> tuple[tuple[int, int], ...]:
    """Where the n-grams of a word lie, and the whole word last, in a string of ``length`` characters, spaces included.

    A word longer than any real one has only the n-grams of its beginning, so that hostile input costs no more.
    """
    return _spans(min(length, LONGEST_WORD))


@cache
def _spans(length: int) -> tuple[tuple[int, int], ...]:
    orders = range(1, LONGEST_NGRAM + 1)
    spans = [(start, start + order) for order in orders for start in range(length - order + 1)]
    return tuple(dict.fromkeys([*spans, (0, length)]))


@cache
def _by_alias() -> dict[str, Language]:
    """Every folded code, alias and name; what stands first in this order wins: codes, then names, then aliases."""
    table: dict[str, Language] = {}
    for known in languages():
        table.setdefault(_fold(known.code), known)
    for known in languages():
        table.setdefault(_fold(known.name), known)
    for known in languages():
        for alias in known.aliases:
            table.setdefault(_fold(alias), known)
            table.setdefault(_fold(_without_accents(alias)), known)
    return table


def _fold(code: str) -> str:
    return code.strip().casefold().replace("_", "-")


def _without_accents(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")


def _spellings(code: str) -> list[str]:
    """A folded code, then less and less of it: ``fr-latn-ca``, ``fr-latn``, ``fr``."""
    parts = _fold(code)[:64].split("-")
    return ["-".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _script_shares(text: str) -> dict[str, float]:
    """Share of each script among the characters of a text."""
    counts: dict[str, int] = {}
    for character in text:
        script = _SCRIPTS[bisect_right(_SCRIPT_STARTS, ord(character)) - 1][1]
        counts[script] = counts.get(script, 0) + 1
    return {script: count / len(text) for script, count in counts.items()}


def _script(code: str) -> str | None:
    """The script that a language is written in, None if the table does not know it."""
    known = _by_alias().get(_fold(code))
    return known.flores[-4:] if known else None


def _share_in_script(shares: dict[str, float], code: str) -> float:
    """How much of a text a language could have written, by its script; unknown languages could be anything."""
    script = _script(code)
    if script is None:
        return 1.0
    return shares.get(script, 0.0) + (shares.get("Hani", 0.0) if script in _HAN_SCRIPTS else 0.0)
