"""A training recipe: one TOML file that becomes a TrainingConfig; paths in it start at the recipe's folder."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

from model.config import config_from_mapping
from model.errors import ConfigurationError
from model.training_config import TrainingConfig


def load_recipe(path: Path) -> TrainingConfig:
    """Read a recipe.

    Raises:
        ConfigurationError: the file is missing, is not TOML, or breaks a rule of TrainingConfig.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError("recipe", f"must be a readable file ({error.strerror})", str(path)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError("recipe", f"must be TOML ({error})", str(path)) from error
    config = config_from_mapping(TrainingConfig, values)
    folder = path.resolve().parent

    def resolved(name: str) -> str:
        return str(folder / Path(name).expanduser())

    evaluation = config.evaluation
    return dataclasses.replace(
        config,
        run_directory=resolved(config.run_directory),
        tokenizer=resolved(config.tokenizer),
        initial_checkpoint=None if config.initial_checkpoint is None else resolved(config.initial_checkpoint),
        data=dataclasses.replace(
            config.data,
            directory=resolved(config.data.directory),
            sources=tuple(
                dataclasses.replace(source, path=resolved(source.path)) if source.path.startswith("./") else source
                for source in config.data.sources
            ),
        ),
        evaluation=None
        if evaluation is None
        else dataclasses.replace(evaluation, directory=resolved(evaluation.directory)),
    )
