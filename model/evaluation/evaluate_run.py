"""One run of `dragoman evaluate`: sets, robustness sets made from them, a second model; it loads no model itself."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.config import GenerationConfig
from model.errors import CorpusError
from model.evaluation import evaluate
from model.evaluation.evaluate import EvaluationResult, dev_sets, read_lines
from model.evaluation.metrics import PairedTest, paired_tests
from model.evaluation.remote import RemoteTranslator
from model.evaluation.robustness import DevSet, robustness_sets
from model.evaluation.terms import TermSurvival, glossaries_of, share_present, term_set
from model.text.protection import check_protected
from model.translator import Translator

AnyTranslator = Translator | RemoteTranslator


@dataclass(frozen=True)
class SetReport:
    """What was measured on one set in one direction.

    Attributes:
        dev: the set.
        result: scores and translations.
        survived: share of the lines with something that must survive in which all of it does; None without such lines.
        tests: BLEU and chrF2++ against the second model's, on the same lines; empty without one.
        terms: how many of the set's terms came out; None without any.
    """

    dev: DevSet
    result: EvaluationResult
    survived: float | None
    tests: tuple[PairedTest, ...]
    terms: TermSurvival | None = None

    def as_mapping(self) -> dict[str, Any]:
        """Return everything but the translations as plain values."""
        dev, result = self.dev, dataclasses.asdict(self.result)
        count = len(result.pop("hypotheses"))
        shown = {"set": dev.name, "source": dev.source, "target": dev.target, "sentences": count} | result
        if self.survived is not None:
            shown["survived"] = self.survived
        if self.terms is not None:
            shown["terms"] = dataclasses.asdict(self.terms)
        if self.tests:
            shown["against"] = [dataclasses.asdict(test) for test in self.tests]
        return shown


def pair_of_files(source_file: Path, reference_file: Path, source: str, target: str, limit: int | None) -> DevSet:
    """Return two files as a set, called after the first one.

    Raises:
        CorpusError: they cannot be read, differ in their number of lines, or have none.
    """
    return _read(source_file.stem, source_file, reference_file, source, target, limit)


def sets_of_folder(folder: Path, languages: Sequence[str], limit: int | None) -> Iterator[DevSet]:
    """Yield all sets ``NAME.LANGUAGE`` of a folder, in both directions.

    Raises:
        CorpusError: there is none, or one does not align.
    """
    for name, source, target in dev_sets(folder, languages):
        yield _read(name, folder / f"{name}.{source}", folder / f"{name}.{target}", source, target, limit)


def with_robustness(sets: Iterator[DevSet]) -> Iterator[DevSet]:
    """Yield each set and the robustness sets made from it."""
    for dev in sets:
        yield dev
        yield from robustness_sets(dev)
        if (terms := term_set(dev)) is not None:
            yield terms


def evaluate_sets(
    translator: AnyTranslator, sets: Iterator[DevSet], config: GenerationConfig, against: AnyTranslator | None = None
) -> Iterator[SetReport]:
    """Yield a report for each set; ``against`` translates the same lines, and its scores are compared.

    Sets with terms are left out for a service, which takes glossaries only by their names.
    """
    for dev in sets:
        if dev.terms and isinstance(translator, RemoteTranslator):
            continue
        result = _evaluated(translator, dev, config)
        tests: tuple[PairedTest, ...] = ()
        if against is not None:
            others = _evaluated(against, dev, config)
            tests = paired_tests(result.hypotheses, others.hypotheses, dev.references)
        yield SetReport(dev, result, survival(dev, result.hypotheses), tests, _terms(translator, dev, config, result))


def survival(dev: DevSet, hypotheses: Sequence[str]) -> float | None:
    """Return the share of the lines that keep, exactly once each, all that must stand in them as it is."""
    lines = [(own, text) for own, text in zip(dev.pieces, hypotheses, strict=False) if own]
    if not lines:
        return None
    return sum(not check_protected(own, text) for own, text in lines) / len(lines)


def show(report: SetReport, as_json: bool) -> None:
    """Print a report: a JSON object on one line, or lines for people."""
    if as_json:
        print(json.dumps(report.as_mapping()), flush=True)
        return
    dev, result = report.dev, report.result
    count = len(result.hypotheses)
    codes = ", ".join(f"{code} {times}" for code, times in result.warning_codes.items())
    warned = f"{result.warnings} with a warning" + (f" ({codes})" if codes else "")
    print(f"{dev.name} {dev.source} to {dev.target}: {count} lines in {result.seconds:.1f} s, {warned}")
    print(f"  BLEU {result.bleu:.2f}  {result.bleu_signature}")
    print(f"  chrF2++ {result.chrf:.2f}  {result.chrf_signature}", flush=True)
    if report.survived is not None:
        print(f"  protected text whole in {report.survived:.2%} of the lines")
    if report.terms is not None:
        shares = f"{report.terms.kept:.2%} of {report.terms.count} terms came out"
        print(f"  {shares}, {report.terms.without:.2%} without the glossary")
    for test in report.tests:
        print(f"  {test.name} {test.difference:+.2f} against {test.other:.2f}, p = {test.p_value:.4f}", flush=True)


def _terms(
    translator: AnyTranslator, dev: DevSet, config: GenerationConfig, result: EvaluationResult
) -> TermSurvival | None:
    if not dev.terms:
        return None
    plain = _evaluated(translator, dataclasses.replace(dev, terms=()), config)
    count = sum(map(len, dev.terms))
    return TermSurvival(count, share_present(dev, result.hypotheses), share_present(dev, plain.hypotheses))


def _evaluated(translator: AnyTranslator, dev: DevSet, config: GenerationConfig) -> EvaluationResult:
    glossaries = () if isinstance(translator, RemoteTranslator) else glossaries_of(dev)
    return evaluate.evaluate_pairs(translator, dev.sources, dev.references, dev.source, dev.target, config, glossaries)


def _read(name: str, source_file: Path, reference_file: Path, source: str, target: str, limit: int | None) -> DevSet:
    sources, references = read_lines(source_file), read_lines(reference_file)
    if len(sources) != len(references) or not sources:
        raise CorpusError(
            f"{source_file} and {reference_file} must have the same lines, at least one, "
            f"got {len(sources)} and {len(references)}"
        )
    return DevSet(name, source, target, tuple(sources[:limit]), tuple(references[:limit]))
