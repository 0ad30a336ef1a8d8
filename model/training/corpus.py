"""Parallel text for training: read, filter, tokenise once, and keep as arrays; it knows no tensors and no batches."""

from __future__ import annotations

import hashlib
import json
import zipfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.config import config_to_mapping
from model.errors import CorpusError
from model.text.tokenizer import Tokenizer, normalize
from model.training.filters import PairFilter, rejection
from model.training.text_file import read_lines
from model.training_config import DataConfig

IntArray = npt.NDArray[np.int32]
_RULES_VERSION = 1
"""To be raised when the rules of this file change, so that no older cache passes for the new rules' result."""
_TOKENIZE_LINES = 20_000
"""Lines that are tokenised in one call."""


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
    """

    ids: tuple[IntArray, IntArray]
    offsets: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
    source_of: IntArray
    weights: tuple[float, ...]

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
        reason = rejection(first, second, self._max_ratio)
        key = hashlib.blake2b(f"{first}\t{second}".encode(), digest_size=12).digest()
        if reason is None and key in self._seen:
            reason = "duplicate"
        if reason is None and self._further is not None:
            reason = self._further.rejection(first, second)
        if reason is not None:
            rejected[reason] += 1
            return False
        self._seen.add(key)
        return True


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
    config: DataConfig, tokenizer: Tokenizer, cache: Path | None = None
) -> tuple[Corpus, list[SourceReport]]:
    """Read, filter and tokenise the configured files, or read the result of an earlier call from ``cache``.

    The cache file is named after a hash of the configuration, the tokeniser, and the size and time of every file.

    Raises:
        CorpusError: a file cannot be read, or nothing is left after filtering.
    """
    weights = tuple(source.weight for source in config.sources)
    target = None if cache is None else cache / f"corpus-{fingerprint(config, tokenizer)}.npz"
    if target is not None and (cached := _read_cache(target, weights)) is not None:
        return cached
    ids = (array("i"), array("i"))
    offsets = (array("q", [0]), array("q", [0]))
    source_of = array("i")
    reports: list[SourceReport] = []
    fitness = Fitness(config)
    for index, source in enumerate(config.sources):
        before, lines = len(source_of), 0
        rejected: Counter[str] = Counter()
        for block in _blocks(read_pairs(Path(config.directory) / source.path)):
            lines += len(block)
            fit = [pair for pair in block if fitness.passes(*pair, rejected)]
            for pair in _tokenize(fit, tokenizer, config.max_tokens, rejected):
                for language, tokens in enumerate(pair):
                    ids[language].extend(tokens)
                    offsets[language].append(len(ids[language]))
                source_of.append(index)
        reports.append(SourceReport(source.path, lines, len(source_of) - before, dict(rejected)))
    if not source_of:
        raise CorpusError(f"no pair is left after filtering {', '.join(source.path for source in config.sources)}")
    corpus = Corpus(
        (np.frombuffer(ids[0], np.int32), np.frombuffer(ids[1], np.int32)),
        (np.frombuffer(offsets[0], np.int64), np.frombuffer(offsets[1], np.int64)),
        np.frombuffer(source_of, np.int32),
        weights,
    )
    if target is not None:
        _write_cache(target, corpus, reports)
    return corpus, reports


def fingerprint(config: DataConfig, tokenizer: Tokenizer) -> str:
    """Return a hash of everything that decides the tokenised corpus; weights do not.

    Raises:
        CorpusError: a file is missing.
    """
    digest = hashlib.blake2b(f"{_RULES_VERSION}".encode(), digest_size=8)
    digest.update(tokenizer.serialized)
    plain = config_to_mapping(config)
    plain["sources"] = [source.path for source in config.sources]
    if config.filters is None:
        del plain["filters"]  # as in caches from before there were any
    digest.update(json.dumps(plain, sort_keys=True).encode())
    for source in config.sources:
        path = Path(config.directory) / source.path
        try:
            status = path.stat()
        except OSError as error:
            raise CorpusError(f"cannot read {path}: {error.strerror}") from error
        digest.update(f"{source.path}:{status.st_size}:{status.st_mtime_ns}".encode())
    return digest.hexdigest()


def _blocks(pairs: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    block: list[tuple[str, str]] = []
    for pair in pairs:
        block.append(pair)
        if len(block) == _TOKENIZE_LINES:
            yield block
            block = []
    if block:
        yield block


def _tokenize(
    pairs: Sequence[tuple[str, str]], tokenizer: Tokenizer, max_tokens: int, rejected: Counter[str]
) -> Iterator[tuple[list[int], list[int]]]:
    firsts = tokenizer.encode_batch([first for first, _ in pairs])
    seconds = tokenizer.encode_batch([second for _, second in pairs])
    for first, second in zip(firsts, seconds, strict=True):
        if max(len(first), len(second)) > max_tokens:
            rejected["too many tokens"] += 1
        else:
            yield first, second


def _write_cache(path: Path, corpus: Corpus, reports: Sequence[SourceReport]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp.npz")
    np.savez(
        temporary,
        ids0=corpus.ids[0],
        ids1=corpus.ids[1],
        offsets0=corpus.offsets[0],
        offsets1=corpus.offsets[1],
        source_of=corpus.source_of,
        reports=np.frombuffer(json.dumps([vars(report) for report in reports]).encode(), dtype=np.uint8),
    )
    temporary.replace(path)


def _read_cache(path: Path, weights: tuple[float, ...]) -> tuple[Corpus, list[SourceReport]] | None:
    """Return what an earlier call wrote, or None where there is nothing, or nothing that can be read."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            reports = [SourceReport(**report) for report in json.loads(arrays["reports"].tobytes())]
            ids, offsets = (arrays["ids0"], arrays["ids1"]), (arrays["offsets0"], arrays["offsets1"])
            return Corpus(ids, offsets, arrays["source_of"], weights), reports
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
