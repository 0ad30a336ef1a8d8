"""The command `dragoman import`: a checkpoint of another code base in, one of ours out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from model.importing.importing import ImportedCheckpoint


def import_model(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Folder with config.json, weights and tokeniser, or a name on the Hugging Face hub.",
            show_default=False,
        ),
    ],
    destination: Annotated[
        Path, typer.Argument(metavar="DEST", help="Folder to write the model to.", file_okay=False, show_default=False)
    ],
    weight_format: Annotated[
        Literal["float32", "bfloat16", "float16", "int8"],
        typer.Option("--format", help="Number format of the matrices on disk."),
    ] = "float16",
    name: Annotated[
        str | None, typer.Option(help="What the model is called.", show_default="the folder's name")
    ] = None,
    source_language: Annotated[
        str | None, typer.Option(help="Language of its sources, if the checkpoint does not say.", show_default=False)
    ] = None,
    target_language: Annotated[
        str | None, typer.Option(help="Language of its targets, if the checkpoint does not say.", show_default=False)
    ] = None,
) -> None:
    """Read an OPUS-MT, M2M-100, NLLB-200, mBART-50, T5, Flan-T5, mT5 or MADLAD-400 checkpoint into our format."""
    from model.checkpoints.checkpoint import save_checkpoint
    from model.importing.hub import find_source
    from model.importing.importing import import_checkpoint

    folder = find_source(source)
    imported = import_checkpoint(folder, name=name, source_language=source_language, target_language=target_language)
    checkpoint = dataclasses.replace(imported.checkpoint, weight_format=weight_format)
    save_checkpoint(destination, checkpoint)
    for line in _summary(imported, destination):
        typer.echo(line)


def _summary(imported: ImportedCheckpoint, destination: Path) -> list[str]:
    """Return what was read, and what was left out, for people."""
    checkpoint = imported.checkpoint
    tokenizer = checkpoint.tokenizer
    parameters = sum(weight.numel() for weight in checkpoint.weights.values())
    lines = [
        f"{checkpoint.metadata['family']}: {parameters:,} parameters, {tokenizer.vocab_size:,} tokens",
        f"from {_some(tokenizer.source_languages)} to {_some(tokenizer.target_languages)}",
    ]
    if imported.dropped:
        lines.append(f"computed by the network, and so not read: {_some(imported.dropped)}")
    if imported.ignored_settings:
        lines.append(f"settings without a meaning for the network: {_some(imported.ignored_settings)}")
    return [*lines, f"dragoman serve --model {destination}"]


def _some(words: tuple[str, ...], most: int = 8) -> str:
    rest = f" and {len(words) - most} more" if len(words) > most else ""
    return f"{', '.join(words[:most])}{rest}"
