"""What the README says, checked against the house: its tree, its commands, its settings, its request and its answer."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from app.cli import main
from app.settings import CONFIG_FILE_VARIABLE, Settings
from model.cli import cli
from model.config import config_from_mapping
from model.training_config import TrainingConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title: str, text: str = README) -> str:
    """Return what stands between a second-level heading and the next one."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"the README has no section {title!r}"
    return found[1]


def blocks(language: str, text: str = README) -> list[str]:
    """Return the code blocks of a language; the empty name stands for blocks without one."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text: str = README) -> list[list[str]]:
    """Return the words of every command line in the shell blocks, pipes cut, continued lines joined."""
    lines = "\n".join(blocks("bash", text)).replace("\\\n", " ").splitlines()
    return [words for line in lines for part in line.split(" | ") if (words := shlex.split(part))]


def tree_paths(tree: str) -> Iterator[str]:
    """Yield the paths of an indented tree: two spaces a level, folders end with a slash, descriptions after spaces."""
    folders: list[str] = []
    for line in tree.splitlines():
        entry = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        assert depth <= len(folders), f"{line!r} is deeper than a folder above it"
        del folders[depth:]
        yield "".join(folders) + entry
        if entry.endswith("/"):
            folders.append(entry)


def options(command: str) -> set[str]:
    """Return the option names of a `dragoman` command."""
    found = typer.main.get_command(cli).commands[command]  # type: ignore[attr-defined]
    return {name for parameter in found.params for name in parameter.opts}


# The tree


def test_the_tree_names_every_file_and_no_other() -> None:
    [tree] = blocks("", section("The tree"))
    claimed = list(tree_paths(tree))
    assert [path for path in claimed if not (ROOT / path).exists()] == []
    assert len(claimed) == len(set(claimed))
    # The docstring of a room's __init__.py is the room's own line.
    wanted = {
        path.relative_to(ROOT).as_posix()
        for package in ("model", "app")
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert {path for path in claimed if path.endswith(".py")} == wanted | {"model/__init__.py"}
    rooms = {f"{path.parent.relative_to(ROOT).as_posix()}/" for path in (ROOT / "model").rglob("*.py")}
    assert rooms <= set(claimed)


def test_a_tree_is_read_as_it_looks() -> None:
    tree = "a/   what\n  b.py  it is\n  c/\n    d.py\n  e.py\nf\n"
    assert list(tree_paths(tree)) == ["a/", "a/b.py", "a/c/", "a/c/d.py", "a/e.py", "f"]


def test_links_lead_somewhere() -> None:
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", README) if "://" not in target]
    assert "LICENSE" in targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


# Commands


def test_the_two_commands_come_first() -> None:
    assert commands()[:2] == [["scripts/serve"], ["scripts/test"]]


def test_scripts_exist_and_can_be_run() -> None:
    named = set(re.findall(r"scripts/[a-z]+", README)) | {"scripts/check", ".ci/run"}
    assert {"scripts/setup", "scripts/serve", "scripts/test"} <= named
    for name in sorted(named):
        path = ROOT / name
        assert os.access(path, os.X_OK), f"{name} must be executable"
        assert path.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n"), name
        assert "\nset -euo pipefail\n" in path.read_text(encoding="utf-8"), name
        subprocess.run(["bash", "-n", str(path)], check=True)


def test_ci_runs_the_test_command_and_nothing_else() -> None:
    lines = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    does = [line for line in lines if line and not line.startswith("#")]
    assert does == ["set -euo pipefail", 'cd "$(dirname "${BASH_SOURCE[0]}")/.."', "exec scripts/test"]


def test_dragoman_commands_and_their_options_are_real() -> None:
    used = [words for words in commands() if words[0] == "dragoman"]
    assert len(used) > 5
    for _, command, *rest in used:
        unknown = {word.partition("=")[0] for word in rest if word.startswith("-")} - options(command)
        assert not unknown, f"dragoman {command} has no {unknown}"
    registered = set(typer.main.get_command(cli).commands)  # type: ignore[attr-defined]
    assert set(re.findall(r"`dragoman ([a-z]+)[` ]", README)) <= registered


def test_readme_and_help_list_the_same_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    listed = re.search(r"lists all\s+commands: ([a-z, \n-]+)\.", README)
    assert listed
    names = [name.strip() for name in listed[1].split(",")]
    assert sorted(names) == sorted(typer.main.get_command(cli).commands)  # type: ignore[attr-defined]
    assert [name for name in names if f" {name} " not in shown] == []


# Settings and configurations


def test_every_setting_is_listed_with_its_default() -> None:
    rows = re.findall(r"^\| `(DRAGOMAN_\w+)` \| (?:`(.*?)`)? \| .+ \|$", section("Deploying"), re.MULTILINE)
    shown = {
        f"DRAGOMAN_{name.upper()}": "" if field.default == () else str(field.default)
        for name, field in Settings.model_fields.items()
    }
    assert dict(re.findall(r"^\| `(DRAGOMAN_\w+)` \|(?: `(.*?)`)? \|", section("Deploying"), re.MULTILINE)) == shown
    assert len(rows) == len(shown) - list(shown.values()).count("")
    assert CONFIG_FILE_VARIABLE in README


def test_the_recipe_is_a_training_run() -> None:
    [recipe] = blocks("toml", section("Training a model of your own"))
    config = config_from_mapping(TrainingConfig, tomllib.loads(recipe))
    assert [source.path for source in config.data.sources] == ["news.tsv.xz", "talks.tsv.xz"]
    tokenizer = next(words for words in commands() if words[:2] == ["dragoman", "tokenizer"])
    assert tokenizer[tokenizer.index("--out") + 1] == config.tokenizer
    assert tokenizer[tokenizer.index("--vocab-size") + 1] == str(config.model.vocab_size)


# Requests


def posted(part: str) -> Iterator[tuple[str, Any]]:
    """Yield path and JSON body of every curl command in a section."""
    for words in commands(part):
        if words[0] == "curl":
            [url] = [word for word in words if word.startswith("localhost:8000")]
            yield url.removeprefix("localhost:8000"), json.loads(words[words.index("-d") + 1])


def test_the_request_has_the_answer_that_is_shown() -> None:
    from fastapi.testclient import TestClient

    from app.main import create_app

    part = section("A request and its answer")
    [answer] = blocks("json", part)
    requests = list(posted(part))
    assert [path for path, _ in requests] == ["/translate", "/v1/translate"]
    with TestClient(create_app(Settings())) as client:
        replies = [client.post(path, json=body) for path, body in requests]
    assert [reply.status_code for reply in replies] == [200, 200]
    assert replies[0].json() == json.loads(answer)


def test_the_endpoints_in_the_table_exist() -> None:
    from app.main import create_app

    methods_and_paths = re.compile(r"`(GET|POST|PUT|PATCH|DELETE) (/[\w/{}-]*)`")
    listed = {(method.lower(), path) for method, path in methods_and_paths.findall(section("A request and its answer"))}
    document = create_app(Settings(), translators=[]).openapi()
    served = {(method, path) for path, methods in document["paths"].items() for method in methods}
    assert listed - {("get", "/"), ("get", "/docs")} == served  # for people, and not in the document


def test_the_python_example_runs() -> None:
    [example] = blocks("python")
    done = subprocess.run([sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
