"""The header of a safetensors file, read and checked strictly; no tensor is read, and nothing is allocated for one.

The format is an 8-byte length, a JSON object, and the tensors' bytes one behind the other. Every number in the header
is checked against the file's size here, so that whoever maps the file afterwards meets no surprise.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import CheckpointError

MAX_HEADER_BYTES = 16 * 2**20
"""Longest header that is read: room for a hundred thousand tensors, where real networks have some thousands."""
BYTES_PER_NUMBER = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"), 1),
}
"""Names of number formats in headers, and their sizes."""
METADATA_KEY = "__metadata__"


@dataclass(frozen=True)
class StoredTensor:
    """What a header says of one tensor."""

    dtype: str
    """Number format, one of :data:`BYTES_PER_NUMBER`."""
    shape: tuple[int, ...]
    num_bytes: int

    @property
    def num_values(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


def read_header(file: Path) -> dict[str, StoredTensor]:
    """Return what a safetensors file says of its tensors, in the order of their bytes.

    Raises:
        CheckpointError: the file cannot be read, is no regular file, or its header is too long, is not JSON, has a key
            twice, or does not describe exactly the bytes behind it.
    """
    if not file.is_file():
        raise CheckpointError(f"{file} must be a regular file")
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                limit = min(MAX_HEADER_BYTES, max(0, size - 8))
                raise CheckpointError(f"{file}: the header must have 2 to {limit} bytes, got {length}")
            text = stream.read(length)
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror}") from error
    try:
        header = parse_json(text.decode())
    except ValueError as error:
        raise CheckpointError(f"{file}: the header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{file}: the header must be a JSON object")
    header.pop(METADATA_KEY, None)
    return _checked(file, header, size - 8 - length)


def parse_json(text: str) -> Any:
    """Return what a JSON text says, read more strictly than Python does by itself.

    Raises:
        ValueError: it is not JSON, has a key twice in one object, a number that is not finite, or too many levels.
    """
    try:
        return json.loads(
            text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_finite_float
        )
    except RecursionError as error:
        raise ValueError("it has too many levels") from error


def _checked(file: Path, header: Mapping[str, Any], data_bytes: int) -> dict[str, StoredTensor]:
    """Check that the tensors of a header lie one behind the other and fill the ``data_bytes`` behind it."""
    found: list[tuple[int, int, str, StoredTensor]] = []
    for name, entry in header.items():
        try:
            dtype, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            if not all(type(number) is int and number >= 0 for number in (*shape, start, end)):
                raise ValueError
            size = BYTES_PER_NUMBER[dtype]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{file}: {name} lacks a known dtype, a shape or data_offsets") from error
        wanted = math.prod(shape) * size
        if end - start != wanted:
            raise CheckpointError(f"{file}: {name} is {dtype} {shape}, {wanted} bytes, but has {end - start}")
        found.append((start, end, name, StoredTensor(dtype, shape, wanted)))
    found.sort(key=lambda entry: entry[:2])
    ahead = 0
    for start, end, name, _ in found:
        if start != ahead:
            raise CheckpointError(f"{file}: {name} begins at byte {start} of the data, the one before ends at {ahead}")
        ahead = end
    if ahead != data_bytes:
        raise CheckpointError(f"{file}: the tensors have {ahead} bytes, the file has {data_bytes}")
    return {name: tensor for _, _, name, tensor in found}


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        [(key, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {key!r} stands twice")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _finite_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits} is too large for a number")
    return number
