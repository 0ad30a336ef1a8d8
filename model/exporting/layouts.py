"""Layouts of Hugging Face's transformers: which networks each can express, its names of weights and settings.

A layout is data: values that fields of ModelConfig must have, and a table from our names to theirs. Pegasus (Zhang et
al. 2020) is there because it is the one layout that has norms before the sub-layers and the sinusoids of the paper, as
our own networks do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from model.config import Activation, ModelConfig
from model.errors import CheckpointError

Rule = tuple[str, bool, str]
"""A field, whether the layout can have its value, and what the value must be."""
Renames = tuple[tuple[str, str], ...]
"""Regular expressions of whole names of ours, and templates of theirs, as in ``re.Match.expand``."""

_ACTIVATIONS: dict[Activation, str] = {"relu": "relu", "gelu": "gelu", "gelu_tanh": "gelu_new", "silu": "silu"}
BART_EPSILON = 1e-5
"""What every layout but T5's has inside its norms."""

_BART_LAYERS: Renames = (
    (r"((?:en|de)coder\.layers\.\d+)\.self_attention\.(\w+_proj\.\w+)", r"model.\1.self_attn.\2"),
    (r"((?:en|de)coder\.layers\.\d+)\.cross_attention\.(\w+_proj\.\w+)", r"model.\1.encoder_attn.\2"),
    (r"((?:en|de)coder\.layers\.\d+)\.self_attention_residual\.norm\.(\w+)", r"model.\1.self_attn_layer_norm.\2"),
    (r"(decoder\.layers\.\d+)\.cross_attention_residual\.norm\.(\w+)", r"model.\1.encoder_attn_layer_norm.\2"),
    (r"((?:en|de)coder\.layers\.\d+)\.feed_forward_residual\.norm\.(\w+)", r"model.\1.final_layer_norm.\2"),
    (r"((?:en|de)coder\.layers\.\d+)\.feed_forward\.in_proj\.(\w+)", r"model.\1.fc1.\2"),
    (r"((?:en|de)coder\.layers\.\d+)\.feed_forward\.out_proj\.(\w+)", r"model.\1.fc2.\2"),
    (r"((?:en|de)coder)\.norm\.(\w+)", r"model.\1.layer_norm.\2"),
    (r"((?:en|de)coder)\.embedding\.norm\.(\w+)", r"model.\1.layernorm_embedding.\2"),
    (r"((?:en|de)coder)\.embedding\.positions\.weight", r"model.\1.embed_positions.weight"),
    (r"output_bias", r"final_logits_bias"),
)
_ONE_TABLE: Renames = ((r"source_embedding\.weight", r"model.shared.weight"),)
_TWO_TABLES: Renames = (
    (r"source_embedding\.weight", r"model.encoder.embed_tokens.weight"),
    (r"target_embedding\.weight", r"model.decoder.embed_tokens.weight"),
)
_T5: Renames = (
    (r"source_embedding\.weight", r"shared.weight"),
    (r"output_weight", r"lm_head.weight"),
    (r"(\w+)\.norm\.weight", r"\1.final_layer_norm.weight"),
    (r"(\w+)\.relative_bias\.weight", r"\1.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
    (r"(\w+)\.layers\.(\d+)\.self_attention\.out_proj\.weight", r"\1.block.\2.layer.0.SelfAttention.o.weight"),
    (r"(\w+)\.layers\.(\d+)\.self_attention\.([qkv])_proj\.weight", r"\1.block.\2.layer.0.SelfAttention.\3.weight"),
    (r"(\w+)\.layers\.(\d+)\.self_attention_residual\.norm\.weight", r"\1.block.\2.layer.0.layer_norm.weight"),
    (r"(\w+)\.layers\.(\d+)\.cross_attention\.out_proj\.weight", r"\1.block.\2.layer.1.EncDecAttention.o.weight"),
    (r"(\w+)\.layers\.(\d+)\.cross_attention\.([qkv])_proj\.weight", r"\1.block.\2.layer.1.EncDecAttention.\3.weight"),
    (r"(\w+)\.layers\.(\d+)\.cross_attention_residual\.norm\.weight", r"\1.block.\2.layer.1.layer_norm.weight"),
    (r"encoder\.layers\.(\d+)\.feed_forward_residual\.norm\.weight", r"encoder.block.\1.layer.1.layer_norm.weight"),
    (r"decoder\.layers\.(\d+)\.feed_forward_residual\.norm\.weight", r"decoder.block.\1.layer.2.layer_norm.weight"),
    (r"encoder\.layers\.(\d+)\.feed_forward\.(\w+)\.weight", r"encoder.block.\1.layer.1.DenseReluDense.\2.weight"),
    (r"decoder\.layers\.(\d+)\.feed_forward\.(\w+)\.weight", r"decoder.block.\1.layer.2.DenseReluDense.\2.weight"),
)


@dataclass(frozen=True)
class Layout:
    """One architecture of that package."""

    name: str
    """Its ``model_type``."""
    architecture: str
    rules: Callable[[ModelConfig], Iterable[Rule]]
    """What a network must be like."""
    settings: Callable[[ModelConfig], dict[str, Any]]
    """The fields of its config.json that depend on the network."""
    renames: Callable[[ModelConfig], Renames]

    def problems(self, config: ModelConfig) -> list[str]:
        """Return why this layout cannot express a network; nothing where it can."""
        return [
            f"{name} {rule}, got {getattr(config, name)!r}" for name, holds, rule in self.rules(config) if not holds
        ]

    def rename(self, name: str, config: ModelConfig) -> str:
        """Return their name of a parameter of ours."""
        for ours, theirs in self.renames(config):
            match = re.fullmatch(ours, name)
            if match:
                return match.expand(theirs)
        raise AssertionError(f"{self.name} has no name for {name}, though its rules allow the network")


def find_layout(config: ModelConfig) -> Layout:
    """Return the first layout that can express a network.

    Raises:
        CheckpointError: none can; the reasons of each are told.
    """
    reasons = []
    for layout in LAYOUTS:
        problems = layout.problems(config)
        if not problems:
            return layout
        reasons.append(f"as {layout.name}, {', '.join(problems)}")
    raise CheckpointError(f"no layout of Hugging Face can express this network: {'; '.join(reasons)}")


def _fixed(config: ModelConfig, values: Mapping[str, Any]) -> Iterable[Rule]:
    """Yield a rule for each field that may have one value only."""
    for name, value in values.items():
        yield name, getattr(config, name) == value, f"must be {value!r}"


def _bart_rules(config: ModelConfig, **values: Any) -> Iterable[Rule]:
    """Yield the rules that BART's relatives share, and those of single fields."""
    fixed = {"norm_type": "layer", "norm_epsilon": BART_EPSILON, "gated": False, "linear_bias": True}
    yield from _fixed(config, fixed | {"tie_output": True, "output_scale": 1.0} | values)
    yield "head_dim", config.width_per_head * config.num_heads == config.d_model, "must be d_model / num_heads"
    yield "attention_scale", config.query_scale == config.width_per_head**-0.5, "must be head_dim ** -0.5"
    yield "embedding_scale", config.token_scale in (1.0, config.d_model**0.5), "must be 1 or sqrt(d_model)"
    if config.position_type == "learned":
        rule = f"must be max_target_length ({config.max_target_length}), as both tables have one size"
        yield "max_source_length", config.max_source_length == config.max_target_length, rule


def _bart_settings(config: ModelConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "d_model": config.d_model,
        "encoder_layers": config.num_encoder_layers,
        "decoder_layers": config.num_decoder_layers,
        "encoder_attention_heads": config.num_heads,
        "decoder_attention_heads": config.num_heads,
        "encoder_ffn_dim": config.d_ff,
        "decoder_ffn_dim": config.d_ff,
        "max_position_embeddings": max(config.max_source_length, config.max_target_length),
        "activation_function": _ACTIVATIONS[config.activation],
        "scale_embedding": config.token_scale != 1.0,
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": 0.0,
        "encoder_layerdrop": 0.0,
        "decoder_layerdrop": 0.0,
        "tie_word_embeddings": True,
    }


def _sinusoidal_rules(config: ModelConfig, **values: Any) -> Iterable[Rule]:
    """Yield the rules of layouts with Marian's sinusoids, which the paper's are in another order."""
    yield from _bart_rules(config, position_type="sinusoidal", position_offset=0, embedding_norm=False, **values)
    layouts = ("halves", "interleaved")
    yield "sinusoid_layout", config.sinusoid_layout in layouts, f"must be {' or '.join(layouts)}"


def _m2m100_rules(config: ModelConfig) -> Iterable[Rule]:
    positions = {"position_type": "sinusoidal", "sinusoid_layout": "halves_fairseq"}
    norms = {"norm_position": "pre", "final_norm": True, "embedding_norm": False}
    yield from _bart_rules(config, **positions, **norms, output_bias=False, tie_source_target=True)
    rule = f"must be pad_id + 1 ({config.pad_id + 1})"
    yield "position_offset", config.position_offset == config.pad_id + 1, rule


def _t5_rules(config: ModelConfig) -> Iterable[Rule]:
    fixed = {"norm_position": "pre", "norm_type": "rms", "final_norm": True, "embedding_norm": False}
    fixed |= {"position_type": "relative", "linear_bias": False, "tie_source_target": True, "output_bias": False}
    yield from _fixed(config, fixed)
    yield "attention_scale", config.query_scale == 1.0, "must be 1"
    yield "embedding_scale", config.token_scale == 1.0, "must be 1"
    scale = config.d_model**-0.5 if config.tie_output else 1.0
    yield "output_scale", config.output_scale == scale, f"must be {scale} as tie_output is {config.tie_output}"
    # "gated-gelu" is read as the approximation by tanh.
    possible = not config.gated or config.activation != "gelu"
    yield "activation", possible, "must be gelu_tanh, relu or silu in a gated layer"


def _t5_settings(config: ModelConfig) -> dict[str, Any]:
    activation = _ACTIVATIONS[config.activation]
    gated = "gated-gelu" if config.activation == "gelu_tanh" else f"gated-{activation}"
    return {
        "vocab_size": config.vocab_size,
        "d_model": config.d_model,
        "d_kv": config.width_per_head,
        "d_ff": config.d_ff,
        "num_layers": config.num_encoder_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "num_heads": config.num_heads,
        "relative_attention_num_buckets": config.relative_num_buckets,
        "relative_attention_max_distance": config.relative_max_distance,
        "n_positions": max(config.max_source_length, config.max_target_length),
        "dropout_rate": config.dropout,
        "layer_norm_epsilon": config.norm_epsilon,
        "feed_forward_proj": gated if config.gated else activation,
        "tie_word_embeddings": config.tie_output,
    }


def _t5_renames(config: ModelConfig) -> Renames:
    """Return the table with the feed-forward layer's names, of which gated layers have three."""
    inner = {"in_proj": "wi_0" if config.gated else "wi", "gate_proj": "wi_1", "out_proj": "wo"}
    feed_forward = tuple(
        (ours.replace(r"(\w+)", module), theirs.replace(r"\2", name))
        for ours, theirs in _T5
        if "DenseReluDense" in theirs
        for module, name in inner.items()
    )
    return (*feed_forward, *(line for line in _T5 if "DenseReluDense" not in line[1]))


def _bart_renames(config: ModelConfig) -> Renames:
    return (*_BART_LAYERS, *(_ONE_TABLE if config.tie_source_target else _TWO_TABLES))


LAYOUTS = (
    Layout(
        "marian",
        "MarianMTModel",
        lambda config: _sinusoidal_rules(config, norm_position="post", final_norm=False),
        lambda config: (
            _bart_settings(config)
            | {
                "decoder_vocab_size": config.vocab_size,
                "share_encoder_decoder_embeddings": config.tie_source_target,
            }
        ),
        _bart_renames,
    ),
    Layout("m2m_100", "M2M100ForConditionalGeneration", _m2m100_rules, _bart_settings, _bart_renames),
    Layout(
        "pegasus",
        "PegasusForConditionalGeneration",
        lambda config: _sinusoidal_rules(config, norm_position="pre", final_norm=True, tie_source_target=True),
        _bart_settings,
        _bart_renames,
    ),
    Layout(
        "bart",
        "BartForConditionalGeneration",
        lambda config: _bart_rules(
            config,
            norm_position="post",
            final_norm=False,
            embedding_norm=True,
            position_type="learned",
            position_offset=2,
            tie_source_target=True,
        ),
        _bart_settings,
        _bart_renames,
    ),
    Layout(
        "mbart",
        "MBartForConditionalGeneration",
        lambda config: _bart_rules(
            config,
            norm_position="pre",
            final_norm=True,
            embedding_norm=True,
            position_type="learned",
            position_offset=2,
            tie_source_target=True,
        ),
        _bart_settings,
        _bart_renames,
    ),
    Layout("t5", "T5ForConditionalGeneration", _t5_rules, _t5_settings, _t5_renames),
)
"""In the order in which they are tried; no network fits two of them."""
