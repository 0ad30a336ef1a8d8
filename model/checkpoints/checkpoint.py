"""Our checkpoint format: config.json, weights.safetensors and tokenizer.model in one folder; it builds no network.

Matrices may be stored in float32, bfloat16, float16 or int8 with a scale per row; vectors stay in float32 (int8) or
take the format of the matrices. Whatever the format on disk, reading returns float32. A folder may also have a
shortlist.safetensors, which names the tokeniser that its ids are of.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import safetensors.numpy
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from model.checkpoints.quantization import dequantize_rows, quantize_rows
from model.config import ModelConfig, config_from_mapping, config_to_mapping
from model.errors import CheckpointError, ConfigurationError
from model.text.tokenizer import Tokenizer

FORMAT_VERSION = 1
CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE = "config.json", "weights.safetensors", "tokenizer.model"
SHORTLIST_FILE = "shortlist.safetensors"
SCALE_SUFFIX = ".scale"
WeightFormat = Literal["float32", "bfloat16", "float16", "int8"]
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Checkpoint:
    """One trained network with its tokeniser.

    Attributes:
        config: the network's shape.
        weights: parameter name to float32 tensor.
        tokenizer: the tokeniser it was trained with.
        metadata: plain facts for people: name, training data, steps, scores.
        weight_format: number format of the matrices on disk.
        shortlist: arrays of the output vocabulary's short-list by name, if there is one; ``generation.shortlist`` knows
            what they mean and checks them.
    """

    config: ModelConfig
    weights: Mapping[str, Tensor]
    tokenizer: Tokenizer
    metadata: Mapping[str, Any] = field(default_factory=dict)
    weight_format: WeightFormat = "float32"
    shortlist: Mapping[str, npt.NDArray[Any]] | None = None

    def fingerprint(self) -> str:
        """Return a digest (BLAKE2b, 16 bytes in hexadecimal) of all that translations depend on: reads every weight."""
        digest = hashlib.blake2b(digest_size=16)
        description = [config_to_mapping(self.config), dict(self.metadata)]
        digest.update(json.dumps(description, sort_keys=True, default=str).encode())
        digest.update(self.tokenizer.serialized)
        for name, weight in sorted(self.weights.items()):
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        for name, array in sorted((self.shortlist or {}).items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint folder; an existing checkpoint there is replaced file by file, its short-list included.

    Raises:
        CheckpointError: the folder cannot be written, or a weight is not finite in the number format.
    """
    description = {
        "format_version": FORMAT_VERSION,
        "weight_format": checkpoint.weight_format,
        "model": config_to_mapping(checkpoint.config),
        "languages": list(checkpoint.tokenizer.languages),
        "metadata": dict(checkpoint.metadata),
    }
    try:
        path.mkdir(parents=True, exist_ok=True)
        save_file(_pack(checkpoint.weights, checkpoint.weight_format), path / WEIGHTS_FILE)
        # safetensors makes a file that only its owner may read, but a service may run as another user.
        (path / WEIGHTS_FILE).chmod(0o644)
        (path / TOKENIZER_FILE).write_bytes(checkpoint.tokenizer.serialized)
        (path / CONFIG_FILE).write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if checkpoint.shortlist is None:
            (path / SHORTLIST_FILE).unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write the checkpoint {path}: {error}") from error
    if checkpoint.shortlist is not None:
        save_shortlist(path, checkpoint.shortlist, checkpoint.tokenizer)


def save_shortlist(path: Path, shortlist: Mapping[str, npt.NDArray[Any]], tokenizer: Tokenizer) -> None:
    """Write the short-list of a checkpoint folder, and no other file of it.

    Raises:
        CheckpointError: it cannot be written.
    """
    file = path / SHORTLIST_FILE
    try:
        path.mkdir(parents=True, exist_ok=True)
        arrays = {name: np.ascontiguousarray(array) for name, array in shortlist.items()}
        safetensors.numpy.save_file(arrays, file, {"tokenizer": _fingerprint(tokenizer)})
        file.chmod(0o644)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {file}: {error}") from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint folder; weights are returned in float32.

    Raises:
        CheckpointError: a file is missing or damaged, or the files do not fit together.
    """
    description = _read_description(path)
    try:
        config = config_from_mapping(ModelConfig, description["model"], where="model.")
    except ConfigurationError as error:
        raise CheckpointError(f"{path / CONFIG_FILE}: {error}") from error
    tokenizer = Tokenizer.load(path / TOKENIZER_FILE)
    if tokenizer.vocab_size != config.vocab_size:
        raise CheckpointError(
            f"{path}: the tokeniser has {tokenizer.vocab_size} tokens, the network's vocab_size is {config.vocab_size}"
        )
    weights = _read_weights(path / WEIGHTS_FILE)
    shortlist = _read_shortlist(path / SHORTLIST_FILE, tokenizer)
    return Checkpoint(config, weights, tokenizer, description["metadata"], description["weight_format"], shortlist)


def load_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into a network's parameters.

    Raises:
        CheckpointError: a parameter is missing, left over, or has another shape; all such names are told at once.
    """
    parameters = dict(network.named_parameters())
    problems = [f"missing {name}" for name in parameters if name not in weights]
    problems += [f"unknown {name}" for name in weights if name not in parameters]
    problems += [
        f"{name} has shape {tuple(weights[name].shape)}, the network wants {tuple(parameter.shape)}"
        for name, parameter in parameters.items()
        if name in weights and weights[name].shape != parameter.shape
    ]
    if problems:
        raise CheckpointError("the weights do not fit the network: " + "; ".join(problems))
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


def _read_description(path: Path) -> dict[str, Any]:
    file = path / CONFIG_FILE
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{file} is not JSON: {error}") from error
    if not isinstance(description, dict) or description.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(f"{file}: format_version must be {FORMAT_VERSION}")
    for name, kind in (("model", dict), ("metadata", dict), ("weight_format", str)):
        if not isinstance(description.get(name), kind):
            raise CheckpointError(f"{file}: {name} must be of type {kind.__name__}")
    if description["weight_format"] not in get_args(WeightFormat):
        raise CheckpointError(f"{file}: weight_format must be one of {', '.join(get_args(WeightFormat))}")
    return description


def _pack(weights: Mapping[str, Tensor], weight_format: WeightFormat) -> dict[str, Tensor]:
    packed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        stored = tensor.detach().cpu().to(_DTYPES.get(weight_format, torch.float32)).contiguous()
        if not stored.isfinite().all():
            raise CheckpointError(f"{name} has values that are not finite in {weight_format}")
        if weight_format == "int8" and stored.dim() == 2:
            packed[name], packed[name + SCALE_SUFFIX] = quantize_rows(stored)
        else:
            packed[name] = stored
    return packed


def _read_weights(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(file, framework="pt") as tensors:
            names = list(tensors.keys())
            weights = {}
            for name in names:
                if name.endswith(SCALE_SUFFIX) and name.removesuffix(SCALE_SUFFIX) in names:
                    continue
                tensor = tensors.get_tensor(name)
                if tensor.dtype == torch.int8:
                    scales = tensors.get_tensor(name + SCALE_SUFFIX)
                    if scales.shape != tensor.shape[:1]:
                        raise CheckpointError(f"{file}: {name} has {len(tensor)} rows and {len(scales)} scales")
                    tensor = dequantize_rows(tensor, scales)
                weights[name] = tensor.float()
            return weights
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read {file}: {error}") from error


def _read_shortlist(file: Path, tokenizer: Tokenizer) -> dict[str, npt.NDArray[Any]] | None:
    if not file.exists():
        return None
    try:
        with safe_open(file, framework="numpy") as arrays:
            made_for = (arrays.metadata() or {}).get("tokenizer")
            if made_for != _fingerprint(tokenizer):
                raise CheckpointError(
                    f"{file}: tokenizer must be that of the model, {_fingerprint(tokenizer)}, got {made_for}"
                )
            return {name: arrays.get_tensor(name) for name in arrays.keys()}  # noqa: SIM118, it cannot be iterated
    except (OSError, SafetensorError, TypeError, AttributeError) as error:  # of number formats that numpy lacks
        raise CheckpointError(f"cannot read {file}: {error}") from error


def _fingerprint(tokenizer: Tokenizer) -> str:
    return hashlib.blake2b(tokenizer.serialized, digest_size=16).hexdigest()
