"""Turns configuration dataclasses into command-line options, help texts included; it knows no command."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from model.config import EngineConfig, GenerationConfig

Command = Callable[..., None]
Settings = TypeVar("Settings")

PANELS: dict[type, str] = {GenerationConfig: "Decoding", EngineConfig: "Device"}
"""Heading in the help text for the options of each dataclass."""
_HIDDEN = {
    "target_prefix",  # token ids; people give text, by an option of `translate`
    "banned_tokens",  # token ids
    "num_unscored",  # belongs to the prefix
    "required_phrases",  # token ids
    "max_queued_requests",  # a command has one caller, who reads ahead by a fixed number of texts
}
_SAMPLING = ("temperature", "top_k", "top_p", "seed")


@functools.cache
def field_docs(kind: type) -> Mapping[str, str]:
    """Return the sentence under each field of a dataclass, read from its source."""
    tree = ast.parse(Path(inspect.getfile(kind)).read_text(encoding="utf-8"))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind.__name__)
    docs = {}
    for field, below in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            docs[field.target.id] = inspect.cleandoc(ast.literal_eval(below.value))
    return docs


def options_of(kind: type) -> list[inspect.Parameter]:
    """Return one optional parameter per field of ``kind`` that a person can give; None stands for "not given"."""
    hints = typing.get_type_hints(kind)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                _optional(hints[field.name]),
                typer.Option(
                    f"--{field.name.replace('_', '-')}",
                    help=field_docs(kind)[field.name],
                    show_default=_shown(field.default),
                    rich_help_panel=PANELS[kind],
                ),
            ],
        )
        for field in dataclasses.fields(kind)
        if field.name not in _HIDDEN
    ]


def with_options(**groups: type) -> Callable[[Command], Command]:
    """Let a command receive whole configurations: ``@with_options(engine=EngineConfig)`` for a parameter ``engine``.

    The command line shows one option per field in the parameter's place; fields that are not given keep their
    defaults. Broken rules surface as the dataclass' own errors when the command starts.
    """

    def decorate(function: Command) -> Command:
        own = list(inspect.signature(function, eval_str=True).parameters.values())
        extra = {name: options_of(kind) for name, kind in groups.items()}

        @functools.wraps(function)
        def command(**values: Any) -> None:
            for name, kind in groups.items():
                given = {option.name: values.pop(option.name) for option in extra[name]}
                values[name] = build(kind, {key: value for key, value in given.items() if value is not None})
            function(**values)

        shown = [p.replace(kind=p.KEYWORD_ONLY) for p in own if p.name not in groups]
        shown += [option for options in extra.values() for option in options]
        command.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in shown}
        return command

    return decorate


def build(kind: type[Settings], given: Mapping[str, Any]) -> Settings:
    """Return ``kind`` with the given fields; a sampling option alone asks for sampling, and sampling for one beam.

    Raises:
        InvalidOptionError, ConfigurationError: from the dataclass.
    """
    values = dict(given)
    if kind is GenerationConfig:
        if any(name in values for name in _SAMPLING):
            values.setdefault("sampling", True)
        if values.get("sampling"):
            values.setdefault("beam_size", 1)
        elif "num_hypotheses" in values:
            values.setdefault("beam_size", max(GenerationConfig.beam_size, values["num_hypotheses"]))
    return kind(**values)


def _optional(hint: Any) -> Any:
    """Return ``hint | None``, once."""
    accepts_none = isinstance(hint, types.UnionType) and type(None) in typing.get_args(hint)
    return hint if accepts_none else hint | None


def _shown(default: Any) -> str | bool:
    """Return what the help text gives as the default; False for nothing worth showing."""
    return str(default) if default is not None and default is not False else False
