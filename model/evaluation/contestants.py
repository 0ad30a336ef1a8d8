"""Who takes part in a comparison: our engine and CTranslate2, token ids to token ids; nothing is measured here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from model.checkpoints.checkpoint import Checkpoint, load_weights
from model.config import EngineConfig, GenerationConfig
from model.engine.device import count_workers, select_device
from model.engine.engine import Engine
from model.errors import ConfigurationError, CorpusError
from model.evaluation.benchmark import Workload
from model.evaluation.footprint import FootprintJob
from model.generation import GenerationInput
from model.transformer import Transformer

PEER_BUDGETS = (256, 512, 1024, 2048, 4096, 8192)
"""Batch sizes in source tokens that are tried for CTranslate2."""
TextsDone = Callable[[Sequence[str]], list[str]]
"""Translates texts, and returns when all are done."""
Decoded = tuple[list[int], bool]
"""Token ids of a translation, and whether it ended by itself."""


class Contestant(Protocol):
    """Somebody who decodes sources; the budget is a setting, because some must be built anew for another one."""

    name: str
    budgets: Sequence[int]

    def use_budget(self, budget: int) -> None:
        """Decode from now on with this batch size."""

    def prepare(self, sources: Sequence[Sequence[int]], config: GenerationConfig) -> Any:
        """Return sources in the contestant's own form; not measured."""

    def run(self, prepared: Any) -> Any:
        """Decode; measured."""

    def read(self, prepared: Any, result: Any) -> list[Decoded]:
        """Return what :meth:`run` made of the sources; not measured."""

    def close(self) -> None:
        """Stop."""


class OwnEngine:
    """Our engine, without the text around it."""

    name = "dragoman"

    def __init__(self, checkpoint: Checkpoint, config: EngineConfig, budgets: Sequence[int]) -> None:
        self.budgets = budgets or (config.max_batch_tokens,)
        self._checkpoint = checkpoint
        self._config = dataclasses.replace(config, max_queued_requests=2**31)
        self._engine: Engine | None = None

    def use_budget(self, budget: int) -> None:
        """Start an engine with this budget, unless it is running."""
        if self._engine is not None and self._engine.config.max_batch_tokens == budget:
            return
        self.close()
        self._engine = start_engine(self._checkpoint, dataclasses.replace(self._config, max_batch_tokens=budget))

    def prepare(self, sources: Sequence[Sequence[int]], config: GenerationConfig) -> list[GenerationInput]:
        """Return one input a source."""
        return [GenerationInput(source, config) for source in sources]

    def run(self, prepared: list[GenerationInput]) -> list[Any]:
        """Hand in all of them and wait for all."""
        assert self._engine is not None, "use_budget comes first"
        return [request.future.result() for request in self._engine.submit_many(prepared)]

    def read(self, prepared: list[GenerationInput], result: list[Any]) -> list[Decoded]:
        """Return the best hypotheses."""
        assert len(prepared) == len(result)
        return [(list(hypotheses[0].token_ids), hypotheses[0].finish_reason == "end") for hypotheses in result]

    def close(self) -> None:
        """End the engine, if there is one."""
        if self._engine is not None:
            self._engine.close(drain=False)
            self._engine = None


def start_engine(checkpoint: Checkpoint, config: EngineConfig) -> Engine:
    """Return an engine on a checkpoint's weights, without the bans of a translator, which CTranslate2 does not have."""
    network = Transformer(checkpoint.config)
    load_weights(network, checkpoint.weights)
    return Engine(network.eval(), config)


@dataclass(frozen=True)
class PeerInput:
    """Sources as CTranslate2 takes them, and what goes with them."""

    pieces: list[list[str]]
    limit: int
    options: dict[str, Any]


class CTranslate2:
    """CTranslate2 on exported weights; all sources in one call, or one call after another.

    Args:
        folder: what :func:`~model.checkpoints.ctranslate2_export.export_ctranslate2` wrote.
        checkpoint: where that came from.
        engine: our settings, which its device, threads and number format follow.
        sequential: one call a source, each with all the threads, as services do that translate a text at a time.
    """

    def __init__(
        self,
        folder: Path,
        checkpoint: Checkpoint,
        engine: EngineConfig,
        *,
        sequential: bool = False,
        budgets: Sequence[int] = PEER_BUDGETS,
    ) -> None:
        import ctranslate2  # type: ignore[import-untyped]

        self.name = "ctranslate2-sequential" if sequential else "ctranslate2"
        self.budgets = (0,) if sequential else budgets
        self.settings = peer_settings(engine, sequential=sequential)
        self._sequential = sequential
        self._config = checkpoint.config
        self._pieces = checkpoint.tokenizer.pieces(range(checkpoint.config.vocab_size))
        self._ids = {piece: index for index, piece in enumerate(self._pieces)}
        self._budget = self.budgets[0]
        self._translator = ctranslate2.Translator(str(folder), **self.settings)

    def use_budget(self, budget: int) -> None:
        """Split a call into batches of this many source tokens."""
        self._budget = budget

    def prepare(self, sources: Sequence[Sequence[int]], config: GenerationConfig) -> PeerInput:
        """Return sources as pieces; the limit is the longest of what ours would be."""
        limit = max(GenerationInput(source, config).token_limit(self._config) for source in sources)
        return PeerInput([[self._pieces[i] for i in source] for source in sources], limit, peer_options(config))

    def run(self, prepared: PeerInput) -> list[Any]:
        """Translate."""
        options = {"max_decoding_length": prepared.limit, **prepared.options}
        if self._sequential:
            return [self._translator.translate_batch([pieces], **options)[0] for pieces in prepared.pieces]
        batches = {"max_batch_size": self._budget, "batch_type": "tokens"}
        results: list[Any] = self._translator.translate_batch(prepared.pieces, **batches, **options)
        return results

    def read(self, prepared: PeerInput, result: list[Any]) -> list[Decoded]:
        """Return the best hypotheses; those as long as the limit were cut."""
        found = [[self._ids[piece] for piece in each.hypotheses[0]] for each in result]
        return [(token_ids, len(token_ids) < prepared.limit) for token_ids in found]

    def close(self) -> None:
        """Let go of the model."""
        self._translator.unload_model()


def peer_weights(engine: EngineConfig) -> str:
    """Return the number format in which the weights are exported for a comparison with these settings."""
    compute_type: str = peer_settings(engine)["compute_type"]
    return compute_type


def peer_settings(engine: EngineConfig, *, sequential: bool = False) -> dict[str, Any]:
    """Return the arguments of ``ctranslate2.Translator`` that match an engine's settings.

    Number formats: int8 is int8. On the CPU CTranslate2 computes 16-bit weights in float32, as we do. Threads: its
    parallel translations are our workers.
    """
    device = select_device(engine.device)
    dtype = engine.dtype
    if dtype == "auto":
        dtype = "int8" if device.type == "cpu" else "float16"
    workers = count_workers(engine, device)
    sixteen_bits = dtype in ("float16", "bfloat16")
    return {
        "device": device.type,
        "device_index": device.index or 0,
        "compute_type": "float32" if sixteen_bits and device.type == "cpu" else dtype,
        "inter_threads": 1 if sequential else workers,
        "intra_threads": workers * engine.num_threads if sequential else engine.num_threads,
    }


def peer_options(config: GenerationConfig) -> dict[str, Any]:
    """Return CTranslate2's options for a way of decoding that means the same there.

    Raises:
        ConfigurationError: an option has no exact counterpart.
    """
    plain = GenerationConfig(beam_size=config.beam_size)
    same = ("beam_size", "patience", "length_penalty", "min_new_tokens", "max_new_tokens", "max_length_ratio")
    for field in dataclasses.fields(GenerationConfig):
        value = getattr(config, field.name)
        if field.name not in same and value != getattr(plain, field.name):
            raise ConfigurationError(field.name, "must be the default in a comparison with CTranslate2", value)
    return {
        "beam_size": config.beam_size,
        "patience": config.patience,
        "length_penalty": config.length_penalty,
        "min_decoding_length": config.min_new_tokens,
        "max_input_length": 0,
    }


def translate_one_by_one(peer: CTranslate2, checkpoint: Checkpoint, target: str, config: GenerationConfig) -> TextsDone:
    """Return a function that translates texts with one call after another, text to text; their order is kept.

    It raises CorpusError for a text that the model cannot take whole.
    """
    tokenizer, limit = checkpoint.tokenizer, checkpoint.config.max_source_length

    def translate(texts: Sequence[str]) -> list[str]:
        translations = []
        for number, text in enumerate(texts, start=1):
            source = tokenizer.encode_source(text, target)
            if len(source) > limit:
                raise CorpusError(f"text {number} must have at most {limit} tokens for {peer.name}, got {len(source)}")
            prepared = peer.prepare([source], config)
            [(token_ids, _)] = peer.read(prepared, peer.run(prepared))
            translations.append(tokenizer.decode(token_ids))
        return translations

    return translate


def peer_job(
    workload: Workload,
    checkpoint: Checkpoint,
    folder: Path,
    engine: EngineConfig,
    config: GenerationConfig,
    budget: int,
) -> FootprintJob:
    """Return what a process does whose start time and memory are compared with ours.

    Texts that the model cannot take whole are left out. Without a budget, texts are translated one by one.
    """
    sources = {text: checkpoint.tokenizer.encode_source(text, workload.target) for text in workload.texts}
    texts = tuple(text for text in workload.texts if len(sources[text]) <= checkpoint.config.max_source_length)
    limit = max(GenerationInput(sources[text], config).token_limit(checkpoint.config) for text in texts)
    batches = {"max_batch_size": budget, "batch_type": "tokens"} if budget else {"max_batch_size": 1}
    return FootprintJob(
        kind="ctranslate2",
        folder=str(folder),
        texts=texts,
        source=workload.source,
        target=workload.target,
        settings=peer_settings(engine, sequential=not budget),
        options={"max_decoding_length": limit, **batches, **peer_options(config)},
        tokenizer=str(folder),
    )
