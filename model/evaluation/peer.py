"""Our engine and a peer on the same weights and sources, token ids to token ids, in turns; text is not measured.

Both get the same source tokens, the same beam, the same rules of stopping and no banned tokens, the same number of
threads, number formats that match, and each its own best batch size. A sentence whose decoding reaches its limit on
either side is left out: there, the model does not decide where the translation ends, and as CTranslate2 has one limit
for a whole call, it would go on longer than ours.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from model.checkpoints.checkpoint import Checkpoint
from model.config import GenerationConfig
from model.errors import CorpusError
from model.evaluation.benchmark import WARM_UP_TEXTS, Workload, bleu_of
from model.evaluation.contestants import Contestant
from model.evaluation.interleaved import Ratio, Seconds, in_turns, percentile_ratio, timed
from model.evaluation.latency import Latency

ROUNDS = 5
"""How often each side does everything, after its best batch size is known."""


@dataclass(frozen=True)
class Side:
    """One contestant's numbers."""

    name: str
    latency: Latency
    """Of one sentence after another."""
    sweep: tuple[tuple[int, float], ...]
    """Batch sizes that were tried, and sentences per second with each."""
    best_budget: int
    """The fastest of them, with which the rest was measured."""
    sentences_per_second: float
    """All sentences at once; median over the rounds."""
    target_tokens_per_second: float
    """End tokens included; median over the rounds."""
    target_tokens: int
    """End tokens included."""
    num_cut: int
    """Sentences that reached the limit, before those were left out."""
    bleu: float | None
    """Corpus score of its own translations, where there are references."""


@dataclass(frozen=True)
class Comparison:
    """Both contestants with one beam size; ratios are our time over theirs."""

    beam_size: int
    sentences: int
    """How many both decoded."""
    left_out: int
    """Too long for the model, or not ended by the model on one side."""
    identical: int
    """Sentences with the same tokens on both sides."""
    rounds: int
    ours: Side
    theirs: Side
    latency_p50: Ratio
    latency_p95: Ratio
    latency_total: Ratio
    """Of the time for all sentences one after another."""
    throughput: Ratio
    """Of the time for all sentences at once."""


def compare(
    ours: Contestant,
    theirs: Contestant,
    checkpoint: Checkpoint,
    workload: Workload,
    config: GenerationConfig,
    rounds: int = ROUNDS,
    after_each: Callable[[], None] = lambda: None,
) -> Comparison:
    """Decode the same sources with both, in turns.

    Args:
        ours, theirs: the contestants; they are not closed.
        checkpoint: gives tokeniser and limits.
        workload: one sentence a text; it is not split further.
        config: how to decode.
        rounds: how often everything is measured.
        after_each: called after each piece of progress.

    Raises:
        CorpusError: no sentence is left.
        ConfigurationError: an option of ``config`` has no counterpart at the peer.
    """
    match = _Match((ours, theirs), checkpoint, workload, config, rounds, after_each)
    match.leave_out()
    match.find_best_budgets()
    latencies = match.one_after_another()
    seconds, results = match.all_at_once()
    sides = [match.describe(number, latencies[number], seconds[number], results[number]) for number in (0, 1)]
    return Comparison(
        beam_size=config.beam_size,
        sentences=len(match.kept),
        left_out=len(workload.texts) - len(match.kept),
        identical=sum(mine == other for mine, other in zip(*results, strict=True)),
        rounds=rounds,
        ours=sides[0],
        theirs=sides[1],
        latency_p50=percentile_ratio(*latencies, 50),
        latency_p95=percentile_ratio(*latencies, 95),
        latency_total=Ratio.of(*([sum(each) for each in side] for side in latencies)),
        throughput=Ratio.of(*seconds),
    )


class _Match:
    """The steps of one comparison; everything in pairs, ours first."""

    def __init__(
        self,
        sides: tuple[Contestant, Contestant],
        checkpoint: Checkpoint,
        workload: Workload,
        config: GenerationConfig,
        rounds: int,
        after_each: Callable[[], None],
    ) -> None:
        self._sides = sides
        self._tokenizer = checkpoint.tokenizer
        self._workload = workload
        self._config = config
        self._rounds = rounds
        self._after_each = after_each
        encoded = [self._tokenizer.encode_source(text, workload.target) for text in workload.texts]
        limit = checkpoint.config.max_source_length
        self._sources = {index: ids for index, ids in enumerate(encoded) if len(ids) <= limit}
        self._num_cut = [0, 0]
        self._prepared: list[Any] = []
        self._sweeps: list[list[tuple[int, float]]] = [[], []]
        self._best = [0, 0]

    @property
    def kept(self) -> list[int]:
        """Which of the texts are compared."""
        return list(self._sources)

    def leave_out(self) -> None:
        """Decode everything once, which also warms up, and keep the sentences that end by themselves on both sides."""
        cut: set[int] = set()
        for number, side in enumerate(self._sides if self._sources else ()):
            side.use_budget(side.budgets[0])
            prepared = side.prepare(list(self._sources.values()), self._config)
            decoded = side.read(prepared, side.run(prepared))
            lost = {index for index, (_, ended) in zip(self._sources, decoded, strict=True) if not ended}
            self._num_cut[number] = len(lost)
            cut |= lost
            self._after_each()
        self._sources = {index: ids for index, ids in self._sources.items() if index not in cut}
        if not self._sources:
            raise CorpusError(f"{self._workload.name} must have a sentence whose end both sides let the model decide")
        self._prepared = [side.prepare(list(self._sources.values()), self._config) for side in self._sides]

    def find_best_budgets(self) -> None:
        """Try each side's batch sizes, in turns, and go on with the fastest."""
        for pair in itertools.zip_longest(*(side.budgets for side in self._sides)):
            for side, budget, prepared, sweep in zip(self._sides, pair, self._prepared, self._sweeps, strict=True):
                if budget is None:
                    continue
                side.use_budget(budget)
                side.run(side.prepare(list(self._sources.values())[:WARM_UP_TEXTS], self._config))
                seconds, _ = timed(lambda side=side, prepared=prepared: side.run(prepared))  # type: ignore[misc]
                sweep.append((budget, len(self._sources) / seconds))
                self._after_each()
        for number, side in enumerate(self._sides):
            self._best[number] = max(self._sweeps[number], key=lambda pair: pair[1])[0]
            side.use_budget(self._best[number])

    def one_after_another(self) -> Seconds:
        """Return the seconds of each sentence alone, [side][round][sentence]."""
        alone = [[side.prepare([ids], self._config) for ids in self._sources.values()] for side in self._sides]
        for side, each in zip(self._sides, alone, strict=True):
            for prepared in each[:5]:
                side.run(prepared)
        ours, theirs = self._sides
        seconds = in_turns(
            lambda index: ours.run(alone[0][index]),
            lambda index: theirs.run(alone[1][index]),
            len(self._sources),
            self._rounds,
        )
        self._after_each()
        return seconds

    def all_at_once(self) -> tuple[list[list[float]], list[list[list[int]]]]:
        """Return the seconds of all sentences together, [side][round], and the last tokens, [side][sentence]."""
        outputs: list[Any] = [None, None]

        def decode(number: int) -> None:
            outputs[number] = self._sides[number].run(self._prepared[number])

        for side in self._sides:  # after single sentences, warm again for large batches
            side.run(side.prepare(list(self._sources.values())[:WARM_UP_TEXTS], self._config))
        seconds = in_turns(lambda _: decode(0), lambda _: decode(1), 1, self._rounds)
        self._after_each()
        tokens = [
            [token_ids for token_ids, _ in side.read(prepared, output)]
            for side, prepared, output in zip(self._sides, self._prepared, outputs, strict=True)
        ]
        return [[each[0] for each in side] for side in seconds], tokens

    def describe(
        self, number: int, latencies: list[list[float]], seconds: list[float], results: list[list[int]]
    ) -> Side:
        """Return one side's numbers."""
        middle = statistics.median(seconds)
        tokens = sum(len(token_ids) + 1 for token_ids in results)
        references = [self._workload.references[index] for index in self._sources] if self._workload.references else []
        return Side(
            name=self._sides[number].name,
            latency=Latency.of([value for each in latencies for value in each]),
            sweep=tuple(self._sweeps[number]),
            best_budget=self._best[number],
            sentences_per_second=len(results) / middle,
            target_tokens_per_second=tokens / middle,
            target_tokens=tokens,
            num_cut=self._num_cut[number],
            bleu=bleu_of([self._tokenizer.decode(token_ids) for token_ids in results], references),
        )
