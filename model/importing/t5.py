"""T5, T5 v1.1, Flan-T5, mT5 and MADLAD-400: their settings and tensor names.

Norms before each sub-layer, without mean and bias (root mean square); no biases anywhere; attention without a scale;
a relative bias that the first layer has for all, in encoder and decoder each; embeddings as they are. T5 v1.0 ties its
output matrix to the embeddings and scales the decoder's output by d_model ** -0.5; the later ones have a matrix of its
own and a gated feed-forward layer. The decoder starts from the padding token. UMT5, whose layers each have a bias of
their own, is not supported.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from model.config import ModelConfig
from model.importing.bart import ACTIVATIONS, Family
from model.importing.renaming import Rename
from model.importing.settings import Settings

_LENGTH = 512
"""Tokens that training saw; relative positions have no end of their own."""
_LAYER = r"(\w+)\.block\.(\d+)\.layer"
LAYERS = [
    Rename(rf"{_LAYER}\.0\.SelfAttention\.([qkv])\.weight", r"\1.layers.\2.self_attention.\3_proj.weight"),
    Rename(rf"{_LAYER}\.0\.SelfAttention\.o\.weight", r"\1.layers.\2.self_attention.out_proj.weight"),
    Rename(r"(\w+)\.block\.0\.layer\.0\.SelfAttention\.relative_attention_bias\.weight", r"\1.relative_bias.weight"),
    Rename(rf"{_LAYER}\.0\.layer_norm\.weight", r"\1.layers.\2.self_attention_residual.norm.weight"),
    Rename(
        r"decoder\.block\.(\d+)\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight", None, is_optional=True
    ),
    Rename(rf"{_LAYER}\.1\.EncDecAttention\.([qkv])\.weight", r"\1.layers.\2.cross_attention.\3_proj.weight"),
    Rename(rf"{_LAYER}\.1\.EncDecAttention\.o\.weight", r"\1.layers.\2.cross_attention.out_proj.weight"),
    Rename(
        r"decoder\.block\.(\d+)\.layer\.1\.layer_norm\.(\w+)", r"decoder.layers.\1.cross_attention_residual.norm.\2"
    ),
    Rename(r"encoder\.block\.(\d+)\.layer\.1\.layer_norm\.(\w+)", r"encoder.layers.\1.feed_forward_residual.norm.\2"),
    Rename(r"decoder\.block\.(\d+)\.layer\.2\.layer_norm\.(\w+)", r"decoder.layers.\1.feed_forward_residual.norm.\2"),
    Rename(rf"{_LAYER}\.[12]\.DenseReluDense\.wo\.weight", r"\1.layers.\2.feed_forward.out_proj.weight"),
    Rename(r"(\w+)\.final_layer_norm\.weight", r"\1.norm.weight"),
]
"""Early files have a bias in the first cross-attention, which their own code does not use."""
PLAIN = [Rename(rf"{_LAYER}\.[12]\.DenseReluDense\.wi\.weight", r"\1.layers.\2.feed_forward.in_proj.weight")]
GATED = [
    Rename(rf"{_LAYER}\.[12]\.DenseReluDense\.wi_0\.weight", r"\1.layers.\2.feed_forward.in_proj.weight"),
    Rename(rf"{_LAYER}\.[12]\.DenseReluDense\.wi_1\.weight", r"\1.layers.\2.feed_forward.gate_proj.weight"),
]
TABLE = r"shared\.weight|(?:encoder|decoder)\.embed_tokens\.weight"


def t5(settings: Settings, names: Collection[str]) -> tuple[ModelConfig, list[Rename]]:
    """Return network and table of a checkpoint of the family."""
    feed_forward = settings.get("feed_forward_proj", "relu")
    gated = feed_forward.startswith("gated-")
    settings.require("is_gated_act", gated, "what feed_forward_proj says")
    name = feed_forward.removeprefix("gated-")
    # T5's code takes "gated-gelu" for the tanh approximation; dense_act_fn, where it is there, is exact.
    settings.get("dense_act_fn", name)
    activation = "gelu_tanh" if feed_forward == "gated-gelu" else ACTIVATIONS.get(name, "")
    if not activation:
        settings.problems.append(f"feed_forward_proj must name one of {', '.join(ACTIVATIONS)}, got {feed_forward!r}")
        activation = "relu"
    tied = settings.get("tie_word_embeddings", True)
    scaled = settings.get("scale_decoder_outputs", tied)
    # The program that writes new files says that all of them are tied; a matrix that is there and not scaled is not.
    tied = tied and (scaled or "lm_head.weight" not in names)
    d_model, layers = settings.get("d_model"), settings.get("num_layers")
    config = ModelConfig(
        vocab_size=settings.get("vocab_size"),
        d_model=d_model,
        d_ff=settings.get("d_ff"),
        num_heads=settings.get("num_heads"),
        head_dim=settings.get("d_kv"),
        num_encoder_layers=layers,
        num_decoder_layers=settings.get("num_decoder_layers", layers),
        max_source_length=_LENGTH,
        max_target_length=_LENGTH,
        norm_type="rms",
        norm_epsilon=settings.get("layer_norm_epsilon", 1e-6),
        position_type="relative",
        relative_num_buckets=settings.get("relative_attention_num_buckets", 32),
        relative_max_distance=settings.get("relative_attention_max_distance", 128),
        activation=activation,  # type: ignore[arg-type]  # one of ACTIVATIONS' values
        gated=gated,
        linear_bias=False,
        attention_scale=1.0,
        embedding_scale=1.0,
        tie_output=tied,
        output_scale=d_model**-0.5 if scaled and d_model > 0 else 1.0,
        pad_id=settings.get("pad_token_id", 0),
        bos_id=settings.get("pad_token_id", 0),
        eos_id=settings.get("eos_token_id", 1),
        decoder_start_id=settings.get("decoder_start_token_id", 0),
    )
    inner = GATED if gated else PLAIN
    if tied:
        tables = [Rename(rf"{TABLE}|lm_head\.weight", "source_embedding.weight")]
    else:
        tables = [Rename(TABLE, "source_embedding.weight"), Rename(r"lm_head\.weight", "output_weight")]
    return config, [*LAYERS, *inner, *tables]


FAMILIES: Mapping[str, Family] = {"t5": t5, "mt5": t5}
"""By the ``model_type`` of config.json."""
