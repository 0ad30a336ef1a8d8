"""The command `dragoman shortlist`: corpora in, a model's short-list and its coverage out; it estimates nothing.

Heavy imports stand inside, as in ``model/cli.py``, which joins it to the other commands.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def shortlist(
    corpora: Annotated[
        list[Path],
        typer.Argument(
            metavar="CORPUS...",
            help="Tab-separated pairs, plain or gz, bz2, xz, zst.",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ],
    model: Annotated[
        Path,
        typer.Option("--model", "-m", help="Folder of the model.", exists=True, file_okay=False, show_default=False),
    ],
    best: Annotated[int, typer.Option(help="Most probable translations of each source token.", min=1)] = 100,
    frequent: Annotated[int, typer.Option(help="Frequent target tokens that are in every short-list.", min=0)] = 1000,
    languages: Annotated[tuple[str, str], typer.Option(help="Languages of the two columns.")] = ("fr", "en"),
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder to write shortlist.safetensors to.",
            show_default="the model's",
            file_okay=False,
        ),
    ] = None,
) -> None:
    """Make a model's short-list of likely target tokens from corpora, for engines with --shortlist.

    Every hundredth pair is kept back; how much of it the short-lists cover is shown.
    """
    from model.checkpoints.checkpoint import SHORTLIST_FILE, load_checkpoint, save_shortlist
    from model.errors import ConfigurationError
    from model.generation.shortlist import Shortlist
    from model.text.tokenizer import Tokenizer
    from model.training.corpus import load_corpus
    from model.training.lexicon import bounded
    from model.training.shortlist_arrays import estimate_shortlist, measure_coverage, split_held_out
    from model.training_config import DataConfig, SourceConfig

    tokenizer = load_checkpoint(model).tokenizer
    if not isinstance(tokenizer, Tokenizer):
        raise ConfigurationError("model", "must have a tokeniser of our own format", str(model))
    for code in languages:
        tokenizer.language_id(code)  # refuses a language that the model lacks before the corpora are read
    sources = tuple(SourceConfig(str(path.resolve())) for path in corpora)
    corpus, reports = load_corpus(DataConfig(".", sources, languages), tokenizer)
    for report in reports:
        print(f"{report.path}: {report.kept} of {report.lines} pairs")
    rest, held_out = split_held_out(corpus)
    used = bounded(corpus, rest)
    print(f"estimating from {len(used)} of {len(rest)} pairs")
    arrays = estimate_shortlist(corpus, used, languages, tokenizer, best=best, frequent=frequent)
    made = Shortlist(arrays, tokenizer.vocab_size, tokenizer.eos_id)
    save_shortlist(output or model, arrays, tokenizer)
    size = ((output or model) / SHORTLIST_FILE).stat().st_size
    print(f"wrote {(output or model) / SHORTLIST_FILE}: {size / 1e6:.2f} MB")
    for coverage in measure_coverage(made, corpus, held_out, languages, tokenizer):
        print(
            f"{coverage.source} to {coverage.target}, {coverage.num_sentences} held-out references: "
            f"{coverage.tokens:.2%} of their tokens covered, {coverage.sentences:.2%} of them whole, "
            f"{coverage.mean_size:.0f} tokens in a short-list"
        )
