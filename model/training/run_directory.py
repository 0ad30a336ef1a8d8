"""A run's folder: its recipe, its checkpoints, and the state that a resumed run continues from."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.checkpoints.checkpoint import WEIGHTS_FILE, Checkpoint, save_checkpoint
from model.config import ModelConfig, config_from_mapping, config_to_mapping
from model.errors import CheckpointError, ConfigurationError
from model.text.tokenizer import TOKENIZER_FILE, Tokenizer
from model.training_config import AugmentationConfig, TrainingConfig

_STATE_FOLDER = "training"
_RECIPE_FILE = "recipe.json"
_MUST_STAY = {"seed": None, "batch_tokens": None, "accumulation_steps": None, "num_shapes": 0}
"""Besides network and tokeniser, what the position in the data depends on, with what older runs' recipes mean."""


@dataclass(frozen=True)
class TrainingState:
    """All that a run continues from, besides its recipe.

    Attributes:
        weights: the current weights; the checkpoint beside them holds the averaged ones.
        optimizer: state of the optimiser.
        epoch, step_of_epoch: position in the data.
        average: the moving average of the weights, None without one.
        average_updates: steps that the average has seen.
        markers: which special tokens in a source the weights knew before the run began.
    """

    weights: Mapping[str, Tensor]
    optimizer: dict[str, Any]
    epoch: int
    step_of_epoch: int
    average: Mapping[str, Tensor] | None
    average_updates: int
    markers: tuple[str, ...] = ()


class RunDirectory:
    """The folder of one run: ``recipe.json``, ``metrics.jsonl``, ``checkpoints/step-00001000/`` and so on."""

    def __init__(self, path: Path, keep: int) -> None:
        self.path = path
        self.keep = keep

    def check(self, config: TrainingConfig, tokenizer: Tokenizer) -> None:
        """Compare a recipe with the one that the run began with; a run without a checkpoint has not begun.

        Raises:
            ConfigurationError: network, tokeniser, seed, batch size or augmentation differ: the run would lose its
                meaning.
        """
        newest, file = self.newest_path(), self.path / _RECIPE_FILE
        if newest is None or not file.exists():
            return
        before = json.loads(file.read_text(encoding="utf-8"))
        rule = f"as the run {self.path} began"
        require_same_network(config.model, config_from_mapping(ModelConfig, before["model"], "model."), rule)
        for name, older in _MUST_STAY.items():
            begun = before.get(name, older)
            if getattr(config, name) != begun:
                raise ConfigurationError(name, f"must be {begun} {rule}", getattr(config, name))
        augmentation = config_from_mapping(AugmentationConfig, before.get("augmentation", {}), "augmentation.")
        if config.augmentation != augmentation:
            raise ConfigurationError(
                "augmentation", f"must be {augmentation.shares} {rule}", config.augmentation.shares
            )
        if (newest / TOKENIZER_FILE).read_bytes() != tokenizer.serialized:
            raise ConfigurationError("tokenizer", f"must be the same {rule}", config.tokenizer)

    def save_config(self, config: TrainingConfig) -> None:
        """Write the recipe as it is used, whole or not at all."""
        self.path.mkdir(parents=True, exist_ok=True)
        text = json.dumps(config_to_mapping(config), indent=2, ensure_ascii=False) + "\n"
        temporary = self.path / f"{_RECIPE_FILE}.partial"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self.path / _RECIPE_FILE)

    def save(self, step: int, checkpoint: Checkpoint, state: TrainingState) -> Path:
        """Write the checkpoint of a step, whole or not at all, and delete the oldest beyond ``keep``.

        Raises:
            CheckpointError: the folder cannot be written; the earlier checkpoints are as they were.
        """
        final = self.path / "checkpoints" / f"step-{step:08d}"
        temporary = final.with_suffix(".partial")
        shutil.rmtree(temporary, ignore_errors=True)
        save_checkpoint(temporary, checkpoint)
        try:
            _write_state(temporary / _STATE_FOLDER, state)
            shutil.rmtree(final, ignore_errors=True)  # from before a return to an older checkpoint
            temporary.rename(final)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch reports a full disk as a RuntimeError
            raise CheckpointError(f"cannot write the checkpoint {final}: {error}") from error
        for old in self._checkpoints()[: -self.keep]:
            shutil.rmtree(old)
        return final

    def newest_path(self) -> Path | None:
        """Return the folder of the newest complete checkpoint."""
        found = self._checkpoints()
        return found[-1] if found else None

    def newest(self) -> TrainingState | None:
        """Return the state of the newest complete checkpoint, or None for a new run.

        Raises:
            CheckpointError: its files are damaged.
        """
        path = self.newest_path()
        if path is None:
            return None
        folder = path / _STATE_FOLDER
        try:
            progress = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
            optimizer = torch.load(folder / "optimizer.pt", weights_only=True, map_location="cpu")
            average = load_file(path / WEIGHTS_FILE) if progress["averaged"] else None
            return TrainingState(
                weights=load_file(folder / WEIGHTS_FILE),
                optimizer=optimizer,
                epoch=progress["epoch"],
                step_of_epoch=progress["step_of_epoch"],
                average=average,
                average_updates=progress["average_updates"],
                markers=tuple(progress.get("markers", ())),
            )
        except Exception as error:  # torch.load and safetensors raise many types for damaged files
            raise CheckpointError(f"cannot resume from {path}: {error}") from error

    def _checkpoints(self) -> list[Path]:
        return sorted(p for p in self.path.glob("checkpoints/step-*") if p.suffix != ".partial")


def _write_state(folder: Path, state: TrainingState) -> None:
    folder.mkdir()
    save_file({name: tensor.detach() for name, tensor in state.weights.items()}, folder / WEIGHTS_FILE)
    torch.save(state.optimizer, folder / "optimizer.pt")
    progress = {
        "epoch": state.epoch,
        "step_of_epoch": state.step_of_epoch,
        "average_updates": state.average_updates,
        "averaged": state.average is not None,
        "markers": list(state.markers),
    }
    (folder / "progress.json").write_text(json.dumps(progress), encoding="utf-8")


def require_same_network(config: ModelConfig, other: ModelConfig, rule: str, free: Collection[str] = ()) -> None:
    """Check that weights made with ``other`` mean the same under ``config``.

    Args:
        config: what the recipe asks for.
        other: what the weights were made with.
        rule: where that is, for the message.
        free: fields that may differ.

    Raises:
        ConfigurationError: the first field that differs.
    """
    for field in dataclasses.fields(ModelConfig):
        wanted, found = getattr(config, field.name), getattr(other, field.name)
        if wanted != found and field.name not in free:
            raise ConfigurationError(f"model.{field.name}", f"must be {found} {rule}", wanted)
