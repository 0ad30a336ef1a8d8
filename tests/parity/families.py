"""Tiny random networks of the `transformers` package, and what each family is in the fields of ModelConfig.

Nothing is downloaded: every network is built from a configuration object, and all of its tensors are drawn at random,
those included that start as zeros or ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the package is imported

import pytest
import torch

from model.config import Activation, ModelConfig

transformers: Any = pytest.importorskip("transformers", minversion="5.0", reason="transformers 5 is a dev extra")

VOCAB_SIZE = 37
MAX_LENGTH = 24

ACTIVATIONS: dict[str, Activation] = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "swish": "silu",
    "silu": "silu",
}
"""Their names of activations to ours."""


@dataclass(frozen=True)
class Family:
    """One network of another code base, and its shape as we write it."""

    theirs: Any
    config: ModelConfig


@dataclass(frozen=True)
class Case:
    """A family with settings of its configuration object."""

    build: Callable[[dict[str, Any]], Family]
    settings: dict[str, Any] = field(default_factory=dict)


def marian(settings: dict[str, Any]) -> Family:
    """Post-norm without a last norm; sines before cosines; starts from padding; a bias on the logits."""
    theirs_config = transformers.MarianConfig(
        pad_token_id=VOCAB_SIZE - 1, eos_token_id=0, decoder_start_token_id=VOCAB_SIZE - 1, **_bart_shape(settings)
    )
    config = ModelConfig(
        **_bart_fields(theirs_config),
        norm_position="post",
        final_norm=False,
        sinusoid_layout="halves",
        output_bias=True,
        tie_source_target=theirs_config.share_encoder_decoder_embeddings,
    )
    return Family(_randomized(transformers.MarianMTModel(theirs_config)), config)


def m2m100(settings: dict[str, Any]) -> Family:
    """Pre-norm with a last norm; fairseq's sinusoids, the first token at the padding id + 1; no bias on the logits."""
    theirs_config = transformers.M2M100Config(
        pad_token_id=1, bos_token_id=0, eos_token_id=2, decoder_start_token_id=2, **_bart_shape(settings)
    )
    config = ModelConfig(
        **_bart_fields(theirs_config),
        sinusoid_layout="halves_fairseq",
        position_offset=theirs_config.pad_token_id + 1,
    )
    return Family(_randomized(transformers.M2M100ForConditionalGeneration(theirs_config)), config)


def bart(settings: dict[str, Any]) -> Family:
    """Post-norm, a norm after the embeddings, learned positions whose table begins two rows late."""
    theirs_config = transformers.BartConfig(
        pad_token_id=1, bos_token_id=0, eos_token_id=2, decoder_start_token_id=2, **_bart_shape(settings)
    )
    config = ModelConfig(
        **_bart_fields(theirs_config),
        norm_position="post",
        final_norm=False,
        embedding_norm=True,
        position_type="learned",
        position_offset=2,
        output_bias=True,
    )
    return Family(_randomized(transformers.BartForConditionalGeneration(theirs_config)), config)


def mbart(settings: dict[str, Any]) -> Family:
    """As BART, but pre-norm with a last norm."""
    theirs_config = transformers.MBartConfig(
        pad_token_id=1, bos_token_id=0, eos_token_id=2, decoder_start_token_id=2, **_bart_shape(settings)
    )
    config = ModelConfig(
        **_bart_fields(theirs_config),
        embedding_norm=True,
        position_type="learned",
        position_offset=2,
        output_bias=True,
    )
    return Family(_randomized(transformers.MBartForConditionalGeneration(theirs_config)), config)


def t5(settings: dict[str, Any]) -> Family:
    """Pre-norm with RMS norms, relative bias, no biases, unscaled attention; tied ones scale the decoder's output.

    The package ties the output matrix in every configuration object; public Flan-T5 and MADLAD checkpoints bring their
    own. ``tie_word_embeddings=False`` therefore only switches the scale off, and the output matrix is replaced here.
    """
    shape: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "d_model": 16,
        "d_kv": 6,
        "d_ff": 24,
        "num_layers": 2,
        "num_heads": 4,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 12,
    }
    theirs_config = transformers.T5Config(decoder_start_token_id=0, **shape | settings)
    tied = settings.get("tie_word_embeddings", True)
    theirs = transformers.T5ForConditionalGeneration(theirs_config)
    if not tied:
        theirs.lm_head.weight = torch.nn.Parameter(torch.empty(VOCAB_SIZE, theirs_config.d_model))
    config = ModelConfig(
        vocab_size=theirs_config.vocab_size,
        d_model=theirs_config.d_model,
        d_ff=theirs_config.d_ff,
        num_heads=theirs_config.num_heads,
        head_dim=theirs_config.d_kv,
        num_encoder_layers=theirs_config.num_layers,
        num_decoder_layers=theirs_config.num_decoder_layers,
        norm_type="rms",
        norm_epsilon=theirs_config.layer_norm_epsilon,
        position_type="relative",
        relative_num_buckets=theirs_config.relative_attention_num_buckets,
        relative_max_distance=theirs_config.relative_attention_max_distance,
        activation=ACTIVATIONS[theirs_config.dense_act_fn],
        gated=theirs_config.is_gated_act,
        linear_bias=False,
        attention_scale=1.0,
        embedding_scale=1.0,
        tie_output=tied,
        output_scale=theirs_config.d_model**-0.5 if theirs_config.scale_decoder_outputs else 1.0,
        max_source_length=512,
        max_target_length=512,
        pad_id=0,
        bos_id=0,
        eos_id=1,
        decoder_start_id=0,
    )
    return Family(_randomized(theirs), config)


SMALL: dict[str, Any] = {"d_model": 8, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_layers": 1}

CASES: dict[str, Case] = {
    "marian": Case(marian, {"activation_function": "swish", "scale_embedding": True}),
    "marian-relu": Case(marian, SMALL | {"activation_function": "relu", "scale_embedding": False}),
    "marian-gelu": Case(marian, {"activation_function": "gelu", "decoder_layers": 1}),
    "marian-two-tables": Case(marian, {"share_encoder_decoder_embeddings": False, "tie_word_embeddings": True}),
    "m2m100": Case(m2m100, {"scale_embedding": True}),
    "m2m100-small": Case(m2m100, SMALL | {"scale_embedding": False, "activation_function": "gelu"}),
    "bart": Case(bart, {"activation_function": "gelu"}),
    "bart-small": Case(bart, SMALL | {"scale_embedding": True, "activation_function": "relu"}),
    "mbart": Case(mbart, {"scale_embedding": True, "activation_function": "gelu"}),
    "mbart-small": Case(mbart, SMALL | {"scale_embedding": False, "activation_function": "relu"}),
    "t5": Case(t5),
    "t5-wide-heads": Case(t5, {"d_model": 12, "d_kv": 7, "num_heads": 3, "num_decoder_layers": 1}),
    "t5-public-buckets": Case(t5, {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128}),
    "flan-t5": Case(t5, {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "flan-t5-small": Case(t5, {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "num_layers": 1}),
    "t5-gated-silu": Case(t5, {"feed_forward_proj": "gated-silu", "tie_word_embeddings": False, "d_kv": 3}),
}


def _bart_shape(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings for configuration objects of BART's relatives."""
    shape: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 24,
        "decoder_ffn_dim": 24,
        "max_position_embeddings": MAX_LENGTH,
    }
    return shape | settings


def _bart_fields(theirs: Any) -> dict[str, Any]:
    """Return the fields of ModelConfig that BART's relatives say in the same words."""
    return {
        "vocab_size": theirs.vocab_size,
        "d_model": theirs.d_model,
        "d_ff": theirs.encoder_ffn_dim,
        "num_heads": theirs.encoder_attention_heads,
        "num_encoder_layers": theirs.encoder_layers,
        "num_decoder_layers": theirs.decoder_layers,
        "max_source_length": theirs.max_position_embeddings,
        "max_target_length": theirs.max_position_embeddings,
        "activation": ACTIVATIONS[theirs.activation_function],
        "embedding_scale": None if theirs.scale_embedding else 1.0,
        "pad_id": theirs.pad_token_id,
        "bos_id": theirs.pad_token_id if theirs.bos_token_id is None else theirs.bos_token_id,
        "eos_id": theirs.eos_token_id,
        "decoder_start_id": theirs.decoder_start_token_id,
    }


def _randomized(network: Any) -> Any:
    """Draw every tensor of a network anew, computed sinusoids excepted."""
    generator = torch.Generator().manual_seed(17)
    computed = isinstance(network, transformers.MarianMTModel)
    with torch.no_grad():
        for name, tensor in network.state_dict(keep_vars=True).items():
            if computed and "embed_positions" in name:
                continue
            noise = torch.randn(tensor.shape, generator=generator) * 0.25
            tensor.copy_(1 + noise if "norm" in name and name.endswith("weight") else noise)
    network.set_attn_implementation("eager")  # so that attention weights are returned as well
    return network.eval()
