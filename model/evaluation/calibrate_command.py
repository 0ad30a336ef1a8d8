"""The command `dragoman calibrate`: dev sets in, a model's quality calibration and its error out; it fits nothing.

Heavy imports stand inside, as in ``model/cli.py``, which joins it to the other commands.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def calibrate(
    directory: Annotated[
        Path,
        typer.Argument(help="Folder of dev sets: files NAME.LANGUAGE, aligned by line.", exists=True, file_okay=False),
    ],
    model: Annotated[
        Path | None,
        typer.Option(
            "--model", "-m", help="Folder of a model; without it the embedded one.", exists=True, file_okay=False
        ),
    ] = None,
    max_lines: Annotated[int, typer.Option(help="First lines of each set that are used.", min=1)] = 500,
    write: Annotated[bool, typer.Option("--write", help="Store the numbers in the model's config.json.")] = False,
) -> None:
    """Fit a model's quality estimates to how often its words are in the references.

    Half of the lines are fitted, the other half shows the expected calibration error before and after.
    """
    from model.evaluation.calibration import calibrate as fit_and_measure
    from model.evaluation.evaluate import dev_sets, read_lines
    from model.translator import DEFAULT_MODEL, PRETRAINED, Translator

    folder = model or PRETRAINED / DEFAULT_MODEL
    with Translator.load(folder) as translator:
        sets = [
            (
                read_lines(directory / f"{name}.{source}")[:max_lines],
                read_lines(directory / f"{name}.{target}")[:max_lines],
                source,
                target,
            )
            for name, source, target in dev_sets(directory, translator.languages)
        ]
        result = fit_and_measure(translator, sets)
    found = result.calibration
    print(f"scale {found.scale:.4f} (temperature {1 / found.scale:.3f}), bias {found.bias:.4f}")
    print(
        f"fitted on {result.num_fitted} words; of {result.num_held_out} held-out words {result.accuracy:.1%} are in "
        f"the reference; expected calibration error {result.error_before:.4f} before, {result.error_after:.4f} after"
    )
    if write:
        values = {
            "scale": round(found.scale, 6),
            "bias": round(found.bias, 6),
            "num_words": result.num_fitted,
            "expected_calibration_error": round(result.error_after, 4),
        }
        write_calibration(folder, values)
        print(f"wrote {folder / 'config.json'}")


def write_calibration(folder: Path, values: dict[str, Any]) -> None:
    """Store a calibration in a checkpoint's metadata; everything else in its config.json stays.

    Raises:
        CheckpointError: the file cannot be written.
    """
    from model.checkpoints.checkpoint import CONFIG_FILE
    from model.errors import CheckpointError
    from model.generation.quality import METADATA_KEY

    path = folder / CONFIG_FILE
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        description.setdefault("metadata", {})[METADATA_KEY] = values
        beside = path.with_name(f"{path.name}.new")
        beside.write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        beside.replace(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot store the calibration in {path}: {error}") from error
