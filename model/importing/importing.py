"""Another code base's checkpoint into ours: settings, tensors, tokeniser; all is checked before any weight is read.

Nothing is downloaded here; see hub.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoints.checkpoint import MAX_POSITIONS, Checkpoint
from model.checkpoints.inspection import parameter_shapes
from model.config import ModelConfig
from model.errors import CheckpointError, ConfigurationError
from model.importing import bart, t5
from model.importing.folder import Weights, open_weights, read_json
from model.importing.native_marian import is_native, read_native
from model.importing.renaming import Rename, RenamingPlan, plan_renaming, squeezed
from model.importing.settings import Settings
from model.importing.tokenizers import Wanted, read_tokenizer

CONFIG_FILE = "config.json"
_FAMILIES: Mapping[str, bart.Family] = {**bart.FAMILIES, **t5.FAMILIES}


@dataclass(frozen=True)
class ImportedCheckpoint:
    """A checkpoint that was read, and what is to be said about it."""

    checkpoint: Checkpoint
    dropped: tuple[str, ...]
    """Names of tensors that the network computes itself."""
    ignored_settings: tuple[str, ...]
    """Fields of config.json that nothing was made of."""


def import_checkpoint(
    source: Path,
    *,
    name: str | None = None,
    source_language: str | None = None,
    target_language: str | None = None,
) -> ImportedCheckpoint:
    """Read a folder in the Hugging Face layout, or in Marian's own form.

    Args:
        source: the folder.
        name: what the model is called; None takes the folder's name.
        source_language: code, where the checkpoint does not say it; several with commas between them.
        target_language: the same for targets.

    Raises:
        CheckpointError: the checkpoint is damaged, hostile, of another family, or has an option that is not supported;
            all such options are told at once, before any weight is read.
    """
    wanted = Wanted(source_language, target_language)
    title = name or source.resolve().name
    if is_native(source):
        config, tensors, tokenizer, plan, settings = read_native(source, wanted)
        checkpoint = Checkpoint(config, tensors, tokenizer, {"name": title, "family": "marian"})
        return ImportedCheckpoint(checkpoint, plan.dropped, tuple(settings.ignored()))
    values = read_json(source / CONFIG_FILE)
    weights = open_weights(source)
    config, table, settings = read_config(values, CONFIG_FILE, weights.shapes)
    plan = plan_renaming(weights.shapes, parameter_shapes(config, len(weights.shapes)), table)
    settings.problems += plan.problems
    settings.refuse()
    tokenizer = read_tokenizer(source, values, config.vocab_size, wanted)
    found = {number for number in (config.pad_id, config.eos_id) if number not in tokenizer.special_ids}
    if found or tokenizer.eos_id != config.eos_id or tokenizer.pad_id != config.pad_id:
        raise CheckpointError(
            f"padding and end token must be {tokenizer.pad_id} and {tokenizer.eos_id} as in the tokeniser, "
            f"got {config.pad_id} and {config.eos_id} in {CONFIG_FILE}"
        )
    metadata = {"name": title, "family": values["model_type"]}
    checkpoint = Checkpoint(config, read_weights(weights, plan), tokenizer, metadata)
    return ImportedCheckpoint(checkpoint, plan.dropped, tuple(settings.ignored()))


def read_config(
    values: Mapping[str, object], file: str, names: Collection[str]
) -> tuple[ModelConfig, list[Rename], Settings]:
    """Return network and table of a family, with what does not fit in the settings' problems.

    Args:
        values: of the file.
        file: what it is called.
        names: of the checkpoint's tensors.

    Raises:
        CheckpointError: the family is unknown, or so much is wrong that no network can be named.
    """
    family = values.get("model_type")
    if family not in _FAMILIES:
        raise CheckpointError(f"{file}: model_type must be one of {', '.join(_FAMILIES)}, got {family!r:.80}")
    settings = Settings(values, file)
    try:
        config, table = _FAMILIES[str(family)](settings, names)
    except ConfigurationError as error:
        settings.problems.append(f"{file}: {error}")
        settings.refuse()
        raise
    length = max(config.max_source_length, config.max_target_length) + config.position_offset
    if length > MAX_POSITIONS:
        settings.problems.append(f"{file}: there must be at most {MAX_POSITIONS} positions, got {length}")
    return config, table, settings


def read_weights(weights: Weights, plan: RenamingPlan) -> dict[str, Tensor]:
    """Read every tensor of a plan, under our names.

    Raises:
        CheckpointError: tensors that should be tied differ.
    """
    found: dict[str, Tensor] = {}
    for ours, names in plan.sources.items():
        first, *others = (weights.read(name) for name in names)
        for name, other in zip(names[1:], others, strict=True):
            if not torch.equal(first, other):
                raise CheckpointError(f"{name} must be equal to {names[0]}: the configuration ties them")
        found[ours] = first.reshape(squeezed(tuple(first.shape))) if ours == "output_bias" else first
    return found
