"""The command `dragoman export`: a model or a training run in, a folder out, in our format or in another program's.

Heavy imports stand inside, as in ``model/cli.py``, which joins it to the other commands.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from model.errors import ConfigurationError

if TYPE_CHECKING:
    from model.checkpoints.checkpoint import Checkpoint


def export(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL", help="Folder of a model, of a training run, or of one of its checkpoints.", exists=True
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write to.", show_default=False)],
    file_format: Annotated[
        Literal["float32", "bfloat16", "float16", "int8", "ctranslate2", "huggingface"],
        typer.Option("--format", help="Number format of our own format, or another program's format."),
    ] = "float16",
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Number format within ctranslate2 (also int8, int8_float32, int16) or huggingface.",
            show_default="float32",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name that the service shows.", show_default="the name of OUT")
    ] = None,
) -> None:
    """Write a model, or a training run's newest one, for --model options, for CTranslate2 or for transformers."""
    from model.checkpoints.checkpoint import load_checkpoint, save_checkpoint
    from model.checkpoints.ctranslate2_export import export_ctranslate2
    from model.training.run_directory import RunDirectory

    if dtype is not None and file_format not in ("ctranslate2", "huggingface"):
        raise ConfigurationError("--dtype", "needs --format ctranslate2 or huggingface", dtype)
    loaded = load_checkpoint(RunDirectory(model, keep=1).newest_path() or model)
    named = dataclasses.replace(loaded, metadata={**loaded.metadata, "name": name or out.name})
    if file_format == "ctranslate2":
        export_ctranslate2(out, named, dtype or "float32")
    elif file_format == "huggingface":
        _export_huggingface(out, named, dtype or "float32")
    else:
        save_checkpoint(out, dataclasses.replace(named, weight_format=file_format))
    size = sum(entry.stat().st_size for entry in out.rglob("*") if entry.is_file())
    print(f"wrote {out}: {size / 1e6:.1f} MB")


def _export_huggingface(out: Path, checkpoint: Checkpoint, dtype: str) -> None:
    from model.exporting.huggingface import NUMBER_FORMATS, export_huggingface

    if dtype not in NUMBER_FORMATS:
        raise ConfigurationError("--dtype", f"must be one of {', '.join(NUMBER_FORMATS)} for huggingface", dtype)
    layout = export_huggingface(out, checkpoint, dtype)
    print(f"layout: {layout.architecture}")
