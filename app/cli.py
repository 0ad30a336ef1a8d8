"""The `dragoman` command: the commands of model/cli.py, and `serve`, which puts HTTP around the translator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from app.key_commands import keys
from model.cli import cli, run

__all__ = ["main", "serve"]

cli.add_typer(keys, name="keys")


@cli.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option("--port", "-p", help="Port to listen on.", show_default="8000")] = None,
    model: Annotated[
        list[Path] | None,
        typer.Option("--model", "-m", help="Folder of a model; repeatable, the default one first.", exists=True),
    ] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None,
        typer.Option(help="Least severe log line to write.", show_default="info"),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, or auto.", show_default="auto")] = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16", "int8"] | None,
        typer.Option(help="Number format of the weights; auto is int8 on the CPU.", show_default="auto"),
    ] = None,
    num_workers: Annotated[
        int | None, typer.Option(help="Threads that decode; 0 for one on each usable core.", show_default="0")
    ] = None,
) -> None:
    """Serve translations over HTTP, in the foreground.

    Every option is also a setting: an option wins over an environment variable such as DRAGOMAN_PORT, and that over
    the TOML file that DRAGOMAN_CONFIG_FILE names. The README lists the settings that have no option here.
    """
    from app.main import create_app
    from app.server import run_server
    from app.settings import Settings

    given: dict[str, Any] = {
        "host": host,
        "port": port,
        "models": tuple(model) if model else None,
        "log_level": log_level,
        "device": device,
        "dtype": dtype,
        "num_workers": num_workers,
    }
    settings = Settings.load(**{name: value for name, value in given.items() if value is not None})
    run_server(create_app(settings), settings)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one `dragoman` command line, the process's own by default, and return its exit status."""
    return run(cli, arguments)
