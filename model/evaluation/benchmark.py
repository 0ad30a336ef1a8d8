"""Speed of a loaded translator, text to text: latencies, throughput at several budgets; comparing is peer.py's.

Load is closed-loop: ``concurrency`` callers, each of whom sends its next text once the last one is answered. One caller
gives the latency of one text after another, as many callers as there are texts the throughput. Every text is counted
from its submission to its translation, the wait in the queue included.
"""

from __future__ import annotations

import dataclasses
import itertools
import queue
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from model.errors import ConfigurationError, CorpusError
from model.evaluation.latency import Latency

if TYPE_CHECKING:
    from model.config import EngineConfig, GenerationConfig
    from model.pipeline.pending import PendingTranslation
    from model.translation import Translation
    from model.translator import Translator

Submit = Callable[[str], "PendingTranslation"]
"""Hands one text to whoever translates it."""
Load = Callable[["EngineConfig"], AbstractContextManager["Translator"]]
"""Loads a translator with these settings, and closes it again."""
WARM_UP_TEXTS = 64
"""Most texts of the unmeasured warm-up: enough to fill every batch size that caches something."""

SENTENCES: dict[str, tuple[str, ...]] = {
    "fr": (
        "Bonjour, comment allez-vous ?",
        "Le train de dix heures a encore du retard.",
        "Nous cherchons un petit appartement près de la gare.",
        "Ma sœur apprend à jouer du violon depuis trois ans.",
        "Peux-tu m'aider à porter ces cartons jusqu'à la voiture ?",
        "La réunion commence à neuf heures et devrait durer moins d'une heure.",
        "Il a plu toute la nuit, mais ce matin le ciel est parfaitement bleu.",
        "Merci de fermer la porte en sortant, sinon le chat va s'échapper.",
        "Je ne savais pas que ce restaurant était fermé le lundi soir.",
        "Les enfants ont construit une cabane dans le jardin de leur grand-père.",
        "Si vous avez des questions, écrivez-nous et nous répondrons dans les deux jours.",
        "Le nouveau pont, qui a coûté douze millions d'euros, sera ouvert aux piétons au printemps prochain.",
    ),
    "en": (
        "Good morning, how are you?",
        "The ten o'clock train is late again.",
        "We are looking for a small flat near the station.",
        "My sister has been learning the violin for three years.",
        "Can you help me carry these boxes to the car?",
        "The meeting starts at nine and should take less than an hour.",
        "It rained all night, but this morning the sky is perfectly blue.",
        "Please close the door on your way out, or the cat will escape.",
        "I did not know that this restaurant was closed on Monday evenings.",
        "The children built a hut in their grandfather's garden.",
        "If you have any questions, write to us and we will answer within two days.",
        "The new bridge, which cost twelve million euros, will open to pedestrians next spring.",
    ),
}
"""Our own sentences of everyday lengths, for a benchmark without a file."""


@dataclass(frozen=True)
class Workload:
    """What is translated: the same texts in the same order, whoever translates.

    Raises:
        CorpusError: there is no text, or the numbers of texts and references differ.
    """

    texts: tuple[str, ...]
    """The texts; those of a file, or the built-in ones."""
    references: tuple[str, ...]
    """Their translations by people, or nothing."""
    source: str
    """Language of the texts."""
    target: str
    """Language to translate into."""
    name: str
    """Where the texts come from."""

    def __post_init__(self) -> None:
        if not self.texts:
            raise CorpusError(f"{self.name} must have at least one text")
        if self.references and len(self.references) != len(self.texts):
            raise CorpusError(f"{len(self.references)} references must match {len(self.texts)} texts of {self.name}")

    @classmethod
    def read(
        cls, file: Path | None, reference: Path | None, source: str, target: str, max_sentences: int | None
    ) -> Workload:
        """Return the lines of files, or the built-in sentences where there is no file.

        Raises:
            CorpusError: a file cannot be read, the files have different numbers of lines, or none, or there are no
                built-in sentences in the language.
        """
        if file is None:
            if source not in SENTENCES:
                raise CorpusError(f"there are no built-in sentences in {source}; give a file")
            return cls(SENTENCES[source][:max_sentences], (), source, target, "built-in sentences")
        from model.evaluation.evaluate import read_lines

        texts, references = read_lines(file), [] if reference is None else read_lines(reference)
        if references and len(references) != len(texts):
            raise CorpusError(f"{file} and {reference} must have as many lines, got {len(texts)} and {len(references)}")
        return cls(tuple(texts[:max_sentences]), tuple(references[:max_sentences]), source, target, str(file))


@dataclass(frozen=True)
class Measurement:
    """One closed-loop run; latencies are from submission to result."""

    concurrency: int
    """Callers that wait for an answer at any time; as many as texts means that all were handed in at once."""
    max_batch_tokens: int
    """The engine's budget."""
    texts: int
    """Texts translated, warm-up excluded."""
    source_tokens: int
    """Tokens read."""
    target_tokens: int
    """Tokens generated."""
    seconds: float
    """From the first submission to the last result."""
    tokens_per_second: float
    """Generated tokens over seconds."""
    texts_per_second: float
    """Texts over seconds."""
    latency: Latency
    """Of the single texts."""


@dataclass(frozen=True)
class EngineResult:
    """What a translator does alone."""

    model: str
    """Its name, and facts about it."""
    callers: tuple[Measurement, ...]
    """One caller, then the other concurrencies."""
    at_once: tuple[Measurement, ...]
    """All texts at once at each budget."""
    best: Measurement
    """The one of ``at_once`` with the highest throughput."""
    bleu: float | None
    """Corpus score of the translations of ``best``, where there are references."""


def measure_engine(
    load: Load,
    workload: Workload,
    generation: GenerationConfig,
    engine: EngineConfig,
    *,
    concurrencies: Sequence[int],
    budgets: Sequence[int],
    repeat: int = 1,
    after_each: Callable[[], None] = lambda: None,
) -> EngineResult:
    """Translate all texts at each concurrency, and at each budget all at once; every run follows a warm-up.

    Args:
        load: see :data:`Load`.
        workload: the texts.
        generation: how to decode them.
        engine: settings of the engine; its budget is the one of the concurrencies.
        concurrencies: callers at once; one caller is always measured.
        budgets: values of ``max_batch_tokens`` to try for the throughput; the engine's own if there are none.
        repeat: how often the texts are translated in each run.
        after_each: called after each run.

    Raises:
        ConfigurationError: a concurrency or a budget is below 1, or sacrebleu is needed and not installed.
    """
    for name, values in (("concurrency", concurrencies), ("budget", budgets)):
        for value in values:
            if value < 1:
                raise ConfigurationError(name, "must be at least 1", value)
    texts = list(workload.texts) * repeat

    def run(translator: Translator, budget: int, concurrency: int) -> tuple[Measurement, list[str]]:
        def submit(text: str) -> PendingTranslation:
            return translator.submit(text, workload.source, workload.target, generation)

        measure(submit, texts[: min(2 * concurrency, WARM_UP_TEXTS)], concurrency, budget)
        result, translations = measure(submit, texts, concurrency, budget)
        after_each()
        return result, [translation.text for translation in translations]

    with load(engine) as translator:
        described = f"{translator.name} {dict(translator.info)}"
        callers = tuple(run(translator, engine.max_batch_tokens, n)[0] for n in dict.fromkeys((1, *concurrencies)))
    at_once = []
    for budget in budgets or (engine.max_batch_tokens,):
        with load(dataclasses.replace(engine, max_batch_tokens=budget)) as translator:
            at_once.append(run(translator, budget, len(texts)))
    best, translations = max(at_once, key=lambda pair: pair[0].tokens_per_second)
    bleu = bleu_of(translations[: len(workload.texts)], workload.references)
    return EngineResult(described, callers, tuple(result for result, _ in at_once), best, bleu)


def bleu_of(translations: Sequence[str], references: Sequence[str]) -> float | None:
    """Return the corpus score, or None where there are no references.

    Raises:
        ConfigurationError: sacrebleu is not installed.
    """
    if not references:
        return None
    from model.evaluation.metrics import corpus_scores

    return corpus_scores(translations, references)[0].value


def measure(
    submit: Submit, texts: Sequence[str], concurrency: int, max_batch_tokens: int = 0
) -> tuple[Measurement, list[Translation]]:
    """Keep ``concurrency`` translations going until all ``texts`` are done.

    Args:
        submit: hands in one text.
        texts: at least one.
        concurrency: callers at once.
        max_batch_tokens: only noted in the result.

    Returns:
        The numbers, and the translations in the order of the texts.

    Raises:
        Exception: what a translation raised.
    """
    finished: queue.SimpleQueue[tuple[float, int, PendingTranslation]] = queue.SimpleQueue()
    latencies: list[float] = []
    results: dict[int, Translation] = {}

    def start(index: int, text: str) -> None:
        started = time.perf_counter()
        pending = submit(text)
        # The callback runs in the engine's thread, so a slow reader of the queue does not lengthen the latency.
        pending.future.add_done_callback(lambda _: finished.put((time.perf_counter() - started, index, pending)))

    begin = time.perf_counter()
    waiting = enumerate(texts)
    for index, text in itertools.islice(waiting, concurrency):
        start(index, text)
    while len(results) < len(texts):
        latency, index, pending = finished.get()
        latencies.append(latency)
        results[index] = pending.future.result()
        following = next(waiting, None)
        if following is not None:
            start(*following)
    seconds = time.perf_counter() - begin

    tokens = sum(result.target_tokens for result in results.values())
    measured = Measurement(
        concurrency=concurrency,
        max_batch_tokens=max_batch_tokens,
        texts=len(texts),
        source_tokens=sum(result.source_tokens for result in results.values()),
        target_tokens=tokens,
        seconds=seconds,
        tokens_per_second=tokens / seconds,
        texts_per_second=len(texts) / seconds,
        latency=Latency.of(latencies),
    )
    return measured, [results[index] for index in range(len(texts))]
