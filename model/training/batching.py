"""Which examples make a batch: both directions of each pair, weighted, grouped by length under a token budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.config import ModelConfig
from model.text.tokenizer import Tokenizer
from model.training.augmentation import Augmentation
from model.training.corpus import Corpus, IntArray

Ids = Sequence[int] | IntArray


@dataclass(frozen=True)
class Batch:
    """Padded tensors of one micro-batch.

    Attributes:
        source_ids: (B, S) target-language token, source tokens, end token.
        source_mask: (B, S) True for tokens; None where nothing is padded.
        target_input_ids: (B, T) start token and target tokens.
        targets: (B, T) target tokens and end token.
        num_target_tokens: how many of ``targets`` are not padding.
    """

    source_ids: Tensor
    source_mask: Tensor | None
    target_input_ids: Tensor
    targets: Tensor
    num_target_tokens: int

    def to(self, device: torch.device) -> Batch:
        """Return the batch on ``device``."""
        return Batch(
            self.source_ids.to(device, non_blocking=True),
            None if self.source_mask is None else self.source_mask.to(device, non_blocking=True),
            self.target_input_ids.to(device, non_blocking=True),
            self.targets.to(device, non_blocking=True),
            self.num_target_tokens,
        )


class Batches:
    """The batches of every epoch, each epoch's order fixed by seed and epoch number.

    Example ``2 * pair`` translates from the first language to the second, ``2 * pair + 1`` back. With augmentation, the
    numbers are the draws of :class:`Augmentation`.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: Tokenizer,
        model: ModelConfig,
        languages: tuple[str, str],
        batch_tokens: int,
        seed: int,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.corpus = corpus
        self.model = model
        self.batch_tokens = batch_tokens
        self.seed = seed
        self.augmentation = augmentation
        self.language_ids = tuple(tokenizer.language_id(code) for code in languages)
        self._lengths = (corpus.lengths(0), corpus.lengths(1))

    def epoch(self, epoch: int) -> list[npt.NDArray[np.int64]]:
        """Return the batches of one epoch, each an array of example numbers."""
        rng = np.random.default_rng([self.seed, epoch])
        pairs = self._sample_pairs(rng)
        examples = np.concatenate([2 * pairs, 2 * pairs + 1])
        if self.augmentation is not None:
            times_before = np.arange(len(pairs)) - np.searchsorted(pairs, pairs)
            examples += 2 * len(self.corpus) * np.tile(times_before, 2)
        rng.shuffle(examples)
        source_lengths, target_lengths = self.example_lengths(examples, epoch)
        order = np.lexsort((source_lengths, target_lengths))
        batches = self._cut(examples[order], target_lengths[order], source_lengths[order])
        return [batches[index] for index in rng.permutation(len(batches))]

    def example_lengths(
        self, examples: npt.NDArray[np.int64], epoch: int = 0
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return source and target lengths, special tokens included; with augmentation, bounds of an epoch's."""
        if self.augmentation is not None:
            plan = self.augmentation.plan(examples, epoch)
            return plan.source_lengths + 2, plan.target_lengths + 1
        pairs, directions = examples // 2, examples % 2
        first, second = self._lengths[0][pairs], self._lengths[1][pairs]
        return np.where(directions == 0, first, second) + 2, np.where(directions == 0, second, first) + 1

    def collate(self, examples: Sequence[int] | npt.NDArray[np.int64], epoch: int = 0) -> Batch:
        """Return the padded tensors of the given examples of an epoch."""
        sources, targets = [], []
        for source, target, direction in self._sides(np.asarray(examples, dtype=np.int64), epoch):
            sources.append(np.concatenate([[self.language_ids[1 - direction]], source, [self.model.eos_id]]))
            targets.append(np.concatenate([target, [self.model.eos_id]]))
        pad = self.model.pad_id
        source_ids, labels = _pad(sources, pad), _pad(targets, pad)
        inputs = np.full_like(labels, pad)
        inputs[:, 0] = self.model.decoder_start_id
        inputs[:, 1:] = np.where(labels[:, 1:] != pad, labels[:, :-1], pad)
        mask = source_ids != pad
        return Batch(
            torch.from_numpy(source_ids),
            None if mask.all() else torch.from_numpy(mask),
            torch.from_numpy(inputs),
            torch.from_numpy(labels),
            int((labels != pad).sum()),
        )

    def _sides(self, examples: npt.NDArray[np.int64], epoch: int) -> Iterator[tuple[Ids, Ids, int]]:
        """Yield source and target of each example, without special tokens, and its direction."""
        if self.augmentation is not None:
            plan = self.augmentation.plan(examples, epoch)
            for index, direction in enumerate((plan.examples % 2).tolist()):
                yield *self.augmentation.example(plan, index), direction
            return
        for example in examples.tolist():
            pair, direction = divmod(example, 2)
            yield self.corpus.side(direction, pair), self.corpus.side(1 - direction, pair), direction

    def _sample_pairs(self, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Repeat or drop pairs by their file's weight; the fraction is drawn anew in each epoch."""
        weights = np.array(self.corpus.weights)[self.corpus.source_of]
        whole = np.floor(weights).astype(np.int64)
        repeats = whole + (rng.random(len(weights)) < weights - whole)
        return np.repeat(np.arange(len(self.corpus), dtype=np.int64), repeats)

    def _cut(
        self,
        examples: npt.NDArray[np.int64],
        target_lengths: npt.NDArray[np.int64],
        source_lengths: npt.NDArray[np.int64],
    ) -> list[npt.NDArray[np.int64]]:
        """Cut sorted examples into batches whose padded source and target both stay within the budget."""
        batches = []
        start = width = 0
        for index, longer in enumerate(np.maximum(source_lengths, target_lengths).tolist()):
            width = max(width, longer)
            if index > start and width * (index - start + 1) > self.batch_tokens:
                batches.append(examples[start:index])
                start, width = index, longer
        if start < len(examples):
            batches.append(examples[start:])
        return batches


@dataclass(frozen=True)
class Position:
    """How far into the data a run is: epoch, and steps done of it."""

    epoch: int = 0
    step_of_epoch: int = 0


def steps(
    batches: Batches, position: Position, accumulation_steps: int, rank: int, world_size: int
) -> Iterator[tuple[list[Batch], Position]]:
    """Yield this rank's micro-batches of each step, from ``position`` on, for ever, with the position after the step.

    Every rank sees the same order and takes its own share of each step. Batches at the end of an epoch that do not
    fill a step for all ranks are left out of that epoch.
    """
    epoch, done = position.epoch, position.step_of_epoch
    per_step = accumulation_steps * world_size
    while True:
        order = batches.epoch(epoch)
        # An epoch without batches can come of weights below one; it is passed over.
        num_steps = max(1, len(order) // per_step) if order else 0
        for step in range(done, num_steps):
            # With fewer batches than ranks the first ones are seen again, so that no rank is ever without work.
            chosen = [order[(step * per_step + rank + world_size * i) % len(order)] for i in range(accumulation_steps)]
            after = Position(epoch, step + 1) if step + 1 < num_steps else Position(epoch + 1, 0)
            yield [batches.collate(examples, epoch) for examples in chosen], after
        epoch, done = epoch + 1, 0


def _pad(rows: Sequence[npt.NDArray[np.int64]], pad: int) -> npt.NDArray[np.int64]:
    width = max(map(len, rows))
    padded = np.full((len(rows), width), pad, dtype=np.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return padded
