"""The command `dragoman data`: what of a recipe's text is kept, and why the rest is not; it trains nothing.

Heavy imports stand inside, as in ``model/cli.py``, which joins it to the other commands.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from model.training_config import DataConfig


def data(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.toml", exists=True, dir_okay=False, show_default=False)],
    strict: Annotated[
        bool, typer.Option("--strict", help="Apply every rule, instead of those of the recipe's [data.filters].")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder to write the kept pairs to, one .tsv.xz a file.", file_okay=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Read a recipe's corpus files and tell, for each, how many lines are kept and why the others are not.

    These are the rules that training applies, except that it also drops pairs with more than max_tokens tokens. Without
    --output, no text is written anywhere. The same files and rules give the same result.
    """
    from model.training.filters import STRICT
    from model.training.recipe import load_recipe

    config = load_recipe(recipe).data
    if strict:
        config = dataclasses.replace(config, filters=STRICT)
    findings = []
    for finding in examine(config, output):
        findings.append(finding)
        if sys.stderr.isatty():
            print(f"{finding['path']}: {finding['kept']:,} of {finding['lines']:,}", file=sys.stderr)
    if as_json:
        filters = None if config.filters is None else dataclasses.asdict(config.filters)
        print(json.dumps({"filters": filters, "max_ratio": config.max_ratio, "sources": findings}, ensure_ascii=False))
    else:
        _show(findings)


def examine(config: DataConfig, output: Path | None = None) -> Iterator[dict[str, Any]]:
    """Yield, for each corpus file in order, its path, hash, lines, kept lines, and rejected lines by reason.

    Args:
        config: the files and the rules.
        output: folder for the kept pairs, as tab-separated lines in ``NAME.tsv.xz``; None writes nothing.

    Raises:
        CorpusError: a file cannot be read or written, or two would be written under one name.
    """
    from model.training.corpus import Fitness, file_hash, read_pairs

    files = [Path(config.directory) / source.path for source in config.sources]
    written = _outputs(files, output)
    fitness = Fitness(config)
    for source, file, target in zip(config.sources, files, written, strict=True):
        lines, rejected = Counter[str](), Counter[str]()

        def kept(file: Path = file, lines: Counter[str] = lines, rejected: Counter[str] = rejected) -> Iterator[str]:
            for first, second in read_pairs(file):
                lines["all"] += 1
                if fitness.passes(first, second, rejected):
                    lines["kept"] += 1
                    yield f"{first}\t{second}\n"

        _write(target, kept())
        yield {
            "path": source.path,
            "blake2b": file_hash(file),
            "lines": lines["all"],
            "kept": lines["kept"],
            "rejected": dict(sorted(rejected.items(), key=lambda item: (-item[1], item[0]))),
        }


def _outputs(files: list[Path], folder: Path | None) -> list[Path | None]:
    """Return the file that the kept pairs of each corpus file go to."""
    from model.errors import CorpusError

    if folder is None:
        return [None] * len(files)
    written = [folder / f"{file.name.partition('.')[0]}.tsv.xz" for file in files]
    for path, times in Counter(written).items():
        if times > 1:
            raise CorpusError(f"{times} corpus files would be written to {path}")
    sources = {file.resolve() for file in files}
    for path in written:
        if path.resolve() in sources:
            raise CorpusError(f"{path} is a corpus file itself; give another folder")
    return list(written)


def _write(path: Path | None, lines: Iterable[str]) -> None:
    """Write lines to a compressed file, whole or not at all; without a path they are only counted."""
    from model.training.text_file import write_lines

    if path is None:
        for _ in lines:
            pass
    else:
        write_lines(path, lines)


def _show(findings: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("corpus file", "lines", "kept", "share", "why not")
    for column in table.columns[1:4]:
        column.justify = "right"
    total: dict[str, Any] = {"path": "all", "lines": 0, "kept": 0, "rejected": Counter[str]()}
    for finding in findings:
        for name in ("lines", "kept"):
            total[name] += finding[name]
        total["rejected"].update(finding["rejected"])
    for finding in (*findings, total):
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in Counter(finding["rejected"]).most_common())
        share = f"{finding['kept'] / finding['lines']:.1%}" if finding["lines"] else ""
        table.add_row(Path(finding["path"]).name, f"{finding['lines']:,}", f"{finding['kept']:,}", share, reasons)
    Console().print(table)
