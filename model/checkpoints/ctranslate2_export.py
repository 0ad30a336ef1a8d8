"""Our network in CTranslate2's format, through that package's public specs, so that both can run the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoints.checkpoint import Checkpoint
from model.config import Activation, ModelConfig
from model.errors import CheckpointError, ConfigurationError
from model.transformer.positions import sinusoids

_ACTIVATIONS: dict[Activation, str] = {"relu": "RELU", "gelu": "GELU", "gelu_tanh": "GELUTanh", "silu": "SWISH"}
QUANTIZATIONS = ("float32", "int8", "int8_float32", "int16", "float16", "bfloat16")
"""CTranslate2's names of number formats on disk."""


def export_ctranslate2(path: Path, checkpoint: Checkpoint, quantization: str = "float32") -> None:
    """Write a folder that ``ctranslate2.Translator`` opens, and the tokeniser's files beside it.

    Sources are given to it as pieces with language and end tokens, as our tokeniser makes them.

    Args:
        path: a folder that does not exist yet, or is empty.
        checkpoint: the network and its tokeniser.
        quantization: number format of the weights on disk; CTranslate2 can convert it when it loads.

    Raises:
        ConfigurationError: ctranslate2 is not installed, or has no such number format.
        CheckpointError: the folder has files in it or cannot be written, tokeniser and network do not fit together, or
            CTranslate2 cannot express the network; all reasons at once.
    """
    try:
        from ctranslate2 import specs  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigurationError("ctranslate2", "must be installed (extra 'benchmark')", None) from error
    if quantization not in QUANTIZATIONS:
        raise ConfigurationError("quantization", f"must be one of {', '.join(QUANTIZATIONS)}", quantization)
    config, tokenizer = checkpoint.config, checkpoint.tokenizer
    if tokenizer.vocab_size != config.vocab_size:
        raise CheckpointError(
            f"the tokeniser has {tokenizer.vocab_size} tokens, the network's vocab_size is {config.vocab_size}"
        )
    problems = _unsupported(config)
    if problems:
        raise CheckpointError(f"CTranslate2 cannot express this network: {'; '.join(problems)}")
    if path.exists() and any(path.iterdir()):
        raise CheckpointError(f"{path} must be empty, or not exist")
    spec = specs.TransformerSpec.from_config(
        (config.num_encoder_layers, config.num_decoder_layers),
        config.num_heads,
        pre_norm=True,  # only decides whether there can be a final norm; where the others stand is set below
        no_final_norm=not config.final_norm,
        activation=specs.common_spec.Activation[_ACTIVATIONS[config.activation]],
        layernorm_embedding=config.embedding_norm,
        ffn_glu=config.gated,
        rms_norm=config.norm_type == "rms",
    )
    for part in (spec.encoder, spec.decoder):
        part.pre_norm = config.norm_position == "pre"
    _SpecWriter(checkpoint).write(spec)
    pieces = tokenizer.pieces(range(config.vocab_size))
    spec.register_source_vocabulary(pieces)
    spec.register_target_vocabulary(pieces)
    spec.config.bos_token, spec.config.eos_token = pieces[config.bos_id], pieces[config.eos_id]
    spec.config.unk_token = pieces[tokenizer.unk_id]
    spec.config.decoder_start_token = pieces[config.decoder_start_id]
    spec.config.layer_norm_epsilon = config.norm_epsilon
    spec.validate()
    spec.optimize(quantization=None if quantization == "float32" else quantization)
    try:
        path.mkdir(parents=True, exist_ok=True)
        spec.save(str(path))
        tokenizer.save(path)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error}") from error


def _unsupported(config: ModelConfig) -> list[str]:
    """Return what of a network's shape has no counterpart in the specs that are written here."""
    rules = (
        ("position_type", config.position_type != "relative", "must not be relative"),
        ("head_dim", config.width_per_head * config.num_heads == config.d_model, "must be d_model / num_heads"),
    )
    return [f"{name} {rule}, got {getattr(config, name)!r}" for name, holds, rule in rules if not holds]


class _SpecWriter:
    """Fills a spec with the weights of a checkpoint; the shapes agree, as both come from one configuration."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._config = checkpoint.config
        self._weights = checkpoint.weights

    def write(self, spec: Any) -> None:
        """Fill encoder, decoder and output projection."""
        config = self._config
        target = "source_embedding" if config.tie_source_target else "target_embedding"
        self._embedding(
            spec.encoder.embeddings[0], spec.encoder, "source_embedding", "encoder", config.max_source_length
        )
        self._embedding(spec.decoder.embeddings, spec.decoder, target, "decoder", config.max_target_length)
        for side in ("encoder", "decoder"):
            part = getattr(spec, side)
            if config.final_norm:
                self._norm(part.layer_norm, f"{side}.norm")
            for index, layer in enumerate(part.layer):
                name = f"{side}.layers.{index}"
                self._attention(layer.self_attention, f"{name}.self_attention", [["q_proj", "k_proj", "v_proj"]])
                if side == "decoder":
                    self._attention(layer.attention, f"{name}.cross_attention", [["q_proj"], ["k_proj", "v_proj"]])
                self._feed_forward(layer.ffn, f"{name}.feed_forward")
        output = target + ".weight" if config.tie_output else "output_weight"
        spec.decoder.projection.weight = self._tensor(output) * config.output_scale
        if config.output_bias:
            spec.decoder.projection.bias = self._tensor("output_bias")

    def _embedding(self, embeddings: Any, part: Any, table: str, side: str, num_positions: int) -> None:
        config = self._config
        embeddings.weight = self._tensor(f"{table}.weight")
        part.scale_embeddings = config.token_scale != 1.0
        if config.token_scale not in (1.0, config.d_model**0.5):
            # A table of its own for the factor, because CTranslate2 has a switch for sqrt(d_model) only.
            embeddings.weight = embeddings.weight * config.token_scale
            part.scale_embeddings = False
        if config.position_type == "learned":
            positions = self._tensor(f"{side}.embedding.positions.weight")
        else:
            positions = sinusoids(num_positions + config.position_offset, config.d_model, config.sinusoid_layout)
        part.position_encodings.encodings = positions[config.position_offset :].contiguous()
        if config.embedding_norm:
            self._norm(part.layernorm_embedding, f"{side}.embedding.norm")

    def _attention(self, spec: Any, name: str, groups: list[list[str]]) -> None:
        self._norm(spec.layer_norm, f"{name}_residual.norm")
        for linear, parts in zip(spec.linear, [*groups, ["out_proj"]], strict=True):
            self._linear(linear, [f"{name}.{part}" for part in parts])
        if self._config.query_scale != self._config.width_per_head**-0.5:
            spec.queries_scale = torch.tensor(self._config.query_scale)

    def _feed_forward(self, spec: Any, name: str) -> None:
        self._norm(spec.layer_norm, f"{name}_residual.norm")
        self._linear(spec.linear_0, [f"{name}.in_proj"])
        if self._config.gated:
            self._linear(spec.linear_0_noact, [f"{name}.gate_proj"])
        self._linear(spec.linear_1, [f"{name}.out_proj"])

    def _linear(self, spec: Any, names: list[str]) -> None:
        spec.weight = torch.cat([self._tensor(f"{name}.weight") for name in names])
        if self._config.linear_bias:
            spec.bias = torch.cat([self._tensor(f"{name}.bias") for name in names])

    def _norm(self, spec: Any, name: str) -> None:
        spec.gamma = self._tensor(f"{name}.weight")
        if self._config.norm_type == "layer":
            spec.beta = self._tensor(f"{name}.bias")

    def _tensor(self, name: str) -> Tensor:
        # A copy, because quantising a spec changes its tensors in place.
        return self._weights[name].to(torch.float32, copy=True, memory_format=torch.contiguous_format)
