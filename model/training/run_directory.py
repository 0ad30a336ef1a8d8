"""A run's folder: its recipe, its checkpoints, and the state that a resumed run continues from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.checkpoints.checkpoint import Checkpoint, save_checkpoint
from model.config import TrainingConfig, config_to_mapping
from model.errors import CheckpointError, ConfigurationError

_STATE_FOLDER = "training"
_MUST_STAY = ("model", "tokenizer", "seed", "batch_tokens", "accumulation_steps")
"""Parts of a recipe that a run cannot change on its way without losing its meaning."""


@dataclass(frozen=True)
class TrainingState:
    """All that a run continues from, besides its recipe.

    Attributes:
        weights: the current weights; the checkpoint beside them holds the averaged ones.
        optimizer: state of the optimiser.
        epoch, step_of_epoch: position in the data.
        average: the moving average of the weights, None without one.
        average_updates: steps that the average has seen.
    """

    weights: Mapping[str, Tensor]
    optimizer: dict[str, Any]
    epoch: int
    step_of_epoch: int
    average: Mapping[str, Tensor] | None
    average_updates: int


class RunDirectory:
    """The folder of one run: ``recipe.json``, ``metrics.jsonl``, ``checkpoints/step-00001000/`` and so on."""

    def __init__(self, path: Path, keep: int) -> None:
        self.path = path
        self.keep = keep

    def save_config(self, config: TrainingConfig) -> None:
        """Write the recipe as it is used.

        Raises:
            ConfigurationError: the run was begun with another network, tokeniser, seed or batch size.
        """
        file = self.path / "recipe.json"
        plain = json.loads(json.dumps(config_to_mapping(config)))
        if file.exists() and self.newest_path() is not None:
            before = json.loads(file.read_text(encoding="utf-8"))
            for name in _MUST_STAY:
                if before.get(name) != plain[name]:
                    raise ConfigurationError(name, f"must stay as the run {self.path} began", plain[name])
        self.path.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(plain, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def save(self, step: int, checkpoint: Checkpoint, state: TrainingState) -> Path:
        """Write the checkpoint of a step, whole or not at all, and delete the oldest beyond ``keep``."""
        final = self.path / "checkpoints" / f"step-{step:08d}"
        temporary = final.with_suffix(".partial")
        shutil.rmtree(temporary, ignore_errors=True)
        save_checkpoint(temporary, checkpoint)
        folder = temporary / _STATE_FOLDER
        folder.mkdir()
        save_file({name: tensor.detach() for name, tensor in state.weights.items()}, folder / "weights.safetensors")
        torch.save(state.optimizer, folder / "optimizer.pt")
        progress = {
            "epoch": state.epoch,
            "step_of_epoch": state.step_of_epoch,
            "average_updates": state.average_updates,
            "averaged": state.average is not None,
        }
        (folder / "progress.json").write_text(json.dumps(progress), encoding="utf-8")
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
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
            average = load_file(path / "weights.safetensors") if progress["averaged"] else None
            return TrainingState(
                weights=load_file(folder / "weights.safetensors"),
                optimizer=optimizer,
                epoch=progress["epoch"],
                step_of_epoch=progress["step_of_epoch"],
                average=average,
                average_updates=progress["average_updates"],
            )
        except Exception as error:  # torch.load and safetensors raise many types for damaged files
            raise CheckpointError(f"cannot resume from {path}: {error}") from error

    def _checkpoints(self) -> list[Path]:
        return sorted(p for p in self.path.glob("checkpoints/step-*") if p.suffix != ".partial")
