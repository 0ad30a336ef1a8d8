"""A checkpoint as a folder that Hugging Face's transformers opens; that package itself is not needed for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from model.checkpoints.checkpoint import Checkpoint
from model.checkpoints.network import build_network
from model.config import ModelConfig
from model.errors import CheckpointError
from model.exporting.layouts import Layout, find_layout
from model.exporting.tokenizer_files import json_bytes, tokenizer_files
from model.transformer.positions import sinusoids

NUMBER_FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Number formats of the weights on disk."""
_README = """# {name}

An encoder-decoder network in the layout `{architecture}` of Hugging Face's `transformers`, exported by Dragoman.

    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model = AutoModelForSeq2SeqLM.from_pretrained("this folder")
    tokenizer = AutoTokenizer.from_pretrained("this folder")

{framing}
{notes}"""
_REORDERED = """
The paper's positions alternate sine and cosine; this layout has all sines first. The width of the network is in that
order here, which changes no result: the weights are the same numbers in other rows and columns.
"""


def export_huggingface(path: Path, checkpoint: Checkpoint, number_format: str = "float32") -> Layout:
    """Write a folder for ``AutoModelForSeq2SeqLM.from_pretrained`` and return its layout.

    Args:
        path: a folder that does not exist yet, or is empty.
        checkpoint: the network and its tokeniser.
        number_format: of the weights on disk, one of :data:`NUMBER_FORMATS`.

    Raises:
        CheckpointError: the folder has files in it or cannot be written, the weights do not fit the network, or no
            layout can express it; all reasons at once.
    """
    config = checkpoint.config
    layout = find_layout(config)
    network = build_network(checkpoint)  # for its check that names and shapes fit
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise CheckpointError(f"{path} must be empty, or not exist")
    weights = {name: parameter.detach() for name, parameter in network.named_parameters()}
    reordered = config.position_type == "sinusoidal" and config.sinusoid_layout == "interleaved"
    if reordered:
        weights = reorder_width(weights, config)
    tensors = {
        layout.rename(name, config): weight.to(NUMBER_FORMATS[number_format]) for name, weight in weights.items()
    }
    tensors |= _constants(layout, config, tensors)
    overflown = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if overflown:
        raise CheckpointError(f"{', '.join(overflown)} has values that are not finite in {number_format}")
    tokenizer = tokenizer_files(checkpoint.tokenizer, config.max_source_length, layout.name)
    name = str(checkpoint.metadata.get("name") or path.name)
    files = {
        "config.json": json_bytes(_description(layout, config, number_format)),
        "generation_config.json": json_bytes(_generation(checkpoint)),
        "README.md": _README.format(
            name=name,
            architecture=layout.architecture,
            framing=tokenizer.framing,
            notes=_REORDERED if reordered else "",
        ).encode(),
        **tokenizer.files,
    }
    try:
        path.mkdir(parents=True, exist_ok=True)
        stored = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(stored, path / "model.safetensors", {"format": "pt"})
        (path / "model.safetensors").chmod(0o644)  # others than the owner may serve it
        for name, content in files.items():
            (path / name).write_bytes(content)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {path}: {error}") from error
    return layout


def reorder_width(weights: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Return weights whose residual stream has the even components first, then the odd ones.

    The paper's sinusoids (Vaswani et al. 2017, section 3.5) become Marian's by this. What reads or writes the stream
    is reordered with it; heads and the inside of feed-forward layers stay as they are.
    """
    order = torch.cat([torch.arange(0, config.d_model, 2), torch.arange(1, config.d_model, 2)])
    writers = ("out_proj.weight", "out_proj.bias")
    found = {}
    for name, weight in weights.items():
        if name == "output_bias":
            found[name] = weight
        elif name.endswith(writers) or (weight.dim() == 1 and "norm." in name):
            found[name] = weight[order]
        elif weight.dim() == 2:
            found[name] = weight[:, order]
        else:  # biases of projections out of the stream
            found[name] = weight
    return found


def _constants(layout: Layout, config: ModelConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that a layout stores and our network computes or does not have."""
    dtype = next(iter(tensors.values())).dtype
    found = {}
    if layout.name in ("marian", "pegasus"):
        table = sinusoids(max(config.max_source_length, config.max_target_length), config.d_model, "halves")
        found = {f"model.{side}.embed_positions.weight": table.to(dtype, copy=True) for side in ("encoder", "decoder")}
    if layout.name not in ("m2m_100", "t5"):
        bias = tensors.pop("final_logits_bias", torch.zeros(config.vocab_size, dtype=dtype))
        found["final_logits_bias"] = bias[None]
    return found


def _description(layout: Layout, config: ModelConfig, number_format: str) -> dict[str, Any]:
    return {
        "architectures": [layout.architecture],
        "model_type": layout.name,
        "is_encoder_decoder": True,
        "use_cache": True,
        "dtype": number_format,
        **_ids(config),
        **layout.settings(config),
    }


def _generation(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return how to search as we do by default: a beam of 4, and no token that stands for no text.

    Tokens that targets begin with must stay possible, because that package forces them before it bans others.
    """
    config, tokenizer = checkpoint.config, checkpoint.tokenizer
    first = {token for code in tokenizer.target_languages for token in tokenizer.decoder_prefix(code)}
    return {
        **_ids(config),
        "num_beams": 4,
        "max_length": config.max_target_length,
        "suppress_tokens": sorted(tokenizer.special_ids - first - {config.eos_id}),
    }


def _ids(config: ModelConfig) -> dict[str, int]:
    return {
        "pad_token_id": config.pad_id,
        "bos_token_id": config.bos_id,
        "eos_token_id": config.eos_id,
        "decoder_start_token_id": config.decoder_start_id,
    }
