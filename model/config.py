"""The settings of the network, of generation and of the engine, each checked when it is built.

A setting is a frozen dataclass field with a sentence under it. Reading them from files, the environment or the command
line happens elsewhere.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from model.errors import ConfigurationError, InvalidOptionError

NormPosition = Literal["pre", "post"]
NormType = Literal["layer", "rms"]
PositionType = Literal["sinusoidal", "learned", "relative"]
SinusoidLayout = Literal["interleaved", "halves", "halves_fairseq"]
Activation = Literal["relu", "gelu", "gelu_tanh", "silu"]
WeightDtype = Literal["auto", "float32", "bfloat16", "float16", "int8"]

MAX_BEAM_SIZE = 64
"""Larger beams cost time and lose quality (Koehn and Knowles 2017, section 3.6)."""
MAX_REQUIRED_PHRASES = 32
"""Phrases that one target may be required to contain."""
MAX_NEW_TOKENS = 4096
"""An upper bound for one segment, so that a single request cannot ask for unbounded memory."""


@dataclass(frozen=True)
class ModelConfig:
    """Shape of one encoder-decoder transformer; every public family that we load is a setting of these fields.

    The defaults are the embedded model's. Field names follow *Attention Is All You Need* (Vaswani et al. 2017).

    Raises:
        ConfigurationError: a field is out of its range, or two fields do not fit together.
    """

    vocab_size: int
    """Entries of the embedding table, special tokens included."""
    d_model: int = 512
    """Width of the residual stream."""
    d_ff: int = 2048
    """Width inside the feed-forward layer."""
    num_heads: int = 8
    """Attention heads of every layer."""
    head_dim: int | None = None
    """Width of one head; None means d_model / num_heads. T5 states it on its own."""
    num_encoder_layers: int = 6
    """Layers of the encoder."""
    num_decoder_layers: int = 2
    """Layers of the decoder; few of them make decoding fast (Kasai et al. 2021)."""
    max_source_length: int = 256
    """Longest source in tokens, special tokens included, that training saw; longer segments are cut before."""
    max_target_length: int = 384
    """Longest target in tokens that a decoder may be asked for."""
    norm_position: NormPosition = "pre"
    """Normalise before each sub-layer (Xiong et al. 2020) or after it (Vaswani et al. 2017)."""
    norm_type: NormType = "layer"
    """Layer norm (Ba et al. 2016) or root-mean-square norm (Zhang and Sennrich 2019)."""
    norm_epsilon: float = 1e-5
    """Added to the variance inside the norm."""
    final_norm: bool = True
    """A last norm after the encoder's and the decoder's layers."""
    embedding_norm: bool = False
    """A norm right after the embeddings, as in BART."""
    position_type: PositionType = "sinusoidal"
    """Fixed sinusoids, a learned table, or T5's relative bias."""
    sinusoid_layout: SinusoidLayout = "interleaved"
    """Sine and cosine interleaved (the paper), sine half then cosine half (Marian), or fairseq's frequencies."""
    position_offset: int = 0
    """The position number of the first token."""
    relative_num_buckets: int = 32
    """Buckets of the relative bias (Raffel et al. 2020, section 2.1)."""
    relative_max_distance: int = 128
    """Distance from which on all relative positions share the last bucket."""
    activation: Activation = "relu"
    """Non-linearity of the feed-forward layer."""
    gated: bool = False
    """Multiply the activation with a second projection (Shazeer 2020)."""
    linear_bias: bool = True
    """Bias terms in attention and feed-forward projections."""
    attention_scale: float | None = None
    """Factor on query-key products; None means head_dim ** -0.5."""
    embedding_scale: float | None = None
    """Factor on token embeddings; None means sqrt(d_model)."""
    tie_source_target: bool = True
    """Encoder and decoder share one embedding table."""
    tie_output: bool = True
    """The output projection is the decoder's embedding table (Press and Wolf 2017)."""
    output_bias: bool = False
    """A bias on the logits, as in Marian and BART."""
    output_scale: float = 1.0
    """Factor on the decoder's output before the output projection, d_model ** -0.5 in tied T5."""
    dropout: float = 0.1
    """Dropout of embeddings and of every sub-layer's output while training."""
    attention_dropout: float = 0.0
    """Dropout of attention weights while training."""
    pad_id: int = 0
    """Token id of padding."""
    bos_id: int = 2
    """Token id of the begin token."""
    eos_id: int = 3
    """Token id of the end token."""
    decoder_start_id: int = 2
    """Token id that the decoder starts from."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "d_ff", "num_heads", "num_encoder_layers", "num_decoder_layers"):
            require(self, name, getattr(self, name) >= 1, "must be at least 1")
        for name in ("max_source_length", "max_target_length"):
            require(self, name, getattr(self, name) >= 4, "must be at least 4")
        for name in ("pad_id", "bos_id", "eos_id", "decoder_start_id"):
            require(self, name, 0 <= getattr(self, name) < self.vocab_size, "must be a token id below vocab_size")
        for name in ("dropout", "attention_dropout"):
            require(self, name, 0.0 <= getattr(self, name) < 1.0, "must be at least 0 and below 1")
        require_choices(self)
        require(self, "norm_epsilon", self.norm_epsilon > 0, "must be positive")
        require(self, "position_offset", self.position_offset >= 0, "must not be negative")
        if self.head_dim is None:
            require(self, "num_heads", self.d_model % self.num_heads == 0, f"must divide d_model ({self.d_model})")
        else:
            require(self, "head_dim", self.head_dim >= 1, "must be at least 1")
        if self.position_type == "sinusoidal":
            require(self, "d_model", self.d_model % 2 == 0, "must be even with sinusoidal positions")
        buckets = self.relative_num_buckets
        require(self, "relative_num_buckets", buckets >= 4 and buckets % 4 == 0, "must be a multiple of 4")
        require(
            self, "relative_max_distance", self.relative_max_distance > buckets // 2, "must exceed half the buckets"
        )

    @property
    def width_per_head(self) -> int:
        """``head_dim``, or its default ``d_model / num_heads``."""
        return self.d_model // self.num_heads if self.head_dim is None else self.head_dim

    @property
    def query_scale(self) -> float:
        """``attention_scale``, or its default ``width_per_head ** -0.5``."""
        return self.width_per_head**-0.5 if self.attention_scale is None else self.attention_scale

    @property
    def token_scale(self) -> float:
        """``embedding_scale``, or its default ``sqrt(d_model)``."""
        return math.sqrt(self.d_model) if self.embedding_scale is None else self.embedding_scale


@dataclass(frozen=True)
class GenerationConfig:
    """How one request is decoded; requests with different settings share a batch.

    Raises:
        InvalidOptionError: an option is out of its range, or two options exclude each other.
    """

    beam_size: int = 4
    """Hypotheses kept at each step; 1 is greedy search (or plain sampling)."""
    num_hypotheses: int = 1
    """How many finished hypotheses to return, best first (n-best)."""
    patience: float = 1.0
    """Beam search ends after beam_size * patience finished hypotheses (Kasai et al. 2022)."""
    length_penalty: float = 1.0
    """Exponent of the length that divides a hypothesis' summed log-probability; 0 ranks by the bare sum."""
    sampling: bool = False
    """Draw tokens at random instead of searching; needs beam_size 1."""
    temperature: float = 1.0
    """Divides the logits before sampling; below 1 is more cautious."""
    top_k: int = 0
    """Sample among the k most probable tokens only; 0 means all."""
    top_p: float = 1.0
    """Sample among the smallest set of tokens whose probabilities reach this sum (Holtzman et al. 2020)."""
    seed: int | None = None
    """Seed of the sampling; the same seed gives the same text. None draws a fresh one."""
    repetition_penalty: float = 1.0
    """Divides positive logits (multiplies negative ones) of tokens already generated (Keskar et al. 2019)."""
    no_repeat_ngram_size: int = 0
    """Forbid repeating any n-gram of this size; 0 means off."""
    min_new_tokens: int = 0
    """The end token is forbidden before this many tokens."""
    max_new_tokens: int | None = None
    """Most tokens to generate for a segment; None means max_length_ratio decides."""
    max_length_ratio: float = 2.5
    """Without max_new_tokens, the limit is this times the source tokens, plus 10."""
    target_prefix: tuple[int, ...] = ()
    """Token ids that every hypothesis must begin with; they are scored and returned as part of it."""
    banned_tokens: tuple[int, ...] = ()
    """Token ids that must never be generated."""
    num_unscored: int = 0
    """First tokens of the prefix whose log-probability counts as 0, such as a language token, which was no choice."""
    required_phrases: tuple[tuple[int, ...], ...] = ()
    """Token sequences that every hypothesis must contain, in any order and without overlap (Post and Vilar 2018)."""
    return_token_scores: bool = False
    """Also return the log-probability of every token."""

    def __post_init__(self) -> None:
        rules: tuple[tuple[str, bool, str], ...] = (
            ("beam_size", 1 <= self.beam_size <= MAX_BEAM_SIZE, f"must be between 1 and {MAX_BEAM_SIZE}"),
            ("num_hypotheses", 1 <= self.num_hypotheses <= MAX_BEAM_SIZE, f"must be between 1 and {MAX_BEAM_SIZE}"),
            ("patience", 0 < self.patience <= 10, "must be above 0 and at most 10"),
            ("length_penalty", -5 <= self.length_penalty <= 5, "must be between -5 and 5"),
            ("temperature", 0 < self.temperature <= 100, "must be above 0 and at most 100"),
            ("top_k", self.top_k >= 0, "must not be negative"),
            ("top_p", 0 < self.top_p <= 1, "must be above 0 and at most 1"),
            ("seed", self.seed is None or 0 <= self.seed < 2**63, "must be between 0 and 2**63 - 1"),
            ("repetition_penalty", 0 < self.repetition_penalty <= 100, "must be above 0 and at most 100"),
            ("no_repeat_ngram_size", self.no_repeat_ngram_size >= 0, "must not be negative"),
            ("min_new_tokens", 0 <= self.min_new_tokens <= MAX_NEW_TOKENS, f"must be between 0 and {MAX_NEW_TOKENS}"),
            ("max_length_ratio", 0 < self.max_length_ratio <= 100, "must be above 0 and at most 100"),
        )
        for name, holds, rule in rules:
            if not holds:
                raise InvalidOptionError(name, rule, getattr(self, name))
        limit = self.max_new_tokens
        if limit is not None and not 1 <= limit <= MAX_NEW_TOKENS:
            raise InvalidOptionError("max_new_tokens", f"must be between 1 and {MAX_NEW_TOKENS}", limit)
        if limit is not None and self.min_new_tokens > limit:
            raise InvalidOptionError("min_new_tokens", f"must not exceed max_new_tokens ({limit})", self.min_new_tokens)
        if not 0 <= self.num_unscored <= len(self.target_prefix):
            rule = f"must be between 0 and the {len(self.target_prefix)} tokens of target_prefix"
            raise InvalidOptionError("num_unscored", rule, self.num_unscored)
        if len(self.required_phrases) > MAX_REQUIRED_PHRASES or not all(self.required_phrases):
            rule = f"must be at most {MAX_REQUIRED_PHRASES}, none of them empty"
            raise InvalidOptionError("required_phrases", rule, self.required_phrases)
        if self.required_phrases and self.beam_size < 2:
            raise InvalidOptionError("beam_size", "must be at least 2 with required_phrases", self.beam_size)
        if self.sampling and self.beam_size != 1:
            raise InvalidOptionError("beam_size", "must be 1 with sampling", self.beam_size)
        if not self.sampling and self.num_hypotheses > self.beam_size:
            raise InvalidOptionError(
                "num_hypotheses", f"must not exceed beam_size ({self.beam_size}) without sampling", self.num_hypotheses
            )

    @property
    def max_rows(self) -> int:
        """The most rows that a request takes in a batch: one a beam or sample, and one for each required token."""
        if self.sampling:
            return self.num_hypotheses
        if not self.required_phrases:
            return self.beam_size
        return min(MAX_BEAM_SIZE, self.beam_size + sum(map(len, self.required_phrases)))

    def token_limit(self, source_length: int, max_target_length: int) -> int:
        """Return how many tokens, end token included, may be generated for a source of ``source_length`` tokens."""
        wanted = self.max_new_tokens
        if wanted is None:
            wanted = math.ceil(self.max_length_ratio * source_length) + 10
        return max(1, min(max(wanted, self.min_new_tokens), max_target_length))


@dataclass(frozen=True)
class EngineConfig:
    """How one process uses its device.

    Raises:
        ConfigurationError: a field is out of its range.
    """

    device: str = "auto"
    """"cpu", "cuda", "cuda:1", or "auto": CUDA where there is one."""
    dtype: WeightDtype = "auto"
    """Number format of the weights while decoding; "auto" is int8 on the CPU and float16 on CUDA."""
    decoder: Literal["compiled", "plain"] = "compiled"
    """The decode loop outside Python, or the plain float reference that it is tested against."""
    shortlist: bool = False
    """Compute logits only for the likely target tokens of each source, where the model's folder has a short-list."""
    num_workers: int = 0
    """Threads that decode, over one copy of the weights; 0 means usable cores over num_threads, and 1 on CUDA."""
    num_threads: int = 1
    """Intra-op threads of each worker."""
    max_batch_tokens: int = 0
    """Budget of each worker's batch: the sum over its rows of padded source and reserved target positions; 0 means as
    much as fits into the memory of a CUDA device, and 2048 on the CPU."""
    max_queued_requests: int = 4096
    """Segments that may wait; more are refused with OverloadedError."""

    def __post_init__(self) -> None:
        require_choices(self)
        require(self, "num_threads", self.num_threads >= 1, "must be at least 1")
        require(self, "num_workers", self.num_workers >= 0, "must not be negative")
        plain_int8 = self.decoder == "plain" and self.dtype == "int8"
        require(self, "dtype", not plain_int8, "must not be int8 with the plain decoder, which is the float reference")
        require(self, "max_batch_tokens", self.max_batch_tokens >= 0, "must not be negative")
        require(self, "max_queued_requests", self.max_queued_requests >= 1, "must be at least 1")


Config = TypeVar("Config")


def config_from_mapping(kind: type[Config], values: Mapping[str, Any], where: str = "") -> Config:
    """Build a configuration dataclass from nested plain values, such as a parsed TOML or JSON file.

    Args:
        kind: one of the dataclasses of this module.
        values: field names to values; lists become tuples, tables become nested dataclasses.
        where: prefix of field names in error messages.

    Raises:
        ConfigurationError: an unknown or missing field, a value of the wrong type, or a broken rule.
    """
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            raise ConfigurationError(where + name, f"must be one of {', '.join(fields)}", values[name])
    for name, spec in fields.items():
        required = spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ConfigurationError(where + name, "must be given", None)
    return kind(**{name: _convert(hints[name], value, where + name) for name, value in values.items()})


def config_to_mapping(config: Any) -> dict[str, Any]:
    """Return a configuration as nested plain values that :func:`config_from_mapping` reads back."""
    return dataclasses.asdict(config)


def _convert(hint: Any, value: Any, name: str) -> Any:
    """Return ``value`` as the type ``hint``, or raise ConfigurationError."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return config_from_mapping(hint, value, where=f"{name}.")  # type: ignore[arg-type]
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, name)
    if origin is Literal:
        return value  # require_choices checks it, with the other rules
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigurationError(name, "must be a list", value)
        inner = arguments[0]
        if Ellipsis not in arguments and len(value) != len(arguments):
            raise ConfigurationError(name, f"must have {len(arguments)} entries", value)
        return tuple(_convert(inner, item, f"{name}[{index}]") for index, item in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigurationError(name, f"must be of type {hint.__name__}", value)
    return value


def require(config: object, name: str, holds: bool, rule: str) -> None:
    """Raise ConfigurationError for field ``name`` unless ``holds``."""
    if not holds:
        raise ConfigurationError(name, rule, getattr(config, name))


def require_choices(config: object) -> None:
    """Check every Literal field of a dataclass against its choices."""
    for name, hint in typing.get_type_hints(type(config)).items():
        if typing.get_origin(hint) is Literal and getattr(config, name) not in typing.get_args(hint):
            choices = ", ".join(map(str, typing.get_args(hint)))
            raise ConfigurationError(name, f"must be one of {choices}", getattr(config, name))
