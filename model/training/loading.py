"""From a recipe to batches: the corpus with its caches, and worker processes that make arrays; it does no step.

Everything that a worker needs is in the run's cache folder, which it maps, so that text is tokenised once and held in
memory once. Workers import no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from model.text.tokenizer import Tokenizer
from model.training.augmentation import Augmentation
from model.training.batching import BatchArrays, Batches, LongArray, PlannedStep, Position
from model.training.corpus import Corpus, SourceReport, fingerprint, load_corpus
from model.training.word_lexicon import load_word_lexicon
from model.training.workers import mapped
from model.training_config import TrainingConfig


def load_batches(
    config: TrainingConfig, tokenizer: Tokenizer, cache: Path, num_workers: int = 0
) -> tuple[Batches, list[SourceReport]]:
    """Return a recipe's batches, and what became of its text; caches are read, or else written.

    Raises:
        CorpusError: the text cannot be used.
        ConfigurationError: text was back-translated, and the vocabulary has no token for that.
    """
    corpus, reports = load_corpus(config.data, tokenizer, cache, num_workers)
    augmentation = _augmentation(config, corpus, tokenizer, cache) if config.augmentation.shares else None
    batches = Batches(
        corpus,
        tokenizer,
        config.model,
        config.data.languages,
        config.batch_tokens,
        config.seed,
        augmentation,
        config.num_shapes,
    )
    return batches, reports


def array_steps(
    config: TrainingConfig, tokenizer: Tokenizer, cache: Path, batches: Batches, planned: Iterator[PlannedStep]
) -> Iterator[tuple[list[BatchArrays], Position]]:
    """Yield the arrays of each planned step with the position after it, made by ``config.data_workers`` processes.

    Which arrays they are does not depend on how many processes make them.
    """
    if not config.data_workers:
        for epoch, micro_batches, after in planned:
            yield [batches.arrays(examples, epoch) for examples in micro_batches], after
        return
    arguments = (config, tokenizer.serialized, cache)
    for step, arrays in mapped(_Maker, arguments, planned, config.data_workers):
        yield arrays, step.after


class _Maker:
    """Makes the arrays of planned steps in a worker, from the caches."""

    def __init__(self, config: TrainingConfig, tokenizer: bytes, cache: Path) -> None:
        self._batches, _ = load_batches(config, Tokenizer(tokenizer), cache)

    def __call__(self, step: PlannedStep) -> list[BatchArrays]:
        micro_batches: Sequence[LongArray] = step.micro_batches
        return [self._batches.arrays(examples, step.epoch) for examples in micro_batches]


def _augmentation(config: TrainingConfig, corpus: Corpus, tokenizer: Tokenizer, cache: Path) -> Augmentation:
    """Prepare the changes of the text; a changed example is never longer than network and batch allow."""
    data = config.data
    lexicon = None
    if config.augmentation.markers:
        file = cache / f"words-{fingerprint(data, tokenizer)}.npz"
        lexicon = load_word_lexicon(corpus, tokenizer, file)
    longest = min(config.model.max_source_length, config.model.max_target_length, config.batch_tokens)
    limit = longest - data.num_special_tokens
    return Augmentation(corpus, tokenizer, data.languages, config.augmentation, limit, config.seed, lexicon)
