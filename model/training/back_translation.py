"""Back-translation: one-sided text becomes sentence pairs whose other side a model wrote; it trains nothing.

Sennrich et al. 2016. What is real stands on the target's side in training; what the model wrote is the source, marked
as such by a token of its own (Caswell et al. 2019).
"""

from __future__ import annotations

import functools
import itertools
import json
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from model.config import GenerationConfig
from model.errors import ConfigurationError, CorpusError
from model.options import TextOptions
from model.text.guard import check_segment, severity
from model.text.languages import LanguageDetector
from model.text.tokenizer import normalize
from model.training.corpus import Fitness, file_hash, read_pairs
from model.training.text_file import read_lines, write_lines
from model.training_config import DataConfig, FilterConfig, SourceConfig
from model.translation import Translation

MAX_DOUBT = 0.3
"""Severity of the guard's findings, together, from which a pair is dropped; from there translations are done again."""
_AHEAD = 2048
"""Lines that are with the engine at once."""
_OPTIONS = TextOptions(guard=False)
"""What is doubtful is dropped, which costs nothing, instead of decoded again."""
_PLAN_FILE = "plan.json"


class Pending(Protocol):
    """A translation on its way, as far as this file uses one."""

    @property
    def future(self) -> Any:
        """Its result, once there."""

    def cancel(self) -> object:
        """Drop it."""


class Submits(Protocol):
    """A translator, as far as this file uses one."""

    @property
    def fingerprint(self) -> str:
        """Another one for other weights."""

    def submit(
        self, text: str, source: str | None, target: str, config: GenerationConfig | None, *, options: TextOptions
    ) -> Pending:
        """Hand a text to the engine and return at once."""


@dataclass(frozen=True)
class BackTranslationPlan:
    """What is translated, and what becomes of it.

    Attributes:
        files: one-sided text, one sentence a line; or tab-separated text, of which one column is used.
        column: which column, from 1; None takes the whole line.
        language: of that text.
        languages: of the two columns that are written; ``language`` is one of them, and the model writes the other.
        output: tab-separated pairs, compressed by the name's ending.
        filters: further rules for the pairs.
        max_ratio: see DataConfig.
        max_characters: longer lines are left out.
        block_lines: lines after whose translation the state is saved.
    """

    files: tuple[Path, ...]
    column: int | None
    language: str
    languages: tuple[str, str]
    output: Path
    filters: FilterConfig | None = None
    max_ratio: float = 2.5
    max_characters: int = 600
    block_lines: int = 5000

    def __post_init__(self) -> None:
        if self.language not in self.languages:
            raise ConfigurationError("language", f"must be one of {', '.join(self.languages)}", self.language)
        if self.column is not None and self.column < 1:
            raise ConfigurationError("column", "must be at least 1", self.column)
        if self.output.resolve() in {file.resolve() for file in self.files}:
            raise ConfigurationError("output", "must not be one of the files that are read", str(self.output))

    @property
    def synthetic(self) -> str:
        """The language that the model writes."""
        return self.languages[1 - self.languages.index(self.language)]

    @property
    def parts(self) -> Path:
        """Folder of what is done so far."""
        return self.output.with_name(f"{self.output.name}.parts")


@dataclass
class BackTranslationReport:
    """What became of the lines; the counters go on while the work does.

    Attributes:
        lines: how many were read.
        translated: how many were translated, in this call or before.
        kept: pairs that are written.
        rejected: for each reason, how many lines fell out for it, before and after translation.
        seconds: of this call.
    """

    lines: int = 0
    translated: int = 0
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def back_translate(
    plan: BackTranslationPlan,
    translator: Submits,
    config: GenerationConfig | None = None,
    progress: Callable[[BackTranslationReport], None] = lambda _: None,
) -> BackTranslationReport:
    """Translate, filter and write; goes on where an earlier call with the same arguments was cut off.

    Args:
        plan: what is to be done.
        translator: the model with its engine.
        config: how to decode; beam search by default. Sampling gives more varied sources (Edunov et al. 2018).
        progress: is told of the state after each block.

    Raises:
        CorpusError: a file cannot be read or written, or no pair is left.
        ConfigurationError: what is done so far was made with other settings, files or weights.
    """
    started = time.perf_counter()
    config = config or GenerationConfig()
    _require_same(plan, _description(plan, translator, config))
    report = BackTranslationReport()
    sources = (SourceConfig(plan.output.name),)
    fitness = Fitness(DataConfig(".", sources, plan.languages, max_ratio=plan.max_ratio, filters=plan.filters))
    parts = []
    for number, block in enumerate(_blocks(_sentences(plan, report), plan.block_lines)):
        part = plan.parts / f"part-{number:05d}.tsv"
        counts = part.with_suffix(".json")
        if counts.exists():
            rejected = Counter[str](json.loads(counts.read_text(encoding="utf-8")))
            for pair in read_pairs(part):
                fitness.passes(*pair, Counter())  # so that it knows them
        else:
            rejected = Counter()
            write_lines(part, _kept(plan, block, translator, config, fitness, rejected))
            # Written last: a part without its counts is not done.
            write_lines(counts, [json.dumps(rejected)])
        parts.append(part)
        report.translated += len(block)
        report.rejected.update(rejected)
        report.kept += len(block) - rejected.total()
        report.seconds = time.perf_counter() - started
        progress(report)
    if not report.kept:
        raise CorpusError(f"no pair is left of {report.lines} lines of {', '.join(map(str, plan.files))}")
    write_lines(plan.output, (f"{a}\t{b}\n" for part in parts for a, b in read_pairs(part)))
    shutil.rmtree(plan.parts)
    report.seconds = time.perf_counter() - started
    return report


def _sentences(plan: BackTranslationPlan, report: BackTranslationReport) -> Iterator[str]:
    """Yield the lines that are worth translating, each once."""
    seen: set[str] = set()
    for file in plan.files:
        for number, line in enumerate(read_lines(file), start=1):
            report.lines += 1
            text = line
            if plan.column is not None:
                columns = line.split("\t")
                if len(columns) < plan.column:
                    rule = f"must have {plan.column} tab-separated columns, got {len(columns)}"
                    raise CorpusError(f"{file}, line {number}: {rule}")
                text = columns[plan.column - 1]
            text = normalize(text).strip()
            reason = _unfit(text, plan.max_characters) or ("duplicate line" if text in seen else None)
            if reason is not None:
                report.rejected[reason] += 1
                continue
            seen.add(text)
            yield text


def _unfit(text: str, max_characters: int) -> str | None:
    if not text:
        return "empty line"
    if not any(map(str.isalpha, text)):
        return "no letters"
    return "too long" if len(text) > max_characters else None


def _blocks(lines: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(lines)
    while block := list(itertools.islice(iterator, size)):
        yield block


def _kept(
    plan: BackTranslationPlan,
    block: list[str],
    translator: Submits,
    config: GenerationConfig,
    fitness: Fitness,
    rejected: Counter[str],
) -> Iterator[str]:
    """Yield the pairs of a block that are fit, as lines in the order of the languages."""
    real = plan.languages.index(plan.language)
    for text, translation in _translations(plan, block, translator, config):
        written = normalize(translation.text).strip()
        reason = _doubt(plan, text, written, translation, _detector())
        pair = (text, written) if real == 0 else (written, text)
        if reason is not None:
            rejected[reason] += 1
        elif fitness.passes(*pair, rejected):
            yield f"{pair[0]}\t{pair[1]}\n"


def _translations(
    plan: BackTranslationPlan, block: list[str], translator: Submits, config: GenerationConfig
) -> Iterator[tuple[str, Translation]]:
    """Yield each line with its translation, in order; many are with the engine at once."""
    pending: deque[tuple[str, Pending]] = deque()
    try:
        for text in block:
            submitted = translator.submit(text, plan.language, plan.synthetic, config, options=_OPTIONS)
            pending.append((text, submitted))
            if len(pending) >= _AHEAD:
                first, done = pending.popleft()
                yield first, done.future.result()
        while pending:
            first, done = pending.popleft()
            yield first, done.future.result()
    finally:
        for _, left in pending:
            left.cancel()


def _doubt(
    plan: BackTranslationPlan, text: str, written: str, translation: Translation, detector: LanguageDetector
) -> str | None:
    """Return why a translation is not to be trusted: it was cut off, or the guard's worst finding."""
    if cut := next((warning.code for warning in translation.warnings if warning.code in ("cut", "length")), None):
        return f"translation: {cut}"
    findings = check_segment(text, written, plan.language, plan.synthetic, detector=detector)
    return f"translation: {findings[0].code}" if severity(findings) >= MAX_DOUBT else None


@functools.cache
def _detector() -> LanguageDetector:
    return LanguageDetector()


def _description(plan: BackTranslationPlan, translator: Submits, config: GenerationConfig) -> dict[str, Any]:
    """Return all that the result depends on."""
    return {
        "files": {str(file): file_hash(file) for file in plan.files},
        "column": plan.column,
        "language": plan.language,
        "languages": list(plan.languages),
        "filters": None if plan.filters is None else asdict(plan.filters),
        "max_ratio": plan.max_ratio,
        "max_characters": plan.max_characters,
        "block_lines": plan.block_lines,
        "model": translator.fingerprint,
        "decoding": asdict(config),
    }


def _require_same(plan: BackTranslationPlan, description: Mapping[str, Any]) -> None:
    """Begin the folder of parts, or compare with what is there was begun with."""
    file = plan.parts / _PLAN_FILE
    wanted = json.loads(json.dumps(description))
    if not file.exists():
        write_lines(file, [json.dumps(wanted, indent=2) + "\n"])
        return
    before = json.loads(file.read_text(encoding="utf-8"))
    for name, value in wanted.items():
        if before.get(name) != value:
            rule = f"must be {before.get(name)!r}, as the unfinished {plan.parts} began; delete it to begin anew"
            raise ConfigurationError(name, rule, value)
