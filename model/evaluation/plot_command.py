"""The command `dragoman plot`: training runs in, a picture and their numbers out; the work is elsewhere.

Heavy imports stand inside, as in ``model/cli.py``, which joins it to the other commands.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def plot(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Folders of training runs.", exists=True, file_okay=False),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Picture to write: .svg, .png or .pdf.", show_default=False)
    ],
    in_turn: Annotated[
        bool, typer.Option("--in-turn", help="Draw one run after the other, as stages of one training.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Draw the loss, dev BLEU, learning rate and speed of training runs, and print where they ended."""
    from model.evaluation.training_curves import draw_curves, read_curve

    curves = [read_curve(run) for run in runs]
    draw_curves(output, curves, in_turn=in_turn)
    for curve in curves:
        summary = curve.summary()
        if as_json:
            print(json.dumps(summary))
            continue
        print(
            f"{summary['run']}: {summary['steps']} steps, {summary['target_tokens']:,.0f} target tokens in "
            f"{summary['seconds'] / 60:.1f} minutes of training, negative log-likelihood {summary['nll']:.3f}"
        )
        for name, value in summary["bleu"].items():
            print(f"  {name}: BLEU {value:.2f}, best {summary['best_bleu'][name]:.2f}")
