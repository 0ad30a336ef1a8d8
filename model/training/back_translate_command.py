"""The command `dragoman back-translate`: one-sided text in, sentence pairs for training out; the work is elsewhere.

Heavy imports stand inside, as in ``model/cli.py``, which joins it to the other commands.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model.config import EngineConfig, GenerationConfig

if TYPE_CHECKING:
    from model.training.back_translation import BackTranslationReport


def back_translate(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="TEXT...",
            help="Sentences, one a line; plain or gz, bz2, xz, zst.",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ],
    language: Annotated[str, typer.Option("--language", "-l", help="Language of the text.", show_default=False)],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="File of pairs, .tsv or .tsv.gz, .bz2, .xz, .zst.", show_default=False),
    ],
    column: Annotated[
        int | None, typer.Option(help="Use this column of tab-separated lines, from 1.", min=1, show_default=False)
    ] = None,
    languages: Annotated[tuple[str, str], typer.Option(help="Languages of the columns that are written.")] = (
        "fr",
        "en",
    ),
    strict: Annotated[
        bool, typer.Option("--strict/--basic", help="Apply every filter to the pairs, or only those of any training.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model", "-m", help="Folder of a model; without it the embedded one.", exists=True, file_okay=False
        ),
    ] = None,
    *,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> None:
    """Translate one-sided text into the other language, for training with `back_translated` in a recipe.

    The text becomes the target, and what the model wrote the source. Doubtful translations and unfit pairs are dropped
    and counted. A run that was cut off goes on where it was.
    """
    from model.training import back_translation
    from model.training.filters import STRICT
    from model.translator import Translator

    plan = back_translation.BackTranslationPlan(
        tuple(files), column, language, languages, output, STRICT if strict else None
    )
    # The only caller hands in a bounded number of lines, so there is nobody to refuse.
    unbounded = dataclasses.replace(engine, max_queued_requests=sys.maxsize)
    with Translator.load(model, unbounded) as translator:
        report = back_translation.back_translate(plan, translator, generation, _show_progress)
    if as_json:
        print(json.dumps(vars(report)))
        return
    print(f"wrote {output}: {report.kept:,} pairs of {report.lines:,} lines in {report.seconds:.0f} s")
    for reason, count in report.rejected.most_common():
        print(f"  {reason}: {count:,}")
    print(f'in a recipe: {{ path = "{output.name}", back_translated = "{plan.synthetic}" }}')


def _show_progress(report: BackTranslationReport) -> None:
    if report.seconds:
        rate = report.translated / report.seconds
        print(f"{report.translated:,} lines, {report.kept:,} pairs, {rate:,.0f} lines/s", file=sys.stderr)
