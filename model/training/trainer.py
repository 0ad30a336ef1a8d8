"""The training loop: steps, metrics, evaluation, checkpoints, exact resume; what a step computes is in its parts."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from model.checkpoints.checkpoint import Checkpoint, load_checkpoint, load_weights
from model.errors import ConfigurationError, TrainingDivergedError
from model.text.tokenizer import Tokenizer
from model.training.batching import Batch, Batches, Position, planned_steps
from model.training.corpus import file_hash
from model.training.distributed import Ranks, join_ranks
from model.training.flops import Flops
from model.training.loading import array_steps, load_batches
from model.training.loss import Pointwise, linear_cross_entropy, loss_and_gradient
from model.training.optimizer import Optimizer, WeightAverage
from model.training.prefetch import on_device
from model.training.run_directory import RunDirectory, TrainingState, require_same_network
from model.training.run_log import RunLog, StepMetrics
from model.training_config import SourceConfig, TrainingConfig
from model.transformer import Transformer

Evaluate = Callable[[Checkpoint, TrainingConfig], tuple[dict[str, float], list[tuple[str, str]]]]
"""Scores, and samples as pairs of source and translation, of a checkpoint while training."""

_FREE_IN_FINE_TUNING = ("dropout", "attention_dropout", "max_source_length", "max_target_length")
"""Fields of ModelConfig that may differ from the initial checkpoint's: its weights mean the same."""


class TrainingNetwork(nn.Module):
    """The network with its loss, so that one forward call is all that a data-parallel wrapper sees."""

    def __init__(self, network: Transformer, smoothing: float, *, compiled: bool, num_shapes: int = 0) -> None:
        """Wrap a network.

        Args:
            network: to be trained.
            smoothing: probability mass spread over the vocabulary.
            compiled: compile it with torch.compile.
            num_shapes: how many shapes there are, each compiled by itself; 0 compiles once for all there may be.
        """
        super().__init__()
        self.network = network
        self.smoothing = smoothing
        self.pointwise: Pointwise | None = None
        if compiled:
            _compile_layers(network, num_shapes)
        if compiled and network.projection.is_cuda:
            self.pointwise = torch.compile(loss_and_gradient, dynamic=True)

    def forward(
        self,
        source_ids: Tensor,
        source_mask: Tensor | None,
        target_input_ids: Tensor,
        targets: Tensor,
        positions: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the summed label-smoothed loss and the summed negative log-likelihood of (B, T) targets.

        ``positions`` (N,) says which of them are no padding, counted row by row. Without it the device has to tell,
        and everybody waits.
        """
        config = self.network.config
        states = self.network.hidden(source_ids, target_input_ids, source_mask)  # (B, T, D)
        if positions is None:
            positions = (targets.flatten() != config.pad_id).nonzero().squeeze(1)
        kept = states.flatten(0, 1).index_select(0, positions) * config.output_scale  # (N, D)
        wanted = targets.flatten().index_select(0, positions)
        return linear_cross_entropy(
            kept, self.network.projection, wanted, self.smoothing, self.network.output_bias, self.pointwise
        )


def _compile_layers(network: Transformer, num_shapes: int) -> None:
    """Compile each layer for itself: equal layers share their code, so that there are two compilations, or two a shape.

    The whole network at once would take many times longer to compile, and what could be fused between layers is little.
    """
    import torch._dynamo

    # Beyond this many versions of one function torch would go on without compiling, and say so in a log only.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 2 * num_shapes + 16)
    for layer in (*network.encoder.layers, *network.decoder.layers):
        layer.compile(dynamic=not num_shapes)


class Trainer:
    """One run, from its first step or from its newest checkpoint to its last step.

    Args:
        config: the recipe.
        evaluate: measures a checkpoint on the recipe's dev sets; None leaves evaluation out.
        show_progress: draw a progress bar on standard error.

    Raises:
        ConfigurationError: the tokeniser, the initial checkpoint or an earlier part of the run does not fit the recipe.
        CheckpointError: a checkpoint is damaged.
    """

    def __init__(self, config: TrainingConfig, evaluate: Evaluate | None = None, *, show_progress: bool = True) -> None:
        self.config = config
        self.ranks: Ranks = join_ranks()
        self.run = RunDirectory(Path(config.run_directory), config.keep_checkpoints)
        self._cache = self.run.path / "cache"
        self.tokenizer = Tokenizer.load(Path(config.tokenizer))
        if self.tokenizer.vocab_size != config.model.vocab_size:
            rule = f"must be the tokeniser's ({self.tokenizer.vocab_size})"
            raise ConfigurationError("model.vocab_size", rule, config.model.vocab_size)
        self.run.check(config, self.tokenizer)
        torch.manual_seed(config.seed % 2**63)
        self.network = Transformer(config.model).to(self.ranks.device)
        self.optimizer = Optimizer(self.network, config.optimizer)
        self.average: WeightAverage | None = None
        self.position = Position()
        self._initial_markers: tuple[str, ...] = ()
        self._hashes: dict[str, dict[str, str]] = {}
        self._load_weights()
        self.log = RunLog(
            self.run.path,
            config,
            sum(p.numel() for p in self.network.parameters()),
            self.optimizer.steps_done,
            active=self.ranks.is_main,
            show_progress=show_progress,
            device=self.ranks.device,
        )
        self._evaluate = evaluate if config.evaluation is not None else None
        self._stop = False

    def train(self) -> None:
        """Run to the last step; SIGINT and SIGTERM end it after the current step, with a checkpoint.

        Raises:
            CorpusError: the text cannot be used.
            TrainingDivergedError: the weights are no longer finite; the newest checkpoint is one from before.
        """
        config, ranks = self.config, self.ranks
        with contextlib.closing(ranks):
            if ranks.is_main:
                self.run.save_config(config)
            batches = self._load_batches()
            network = TrainingNetwork(
                self.network, config.label_smoothing, compiled=config.compile, num_shapes=config.num_shapes
            )
            module = ranks.wrap(network)
            with self._signals(), self.log, contextlib.closing(self._steps(batches)) as data:
                for micro_batches, position in data:
                    metrics = self.train_step(module, micro_batches)
                    self.position = position
                    self.log.step(self.optimizer.steps_done, metrics)
                    stop = ranks.any(self._stop)  # a signal reaches the ranks at different steps
                    self._after_step(stop=stop)
                    if stop:
                        break

    def train_step(self, module: nn.Module, micro_batches: list[Batch]) -> StepMetrics:
        """Do one optimiser step; the loss is a mean over the target tokens of all micro-batches and ranks.

        Nothing in it asks the device for a number, so that the device is never waited for.
        """
        self._seed_dropout()
        learning_rate = self.optimizer.learning_rate
        local_tokens = sum(batch.num_target_tokens for batch in micro_batches)
        tokens = self.ranks.sum(torch.full((), float(local_tokens), device=self.ranks.device))
        totals = torch.zeros(2, device=self.ranks.device)
        for batch in micro_batches[:-1]:
            with self.ranks.no_sync(module):
                totals += self._backward(module, batch, tokens)
        totals += self._backward(module, micro_batches[-1], tokens)
        norm = self.optimizer.step()
        if self.average is not None:
            self.average.update(self.network)
        return StepMetrics(
            self.ranks.sum(totals),
            tokens,
            norm,
            learning_rate,
            num_ids=sum(batch.source_ids.numel() + batch.targets.numel() for batch in micro_batches),
            num_padding=sum(batch.num_padding for batch in micro_batches),
            flops=sum((batch.flops for batch in micro_batches), Flops()),
        )

    def checkpoint(self) -> Checkpoint:
        """Return the averaged weights (or the current ones) as a checkpoint.

        Its metadata says which files, by their hashes, the run reads, how their text is changed, and of which special
        tokens in a source the weights know the meaning: those of this run and those of the weights that it began with.
        """
        weights = self.average.weights if self.average is not None else dict(self.network.named_parameters())
        data = [_described(source) | self._hashes.get(source.path, {}) for source in self.config.data.sources]
        metadata: dict[str, Any] = {"steps": self.optimizer.steps_done, "data": data}
        augmentation = self.config.augmentation
        if augmentation.shares:
            metadata["augmentation"] = augmentation.shares
        if markers := sorted({*augmentation.markers, *self._initial_markers}):
            metadata["markers"] = markers
        return Checkpoint(self.config.model, weights, self.tokenizer, metadata)

    def _seed_dropout(self) -> None:
        """Let dropout depend on seed, step and rank alone, so that a resumed run needs no generator state."""
        step = self.config.seed * 1_000_003 + self.optimizer.steps_done
        torch.manual_seed((step * 4096 + self.ranks.rank) % 2**63)

    def _backward(self, module: nn.Module, batch: Batch, tokens: Tensor) -> Tensor:
        """Add one micro-batch's gradients; return its summed loss and negative log-likelihood."""
        bfloat16 = self.config.precision == "bfloat16"
        with torch.autocast(self.ranks.device.type, dtype=torch.bfloat16, enabled=bfloat16):
            loss, likelihood = module(*batch.tensors)
        # The data-parallel wrapper averages over ranks; a sum over all tokens is wanted.
        (loss * (self.ranks.world_size / tokens)).backward()
        return torch.stack([loss.detach(), likelihood.detach()])

    def _load_weights(self) -> None:
        """Start from the newest checkpoint of the run, else from the recipe's initial one, else from random weights."""
        state = self.run.newest()
        if state is not None:
            load_weights(self.network, state.weights)
            self.optimizer.load_state_dict(state.optimizer)
            self.position = Position(state.epoch, state.step_of_epoch)
            self._initial_markers = state.markers
        elif self.config.initial_checkpoint is not None:
            self._load_initial(Path(self.config.initial_checkpoint))
        if self.config.ema_decay:
            self.average = WeightAverage(self.network, self.config.ema_decay)
            if state is not None and state.average is not None:
                self.average.load(state.average, state.average_updates)

    def _load_initial(self, path: Path) -> None:
        initial = load_checkpoint(RunDirectory(path, keep=1).newest_path() or path)
        rule = f"as in initial_checkpoint {path}"
        require_same_network(self.config.model, initial.config, rule, free=_FREE_IN_FINE_TUNING)
        if initial.tokenizer.serialized != self.tokenizer.serialized:
            raise ConfigurationError("tokenizer", f"must be the same {rule}", self.config.tokenizer)
        load_weights(self.network, initial.weights)
        self._initial_markers = tuple(map(str, initial.metadata.get("markers", ())))

    def _load_batches(self) -> Batches:
        """Read the corpus; the main rank writes the cache before the others read it."""
        config = self.config
        if not self.ranks.is_main:
            self.ranks.barrier()
        batches, reports = load_batches(config, self.tokenizer, self._cache, config.data_workers)
        directory = Path(config.data.directory)
        self._hashes = {s.path: {"blake2b": file_hash(directory / s.path)} for s in config.data.sources}
        if self.ranks.is_main:
            self.ranks.barrier()
        self.log.corpus(reports, len(batches.corpus))
        return batches

    def _steps(self, batches: Batches) -> Generator[tuple[list[Batch], Position], None, None]:
        """Yield the remaining steps' batches on the device, with the position after each."""
        config, ranks = self.config, self.ranks
        remaining = max(0, config.optimizer.total_steps - self.optimizer.steps_done)
        planned = planned_steps(batches, self.position, config.accumulation_steps, ranks.rank, ranks.world_size)
        own = itertools.islice(planned, remaining)
        arrays = array_steps(config, self.tokenizer, self._cache, batches, own)
        return on_device(arrays, ranks.device)

    def _after_step(self, *, stop: bool) -> None:
        """Write a checkpoint and measure it, where the recipe asks for it; a run's end always leaves a checkpoint."""
        done, evaluation = self.optimizer.steps_done, self.config.evaluation
        measure = evaluation is not None and self._evaluate is not None and done % evaluation.every_steps == 0
        last = stop or done == self.config.optimizer.total_steps
        with self.log.pause():
            if last or measure or done % self.config.checkpoint_every_steps == 0:
                self._save()
            if measure and self.ranks.is_main:
                assert self._evaluate is not None
                self.log.evaluation(done, *self._evaluate(self.checkpoint(), self.config))
            if measure:
                self.ranks.barrier()

    def _save(self) -> None:
        if not all(bool(parameter.isfinite().all()) for parameter in self.network.parameters()):
            raise TrainingDivergedError(
                f"the weights are not finite at step {self.optimizer.steps_done}; lower optimizer.learning_rate "
                f"({self.config.optimizer.learning_rate}) and resume from the newest checkpoint"
            )
        if self.ranks.is_main:
            average = self.average
            state = TrainingState(
                weights=dict(self.network.named_parameters()),
                optimizer=self.optimizer.state_dict(),
                epoch=self.position.epoch,
                step_of_epoch=self.position.step_of_epoch,
                average=None if average is None else average.weights,
                average_updates=0 if average is None else average.num_updates,
                markers=self._initial_markers,
            )
            self.run.save(self.optimizer.steps_done, self.checkpoint(), state)
        self.ranks.barrier()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Let SIGINT and SIGTERM end the run after the current step."""

        def stop(_number: int, _frame: FrameType | None) -> None:
            self._stop = True

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _described(source: SourceConfig) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(source).items() if value is not None}


def train(config: TrainingConfig, *, show_progress: bool = True) -> Path:
    """Start or resume the run of a recipe; return the folder of its newest checkpoint.

    Raises:
        ConfigurationError, CorpusError, CheckpointError, TrainingDivergedError: see :class:`Trainer`.
    """
    from model.evaluation.evaluate import evaluate_checkpoint

    trainer = Trainer(config, evaluate_checkpoint, show_progress=show_progress)
    trainer.train()
    newest = trainer.run.newest_path()
    assert newest is not None
    return newest
