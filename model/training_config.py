"""The settings of a training run, each checked when it is built; reading them from a recipe happens elsewhere.

A setting is a frozen dataclass field with a sentence under it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from model.config import ModelConfig, require, require_choices


@dataclass(frozen=True)
class SourceConfig:
    """One corpus file of a training run: tab-separated pairs, plain or gz, xz, zst."""

    path: str
    """File in the data directory, or in the recipe's folder with ./ before it; columns as in DataConfig.languages."""
    weight: float = 1.0
    """Share of the file's lines seen in one pass: 0.5 every second, 2.0 all of them twice."""
    back_translated: str | None = None
    """Language of the side that a model wrote (`dragoman back-translate`): only that side is ever a source, and it is
    marked by the token <bt> (Caswell et al. 2019). Without it both sides are people's, and both directions trained."""

    def __post_init__(self) -> None:
        require(self, "path", bool(self.path), "must not be empty")
        require(self, "weight", 0 < self.weight <= 100, "must be above 0 and at most 100")


@dataclass(frozen=True)
class FilterConfig:
    """Which further pairs are dropped, besides those that no training can use; without the table, none are."""

    min_letters: float = 0.0
    """Least share of letters among a side's characters that are no spaces."""
    language_confidence: float = 0.0
    """Drop pairs with a side of four words or more that is, this surely, in the other language; 0 means off."""
    numbers: bool = False
    """Drop pairs in which a number of one side is missing from the other, in digits and in words."""
    urls: bool = False
    """Drop pairs whose sides have different URLs or e-mail addresses."""
    repeats: bool = False
    """Drop pairs in which a character or some words are repeated over and over."""
    near_duplicates: bool = False
    """Drop pairs that differ from an earlier one in case, digits, spaces and punctuation only."""
    max_family: int = 0
    """Most pairs made from one template, which differ in numbers, names, quotations and paths only; 0 means all."""

    def __post_init__(self) -> None:
        for name in ("min_letters", "language_confidence"):
            require(self, name, 0 <= getattr(self, name) <= 1, "must be between 0 and 1")
        require(self, "max_family", self.max_family >= 0, "must not be negative")


@dataclass(frozen=True)
class DataConfig:
    """Which text is read for training, and which lines of it are kept."""

    directory: str
    """Folder of the corpus files; relative paths start at the recipe's folder."""
    sources: tuple[SourceConfig, ...]
    """The corpus files with their weights."""
    languages: tuple[str, str] = ("fr", "en")
    """Languages of the two columns; both directions are trained."""
    max_tokens: int = 128
    """Pairs with a longer side, in tokens, are dropped."""
    max_ratio: float = 2.5
    """Pairs whose longer side has more than this times the other's characters, plus 20, are dropped."""
    filters: FilterConfig | None = None
    """Further rules; without them only what no training can use is dropped."""

    def __post_init__(self) -> None:
        require(self, "sources", len(self.sources) > 0, "must name at least one file")
        require(self, "languages", len(set(self.languages)) == 2, "must be two different codes")
        require(self, "max_tokens", self.max_tokens >= 4, "must be at least 4")
        require(self, "max_ratio", self.max_ratio > 1, "must be above 1")
        for source in self.sources:
            rule = f"must be one of {', '.join(self.languages)}"
            require(source, "back_translated", source.back_translated in (None, *self.languages), rule)

    @property
    def synthetic_sides(self) -> tuple[int, ...]:
        """For each corpus file, which of its two sides a model wrote; -1 for none."""
        return tuple(
            -1 if source.back_translated is None else self.languages.index(source.back_translated)
            for source in self.sources
        )

    @property
    def num_special_tokens(self) -> int:
        """The most special tokens around a source's own: the target language, the end, and <bt> where it is used."""
        return 2 + any(side >= 0 for side in self.synthetic_sides)


@dataclass(frozen=True)
class AugmentationConfig:
    """How often a training example is changed, so that real use works; evaluation never changes anything.

    Each share is the probability that an example gets this change in an epoch. Changes are drawn apart from each other,
    so that one example can have several; only the three of letter case exclude each other.
    """

    upper_case: float = 0.0
    """Both sides in capital letters; a French source sometimes without accents, as many write capitals."""
    title_case: float = 0.0
    """The source with a capital letter on every word, or every long word in English; the target as titles are written
    in its language."""
    lower_case: float = 0.0
    """The source without capital letters, or without the first one; the target begins as the source does."""
    no_final_punctuation: float = 0.0
    """Both sides without the punctuation at their ends."""
    typos: float = 0.0
    """The source with letters swapped, dropped, doubled, or mistyped, or without accents; the target as it is."""
    joined: float = 0.0
    """Two to four examples of one source, one after the other."""
    placeholders: float = 0.0
    """Names, numbers or other words as placeholder tokens on both sides, or such tokens added to both."""
    terms: float = 0.0
    """Source words annotated with the target words that are their translations (Dinu et al. 2019)."""

    def __post_init__(self) -> None:
        for each in fields(self):
            require(self, each.name, 0 <= getattr(self, each.name) <= 1, "must be between 0 and 1")
        cases = self.upper_case + self.title_case + self.lower_case
        require(self, "upper_case", cases < 1 + 1e-9, "must be at most 1 with title_case and lower_case added")

    @property
    def shares(self) -> dict[str, float]:
        """The changes that are made at all, with their shares."""
        return {each.name: getattr(self, each.name) for each in fields(self) if getattr(self, each.name) > 0}

    @property
    def markers(self) -> tuple[str, ...]:
        """Which special tokens in its source a model learns the meaning of: ``placeholders``, ``terms``."""
        return tuple(name for name in ("placeholders", "terms") if getattr(self, name) > 0)


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser and its schedule."""

    name: Literal["adamw", "muon"] = "adamw"
    """AdamW for all weights, or Muon for the matrices inside the layers and AdamW for the rest."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW."""
    muon_learning_rate: float = 0.02
    """Peak learning rate of Muon."""
    beta1: float = 0.9
    """AdamW's decay of the first moment."""
    beta2: float = 0.98
    """AdamW's decay of the second moment."""
    weight_decay: float = 0.0
    """Decoupled weight decay of the matrices."""
    schedule: Literal["cosine", "inverse_sqrt", "linear"] = "cosine"
    """Shape of the decay after the warm-up."""
    warmup_steps: int = 1000
    """Steps over which the learning rate rises from zero."""
    total_steps: int = 100_000
    """Steps of the run."""
    final_fraction: float = 0.05
    """Learning rate at the end of cosine and linear schedules, as a fraction of the peak."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this global norm."""

    def __post_init__(self) -> None:
        require_choices(self)
        for name in ("learning_rate", "muon_learning_rate", "clip_norm"):
            require(self, name, getattr(self, name) > 0, "must be positive")
        for name in ("beta1", "beta2", "weight_decay", "final_fraction"):
            require(self, name, 0 <= getattr(self, name) < 1, "must be at least 0 and below 1")
        require(self, "total_steps", self.total_steps >= 1, "must be at least 1")
        require(self, "warmup_steps", 0 <= self.warmup_steps <= self.total_steps, "must be between 0 and total_steps")


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured while training."""

    directory: str
    """Folder of the dev sets; relative paths start at the recipe's folder."""
    sets: tuple[str, ...]
    """Names of dev sets: files NAME.LANGUAGE, aligned by line."""
    every_steps: int = 1000
    """Steps between two evaluations; a checkpoint is written after each."""
    max_sentences: int = 200
    """Only the first sentences of each set are translated while training."""
    samples: tuple[str, ...] = ()
    """Sentences of the first language whose translation is logged at each evaluation."""

    def __post_init__(self) -> None:
        for name in ("every_steps", "max_sentences"):
            require(self, name, getattr(self, name) >= 1, "must be at least 1")


@dataclass(frozen=True)
class TrainingConfig:
    """One training run; the whole of it is saved with the run.

    Raises:
        ConfigurationError: a field is out of its range, or two fields do not fit together.
    """

    run_directory: str
    """Folder of the run's checkpoints and logs; relative paths start at the recipe's folder."""
    tokenizer: str
    """A sentencepiece model made by `dragoman tokenizer`; relative paths start at the recipe's folder."""
    model: ModelConfig
    """The network; its vocab_size must be the tokenizer's."""
    data: DataConfig
    """The training text."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """Changes of the training text that are drawn anew in each epoch."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The optimiser."""
    evaluation: EvaluationConfig | None = None
    """Dev sets; without them only the loss is reported."""
    initial_checkpoint: str | None = None
    """A checkpoint to start from instead of random weights, or a run's folder: then its newest one."""
    seed: int = 1
    """Seed of the initial weights, the order of the data and the dropout."""
    batch_tokens: int = 4096
    """Target tokens, padding included, of one micro-batch on one device."""
    accumulation_steps: int = 1
    """Micro-batches whose gradients make one step."""
    num_shapes: int = 0
    """Most padded shapes of all batches, so that nothing is compiled anew; 0 pads each batch to its longest sides."""
    data_workers: int = 0
    """Processes that tokenise and make batches beside the one that trains; 0 means that it does so itself."""
    label_smoothing: float = 0.1
    """Probability mass spread over the vocabulary (Szegedy et al. 2016, section 7)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Number format of the matrix products; bfloat16 runs under autocast with float32 weights."""
    compile: bool = False
    """Compile the network with torch.compile."""
    ema_decay: float = 0.999
    """Decay of the exponential moving average of the weights that is evaluated and exported; 0 means none."""
    log_every_steps: int = 50
    """Steps between two lines of the metrics log."""
    checkpoint_every_steps: int = 1000
    """Steps between two checkpoints."""
    keep_checkpoints: int = 3
    """The newest checkpoints that stay on disk."""

    def __post_init__(self) -> None:
        require_choices(self)
        for name in (
            "batch_tokens",
            "accumulation_steps",
            "log_every_steps",
            "checkpoint_every_steps",
            "keep_checkpoints",
        ):
            require(self, name, getattr(self, name) >= 1, "must be at least 1")
        for name in ("seed", "num_shapes", "data_workers"):
            require(self, name, getattr(self, name) >= 0, "must not be negative")
        for name in ("label_smoothing", "ema_decay"):
            require(self, name, 0 <= getattr(self, name) < 1, "must be at least 0 and below 1")
        longest = min(self.model.max_source_length, self.model.max_target_length) - self.data.num_special_tokens
        require(self.data, "max_tokens", self.data.max_tokens <= longest, f"must be at most {longest}")
