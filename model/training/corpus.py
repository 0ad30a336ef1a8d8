"""Parallel text for training: read, filter, tokenise once, and keep as arrays; it knows no tensors and no batches."""

from __future__ import annotations

import hashlib
import itertools
import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from model.config import config_to_mapping
from model.errors import CorpusError
from model.text.tokenizer import Tokenizer, normalize
from model.training.array_folder import read_arrays, write_arrays
from model.training.filters import PairFilter, rejection
from model.training.text_file import read_lines
from model.training.workers import mapped
from model.training_config import DataConfig

IntArray = npt.NDArray[np.integer[Any]]
Pair = tuple[str, str]
_RULES_VERSION = 2
"""To be raised when the rules of this file change, so that no older cache passes for the new rules' result."""
_TOKENIZE_LINES = 10_000
"""Lines that are tokenised in one call."""
_CODES: dict[type[np.generic], str] = {np.uint16: "H", np.uint32: "I"}
"""The array module's letters for the number formats of token ids."""


def read_pairs(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the first two tab-separated columns of each line, normalised, without outer spaces.

    Raises:
        CorpusError: the file cannot be read, or a line has fewer than two columns.
    """
    for number, line in enumerate(read_lines(path), start=1):
        columns = line.split("\t")
        if len(columns) < 2:
            raise CorpusError(f"{path}, line {number}: must have two tab-separated columns, got one")
        yield normalize(columns[0]).strip(), normalize(columns[1]).strip()


def read_sentences(paths: Iterable[Path]) -> Iterator[str]:
    """Yield every side of every pair of the files, as a tokeniser is trained on them."""
    for path in paths:
        for pair in read_pairs(path):
            yield from (side for side in pair if side)


@dataclass(frozen=True)
class Corpus:
    """Tokenised pairs in flat arrays.

    Attributes:
        ids: for each of the two languages, the token ids of all sides, one after the other.
        offsets: for each language, where each side begins in ``ids``; one more entry than pairs.
        source_of: which corpus file each pair is from, as an index.
        weights: the weight of each corpus file.
        synthetic_sides: for each corpus file, which of the two sides a model wrote, -1 for none; empty for none at all.
    """

    ids: tuple[IntArray, IntArray]
    offsets: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
    source_of: IntArray
    weights: tuple[float, ...]
    synthetic_sides: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.source_of)

    def side(self, language: int, pair: int) -> IntArray:
        """Return the token ids of one side of one pair."""
        offsets = self.offsets[language]
        return self.ids[language][offsets[pair] : offsets[pair + 1]]

    def lengths(self, language: int) -> npt.NDArray[np.int64]:
        """Return the number of tokens of every side in one language."""
        return np.diff(self.offsets[language])


@dataclass(frozen=True)
class SourceReport:
    """What became of the lines of one corpus file.

    Attributes:
        path: as the configuration names it.
        lines, kept: how many there were, and how many are left.
        rejected: for each reason, how many lines fell out for it.
    """

    path: str
    lines: int
    kept: int
    rejected: dict[str, int]


class Fitness:
    """The rules of a configuration, with a memory of the pairs that passed, over all files in their order."""

    def __init__(self, config: DataConfig) -> None:
        self._max_ratio = config.max_ratio
        self._seen: set[bytes] = set()
        self._further = None if config.filters is None else PairFilter(config.filters, config.languages)

    def passes(self, first: str, second: str, rejected: Counter[str]) -> bool:
        """Say whether a pair is fit for training; if not, count the reason."""
        return self.admits(self.examine(first, second), rejected)

    def examine(self, first: str, second: str) -> Examined:
        """Return all that the rules need to know of a pair, whatever passed before: the part that may run anywhere."""
        reason = rejection(first, second, self._max_ratio)
        if reason is not None:
            return Examined(reason)
        key = hashlib.blake2b(f"{first}\t{second}".encode(), digest_size=12).digest()
        if self._further is None:
            return Examined(None, None, key)
        further = self._further.own_fault(first, second)
        if further is not None:
            return Examined(None, further, key)
        return Examined(None, None, key, *self._further.keys(first, second))

    def admits(self, pair: Examined, rejected: Counter[str]) -> bool:
        """Do what :meth:`passes` does for a pair that has been examined."""
        reason = pair.always
        if reason is None and pair.key in self._seen:
            reason = "duplicate"
        if reason is None:
            reason = pair.further
        if reason is None and self._further is not None:
            reason = self._further.repeated(pair.near, pair.family)
        if reason is not None:
            rejected[reason] += 1
            return False
        self._seen.add(pair.key)
        return True


class Examined(NamedTuple):
    """What the rules need to know of a pair.

    Attributes:
        always, further: why it is unfit by itself, by the rules of any training and by further ones; None if it is not.
        key: of the pair itself, for its duplicates.
        near, family: see :meth:`PairFilter.keys`.
    """

    always: str | None
    further: str | None = None
    key: bytes = b""
    near: bytes | None = None
    family: bytes | None = None

    @property
    def is_fit(self) -> bool:
        """Whether nothing is wrong with it by itself."""
        return self.always is None and self.further is None


def file_hash(path: Path) -> str:
    """Return the BLAKE2b hash (16 bytes, hexadecimal) of a file as it lies on disk.

    Raises:
        CorpusError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror}") from error


def load_corpus(
    config: DataConfig, tokenizer: Tokenizer, cache: Path | None = None, num_workers: int = 0
) -> tuple[Corpus, list[SourceReport]]:
    """Read, filter and tokenise the configured files, or map the result of an earlier call from ``cache``.

    The cache is a folder named after a hash of the rules, the tokeniser and the files' contents, wherever they lie.

    Args:
        config: files and rules.
        tokenizer: makes the tokens.
        cache: folder of such results; None keeps everything in memory.
        num_workers: processes beside this one that tokenise and judge; the result is the same with any number.

    Raises:
        CorpusError: a file cannot be read, or nothing is left after filtering.
    """
    folder = None if cache is None else cache / f"corpus-{fingerprint(config, tokenizer)}"
    if folder is not None and (cached := _read_cache(folder, config)) is not None:
        return cached
    dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
    ids = (array(_CODES[dtype]), array(_CODES[dtype]))
    offsets = (array("q", [0]), array("q", [0]))
    source_of = array("i")
    reports: list[SourceReport] = []
    fitness = Fitness(config)
    for index, source in enumerate(config.sources):
        before, lines = len(source_of), 0
        rejected: Counter[str] = Counter()
        blocks = _blocks(read_pairs(Path(config.directory) / source.path))
        for block, examined in mapped(_Examiner, (config, tokenizer.serialized), blocks, num_workers):
            lines += len(block)
            for pair in _admitted(examined, fitness, config.max_tokens, rejected):
                for language, tokens in enumerate(pair):
                    ids[language].extend(tokens)
                    offsets[language].append(len(ids[language]))
                source_of.append(index)
        reports.append(SourceReport(source.path, lines, len(source_of) - before, dict(rejected)))
    if not source_of:
        raise CorpusError(f"no pair is left after filtering {', '.join(source.path for source in config.sources)}")
    arrays = {
        "ids0": np.frombuffer(ids[0], dtype),
        "ids1": np.frombuffer(ids[1], dtype),
        "offsets0": np.frombuffer(offsets[0], np.int64),
        "offsets1": np.frombuffer(offsets[1], np.int64),
        "source_of": np.frombuffer(source_of, np.int32),
    }
    if folder is not None:
        write_arrays(folder, arrays, {"reports": [vars(report) for report in reports]})
        if (cached := _read_cache(folder, config)) is not None:
            return cached
    return _corpus(arrays, config), reports


class _Examiner:
    """Judges and tokenises blocks of pairs; needs nothing but what it is made of, so that it works in any process."""

    def __init__(self, config: DataConfig, tokenizer: bytes) -> None:
        self._fitness = Fitness(config)
        self._tokenizer = Tokenizer(tokenizer)

    def __call__(self, block: Sequence[Pair]) -> list[tuple[Examined, list[int], list[int]]]:
        """Return what is to be known of each pair and, where it is fit by itself, the tokens of both sides."""
        found = [self._fitness.examine(*pair) for pair in block]
        fit = [pair for pair, own in zip(block, found, strict=True) if own.is_fit]
        sides = [iter(self._tokenizer.encode_batch([pair[language] for pair in fit])) for language in (0, 1)]
        return [(own, next(sides[0]), next(sides[1])) if own.is_fit else (own, [], []) for own in found]


def _admitted(
    examined: Sequence[tuple[Examined, list[int], list[int]]],
    fitness: Fitness,
    max_tokens: int,
    rejected: Counter[str],
) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the tokens of the pairs that are fit beside all that passed before, and not too long."""
    for pair, first, second in examined:
        if not fitness.admits(pair, rejected):
            continue
        if max(len(first), len(second)) > max_tokens:
            rejected["too many tokens"] += 1
        else:
            yield first, second


def fingerprint(config: DataConfig, tokenizer: Tokenizer) -> str:
    """Return a hash of everything that decides the tokenised corpus: not weights, nor names and places of files.

    Raises:
        CorpusError: a file is missing.
    """
    digest = hashlib.blake2b(f"{_RULES_VERSION}".encode(), digest_size=8)
    digest.update(tokenizer.serialized)
    plain = config_to_mapping(config)
    del plain["sources"], plain["directory"]
    digest.update(json.dumps(plain, sort_keys=True).encode())
    for source in config.sources:
        digest.update(file_hash(Path(config.directory) / source.path).encode())
    return digest.hexdigest()


def _blocks(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    iterator = iter(pairs)
    while block := list(itertools.islice(iterator, _TOKENIZE_LINES)):
        yield block


def _corpus(arrays: dict[str, npt.NDArray[Any]], config: DataConfig) -> Corpus:
    return Corpus(
        (arrays["ids0"], arrays["ids1"]),
        (arrays["offsets0"], arrays["offsets1"]),
        arrays["source_of"],
        tuple(source.weight for source in config.sources),
        config.synthetic_sides,
    )


def _read_cache(folder: Path, config: DataConfig) -> tuple[Corpus, list[SourceReport]] | None:
    """Return what an earlier call wrote, mapped, or None where there is nothing, or nothing that can be read."""
    found = read_arrays(folder)
    if found is None:
        return None
    arrays, facts = found
    try:
        corpus = _corpus(arrays, config)
        # The same text may have had other names.
        named = zip(facts["reports"], config.sources, strict=True)
        reports = [SourceReport(**{**report, "path": source.path}) for report, source in named]
    except (KeyError, TypeError, ValueError):
        return None
    whole = all(int(corpus.offsets[side][-1]) == len(corpus.ids[side]) for side in (0, 1))
    return (corpus, reports) if whole else None
