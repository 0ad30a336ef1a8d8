"""The training loop: steps, metrics, evaluation, checkpoints, and exact resume; what a step computes is in its parts."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn

from model.checkpoints.checkpoint import Checkpoint, load_checkpoint, load_weights
from model.config import TrainingConfig
from model.errors import ConfigurationError
from model.text.tokenizer import Tokenizer
from model.training.batching import Batch, Batches, Position, steps
from model.training.corpus import load_corpus
from model.training.distributed import Ranks, join_ranks
from model.training.loss import linear_cross_entropy
from model.training.optimizer import Optimizer, WeightAverage
from model.training.run_directory import RunDirectory, TrainingState
from model.training.run_log import RunLog, StepMetrics
from model.transformer import Transformer

Evaluate = Callable[[Checkpoint, TrainingConfig], tuple[dict[str, float], list[tuple[str, str]]]]
"""Scores, and samples as pairs of source and translation, of a checkpoint while training."""


class TrainingNetwork(nn.Module):
    """The network with its loss, so that one forward call is all that a data-parallel wrapper sees."""

    def __init__(self, network: Transformer, smoothing: float, *, compiled: bool) -> None:
        super().__init__()
        self.network = network
        self.smoothing = smoothing
        self.hidden = torch.compile(network.hidden, dynamic=True) if compiled else network.hidden

    def forward(
        self, source_ids: Tensor, source_mask: Tensor | None, target_input_ids: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the summed label-smoothed loss and the summed negative log-likelihood of (B, T) targets."""
        config = self.network.config
        states = self.hidden(source_ids, target_input_ids, source_mask)  # (B, T, D)
        wanted = targets != config.pad_id
        kept = states[wanted] * config.output_scale  # (N, D)
        return linear_cross_entropy(
            kept, self.network.projection, targets[wanted], self.smoothing, self.network.output_bias
        )


class Trainer:
    """One run, from its first step or from its newest checkpoint to its last step.

    Args:
        config: the recipe.
        evaluate: measures a checkpoint on the recipe's dev sets; None leaves evaluation out.
        show_progress: draw a progress bar on standard error.

    Raises:
        ConfigurationError: the tokeniser or an earlier checkpoint of the run does not fit the recipe.
        CorpusError, CheckpointError: data or weights cannot be used.
    """

    def __init__(self, config: TrainingConfig, evaluate: Evaluate | None = None, *, show_progress: bool = True) -> None:
        self.config = config
        self.ranks: Ranks = join_ranks()
        self.tokenizer = Tokenizer.load(Path(config.tokenizer))
        if self.tokenizer.vocab_size != config.model.vocab_size:
            rule = f"must be the tokeniser's ({self.tokenizer.vocab_size})"
            raise ConfigurationError("model.vocab_size", rule, config.model.vocab_size)
        self.run = RunDirectory(Path(config.run_directory), config.keep_checkpoints)
        torch.manual_seed(config.seed)
        self.network = Transformer(config.model).to(self.ranks.device)
        self.average: WeightAverage | None = None
        self.optimizer = Optimizer(self.network, config.optimizer)
        self.position = Position()
        self._evaluate = evaluate if config.evaluation is not None else None
        self._stop = False
        self._start(show_progress)

    def train(self) -> None:
        """Run to the last step; SIGINT and SIGTERM end it after the current step, with a checkpoint."""
        corpus, reports = load_corpus(self.config.data, self.tokenizer, self._cache())
        self.log.corpus(reports, len(corpus))
        batches = Batches(
            corpus,
            self.tokenizer,
            self.config.model,
            self.config.data.languages,
            self.config.batch_tokens,
            self.config.seed,
        )
        module = TrainingNetwork(self.network, self.config.label_smoothing, compiled=self.config.compile)
        wrapped = self.ranks.wrap(module.to(self.ranks.device))
        data = steps(batches, self.position, self.config.accumulation_steps, self.ranks.rank, self.ranks.world_size)
        with self._signals(), self.log:
            while self.optimizer.steps_done < self.config.optimizer.total_steps and not self._stop:
                micro_batches, after = next(data)
                metrics = self.train_step(wrapped, micro_batches)
                self.position = after
                self.log.step(self.optimizer.steps_done, metrics)
                self._after_step()
            self._save()
        self.ranks.close()

    def train_step(self, module: nn.Module, micro_batches: list[Batch]) -> StepMetrics:
        """Do one optimiser step; the loss is a mean over the target tokens of all micro-batches and ranks."""
        started = time.perf_counter()
        # Dropout depends on seed, step and rank alone, so a resumed run needs no generator state.
        torch.manual_seed((self.config.seed * 1_000_003 + self.optimizer.steps_done) * 4096 + self.ranks.rank)
        learning_rate = self.optimizer.learning_rate
        local_tokens = sum(batch.num_target_tokens for batch in micro_batches)
        tokens = self.ranks.sum(torch.tensor(float(local_tokens), device=self.ranks.device))
        totals = torch.zeros(2, device=self.ranks.device)
        for index, batch in enumerate(micro_batches):
            last = index == len(micro_batches) - 1
            sync = contextlib.nullcontext() if last or self.ranks.world_size == 1 else module.no_sync()  # type: ignore[operator]
            with sync:
                totals += self._backward(module, batch.to(self.ranks.device), tokens)
        norm = self.optimizer.step()
        if self.average is not None:
            self.average.update(self.network)
        return StepMetrics(self.ranks.sum(totals), tokens, norm, learning_rate, time.perf_counter() - started)

    def _backward(self, module: nn.Module, batch: Batch, tokens: Tensor) -> Tensor:
        """Add one micro-batch's gradients; return its summed loss and negative log-likelihood."""
        precision = self.config.precision == "bfloat16"
        with torch.autocast(self.ranks.device.type, dtype=torch.bfloat16, enabled=precision):
            loss, likelihood = module(batch.source_ids, batch.source_mask, batch.target_input_ids, batch.targets)
        # The data-parallel wrapper averages over ranks; a sum over all tokens is wanted.
        (loss * (self.ranks.world_size / tokens)).backward()
        return torch.stack([loss.detach(), likelihood.detach()])

    def checkpoint(self) -> Checkpoint:
        """Return the averaged weights (or the current ones) as a checkpoint."""
        weights = self.average.weights if self.average is not None else dict(self.network.named_parameters())
        metadata = {
            "steps": self.optimizer.steps_done,
            "data": [dataclasses.asdict(source) for source in self.config.data.sources],
        }
        return Checkpoint(self.config.model, weights, self.tokenizer, metadata)

    def _start(self, show_progress: bool) -> None:
        """Load the newest checkpoint of the run, or the recipe's initial one, and open the logs."""
        state = self.run.newest()
        if state is not None:
            self._resume(state)
        else:
            if self.config.initial_checkpoint is not None:
                load_weights(self.network, load_checkpoint(Path(self.config.initial_checkpoint)).weights)
            if self.config.ema_decay:
                self.average = WeightAverage(self.network, self.config.ema_decay)
        if self.ranks.is_main:
            self.run.save_config(self.config)
        self.log = RunLog(
            self.run.path,
            self.config,
            sum(p.numel() for p in self.network.parameters()),
            self.optimizer.steps_done,
            active=self.ranks.is_main,
            show_progress=show_progress,
        )

    def _resume(self, state: TrainingState) -> None:
        load_weights(self.network, state.weights)
        self.optimizer.load_state_dict(state.optimizer)
        self.position = Position(state.epoch, state.step_of_epoch)
        if self.config.ema_decay:
            self.average = WeightAverage(self.network, self.config.ema_decay)
            if state.average is not None:
                self.average.num_updates = state.average_updates
                for name, tensor in self.average.weights.items():
                    tensor.copy_(state.average[name])

    def _after_step(self) -> None:
        done = self.optimizer.steps_done
        evaluation = self.config.evaluation
        evaluate_now = evaluation is not None and self._evaluate is not None and done % evaluation.every_steps == 0
        if evaluate_now or done % self.config.checkpoint_every_steps == 0:
            self._save()
        if evaluate_now and self.ranks.is_main:
            assert self._evaluate is not None
            scores, samples = self._evaluate(self.checkpoint(), self.config)
            self.log.evaluation(done, scores, samples)
        if evaluate_now:
            self.ranks.barrier()

    def _save(self) -> None:
        if self.ranks.is_main:
            average = self.average
            state = TrainingState(
                weights=dict(self.network.named_parameters()),
                optimizer=self.optimizer.state_dict(),
                epoch=self.position.epoch,
                step_of_epoch=self.position.step_of_epoch,
                average=None if average is None else average.weights,
                average_updates=0 if average is None else average.num_updates,
            )
            self.run.save(self.optimizer.steps_done, self.checkpoint(), state)
        self.ranks.barrier()

    def _cache(self) -> Path:
        """Where the tokenised corpus is kept; the main rank writes it before the others read it."""
        cache = self.run.path / "cache"
        if self.ranks.world_size > 1:
            if self.ranks.is_main:
                load_corpus(self.config.data, self.tokenizer, cache)
            self.ranks.barrier()
        return cache

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


def train(config: TrainingConfig, *, show_progress: bool = True) -> Path:
    """Start or resume the run of a recipe; return the folder of its newest checkpoint.

    Raises:
        ConfigurationError, CorpusError, CheckpointError: see :class:`Trainer`.
    """
    from model.evaluation.evaluate import evaluate_checkpoint

    trainer = Trainer(config, evaluate_checkpoint, show_progress=show_progress)
    trainer.train()
    newest = trainer.run.newest_path()
    assert newest is not None
    return newest
