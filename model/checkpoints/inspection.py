"""Facts about a model from its description and the headers of its files: sizes, parts, bytes; it reads no weight."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from model.checkpoints.checkpoint import WEIGHTS_FILE, config_of, read_description, stored_weights
from model.checkpoints.tensor_header import read_header
from model.config import ModelConfig
from model.errors import CheckpointError
from model.transformer import Transformer

PARTS = (
    "embeddings",
    "encoder_self_attention",
    "encoder_feed_forward",
    "decoder_self_attention",
    "decoder_cross_attention",
    "decoder_feed_forward",
    "norms",
    "output",
)
"""Parts of a network; each parameter belongs to one of them, a tied output matrix to the embeddings."""
CACHE_TOKENS = 100
"""Tokens of a row for which the memory of keys and values is stated."""
OWN_FAMILY = "dragoman"
MOST_TENSORS = 10_000
"""How many layers are believed of a model whose files tell no number of tensors."""
Shapes = Mapping[str, tuple[int, ...]]
"""Parameter names to shapes."""


@dataclass(frozen=True)
class Inspection:
    """What can be known of a model before it is loaded; all sizes are bytes."""

    name: str
    family: str
    """``dragoman`` for our own networks, else the family that it was imported as, or would be."""
    source_languages: tuple[str, ...]
    target_languages: tuple[str, ...]
    config: ModelConfig
    parameters: Mapping[str, int]
    """Numbers of each of :data:`PARTS`."""
    stored_formats: Mapping[str, int]
    """Bytes on disk in each number format that the files use, scales of int8 matrices under ``scales``."""
    bytes_in: Mapping[str, int]
    """Bytes of all weights in each number format that we store; int8 with its scales, and vectors in float32."""
    cache_bytes: Mapping[str, int]
    """Keys and values, in float32, of 100 ``source`` tokens of a row, and of 100 ``target`` tokens."""

    @property
    def num_parameters(self) -> int:
        """All parameters, tied ones counted once."""
        return sum(self.parameters.values())


def inspect_checkpoint(path: Path) -> Inspection:
    """Return the facts of a folder in our format.

    Raises:
        CheckpointError: a file is missing or damaged, or the weights do not fit the network.
    """
    description = read_description(path)
    config = config_of(path, description)
    stored = stored_weights(path / WEIGHTS_FILE)
    formats: Counter[str] = Counter()
    for tensor, scales in stored.values():
        formats[_FORMATS[tensor.dtype]] += tensor.num_bytes
        if scales is not None:
            formats["scales"] += scales.num_bytes
    shapes = {name: tensor.shape for name, (tensor, _) in stored.items()}
    both = _codes(description.get("languages"))
    name = str(description["metadata"].get("name") or path.resolve().name)
    return inspect_network(
        name,
        str(description["metadata"].get("family", OWN_FAMILY)),
        (_codes(description.get("source_languages")) or both, _codes(description.get("target_languages")) or both),
        config,
        shapes,
        dict(formats),
    )


def inspect_foreign(
    path: Path, name: str, family: str, languages: tuple[tuple[str, ...], tuple[str, ...]], config: ModelConfig
) -> Inspection:
    """Return the facts of a folder of another family, of whose files only headers are read, sharded ones included.

    Args:
        path: the folder, as it is before it is imported.
        name: for people.
        family: what it would be imported as.
        languages: of sources, and of targets.
        config: the network that it would be imported as.

    Raises:
        CheckpointError: a file is damaged, or the network's sizes are impossible.
    """
    formats: Counter[str] = Counter()
    num_tensors = 0
    for file in sorted(path.glob("*.safetensors")):
        for tensor in read_header(file).values():
            formats[_FORMATS.get(tensor.dtype, tensor.dtype)] += tensor.num_bytes
            num_tensors += 1
    shapes = parameter_shapes(config, num_tensors or MOST_TENSORS)
    return inspect_network(name, family, languages, config, shapes, dict(formats))


def inspect_network(
    name: str,
    family: str,
    languages: tuple[tuple[str, ...], tuple[str, ...]],
    config: ModelConfig,
    shapes: Shapes,
    stored_formats: Mapping[str, int],
) -> Inspection:
    """Return the facts of a network with parameters of these shapes.

    Args:
        name: for people.
        family: where its format comes from.
        languages: of sources, and of targets.
        config: its shape.
        shapes: of its parameters, by our names.
        stored_formats: as in :class:`Inspection`.

    Raises:
        CheckpointError: the shapes are not those of the network.
    """
    wanted = parameter_shapes(config, num_tensors=len(shapes))
    problems = [f"missing {each}" for each in wanted if each not in shapes]
    problems += [f"unknown {each}" for each in shapes if each not in wanted]
    problems += [
        f"{each} has shape {shapes[each]}, the network wants {shape}"
        for each, shape in wanted.items()
        if each in shapes and shapes[each] != shape
    ]
    if problems:
        raise CheckpointError("the weights do not fit the network: " + "; ".join(problems))
    parameters = dict.fromkeys(PARTS, 0)
    for each, shape in wanted.items():
        parameters[part_of(each)] += math.prod(shape)
    source, target = languages
    return Inspection(
        name, family, source, target, config, parameters, stored_formats, bytes_in_formats(wanted), cache_bytes(config)
    )


def parameter_shapes(config: ModelConfig, num_tensors: int) -> dict[str, tuple[int, ...]]:
    """Return the parameters' names and shapes; nothing of their size is allocated.

    Args:
        config: the network's shape.
        num_tensors: how many the file has, which bounds the number of layers that are believed.

    Raises:
        CheckpointError: there are more layers than tensors, or sizes that no tensor can have.
    """
    for name in ("num_encoder_layers", "num_decoder_layers"):
        if getattr(config, name) > num_tensors:
            raise CheckpointError(f"{name} is {getattr(config, name)}, but there are {num_tensors} tensors")
    try:
        with torch.device("meta"):
            network = Transformer(config)
    except (RuntimeError, TypeError, OverflowError) as error:  # torch's, for sizes beyond 64 bits
        raise CheckpointError(f"the network's sizes are impossible: {error}") from error
    return {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}


def part_of(name: str) -> str:
    """Return to which of :data:`PARTS` a parameter belongs."""
    if name.startswith("output_"):
        return "output"
    if "norm." in name:
        return "norms"
    side = name.partition(".")[0]
    for module, part in (
        ("self_attention", "self_attention"),
        ("relative_bias", "self_attention"),
        ("cross_attention", "cross_attention"),
        ("feed_forward", "feed_forward"),
    ):
        if f".{module}." in name:
            return f"{side}_{part}"
    assert "embedding" in name, f"{name} belongs to no part"
    return "embeddings"


def bytes_in_formats(shapes: Shapes) -> dict[str, int]:
    """Return the bytes of weights in each of our formats, as ``save_checkpoint`` writes them."""
    total = sum(math.prod(shape) for shape in shapes.values())
    matrices = sum(math.prod(shape) for shape in shapes.values() if len(shape) == 2)
    rows = sum(shape[0] for shape in shapes.values() if len(shape) == 2)
    return {
        "float32": 4 * total,
        "bfloat16": 2 * total,
        "float16": 2 * total,
        "int8": matrices + 4 * rows + 4 * (total - matrices),
    }


def cache_bytes(config: ModelConfig) -> dict[str, int]:
    """Return the bytes of keys and values in float32 that 100 tokens of a row hold.

    A source's are in the cross-attention of every decoder layer, once for all its hypotheses; a target's are in their
    self-attention, for each hypothesis. Both are equally many; on a GPU in 16 bits they are half of it.
    """
    each = 2 * config.num_decoder_layers * config.num_heads * config.width_per_head * 4 * CACHE_TOKENS
    return {"source": each, "target": each}


def _codes(value: object) -> tuple[str, ...]:
    """Return a list of codes out of a description, which is there for people only."""
    return tuple(map(str, value)) if isinstance(value, list) else ()


_FORMATS = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "I8": "int8"}
