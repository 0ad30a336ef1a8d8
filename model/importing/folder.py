"""A folder in the Hugging Face layout, opened safely: JSON files, and weights that are mapped and read one by one.

Names of files come from the folder's own index at most, and must be plain names in it. Weights are safetensors, or
PyTorch files that hold tensors and nothing else: no code of a file is ever run.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.checkpoints.tensor_header import parse_json, read_header
from model.errors import CheckpointError
from model.importing.renaming import Shape

MAX_JSON_BYTES = 64 * 2**20
"""Longest JSON file that is read; vocabularies of public models have up to 20 MB."""
_INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


class Weights(Protocol):
    """A file's tensors: their shapes are known at once, and each is read when it is asked for."""

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Shape of each tensor, by name."""

    def read(self, name: str) -> Tensor:
        """Return one tensor in float32."""


def read_json(file: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        CheckpointError: it is missing, too long, no JSON, or holds something else.
    """
    try:
        if not file.is_file():
            raise CheckpointError(f"{file} must be a regular file")
        if file.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{file} must have at most {MAX_JSON_BYTES} bytes, got {file.stat().st_size}")
        value = parse_json(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{file} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} must hold a JSON object")
    return value


def open_weights(folder: Path) -> Weights:
    """Open the weights of a folder, in one file or several; safetensors win where there are both.

    Raises:
        CheckpointError: there are none, or a file is damaged, hostile or missing.
    """
    for index_name, file_name in zip(_INDEX_FILES, _WEIGHT_FILES, strict=True):
        if (folder / index_name).exists():
            return _Joined([_open(file) for file in _shards(folder, index_name)])
        if (folder / file_name).exists():
            return _open(folder / file_name)
    raise CheckpointError(f"{folder} has no weights: there must be one of {', '.join((*_WEIGHT_FILES, *_INDEX_FILES))}")


def _shards(folder: Path, index_name: str) -> list[Path]:
    """Return the files that an index names."""
    table = read_json(folder / index_name).get("weight_map")
    if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
        raise CheckpointError(f"{folder / index_name}: weight_map must name a file for each tensor")
    names = sorted(set(table.values()))
    for name in names:
        if not _PLAIN_NAME.fullmatch(name):
            raise CheckpointError(f"{folder / index_name}: a file must have a plain name, got {name!r:.100}")
    return [folder / name for name in names]


def _open(file: Path) -> Weights:
    return _Safetensors(file) if file.suffix == ".safetensors" else _Pickled(file)


class _Safetensors:
    """One safetensors file; tensors are mapped."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.shapes: Mapping[str, Shape] = {name: tensor.shape for name, tensor in read_header(file).items()}

    def read(self, name: str) -> Tensor:
        """Map one tensor; it is copied where it is not in float32."""
        try:
            with safe_open(self._file, framework="pt") as tensors:
                return _as_float(tensors.get_tensor(name), name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot read {self._file}: {error}") from error


class _Pickled:
    """One file of ``torch.save``, read as tensors alone."""

    def __init__(self, file: Path) -> None:
        if not file.is_file():
            raise CheckpointError(f"{file} must be a regular file")
        try:
            # Files from before PyTorch 1.6 are no zip archives, and cannot be mapped.
            can_map = zipfile.is_zipfile(file)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Detected pickle protocol")  # it is refused, or it is not
                loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=can_map)
        except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
            # The text of an UnpicklingError recommends to switch the safety off; only its first line is told.
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise CheckpointError(f"{file} is no file of tensors alone: {reason:.200}") from None
        if not isinstance(loaded, Mapping) or not all(isinstance(each, Tensor) for each in loaded.values()):
            raise CheckpointError(f"{file} must hold tensors by name, and nothing else")
        self._tensors: dict[str, Tensor] = dict(loaded)
        self.shapes: Mapping[str, Shape] = {name: tuple(each.shape) for name, each in self._tensors.items()}

    def read(self, name: str) -> Tensor:
        """Return one tensor."""
        return _as_float(self._tensors[name], name)


@dataclass(frozen=True)
class _Joined:
    """Several files as one."""

    parts: list[Weights]

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Shape of each tensor of all files."""
        found: dict[str, Shape] = {}
        for part in self.parts:
            twice = sorted(found.keys() & part.shapes.keys())
            if twice:
                raise CheckpointError(f"{twice[0]} is in two files")
            found |= part.shapes
        return found

    def read(self, name: str) -> Tensor:
        """Return one tensor of the file that has it."""
        return next(part for part in self.parts if name in part.shapes).read(name)


def _as_float(tensor: Tensor, name: str) -> Tensor:
    if not tensor.is_floating_point():
        raise CheckpointError(f"{name} must hold floating-point numbers, got {tensor.dtype}")
    return tensor.float()
