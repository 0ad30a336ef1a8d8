"""The commands that need no HTTP: translate, tokenizer, detector, train, evaluate, benchmark, export, doctor.

Each is a thin shell: read the command line, call the room that does the work, show the result. Heavy imports stand
inside the commands, so that `--help` answers at once. Exit status: 0, 2 for what the caller can correct (options,
texts, files, recipes), 1 for everything else; errors are one line on stderr.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model.config import EngineConfig, GenerationConfig, config_to_mapping
from model.config_options import with_options
from model.errors import ConfigurationError, CorpusError, DragomanError, InvalidRequestError
from model.evaluation.calibrate_command import calibrate
from model.evaluation.plot_command import plot
from model.exporting.export_command import export
from model.importing.import_command import import_model
from model.inspect_command import inspect
from model.line_filter import read_document, read_lines, translate_ahead
from model.training.back_translate_command import back_translate
from model.training.data_command import data
from model.training.shortlist_command import shortlist

if TYPE_CHECKING:
    from model.translation import Translation
    from model.translator import Translator

BAD_INPUT = (InvalidRequestError, ConfigurationError, CorpusError)
"""Errors that end with exit status 2."""
TRAINING_EXTRA = ("sacrebleu", "tensorboard", "zstandard")
"""Packages that only training and evaluation need."""

cli = typer.Typer(
    name="dragoman",
    epilog="Set DRAGOMAN_TRACEBACK=1 to see where an error came from.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

Model = Annotated[
    Path | None,
    typer.Option("--model", "-m", help="Folder of a model; without it the embedded one.", exists=True, file_okay=False),
]
Source = Annotated[str, typer.Option("--source", "-s", help="Language of the texts: a code, a name, or auto.")]
Target = Annotated[str, typer.Option("--target", "-t", help="Language to translate into.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Corpora = Annotated[
    list[Path],
    typer.Argument(
        metavar="CORPUS...",
        help="Tab-separated pairs, plain or gz, xz, zst.",
        exists=True,
        dir_okay=False,
        show_default=False,
    ),
]


def run(application: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status; no exception leaves, and none shows a traceback by itself."""
    try:
        command = typer.main.get_command(application)
        status = command.main(args=arguments, prog_name="dragoman", standalone_mode=False)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except typer.TyperException as error:  # options and arguments that typer refuses
        return _fail(error.format_message(), error.exit_code)
    except typer.Abort:
        return _fail("aborted", 1)
    except BAD_INPUT as error:
        return _fail(str(error), 2)
    except DragomanError as error:
        return _fail(str(error), 1)
    except Exception as error:
        hint = "; install it with: pip install 'dragoman[train]'" if _is_missing_extra(error) else ""
        return _fail(f"{type(error).__name__}: {error}{hint}", 1)
    return status if isinstance(status, int) else 0


def _print_version(wanted: bool) -> None:
    if wanted:
        from model.evaluation.circumstances import version

        print(version("dragoman"))
        raise typer.Exit


@cli.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Neural machine translation on your own machine."""


@cli.command()
@with_options(generation=GenerationConfig, engine=EngineConfig)
def translate(
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT...", help="Texts; without any, --file or stdin is read.")
    ] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option("--file", "-f", help="Translate the lines of a file; repeatable.", exists=True, dir_okay=False),
    ] = None,
    source: Source = "auto",
    target: Target = "en",
    document: Annotated[
        bool, typer.Option("--document", help="Take each file, or stdin, as one text instead of line by line.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per text, with everything.")] = False,
    scores: Annotated[
        bool, typer.Option("--scores", help="Print each translation's score and a tab before it.")
    ] = False,
    target_prefix: Annotated[
        str | None, typer.Option("--target-prefix", help="Text that every translation must begin with.")
    ] = None,
    model: Model = None,
    *,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> None:
    """Translate texts, files, or standard input.

    Input is read line by line and one line is written for each, in order and as soon as it is done, so the command
    works as a filter: `tail -f log | dragoman translate -s fr`.
    """
    if texts and file:
        raise typer.BadParameter("give texts or --file, not both")
    if generation.num_hypotheses > 1 and not as_json:
        raise typer.BadParameter("--num-hypotheses above 1 needs --json, since each text has one line")
    show = _as_json if as_json else partial(_as_line, scores=scores, lines=not texts and not document)
    with _loaded(model, engine) as translator:
        submit = partial(
            translator.submit, source=source, target=target, config=generation, target_prefix=target_prefix
        )
        results = translate_ahead(submit, _inputs(texts, file or [], document))
        with contextlib.closing(results), _progress("texts") as advance:
            for number, result in enumerate(results, start=1):
                print(show(result), flush=True)
                _warn(number, result)
                advance()


@cli.command()
def tokenizer(
    corpora: Corpora,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write the sentencepiece model to.")],
    vocab_size: Annotated[int, typer.Option(help="Entries of the vocabulary, special tokens included.")] = 16_000,
) -> None:
    """Train a tokeniser on corpora of sentence pairs."""
    from model.text.tokenizer import train_tokenizer
    from model.training.corpus import read_sentences

    with _progress("sentences") as advance:
        trained = train_tokenizer(_counted(read_sentences(corpora), advance), out, vocab_size=vocab_size)
    print(f"wrote {out}: {trained.vocab_size} tokens, target languages {', '.join(trained.languages)}")


@cli.command()
def detector(
    corpora: Corpora,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write the detector to (.npz).")],
    languages: Annotated[tuple[str, str], typer.Option(help="Languages of the two columns.")] = ("fr", "en"),
    seed: Annotated[int, typer.Option(help="Seed of the choice of lines and words.")] = 0,
) -> None:
    """Train the language detector on corpora of sentence pairs."""
    from model.training.language_detector import train_detector

    report = train_detector(corpora, out, seed, languages=languages)
    accuracy = ", ".join(f"{words or 'all'} words {share:.2%}" for words, share in sorted(report.accuracy.items()))
    print(f"wrote {out}: {report.num_bytes / 1e6:.2f} MB, {report.num_ngrams} n-grams from {report.num_lines} lines")
    print(f"right on held-out text: {accuracy}; calibration error {report.calibration_error:.3f}")


@cli.command()
def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.toml", exists=True, dir_okay=False, show_default=False)],
    total_steps: Annotated[
        int | None, typer.Option(help="Steps of the run, instead of the recipe's.", min=1, show_default=False)
    ] = None,
) -> None:
    """Start or resume the training run that a recipe describes.

    A run that has a checkpoint goes on from it, exactly as if it had never stopped.
    """
    from model.training.recipe import load_recipe
    from model.training.trainer import train as train_model

    config = load_recipe(recipe)
    if total_steps is not None:
        optimizer = dataclasses.replace(config.optimizer, total_steps=total_steps)
        config = dataclasses.replace(config, optimizer=optimizer)
    print(json.dumps(config_to_mapping(config), indent=2, ensure_ascii=False))
    newest = train_model(config)
    print(f"newest checkpoint: {newest}")


@cli.command()
@with_options(generation=GenerationConfig, engine=EngineConfig)
def evaluate(
    source_file: Annotated[Path | None, typer.Argument(help="Sentences, one a line.", exists=True)] = None,
    reference_file: Annotated[
        Path | None, typer.Argument(help="Their translations, line by line.", exists=True)
    ] = None,
    source: Annotated[str | None, typer.Option("--source", "-s", help="Language of SOURCE_FILE.")] = None,
    target: Annotated[str | None, typer.Option("--target", "-t", help="Language of REFERENCE_FILE.")] = None,
    dev_dir: Annotated[
        Path | None,
        typer.Option(help="Evaluate all sets NAME.LANGUAGE of a folder in every direction instead.", exists=True),
    ] = None,
    max_sentences: Annotated[int | None, typer.Option(help="Only the first sentences of each set.", min=1)] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the translations: a file; with --dev-dir or --robustness a folder."),
    ] = None,
    robustness: Annotated[
        bool, typer.Option("--robustness", help="Also sets made from each: capitals, titles, typing errors and so on.")
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(help="Folder of a second model: paired bootstrap tests on the same lines.", exists=True),
    ] = None,
    url: Annotated[str | None, typer.Option(help="Translate with the service at this address instead.")] = None,
    as_json: Json = False,
    model: Model = None,
    *,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> None:
    """Measure BLEU and chrF, with sacrebleu's signatures, on a pair of files or on all dev sets of a folder."""
    if (dev_dir is None) == (source_file is None or reference_file is None):
        raise typer.BadParameter("give SOURCE_FILE and REFERENCE_FILE, or --dev-dir")
    if dev_dir is None and not (source and target):
        raise typer.BadParameter("--source and --target must say which languages the files are in")
    if url is not None and model is not None:
        raise typer.BadParameter("give --model or --url, not both")
    from model.evaluation.evaluate_run import evaluate_sets, pair_of_files, sets_of_folder, show, with_robustness
    from model.evaluation.remote import RemoteTranslator

    with contextlib.ExitStack() as stack:
        translator = RemoteTranslator(url) if url is not None else stack.enter_context(_loaded(model, engine))
        other = None if against is None else stack.enter_context(_loaded(against, engine))
        if source_file and reference_file and source and target:
            sets = iter([pair_of_files(source_file, reference_file, source, target, max_sentences)])
        else:
            sets = sets_of_folder(dev_dir or Path(), translator.languages, max_sentences)
        many = dev_dir is not None or robustness
        for report in evaluate_sets(translator, with_robustness(sets) if robustness else sets, generation, other):
            show(report, as_json)
            if output is not None:
                dev = report.dev
                file = output / f"{dev.name}.{dev.source}-{dev.target}" if many else output
                _write_lines(file, report.result.hypotheses)


@cli.command()
@with_options(generation=GenerationConfig, engine=EngineConfig)
def benchmark(
    file: Annotated[
        Path | None,
        typer.Argument(help="Texts, one a line; without it our own sentences.", exists=True, dir_okay=False),
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="Their translations, line by line, for BLEU.", exists=True, dir_okay=False)
    ] = None,
    source: Annotated[str, typer.Option("--source", "-s", help="Language of the texts.")] = "fr",
    target: Target = "en",
    max_sentences: Annotated[int | None, typer.Option(help="Only the first lines.", min=1)] = None,
    repeat: Annotated[int, typer.Option(help="Passes over the texts in each run.", min=1)] = 1,
    concurrency: Annotated[
        list[int] | None, typer.Option("--concurrency", "-c", help="Callers at once; repeatable.", show_default="8 64")
    ] = None,
    budget: Annotated[
        list[int] | None,
        typer.Option(help="max_batch_tokens to try for throughput; repeatable.", show_default="512 1024 2048 4096"),
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(help="Measure in turns with ctranslate2, ctranslate2-sequential, or engine (of a service)."),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds in turns with a peer.", min=1)] = 5,
    server: Annotated[str | None, typer.Option(help="Load the service at this address, instead of the engine.")] = None,
    clients: Annotated[int, typer.Option(help="Clients of the service that wait for their answers.", min=1)] = 64,
    rate: Annotated[list[float] | None, typer.Option(help="Arrivals per second; repeatable; else searched.")] = None,
    duration: Annotated[float, typer.Option(help="Seconds of arrivals at each rate.")] = 10.0,
    latency_bound: Annotated[float, typer.Option(help="Milliseconds within which an answer is good.")] = 200.0,
    starts: Annotated[int, typer.Option(help="Processes started for start time and memory; 0: none.", min=0)] = 5,
    picture: Annotated[Path | None, typer.Option("--plot", help="Picture of the results: .svg, .png or .pdf.")] = None,
    model: Model = None,
    *,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> None:
    """Measure latency, throughput, start time and memory: alone, beside a peer, or of a running service.

    People read tables on stderr; the last line of stdout is JSON with the same numbers and their circumstances.
    """
    from model.evaluation.benchmark import Workload
    from model.evaluation.benchmark_run import BenchmarkPlan, run_benchmark
    from model.evaluation.benchmark_table import show_report
    from model.evaluation.server import LoadSettings

    if reference is not None and file is None:
        raise typer.BadParameter("--reference needs FILE")
    plan = BenchmarkPlan(
        Workload.read(file, reference, source, target, max_sentences),
        generation,
        engine,
        model,
        peers=tuple(peer or ()),
        repeat=repeat,
        rounds=rounds,
        starts=starts,
        server=server,
        load=LoadSettings(clients, latency_bound, tuple(rate or ()), duration, rounds, repeat),
        plot=picture,
        **{name: tuple(values) for name, values in (("concurrencies", concurrency), ("budgets", budget)) if values},
    )
    with _progress("measurements") as advance:
        report = run_benchmark(plan, partial(_loaded, model), advance)
    facts = plan.facts() | {"command": " ".join(sys.argv)}
    show_report(facts, report)
    print(json.dumps({"circumstances": facts, **dataclasses.asdict(report)}))


cli.command()(export)
cli.command()(shortlist)
cli.command()(data)
cli.command("back-translate")(with_options(generation=GenerationConfig, engine=EngineConfig)(back_translate))
cli.command()(calibrate)
cli.command()(plot)
cli.command("import")(import_model)
cli.command()(inspect)


@cli.command()
@with_options(engine=EngineConfig)
def doctor(model: Model = None, *, engine: EngineConfig) -> None:
    """Check versions, device, model and a test translation; exit status 1 if anything fails."""
    from model.doctor import examine

    failed = False
    for finding in examine(model, engine):
        typer.secho(
            f"{finding.status:<5}", fg={"ok": "green", "warn": "yellow", "fail": "red"}[finding.status], nl=False
        )
        typer.echo(f"{finding.subject}: {finding.detail}")
        failed = failed or finding.status == "fail"
    if failed:
        raise typer.Exit(1)


@contextlib.contextmanager
def _loaded(model: Path | None, engine: EngineConfig) -> Iterator[Translator]:
    """Load a translator and close it again; what still runs after an error is not waited for."""
    from model.translator import Translator

    # The only caller reads ahead by a fixed number of texts, so there is nobody to refuse.
    translator = Translator.load(model, dataclasses.replace(engine, max_queued_requests=sys.maxsize))
    try:
        yield translator
    except BaseException:
        translator.close(drain=False)
        raise
    translator.close()


def _inputs(texts: Sequence[str] | None, files: Sequence[Path], document: bool) -> Iterator[str]:
    """Yield the texts of the command line, of files, or of standard input."""
    if texts:
        yield from texts
        return
    if not files and sys.stdin.isatty():
        print("dragoman: reading lines from the terminal; Ctrl-D ends", file=sys.stderr)
    sources: list[Path | None] = [*files] or [None]
    for path in sources:
        # A reader of its own: at exit, Python would wait for sys.stdin's lock, which a blocked read holds.
        with path.open("rb") if path else open(sys.stdin.fileno(), "rb", closefd=False) as stream:
            name = str(path or "stdin")
            if document:
                yield read_document(stream, name)
            else:
                yield from read_lines(stream, name)


def _as_line(result: Translation, scores: bool, lines: bool) -> str:
    """Return the translation as text; with ``lines`` it is one line, whatever the model put into it."""
    text = result.text.replace("\r", " ").replace("\n", " ") if lines else result.text
    return f"{result.score:.4f}\t{text}" if scores else text


def _as_json(result: Translation) -> str:
    return json.dumps(dataclasses.asdict(result), ensure_ascii=False)


def _warn(number: int, result: Translation) -> None:
    for warning in result.warnings:
        where = f"text {number}, characters {warning.start} to {warning.end}"
        print(f"dragoman: warning: {where}: {warning.message} ({warning.code})", file=sys.stderr)


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


@contextlib.contextmanager
def _progress(what: str) -> Iterator[Callable[[], None]]:
    """Yield a function to call after each piece of work; it counts on stderr where that disturbs nobody."""
    if not sys.stderr.isatty() or sys.stdout.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.completed:,} {task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield partial(progress.advance, progress.add_task(what, total=None))


def _counted(items: Iterator[Any], advance: Callable[[], None]) -> Iterator[Any]:
    for item in items:
        advance()
        yield item


def _is_missing_extra(error: Exception) -> bool:
    return isinstance(error, ModuleNotFoundError) and error.name in TRAINING_EXTRA


def _fail(message: str, status: int) -> int:
    """Print one line on stderr, and the traceback before it where it is asked for; return ``status``."""
    if os.environ.get("DRAGOMAN_TRACEBACK"):
        traceback.print_exc()
    if message:  # without a command, typer has printed the help text instead
        print(f"dragoman: {' '.join(message.split())}", file=sys.stderr)
    return status


if __name__ == "__main__":  # python3 -m model.cli: all but the service, without what only the service needs
    sys.exit(run(cli))
