"""The plan of the house as a test: which room may import which, which words are ours, how long a file may grow.

The checkers are plain functions from source text to complaints, and are themselves tested on small bad examples, so
that none of them can pass because it sees nothing.
"""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.architecture_plan import ARROWS, FORBIDDEN

ROOT = Path(__file__).parents[1]
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 70

OTHER_WORDS = {"src": "source", "trg": "target", "tgt": "target", "nhead": "num_heads"}
"""Words of other code bases, alone or as a part of a name, and ours."""
OTHER_NAMES = {"hidden_size": "d_model", "n_embd": "d_model", "past_key_values": "kv_cache"}
"""Whole names of other code bases, and ours."""
EMPTY_NAMES = {"util", "utils", "helper", "helpers", "common", "misc"}
"""File names that say nothing about what is inside."""
READY_MADE = re.compile(r"Transformer(Encoder|Decoder)?(Layer)?|MultiheadAttention")
"""Classes of torch.nn that would be somebody else's transformer."""

Sources = Mapping[str, str]
"""Paths relative to the repository, with forward slashes, to source texts."""


@functools.cache
def parsed(source: str) -> ast.Module:
    """Parse a file once for all the rules; none of them changes the tree."""
    return ast.parse(source)


def module_name(path: str) -> str:
    """Return the dotted name of a file: ``model/text/__init__.py`` is ``model.text``."""
    return path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def imports(path: str, source: str, modules: set[str]) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of every import, also inside functions and under TYPE_CHECKING.

    ``from model.text import languages`` is an import of ``model.text.languages`` where that is one of ``modules``.
    """
    name = module_name(path)
    package = name.split(".") if path.endswith("__init__.py") else name.split(".")[:-1]
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *(node.module or "").split(".")]).strip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield alias.lineno, inner if inner in modules else base


def room(module: str) -> str | None:
    """Return the room of one of our modules: the longest prefix of its name in ARROWS, a root only for itself."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in ARROWS and (length > 1 or length == len(parts)):
            return prefix
    return None


def reachable(start: str, arrows: Mapping[str, set[str]]) -> set[str]:
    """Return everything that can be reached from ``start``, itself included."""
    found, ahead = {start}, [start]
    while ahead:
        new = arrows.get(ahead.pop(), set()) - found
        found |= new
        ahead.extend(new)
    return found


def wrong_arrows(sources: Sources) -> list[str]:
    """Complain about files outside the plan and about imports against its arrows."""
    modules = {module_name(path) for path in sources}
    complaints = []
    for path, source in sources.items():
        here = room(module_name(path))
        if here is None:
            complaints.append(f"{path}: in no room of the plan")
            continue
        allowed = {below for below in reachable(here, ARROWS) if not _hidden(here, below)}
        for line, name in imports(path, source, modules):
            if name.split(".")[0] in ("model", "app") and room(name) not in allowed:
                complaints.append(f"{path}:{line}: {here} must not import {name}")
    return complaints


def _hidden(here: str, below: str) -> bool:
    """Say whether ``below`` is behind model/'s public names for ``here``; only app's command line joins model's."""
    return here.startswith("app") and below.startswith("model.") and (here, below) != ("app.cli", "model.cli")


def forbidden_imports(sources: Sources) -> list[str]:
    """Complain about imports of what a module must not know."""
    complaints = []
    for path, source in sources.items():
        module = module_name(path)
        banned = {name for above, names in FORBIDDEN.items() if f"{module}.".startswith(f"{above}.") for name in names}
        for line, name in imports(path, source, set()):
            if name.split(".")[0] in banned:
                complaints.append(f"{path}:{line}: must not import {name}")
    return complaints


def cycles(sources: Sources) -> list[str]:
    """Complain about modules that import each other, directly or in a circle."""
    modules = {module_name(path) for path in sources}
    graph = {
        module_name(path): {name for _, name in imports(path, source, modules) if name in modules}
        for path, source in sources.items()
    }
    return [
        f"{module}: imports itself through {below}"
        for module in sorted(graph)
        for below in sorted(graph[module])
        if module in reachable(below, graph)
    ]


def missing_doors(sources: Sources) -> list[str]:
    """Complain about files whose first line does not say what they are for, and about names that say nothing."""
    complaints = []
    for path, source in sources.items():
        tree = parsed(source)
        first = (ast.get_docstring(tree) or "").partition("\n")[0]
        if len(first.split()) < 4:
            complaints.append(f"{path}: has no first docstring line that says what it does")
        if Path(path).stem in EMPTY_NAMES:
            complaints.append(f"{path}: its name says nothing")
        future = any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)
        if len(tree.body) > 1 and not future:
            complaints.append(f"{path}: lacks from __future__ import annotations")
    return complaints


def names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, name) of everything that a file names itself: not attributes or keywords of other libraries."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname


def other_words(sources: Sources) -> list[str]:
    """Complain about words for which the plan has another one."""
    complaints = []
    for path, source in sources.items():
        for line, name in names(parsed(source)):
            parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
            instead = [OTHER_WORDS[part.lower()] for part in parts if part.lower() in OTHER_WORDS]
            instead += [ours for theirs, ours in OTHER_NAMES.items() if theirs in name.lower()]
            complaints += [f"{path}:{line}: {name}: we say {ours}" for ours in instead]
    return complaints


def unfinished(sources: Sources) -> list[str]:
    """Complain about what is put off."""
    complaints = []
    for path, source in sources.items():
        for number, line in enumerate(source.splitlines(), start=1):
            if re.search(r"#.*\b(TO-?DO|FIX-?ME)\b", line):
                complaints.append(f"{path}:{number}: is put off")
        used = [node for node in ast.walk(parsed(source)) if isinstance(node, ast.Name)]
        complaints += [f"{path}:{node.lineno}: {node.id}" for node in used if node.id == "NotImplementedError"]
    return complaints


def ready_made(sources: Sources) -> list[str]:
    """Complain about a transformer that is torch's and not ours; tests may compare ours with it."""
    complaints = []
    for path, source in sources.items():
        for node in ast.walk(parsed(source)):
            if isinstance(node, ast.Attribute) and READY_MADE.fullmatch(node.attr) and ast.unparse(node.value) == "nn":
                complaints.append(f"{path}:{node.lineno}: nn.{node.attr} is not ours")
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch.nn"):
                taken = [alias.name for alias in node.names if READY_MADE.fullmatch(alias.name)]
                complaints += [f"{path}:{node.lineno}: {name} is not ours" for name in taken]
    return complaints


def too_long(sources: Sources) -> list[str]:
    """Complain about long files and long functions."""
    complaints = []
    for path, source in sources.items():
        lines = len(source.splitlines())
        if lines > MAX_FILE_LINES:
            complaints.append(f"{path}: {lines} lines, more than {MAX_FILE_LINES}")
        for node in ast.walk(parsed(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    complaints.append(f"{path}:{node.lineno}: {node.name} has {length} lines")
    return complaints


def read(*folders: str) -> dict[str, str]:
    """Return all Python files below folders of the repository."""
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


PACKAGES = read("model", "app")
EVERYTHING = PACKAGES | read("tests", "scripts", "benchmarks")


# The house


def test_the_packages_are_read() -> None:
    assert {"model/config.py", "model/cli.py", "app/cli.py"} <= set(PACKAGES)
    assert "tests/test_architecture.py" in EVERYTHING
    assert reachable("model.training", ARROWS) >= {"model.errors", "model.text", "model.transformer", "model.engine"}


def test_imports_follow_the_arrows() -> None:
    assert wrong_arrows(PACKAGES) == []


def test_rooms_do_not_know_what_they_must_not_know() -> None:
    assert forbidden_imports(PACKAGES) == []


def test_no_module_imports_itself_in_a_circle() -> None:
    assert cycles(PACKAGES) == []


def test_the_plan_itself_has_no_circle() -> None:
    assert [name for name, below in ARROWS.items() if any(name in reachable(each, ARROWS) for each in below)] == []
    assert {below for arrows in ARROWS.values() for below in arrows} <= set(ARROWS)


def test_every_file_says_what_it_is_for() -> None:
    assert missing_doors(EVERYTHING) == []


def test_the_words_are_ours() -> None:
    assert other_words(PACKAGES) == []


def test_nothing_is_put_off() -> None:
    assert unfinished(EVERYTHING) == []


def test_the_transformer_is_ours() -> None:
    assert ready_made(PACKAGES) == []


def test_files_and_functions_are_short() -> None:
    assert too_long(EVERYTHING) == []


def test_tests_have_no_packages_and_no_name_twice() -> None:
    files = list((ROOT / "tests").rglob("*.py"))
    assert [path for path in files if path.name == "__init__.py"] == []
    tests = [path.name for path in files if path.name.startswith("test_")]
    assert sorted(tests) == sorted(set(tests))
    assert {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()} & {"model", "app"} == set()


def imported_by(statement: str) -> set[str]:
    """Return the names of all modules in a fresh interpreter after it has run ``statement``."""
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_text_and_scheduler_run_without_torch() -> None:
    modules = [module_name(path) for path in PACKAGES if path.startswith("model/text/")]
    loaded = imported_by(f"import {', '.join([*modules, 'model.engine.scheduler'])}")
    assert {*modules, "model.engine.scheduler"} <= loaded
    assert "torch" not in loaded


def test_importing_model_loads_neither_torch_nor_http() -> None:
    loaded = imported_by("import model; model.GenerationConfig; model.DragomanError")
    assert "model.config" in loaded
    assert loaded & {"torch", "fastapi", "pydantic"} == set()


def test_no_public_name_of_model_reaches_training() -> None:
    loaded = imported_by("import model\nfor name in model.__all__: getattr(model, name)")
    assert "model.translator" in loaded
    assert [name for name in loaded if name.startswith(("model.training", "model.cli", "app"))] == []


# The checkers, on bad examples


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("model/text/x.py", "import model.engine.engine", "model.text must not import model.engine.engine"),
        ("model/engine/x.py", "def f():\n    from model.translator import Translator", ":2: model.engine must not"),
        ("model/translator.py", "from ..model.training import trainer", "must not import model.training"),
        ("model/generation/x.py", "from model import Translator", "model.generation must not import model"),
        ("model/generation/x.py", "from ..text import tokenizer", "must not import model.text"),
        ("model/extra.py", "", "in no room"),
        ("model/__init__.py", "from model.training import x", "model must not import model.training"),
        ("app/routes/x.py", "from model.config import GenerationConfig", "app.routes must not import model.config"),
        ("app/routes/x.py", "import model.cli", "must not import model.cli"),
        ("app/cli.py", "from model.config import GenerationConfig", "app.cli must not import model.config"),
        ("app/main.py", "from app.cli import main", "app.main must not import app.cli"),
        ("app/errors.py", "from app.routes import native", "app.errors must not import app.routes"),
        ("app/settings.py", "if TYPE_CHECKING:\n    from .main import x", ":2: app.settings must not import app.main"),
    ],
)
def test_wrong_arrows_are_found(path: str, source: str, complaint: str) -> None:
    [found] = wrong_arrows({path: source})
    assert complaint in found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "model/engine/x.py",
            "from model.transformer.decoder import Decoder\nfrom .request import Request\nimport torch",
        ),
        ("model/cli.py", "from model.training.trainer import train\nfrom model.text import tokenizer"),
        ("model/__init__.py", "from model.translator import Translator\nfrom model.errors import DragomanError"),
        ("app/cli.py", "from model.cli import cli\nfrom app.main import create_app"),
        (
            "app/routes/x.py",
            "from model import Translator\nfrom app.errors import x\nfrom app.settings import Settings",
        ),
    ],
)
def test_right_arrows_are_not_found(path: str, source: str) -> None:
    assert wrong_arrows({path: source}) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("model/text/x.py", "import torch.nn"),
        ("model/text/__init__.py", "from torch import nn"),
        ("model/engine/scheduler.py", "def f():\n    import torch"),
        ("model/cli.py", "from fastapi import FastAPI"),
        ("model/config.py", "import pydantic"),
        ("model/translator.py", "import app.settings"),
    ],
)
def test_forbidden_imports_are_found(path: str, source: str) -> None:
    assert len(forbidden_imports({path: source})) == 1
    allowed = {
        "model/engine/runner.py": "import torch",
        "app/x.py": "import fastapi",
        "model/text/x.py": "import torchless",
    }
    assert forbidden_imports(allowed) == []


def test_circles_are_found() -> None:
    circle = {
        "model/a/x.py": "from model.a import y",
        "model/a/y.py": "def f():\n    import model.b",
        "model/b/__init__.py": "from ..a.x import name",
        "model/c.py": "import model.a.x",
    }
    assert [complaint.partition(":")[0] for complaint in cycles(circle)] == ["model.a.x", "model.a.y", "model.b"]
    assert cycles({"model/a.py": "import model.b", "model/b.py": "import model.c", "model/c.py": ""}) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("model/x.py", "from __future__ import annotations"),
        ("model/x.py", '"""Engine."""'),
        ("model/x.py", '"""What it does, in enough words."""\nimport os'),
        ("model/utils.py", '"""What it does, in enough words."""'),
    ],
)
def test_missing_doors_are_found(path: str, source: str) -> None:
    assert len(missing_doors({path: source})) == 1
    assert (
        missing_doors({"model/x.py": '"""What it does, in enough words."""\nfrom __future__ import annotations'}) == []
    )


@pytest.mark.parametrize(
    "source",
    [
        "src = 1",
        "def f(tgt_mask): ...",
        "self.trg = 1",
        "def encode_src(): ...",
        "class SrcEncoder: ...",
        "nhead: int = 8",
        "import x as src",
        "hidden_size = 1",
        "max_hidden_size = 1",
        "past_key_values = None",
        "for n_embd in x: ...",
    ],
)
def test_other_words_are_found(source: str) -> None:
    assert len(other_words({"model/x.py": source})) == 1


def test_our_words_and_those_of_other_libraries_are_not_found() -> None:
    ours = "source_ids = target = num_heads = kv_cache = 1\nx.hidden_size\nf(past_key_values=1, src=2)\n'src'"
    assert other_words({"model/x.py": ours}) == []


def test_what_is_put_off_is_found() -> None:
    bad = "x = 1  # TO" + "DO: later\nraise NotImplemented" + "Error\n"
    assert len(unfinished({"model/x.py": bad})) == 2
    assert unfinished({"model/x.py": "# A method\nraise NotImplemented"}) == []


def test_ready_made_transformers_are_found() -> None:
    bad = (
        "nn.Transformer()\nnn.MultiheadAttention\nnn.TransformerEncoderLayer\nfrom torch.nn import Transformer, Linear"
    )
    assert len(ready_made({"model/x.py": bad})) == 4
    assert ready_made({"model/x.py": "nn.Linear\nx.Transformer\nfrom model.transformer import Transformer"}) == []


def test_lengths_are_found() -> None:
    long = "def f():\n" + "    pass\n" * MAX_FUNCTION_LINES
    assert len(too_long({"model/x.py": long})) == 1
    assert too_long({"model/x.py": long.removesuffix("    pass\n")}) == []
    assert len(too_long({"model/x.py": "x = 1\n" * (MAX_FILE_LINES + 1)})) == 1
    assert too_long({"model/x.py": "x = 1\n" * MAX_FILE_LINES}) == []
