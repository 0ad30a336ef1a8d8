"""Where machine code is kept: a folder for each state of the sources; what is in it is not compiled again."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from model.kernels import compilation

ROOT = Path(__file__).parents[2]
find_directory = compilation.cache_directory.__wrapped__
"""The function itself: what it found first is otherwise kept for the whole process."""


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the sources, which the digest is taken of."""
    copied = tmp_path / "kernels"
    shutil.copytree(Path(compilation.__file__).parent, copied, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(compilation, "__file__", str(copied / "compilation.py"))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    return copied


def test_every_source_and_the_compilers_version_have_a_part_in_the_folder(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = find_directory()
    assert first is not None
    assert first.is_dir()
    assert find_directory() == first
    seen: set[Path | None] = {first}
    for source in sorted(sources.glob("*.py")):
        source.write_bytes(source.read_bytes() + b"\n")
        directory = find_directory()
        assert directory not in seen
        seen.add(directory)
    monkeypatch.setattr("numba.__version__", "0.1.2")
    assert find_directory() not in seen


def test_the_folder_is_below_the_first_of_three_places(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sources.is_dir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    places = [tmp_path / "cache", tmp_path / "xdg", tmp_path / "home" / ".cache"]
    for place, variable in zip(places, ["NUMBA_CACHE_DIR", "XDG_CACHE_HOME", None], strict=True):
        directory = find_directory()
        assert directory is not None
        assert directory.parent == place / "dragoman"
        if variable:
            monkeypatch.delenv(variable)


def test_a_folder_that_cannot_be_made_is_none_with_a_warning(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert sources.is_dir()
    occupied = tmp_path / "file"
    occupied.write_text("not a folder")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(occupied))
    with caplog.at_level(logging.WARNING):
        assert find_directory() is None
    assert f"cannot write {occupied}" in caplog.text


def test_a_folder_without_permission_is_none_with_a_warning(
    sources: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert sources.is_dir()
    monkeypatch.setattr(os, "access", lambda *_: False)  # the superuser may write everywhere
    with caplog.at_level(logging.WARNING):
        assert find_directory() is None
    assert "cannot write" in caplog.text


DECODE = """
import sys
from model.config import GenerationConfig, ModelConfig
from model.generation import GenerationInput
from model.kernels import compilation
from model.kernels.batch import KernelBatch
from model.kernels.packing import PackedNetwork
from model.transformer import Transformer
config = ModelConfig(vocab_size=9, d_model=8, d_ff=8, num_heads=1, num_encoder_layers=1, num_decoder_layers=1)
batch = KernelBatch(PackedNetwork(Transformer(config).eval(), "int8"))
batch.add([(0, GenerationInput([5, 3], GenerationConfig(beam_size=2, max_new_tokens=2)))])
while batch.num_requests:
    batch.step()
print(*[sum(each.stats.cache_misses.values()) for each in compilation._entries if each.signatures])
"""


def test_another_process_compiles_nothing() -> None:
    directory = compilation.cache_directory()
    if directory is None:
        pytest.skip("machine code cannot be kept here")
    exec(DECODE, {})  # from here on, all of it is there
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*.nb*")}
    assert len(before) >= 4
    done = subprocess.run([sys.executable, "-c", DECODE], cwd=ROOT, capture_output=True, text=True, check=True)
    misses = done.stdout.split()
    assert len(misses) >= 2
    assert set(misses) == {"0"}
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*.nb*")} == before
