"""Dev sets through the Translator, as a user's text would go: scores, times, and the translations themselves."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from model.checkpoints.checkpoint import Checkpoint
from model.config import EngineConfig, GenerationConfig
from model.errors import CorpusError
from model.evaluation.metrics import corpus_scores
from model.evaluation.remote import RemoteTranslation, RemoteTranslator
from model.options import TextOptions
from model.text.glossary import Glossary
from model.training_config import TrainingConfig
from model.translation import Translation
from model.translator import Translator

_LINES_AT_ONCE = 500


@dataclass(frozen=True)
class EvaluationResult:
    """Scores of one set in one direction.

    Attributes:
        bleu, chrf: corpus scores, 0 ... 100.
        bleu_signature, chrf_signature: sacrebleu's.
        seconds: wall-clock time of translating.
        hypotheses: the translations, one a line.
        warnings: how many lines had a warning.
        warning_codes: how many lines had a warning of each kind, such as ``copied``, ``looped`` or ``language``.
    """

    bleu: float
    chrf: float
    bleu_signature: str
    chrf_signature: str
    seconds: float
    hypotheses: tuple[str, ...]
    warnings: int
    warning_codes: Mapping[str, int] = field(default_factory=dict)


def evaluate_pairs(
    translator: Translator | RemoteTranslator,
    sources: Sequence[str],
    references: Sequence[str],
    source: str,
    target: str,
    config: GenerationConfig | None = None,
    glossaries: Sequence[Glossary] = (),
) -> EvaluationResult:
    """Translate lines and score them against references, one reference a line.

    Args:
        translator: the model, or a service.
        sources: the lines.
        references: their translations by people.
        source, target: codes of the languages.
        config: how to decode.
        glossaries: one for each line, or none; a service cannot be given any here.

    Raises:
        CorpusError: the numbers of lines differ, or there are none.
        ConfigurationError: sacrebleu is not installed.
    """
    if len(sources) != len(references):
        raise CorpusError(f"{len(sources)} source lines must match {len(references)} reference lines")
    translations: Sequence[Translation | RemoteTranslation]
    started = time.perf_counter()
    if glossaries:
        assert not isinstance(translator, RemoteTranslator), "its glossaries would have to be stored first"
        options = [TextOptions(glossaries=(glossary,)) for glossary in glossaries]
        translations = _translated(translator, sources, source, target, config, options)
    else:
        translations = translator.translate(list(sources), source, target, config)
    seconds = time.perf_counter() - started
    hypotheses = tuple(translation.text for translation in translations)
    bleu, chrf = corpus_scores(hypotheses, references)
    warnings = sum(1 for translation in translations if translation.warnings)
    codes = Counter(code for each in translations for code in {warning.code for warning in each.warnings})
    return EvaluationResult(
        bleu.value,
        chrf.value,
        bleu.signature,
        chrf.signature,
        seconds,
        hypotheses,
        warnings,
        dict(sorted(codes.items())),
    )


def _translated(
    translator: Translator,
    sources: Sequence[str],
    source: str,
    target: str,
    config: GenerationConfig | None,
    options: Sequence[TextOptions],
) -> list[Translation]:
    """Translate lines with options of their own, some hundreds at once."""
    translations: list[Translation] = []
    for start in range(0, len(sources), _LINES_AT_ONCE):
        lines = zip(sources[start : start + _LINES_AT_ONCE], options[start : start + _LINES_AT_ONCE], strict=True)
        pending = [translator.submit(line, source, target, config, options=own) for line, own in lines]
        translations += [each.future.result() for each in pending]
    return translations


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 file without their ends; only LF and CRLF end a line, as in every aligned corpus.

    Raises:
        CorpusError: the file cannot be read.
    """
    try:
        text = path.read_bytes().decode("utf-8")
        lines = text.removesuffix("\n").split("\n") if text else []
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"cannot read {path}: {error}") from error
    return [line.removesuffix("\r") for line in lines]


def dev_sets(directory: Path, languages: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Yield name, source and target of every set ``NAME.LANGUAGE`` in a folder that has both languages.

    Raises:
        CorpusError: there is none.
    """
    names = sorted({path.name.rpartition(".")[0] for path in directory.glob("*.*") if path.suffix[1:] in languages})
    found = False
    for name, (source, target) in itertools.product(names, itertools.permutations(languages, 2)):
        if all((directory / f"{name}.{code}").is_file() for code in (source, target)):
            found = True
            yield name, source, target
    if not found:
        raise CorpusError(f"{directory} has no file pair NAME.LANGUAGE for {', '.join(languages)}")


def evaluate_checkpoint(
    checkpoint: Checkpoint, config: TrainingConfig
) -> tuple[dict[str, float], list[tuple[str, str]]]:
    """Score the first sentences of a recipe's dev sets, greedily, in both directions, and translate its samples.

    Returns:
        Scores named ``SET.SOURCE-TARGET.bleu`` and ``.chrf``; samples as pairs of source and translation.

    Raises:
        CorpusError: a dev set cannot be read.
    """
    evaluation = config.evaluation
    if evaluation is None:
        return {}, []
    greedy = GenerationConfig(beam_size=1)
    # Steps are recorded as CUDA graphs otherwise, which other threads of a training process must not disturb.
    engine = EngineConfig(decoder="plain") if torch.cuda.is_available() else EngineConfig()
    first, second = config.data.languages
    scores = {}
    with Translator(checkpoint, engine) as translator:
        for name, (source, target) in itertools.product(evaluation.sets, ((first, second), (second, first))):
            sides = [
                read_lines(Path(evaluation.directory) / f"{name}.{code}")[: evaluation.max_sentences]
                for code in (source, target)
            ]
            result = evaluate_pairs(translator, sides[0], sides[1], source, target, greedy)
            scores[f"{name}.{source}-{target}.bleu"] = result.bleu
            scores[f"{name}.{source}-{target}.chrf"] = result.chrf
        translations = translator.translate(list(evaluation.samples), first, second, greedy)
    return scores, [(s, translation.text) for s, translation in zip(evaluation.samples, translations, strict=True)]
