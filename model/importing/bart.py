"""BART and its relatives Marian, M2M-100 (with NLLB-200) and mBART (with mBART-50): their settings and tensor names.

What they share is one layer's names. What each does in its own way:

- Marian: norms after each sub-layer and none at the end; sinusoids with all sines before all cosines; the decoder
  starts from the padding token; a bias on the logits, which is minus infinity for padding where it is trained.
- M2M-100 and NLLB-200: norms before, and one at the end; fairseq's sinusoids, whose first token stands at the padding
  id + 1; no bias on the logits; every target begins with its language's token.
- BART: norms after; a norm behind the embeddings; learned positions whose table begins two rows late; a bias.
- mBART: as BART, but norms before each sub-layer and one at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from model.config import ModelConfig
from model.importing.renaming import Rename
from model.importing.settings import Settings

ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "swish": "silu",
    "silu": "silu",
}
"""Their names of activations, and ours."""

_LAYER = r"model\.(\w+\.layers\.\d+)"
LAYERS = [
    Rename(rf"{_LAYER}\.self_attn\.(\w+_proj\.\w+)", r"\1.self_attention.\2"),
    Rename(rf"{_LAYER}\.encoder_attn\.(\w+_proj\.\w+)", r"\1.cross_attention.\2"),
    Rename(rf"{_LAYER}\.self_attn_layer_norm\.(\w+)", r"\1.self_attention_residual.norm.\2"),
    Rename(rf"{_LAYER}\.encoder_attn_layer_norm\.(\w+)", r"\1.cross_attention_residual.norm.\2"),
    Rename(rf"{_LAYER}\.final_layer_norm\.(\w+)", r"\1.feed_forward_residual.norm.\2"),
    Rename(rf"{_LAYER}\.fc1\.(\w+)", r"\1.feed_forward.in_proj.\2"),
    Rename(rf"{_LAYER}\.fc2\.(\w+)", r"\1.feed_forward.out_proj.\2"),
]
"""What all of them have in common."""
ONE_TABLE = [
    Rename(r"model\.shared\.weight|model\.\w+\.embed_tokens\.weight|lm_head\.weight", "source_embedding.weight")
]
TWO_TABLES = [
    Rename(r"model\.encoder\.embed_tokens\.weight", "source_embedding.weight"),
    Rename(r"model\.decoder\.embed_tokens\.weight|lm_head\.weight", "target_embedding.weight"),
]
LOGITS_BIAS = Rename("final_logits_bias", "output_bias")
COMPUTED_POSITIONS = Rename(r"model\.\w+\.embed_positions\.weights?", None, is_optional=True)
LEARNED_POSITIONS = Rename(r"model\.(\w+)\.embed_positions\.weight", r"\1.embedding.positions.weight")
EMBEDDING_NORM = Rename(r"model\.(\w+)\.layernorm_embedding\.(\w+)", r"\1.embedding.norm.\2")
FINAL_NORM = Rename(r"model\.(\w+)\.layer_norm\.(\w+)", r"\1.norm.\2")
UNUSED_BIAS = Rename("final_logits_bias", None, is_optional=True)
"""Some M2M-100 files have one that is all zeros and that their own code does not use."""


def marian(settings: Settings, _names: Collection[str]) -> tuple[ModelConfig, list[Rename]]:
    """Return network and table of an OPUS-MT checkpoint in the Hugging Face layout."""
    shares = settings.get("share_encoder_decoder_embeddings", True)
    settings.require("tie_word_embeddings", True, "Marian's output projection is the decoder's embedding table")
    settings.require("static_position_embeddings", True, "Marian computes its positions")
    for name, why in (
        ("normalize_before", "Marian normalises after each sub-layer"),
        ("normalize_embedding", "Marian has no norm behind the embeddings"),
        ("add_final_layer_norm", "Marian has no last norm"),
    ):
        settings.require(name, False, why)
    for name in ("add_bias_logits", "extra_pos_embeddings", "scale_embedding"):
        settings.get(name, 0 if name == "extra_pos_embeddings" else False)  # without a meaning for the network
    vocab_size = settings.get("vocab_size")
    settings.require("decoder_vocab_size", vocab_size, "source and target must have vocabularies of one size")
    fields = _fields(settings, default_length=512)
    config = ModelConfig(
        **fields,
        norm_position="post",
        final_norm=False,
        sinusoid_layout="halves",
        output_bias=True,
        tie_source_target=shares,
    )
    return config, [*LAYERS, *(ONE_TABLE if shares else TWO_TABLES), COMPUTED_POSITIONS, LOGITS_BIAS]


def m2m100(settings: Settings, _names: Collection[str]) -> tuple[ModelConfig, list[Rename]]:
    """Return network and table of an M2M-100 or NLLB-200 checkpoint."""
    settings.require("tie_word_embeddings", True, "there is one table for source, target and output")
    fields = _fields(settings, default_length=1024)
    config = ModelConfig(**fields, sinusoid_layout="halves_fairseq", position_offset=fields["pad_id"] + 1)
    return config, [*LAYERS, *ONE_TABLE, FINAL_NORM, COMPUTED_POSITIONS, UNUSED_BIAS]


def bart(settings: Settings, _names: Collection[str]) -> tuple[ModelConfig, list[Rename]]:
    """Return network and table of a BART checkpoint."""
    _require_learned(settings, add_final_layer_norm=False)
    settings.require("normalize_before", False, "BART normalises after each sub-layer")
    config = ModelConfig(
        **_fields(settings, default_length=1024),
        norm_position="post",
        final_norm=False,
        embedding_norm=True,
        position_type="learned",
        position_offset=2,
        output_bias=True,
    )
    return config, [*LAYERS, *ONE_TABLE, LEARNED_POSITIONS, EMBEDDING_NORM, LOGITS_BIAS]


def mbart(settings: Settings, _names: Collection[str]) -> tuple[ModelConfig, list[Rename]]:
    """Return network and table of an mBART or mBART-50 checkpoint."""
    _require_learned(settings, add_final_layer_norm=True)
    settings.require("normalize_before", True, "mBART normalises before each sub-layer")
    config = ModelConfig(
        **_fields(settings, default_length=1024),
        embedding_norm=True,
        position_type="learned",
        position_offset=2,
        output_bias=True,
    )
    return config, [*LAYERS, *ONE_TABLE, LEARNED_POSITIONS, EMBEDDING_NORM, FINAL_NORM, LOGITS_BIAS]


def _require_learned(settings: Settings, *, add_final_layer_norm: bool) -> None:
    settings.require("tie_word_embeddings", True, "there is one table for source, target and output")
    settings.require("static_position_embeddings", False, "positions are learned")
    settings.require("normalize_embedding", True, "there is a norm behind the embeddings")
    settings.require("add_final_layer_norm", add_final_layer_norm, "the family's last norm")
    settings.require("add_bias_logits", False, "an option of fairseq that no public checkpoint has")
    settings.get("extra_pos_embeddings", 2)


def _fields(settings: Settings, default_length: int) -> dict[str, Any]:
    """Return the fields of ModelConfig that all of them say in the same words."""
    pairs = (("ffn_dim", "d_ff"), ("attention_heads", "num_heads"))
    shared: dict[str, int] = {}
    for theirs, ours in pairs:
        shared[ours] = settings.get(f"encoder_{theirs}")
        settings.require(f"decoder_{theirs}", shared[ours], "encoder and decoder must have the same")
    length = settings.get("max_position_embeddings", default_length)
    pad_id = settings.get("pad_token_id", 1)
    bos_id = settings.number("bos_token_id")
    eos_id = settings.get("eos_token_id", 2)
    start_id = settings.number("decoder_start_token_id")
    return {
        "vocab_size": settings.get("vocab_size"),
        "d_model": settings.get("d_model"),
        **shared,
        "num_encoder_layers": settings.get("encoder_layers"),
        "num_decoder_layers": settings.get("decoder_layers"),
        "max_source_length": length,
        "max_target_length": length,
        "activation": settings.choice("activation_function", ACTIVATIONS, "gelu"),
        "embedding_scale": None if settings.get("scale_embedding", False) else 1.0,
        "pad_id": pad_id,
        "bos_id": pad_id if bos_id is None else bos_id,
        "eos_id": eos_id,
        "decoder_start_id": eos_id if start_id is None else start_id,
    }


Family = Callable[[Settings, Collection[str]], tuple[ModelConfig, list[Rename]]]
"""Makes network and table of the settings, and of the names of the tensors where these decide."""
FAMILIES: Mapping[str, Family] = {"marian": marian, "m2m_100": m2m100, "bart": bart, "mbart": mbart}
"""By the ``model_type`` of config.json."""
