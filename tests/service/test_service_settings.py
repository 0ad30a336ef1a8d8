"""Settings: where they come from, which wins, and what a person reads when one is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.settings import Settings
from model import ConfigurationError, EngineConfig


@pytest.fixture
def config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "dragoman.toml"
    monkeypatch.setenv("DRAGOMAN_CONFIG_FILE", str(path))
    return path


def test_the_defaults_are_those_of_the_engine() -> None:
    assert Settings.load().engine_config() == EngineConfig()


def test_arguments_win_over_the_environment_and_that_over_the_file(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config_file.write_text('port = 1\nmax_texts = 2\nmax_characters = 3\nmodels = ["a", "b"]\nhost = "::1"\n')
    monkeypatch.setenv("DRAGOMAN_PORT", "10")
    monkeypatch.setenv("DRAGOMAN_MAX_TEXTS", "20")
    settings = Settings.load(port=100)
    assert (settings.port, settings.max_texts, settings.max_characters) == (100, 20, 3)
    assert (settings.models, settings.host) == ((Path("a"), Path("b")), "::1")


def test_models_in_the_environment_are_separated_like_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAGOMAN_MODELS", os.pathsep.join(("one", "two words", "")))
    assert Settings.load().models == (Path("one"), Path("two words"))


def test_engine_settings_reach_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"device": "cpu", "dtype": "bfloat16", "num_threads": 3, "max_batch_tokens": 99, "max_queued_requests": 9}
    for name, value in values.items():
        monkeypatch.setenv(f"DRAGOMAN_{name.upper()}", str(value))
    assert Settings.load().engine_config() == EngineConfig(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [("port", "70000"), ("port", "http"), ("dtype", "int3"), ("deadline_seconds", "0"), ("max_alternatives", "64")],
)
def test_a_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"DRAGOMAN_{name.upper()}", value)
    with pytest.raises(ConfigurationError, match=f"^{name} is not acceptable .*{value}"):
        Settings.load()


def test_an_unknown_name_in_the_file_is_an_error(config_file: Path) -> None:
    config_file.write_text("max_text = 5\n")
    with pytest.raises(ConfigurationError, match=r"^max_text is not acceptable"):
        Settings.load()


def test_the_file_must_be_there(config_file: Path) -> None:
    assert not config_file.exists()
    with pytest.raises(ConfigurationError, match=r"^DRAGOMAN_CONFIG_FILE must name a readable file"):
        Settings.load()


@pytest.mark.parametrize("content", [b"port: 5", b"\xff"])
def test_the_file_must_be_toml(config_file: Path, content: bytes) -> None:
    config_file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"^DRAGOMAN_CONFIG_FILE must name a TOML file"):
        Settings.load()
