"""Speed of a loaded translator: tokens per second and latencies at several concurrencies; quality is evaluate.py's.

Load is closed-loop: ``concurrency`` callers, each of whom sends its next text once the last one is answered. Every
text is counted from its submission to its translation, the wait in the queue included.
"""

from __future__ import annotations

import itertools
import math
import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model.errors import ConfigurationError

if TYPE_CHECKING:
    from model.config import GenerationConfig
    from model.translation import PendingTranslation, Translation
    from model.translator import Translator

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
class Measurement:
    """One concurrency of a benchmark; latencies are from submission to result."""

    concurrency: int
    """Callers that wait for an answer at any time."""
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
    latency_p50_ms: float
    """Median latency in milliseconds."""
    latency_p95_ms: float
    """Latency in milliseconds that 95% of the texts did not exceed."""


def sweep(
    translator: Translator,
    texts: Sequence[str],
    source: str,
    target: str,
    config: GenerationConfig,
    concurrencies: Sequence[int],
    after_each: Callable[[Measurement], None] | None = None,
) -> list[Measurement]:
    """Translate all ``texts`` once at each concurrency, after an unmeasured warm-up.

    Args:
        after_each: called with each measurement as soon as it is there.

    Raises:
        ConfigurationError: there is no text, or a concurrency is below 1.
    """
    if not texts:
        raise ConfigurationError("texts", "must not be empty", list(texts))
    for concurrency in concurrencies:
        if concurrency < 1:
            raise ConfigurationError("concurrency", "must be at least 1", concurrency)

    def submit(text: str) -> PendingTranslation[Any]:
        return translator.submit(text, source, target, config)

    measurements = []
    for concurrency in concurrencies:
        measure(submit, texts[: 2 * concurrency], concurrency)
        measurements.append(measure(submit, texts, concurrency))
        if after_each is not None:
            after_each(measurements[-1])
    return measurements


def measure(submit: Callable[[str], PendingTranslation[Any]], texts: Sequence[str], concurrency: int) -> Measurement:
    """Keep ``concurrency`` translations going until all ``texts`` are done.

    Raises:
        Exception: what a translation raised.
    """
    finished: queue.SimpleQueue[tuple[float, PendingTranslation[Any]]] = queue.SimpleQueue()
    latencies: list[float] = []
    results: list[Translation] = []

    def start(text: str) -> None:
        started = time.perf_counter()
        pending = submit(text)
        # The callback runs in the engine's thread, so a slow reader of the queue does not lengthen the latency.
        pending.future.add_done_callback(lambda _: finished.put((time.perf_counter() - started, pending)))

    begin = time.perf_counter()
    waiting = iter(texts)
    for text in itertools.islice(waiting, concurrency):
        start(text)
    while len(results) < len(texts):
        latency, pending = finished.get()
        latencies.append(latency)
        results.append(pending.future.result())
        following = next(waiting, None)
        if following is not None:
            start(following)
    seconds = time.perf_counter() - begin

    tokens = sum(result.target_tokens for result in results)
    return Measurement(
        concurrency=concurrency,
        texts=len(texts),
        source_tokens=sum(result.source_tokens for result in results),
        target_tokens=tokens,
        seconds=seconds,
        tokens_per_second=tokens / seconds,
        texts_per_second=len(texts) / seconds,
        latency_p50_ms=1000 * percentile(latencies, 50),
        latency_p95_ms=1000 * percentile(latencies, 95),
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest of ``values`` that at least ``percent`` per cent of them do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
