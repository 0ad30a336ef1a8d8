"""Our checkpoint format: config.json, weights.safetensors and tokenizer.model in one folder; it builds no network.

Matrices may be stored in float32, bfloat16, float16 or int8 with a scale per row; vectors stay in float32 (int8) or
take the format of the matrices. Whatever the format on disk, reading returns float32. A folder may also have a
shortlist.safetensors, which names the tokeniser that its ids are of.

Float32 weights are mapped: they are the file's own pages, privately, so that a change in memory never reaches the file
and memory is used once, however many processes read it. Files are therefore replaced whole, never written into. What
stands in config.json names no other file. Symbolic links are followed, as hubs keep their files behind such links; who
may choose the folder of a model decides what is read.
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
from model.checkpoints.tensor_header import StoredTensor, parse_json, read_header
from model.config import ModelConfig, config_from_mapping, config_to_mapping
from model.errors import CheckpointError, ConfigurationError
from model.text.loading import load_tokenizer
from model.text.tokenizing import TextTokenizer

FORMAT_VERSION = 1
CONFIG_FILE, WEIGHTS_FILE = "config.json", "weights.safetensors"
SHORTLIST_FILE = "shortlist.safetensors"
SCALE_SUFFIX = ".scale"
MAX_CONFIG_BYTES = 16 * 2**20
"""Longest config.json that is read."""
MAX_TOKENIZER_BYTES = 256 * 2**20
"""Largest file besides the weights that is read."""
MAX_POSITIONS = 65_536
"""Most positions, offset included, of a network that is read: no weight shows how many sinusoids are computed."""
WeightFormat = Literal["float32", "bfloat16", "float16", "int8"]
_STORED_DTYPES = ("F32", "BF16", "F16", "I8")
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
    tokenizer: TextTokenizer
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
            digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)  # no copy
        for name, array in sorted((self.shortlist or {}).items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint folder; an existing checkpoint there is replaced file by file, its short-list included.

    Weights that were mapped from such a file stay what they were.

    Raises:
        CheckpointError: the folder cannot be written, or a weight is not finite in the number format.
    """
    description = {
        "format_version": FORMAT_VERSION,
        "weight_format": checkpoint.weight_format,
        "model": config_to_mapping(checkpoint.config),
        "languages": list(checkpoint.tokenizer.languages),
        "source_languages": list(checkpoint.tokenizer.source_languages),
        "target_languages": list(checkpoint.tokenizer.target_languages),
        "metadata": dict(checkpoint.metadata),
    }
    try:
        path.mkdir(parents=True, exist_ok=True)
        _replace(path / WEIGHTS_FILE, _pack(checkpoint.weights, checkpoint.weight_format))
        checkpoint.tokenizer.save(path)
        (path / CONFIG_FILE).write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if checkpoint.shortlist is None:
            (path / SHORTLIST_FILE).unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write the checkpoint {path}: {error}") from error
    if checkpoint.shortlist is not None:
        save_shortlist(path, checkpoint.shortlist, checkpoint.tokenizer)


def _replace(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a file of tensors beside the old one and put it into its place, or leave no trace."""
    beside = file.with_name(f"{file.name}.new")
    try:
        save_file(dict(tensors), beside)
        # safetensors makes a file that only its owner may read, but a service may run as another user.
        beside.chmod(0o644)
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)


def save_shortlist(path: Path, shortlist: Mapping[str, npt.NDArray[Any]], tokenizer: TextTokenizer) -> None:
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
    """Read a checkpoint folder; weights are returned in float32, mapped where they are stored so.

    Raises:
        CheckpointError: a file is missing or damaged, or the files do not fit together.
    """
    description = read_description(path)
    config = config_of(path, description)
    _require_readable_files(path)
    tokenizer = load_tokenizer(path)
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
    require_fit(parameters, weights)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


def require_fit(parameters: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError with the names of all parameters that are missing, left over, or of another shape."""
    problems = [f"missing {name}" for name in parameters if name not in weights]
    problems += [f"unknown {name}" for name in weights if name not in parameters]
    problems += [
        f"{name} has shape {tuple(weights[name].shape)}, the network wants {tuple(parameter.shape)}"
        for name, parameter in parameters.items()
        if name in weights and weights[name].shape != parameter.shape
    ]
    if problems:
        raise CheckpointError("the weights do not fit the network: " + "; ".join(problems))


def read_description(path: Path) -> dict[str, Any]:
    """Return what config.json says: ``format_version``, ``weight_format``, ``model`` (a mapping) and ``metadata``.

    Raises:
        CheckpointError: it cannot be read, or is none of ours.
    """
    file = path / CONFIG_FILE
    try:
        if file.exists() and not (file.is_file() and file.stat().st_size <= MAX_CONFIG_BYTES):
            raise CheckpointError(f"{file} must be a regular file of at most {MAX_CONFIG_BYTES} bytes")
        description = parse_json(file.read_text(encoding="utf-8"))
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


def config_of(path: Path, description: Mapping[str, Any]) -> ModelConfig:
    """Return the network's shape out of a folder's description.

    Raises:
        CheckpointError: it breaks a rule of ModelConfig, or has more than :data:`MAX_POSITIONS`.
    """
    file = path / CONFIG_FILE
    try:
        config = config_from_mapping(ModelConfig, description["model"], where="model.")
    except ConfigurationError as error:
        raise CheckpointError(f"{file}: {error}") from error
    for name in ("max_source_length", "max_target_length"):
        length = getattr(config, name)
        if length + config.position_offset > MAX_POSITIONS:
            rule = f"must be at most {MAX_POSITIONS} with position_offset ({config.position_offset})"
            raise CheckpointError(f"{file}: model.{name} {rule}, got {length}")
    return config


def stored_weights(file: Path) -> dict[str, tuple[StoredTensor, StoredTensor | None]]:
    """Return the header's entry of each weight of a file of ours, and that of the scales of its rows if it has any.

    Raises:
        CheckpointError: the file is damaged, or is none of ours.
    """
    header = read_header(file)
    found: dict[str, tuple[StoredTensor, StoredTensor | None]] = {}
    for name, tensor in header.items():
        whole = header.get(name.removesuffix(SCALE_SUFFIX))
        if name.endswith(SCALE_SUFFIX) and whole is not None and whole.dtype == "I8":
            continue
        if tensor.dtype not in _STORED_DTYPES:
            raise CheckpointError(f"{file}: {name} must be one of {', '.join(_STORED_DTYPES)}, got {tensor.dtype}")
        scales = header.get(name + SCALE_SUFFIX) if tensor.dtype == "I8" else None
        if tensor.dtype == "I8":
            if scales is None or len(tensor.shape) != 2:
                raise CheckpointError(f"{file}: {name} is int8 and must be a matrix with {name}{SCALE_SUFFIX}")
            if scales.dtype != "F32" or scales.shape != tensor.shape[:1]:
                raise CheckpointError(
                    f"{file}: {name} has {tensor.shape[0]} rows and {scales.num_values} scales in {scales.dtype}"
                )
        found[name] = tensor, scales
    return found


def _require_readable_files(path: Path) -> None:
    """Refuse pipes, devices and enormous files of the model and its tokeniser: reading them would never end."""
    for file in (*path.glob("*"), *path.glob("tokenizer/*")):
        if file.exists() and not file.is_dir():
            if not file.is_file():
                raise CheckpointError(f"{file} must be a regular file")
            if file.suffix != ".safetensors" and file.stat().st_size > MAX_TOKENIZER_BYTES:
                raise CheckpointError(f"{file} must have at most {MAX_TOKENIZER_BYTES} bytes")


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
    """Map a file; what is stored in other formats than float32 is converted tensor by tensor."""
    stored = stored_weights(file)
    try:
        with safe_open(file, framework="pt") as tensors:
            weights = {}
            for name, (_, scales) in stored.items():
                tensor = tensors.get_tensor(name)
                if scales is not None:
                    tensor = dequantize_rows(tensor, tensors.get_tensor(name + SCALE_SUFFIX))
                weights[name] = tensor.float()  # the mapped pages themselves where they are float32
            return weights
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read {file}: {error}") from error


def _read_shortlist(file: Path, tokenizer: TextTokenizer) -> dict[str, npt.NDArray[Any]] | None:
    if not file.exists():
        return None
    read_header(file)
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


def _fingerprint(tokenizer: TextTokenizer) -> str:
    return hashlib.blake2b(tokenizer.serialized, digest_size=16).hexdigest()
