"""Which examples make a batch: both directions of each pair, weighted, grouped by length under a token budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from model.config import ModelConfig
from model.errors import ConfigurationError
from model.text.tokenizer import Tokenizer
from model.training.augmentation import Augmentation
from model.training.corpus import Corpus, IntArray
from model.training.flops import Flops, batch_flops
from model.training.lexicon import ranges
from model.training.shapes import Shapes, choose_shapes

if TYPE_CHECKING:  # a process that only makes arrays does without torch
    import torch
    from torch import Tensor

Ids = Sequence[int] | IntArray
LongArray = npt.NDArray[np.int64]
BACK_TRANSLATED = "<bt>"
"""Control token behind the target language's in a source that a model wrote (Caswell et al. 2019)."""


@dataclass(frozen=True)
class Batch:
    """Padded tensors of one micro-batch.

    Attributes:
        source_ids: (B, S) target-language token, source tokens, end token.
        source_mask: (B, S) True for tokens; None where nothing is padded.
        target_input_ids: (B, T) start token and target tokens.
        targets: (B, T) target tokens and end token.
        positions: (N,) places of the targets that are not padding, counted row by row; known here, so that a device
            need not tell how many they are.
        num_target_tokens: N.
        num_padding: how many of the B * S and B * T ids are padding.
        flops: of a forward and backward pass.
    """

    source_ids: Tensor
    source_mask: Tensor | None
    target_input_ids: Tensor
    targets: Tensor
    positions: Tensor
    num_target_tokens: int
    num_padding: int = 0
    flops: Flops = field(default_factory=Flops)

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """All tensors, in the order of the fields."""
        return self.source_ids, self.source_mask, self.target_input_ids, self.targets, self.positions

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with every tensor changed."""
        source_ids, mask, inputs, targets, positions = (None if t is None else change(t) for t in self.tensors)
        assert source_ids is not None
        assert inputs is not None
        assert targets is not None
        assert positions is not None
        counts = self.num_target_tokens, self.num_padding, self.flops
        return Batch(source_ids, mask, inputs, targets, positions, *counts)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on ``device``."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))


class BatchArrays(NamedTuple):
    """A batch before it is tensors; see :class:`Batch`. ``source_mask`` is None where nothing is padded."""

    source_ids: LongArray
    source_mask: npt.NDArray[np.bool_] | None
    target_input_ids: LongArray
    targets: LongArray
    positions: LongArray
    num_padding: int
    flops: Flops

    def batch(self) -> Batch:
        """Return the batch on the CPU; it shares the arrays' memory."""
        import torch

        return Batch(
            torch.from_numpy(self.source_ids),
            None if self.source_mask is None else torch.from_numpy(self.source_mask),
            torch.from_numpy(self.target_input_ids),
            torch.from_numpy(self.targets),
            torch.from_numpy(self.positions),
            len(self.positions),
            self.num_padding,
            self.flops,
        )


class _Sides(NamedTuple):
    """The sides of some examples, without special tokens.

    Attributes:
        pairs, directions: of each example.
        source_lengths, target_lengths: in tokens.
        changed: source and target of the examples that are not as the corpus has them, by their place.
    """

    pairs: LongArray
    directions: LongArray
    source_lengths: LongArray
    target_lengths: LongArray
    changed: dict[int, tuple[Ids, Ids]]


class Batches:
    """The batches of every epoch, each epoch's order fixed by seed and epoch number.

    Example ``2 * pair`` translates from the first language to the second, ``2 * pair + 1`` back; where a model wrote
    one side of the pair, only the one that translates from that side occurs. With augmentation, the numbers are the
    draws of :class:`Augmentation`.

    Args:
        corpus: the tokenised pairs.
        tokenizer: made their tokens.
        model: the network.
        languages: of the corpus' two sides.
        batch_tokens: budget of either padded side of a batch.
        seed: of the run.
        augmentation: changes examples on the way.
        num_shapes: most padded shapes of all batches; 0 pads each batch to its own longest sides.

    Raises:
        ConfigurationError: a model wrote some pairs, and the vocabulary has no token for that.
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
        num_shapes: int = 0,
    ) -> None:
        self.corpus = corpus
        self.model = model
        self.batch_tokens = batch_tokens
        self.seed = seed
        self.augmentation = augmentation
        self.language_ids = tuple(tokenizer.language_id(code) for code in languages)
        self._lengths = (corpus.lengths(0), corpus.lengths(1))
        self._synthetic = np.array(corpus.synthetic_sides or (-1,) * len(corpus.weights), dtype=np.int64)
        self._bt_id = _control_id(tokenizer, BACK_TRANSLATED) if (self._synthetic >= 0).any() else -1
        self.shapes: Shapes | None = None
        if num_shapes:
            self.shapes = self._choose_shapes(num_shapes)

    def epoch(self, epoch: int) -> list[npt.NDArray[np.int64]]:
        """Return the batches of one epoch, each an array of example numbers."""
        rng = np.random.default_rng([self.seed, epoch])
        examples = self._draw(rng)
        rng.shuffle(examples)
        source_lengths, target_lengths = self.example_lengths(examples, epoch)
        if self.shapes is not None:
            numbers = self.shapes.of(source_lengths, target_lengths)
            batches = [
                own[start : start + rows]
                for number in range(len(self.shapes.lengths))
                for own, rows in [(examples[numbers == number], self.shapes.num_rows(number))]
                for start in range(0, len(own), rows)
            ]
        else:
            order = np.lexsort((source_lengths, target_lengths))
            batches = self._cut(examples[order], target_lengths[order], source_lengths[order])
        return [batches[index] for index in rng.permutation(len(batches))]

    def example_lengths(
        self, examples: npt.NDArray[np.int64], epoch: int = 0
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return source and target lengths, special tokens included; with augmentation, bounds of an epoch's."""
        directions = examples % 2
        marked = self._is_marked(examples)
        if self.augmentation is not None:
            plan = self.augmentation.plan(examples, epoch)
            return plan.source_lengths + 2 + marked, plan.target_lengths + 1
        pairs = examples // 2
        first, second = self._lengths[0][pairs], self._lengths[1][pairs]
        sources = np.where(directions == 0, first, second)
        return sources + 2 + marked, np.where(directions == 0, second, first) + 1

    def collate(self, examples: Sequence[int] | LongArray, epoch: int = 0) -> Batch:
        """Return the padded tensors of the given examples of an epoch."""
        return self.arrays(examples, epoch).batch()

    def arrays(self, examples: Sequence[int] | LongArray, epoch: int = 0) -> BatchArrays:
        """Return the padded arrays of the given examples of an epoch.

        With fixed shapes, rows without a target fill the batch up; their sources are an end token.
        """
        numbers = np.asarray(examples, dtype=np.int64)
        sides = self._sides(numbers, epoch)
        marked = self._is_marked(numbers)
        lengths = sides.source_lengths + 2 + marked, sides.target_lengths + 1
        shape = len(numbers), int(lengths[0].max()), int(lengths[1].max())
        if self.shapes is not None:
            longest = self.example_lengths(numbers, epoch)
            number = int(self.shapes.of(*(np.array([bounds.max()]) for bounds in longest))[0])
            shape = self.shapes.padded(number)
        pad, eos = self.model.pad_id, self.model.eos_id
        source_ids, labels = (np.full((shape[0], width), pad, dtype=np.int64) for width in shape[1:])
        rows = np.arange(len(numbers))
        source_ids[rows, 0] = np.array(self.language_ids)[1 - sides.directions]
        source_ids[rows[marked], 1] = self._bt_id
        self._fill(source_ids, sides, 0, 1 + marked)
        self._fill(labels, sides, 1, np.zeros(len(rows), dtype=np.int64))
        source_ids[rows, lengths[0] - 1] = labels[rows, lengths[1] - 1] = eos
        source_ids[len(rows) :, 0] = eos  # every query of attention needs a key
        inputs = np.full_like(labels, pad)
        inputs[:, 0] = self.model.decoder_start_id
        inputs[:, 1:] = np.where(labels[:, 1:] != pad, labels[:, :-1], pad)
        mask = source_ids != pad
        return BatchArrays(
            source_ids,
            None if self.shapes is None and mask.all() else mask,
            inputs,
            labels,
            np.flatnonzero(labels != pad),
            int(source_ids.size + labels.size - lengths[0].sum() - lengths[1].sum()),
            batch_flops(self.model, shape, *lengths),
        )

    def _draw(self, rng: np.random.Generator) -> LongArray:
        """Return the examples of one epoch in the order of the corpus."""
        pairs = self._sample_pairs(rng)
        examples = np.concatenate([2 * pairs, 2 * pairs + 1])
        if self.augmentation is not None:
            times_before = np.arange(len(pairs)) - np.searchsorted(pairs, pairs)
            examples += 2 * len(self.corpus) * np.tile(times_before, 2)
        if self._bt_id < 0:
            return examples
        sides = self._synthetic_side(examples)
        kept: LongArray = examples[(sides < 0) | (sides == examples % 2)]
        return kept

    def _synthetic_side(self, examples: LongArray) -> LongArray:
        """Return which side of each example's pair a model wrote; -1 for none."""
        pairs: LongArray = examples % (2 * len(self.corpus)) // 2
        sides: LongArray = self._synthetic[self.corpus.source_of[pairs]]
        return sides

    def _is_marked(self, examples: LongArray) -> npt.NDArray[np.bool_]:
        if self._bt_id < 0:
            return np.zeros(len(examples), dtype=np.bool_)
        return self._synthetic_side(examples) >= 0

    def _choose_shapes(self, count: int) -> Shapes:
        """Choose shapes for the first epoch's lengths; they depend on seed, corpus and augmentation alone."""
        examples = self._draw(np.random.default_rng([self.seed, 0]))
        sources, targets = self.example_lengths(examples, 0)
        longest = [int(max(self._lengths[0].max(), self._lengths[1].max()))]
        if self.augmentation is not None:
            longest.append(self.augmentation.max_tokens)
        return choose_shapes(
            sources, targets, count, self.batch_tokens, (max(longest) + 2 + (self._bt_id >= 0), max(longest) + 1)
        )

    def _sides(self, examples: LongArray, epoch: int) -> _Sides:
        """Return the sides of each example, without special tokens: where they are, or changed as augmentation says."""
        directions, pairs = examples % 2, examples % (2 * len(self.corpus)) // 2
        both = [np.where(directions == side, self._lengths[0][pairs], self._lengths[1][pairs]) for side in (0, 1)]
        changed: dict[int, tuple[Ids, Ids]] = {}
        if self.augmentation is not None:
            plan = self.augmentation.plan(examples, epoch)
            for index in np.flatnonzero(plan.changed | (plan.joined >= 0).any(axis=1)).tolist():
                changed[index] = self.augmentation.example(plan, index)
                both[0][index], both[1][index] = map(len, changed[index])
        return _Sides(pairs, directions, both[0], both[1], changed)

    def _fill(self, padded: LongArray, sides: _Sides, which: int, columns: LongArray) -> None:
        """Write the tokens of the sources (``which`` 0) or targets (1) into rows, from a column of each on."""
        lengths = (sides.source_lengths, sides.target_lengths)[which]
        plain = np.ones(len(lengths), dtype=np.bool_)
        for row, changed in sides.changed.items():
            plain[row] = False
            padded[row, columns[row] : columns[row] + lengths[row]] = changed[which]
        for direction in (0, 1):
            rows = np.flatnonzero(plain & (sides.directions == direction))
            language = direction if which == 0 else 1 - direction
            starts = self.corpus.offsets[language][sides.pairs[rows]]
            ids = self.corpus.ids[language][ranges(starts, lengths[rows])]
            padded[np.repeat(rows, lengths[rows]), ranges(columns[rows], lengths[rows])] = ids

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


class PlannedStep(NamedTuple):
    """Which examples one rank's micro-batches of a step have, all of one epoch, and where the step leads."""

    epoch: int
    micro_batches: tuple[LongArray, ...]
    after: Position


def planned_steps(
    batches: Batches, position: Position, accumulation_steps: int, rank: int, world_size: int
) -> Iterator[PlannedStep]:
    """Yield what this rank does in each step, from ``position`` on, for ever.

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
            yield PlannedStep(epoch, tuple(chosen), after)
        epoch, done = epoch + 1, 0


def steps(
    batches: Batches, position: Position, accumulation_steps: int, rank: int, world_size: int
) -> Iterator[tuple[list[Batch], Position]]:
    """Yield this rank's micro-batches of each step with the position after it; see :func:`planned_steps`."""
    for epoch, micro_batches, after in planned_steps(batches, position, accumulation_steps, rank, world_size):
        yield [batches.collate(examples, epoch) for examples in micro_batches], after


def _control_id(tokenizer: Tokenizer, token: str) -> int:
    pieces = tokenizer.pieces(sorted(tokenizer.special_ids))
    if token not in pieces:
        raise ConfigurationError("tokenizer", f"must have the token {token} for back-translated text", "none")
    return sorted(tokenizer.special_ids)[pieces.index(token)]
