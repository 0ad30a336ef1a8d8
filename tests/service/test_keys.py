"""API keys in SQLite: what is kept of them, how usage is taken within a quota, and the command line."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app.cli import main
from app.database import DATABASE_NAME
from app.keys import KEY_PREFIX, ApiKey, KeyStore, current_month, generate_key
from model import ConfigurationError

Run = Callable[..., str]


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path)


def make(store: KeyStore, name: str = "first") -> tuple[ApiKey, str]:
    """Create a key and return it with its secret."""
    key, secret = ApiKey(id=f"id-{name}", name=name, created=time.time()), generate_key()
    store.create(key, secret)
    return key, secret


def test_a_key_is_found_by_its_secret_only(store: KeyStore) -> None:
    key, secret = make(store)
    other, other_secret = make(store, "second")
    assert store.find(secret) == key
    assert store.find(other_secret) == other
    for wrong in ("", "first", "id-first", secret[:-1], secret.upper(), secret + " ", "é", "\ud800"):
        assert store.find(wrong) is None


def test_keys_are_random_and_recognisable() -> None:
    keys = {generate_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(re.fullmatch(KEY_PREFIX + r"[A-Za-z0-9_-]{43}", key) for key in keys)  # 43 base64 digits: 256 bits


def test_the_secret_is_nowhere_on_the_disk(store: KeyStore, tmp_path: Path) -> None:
    _, secret = make(store)
    store.take("id-first", "2026-01", 5)
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"id-first" in written  # the key's row is there, in the file or in its log
    assert secret.encode() not in written
    assert secret.removeprefix(KEY_PREFIX).encode() not in written
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(DATABASE_NAME)] == []


def test_names_are_unique(store: KeyStore) -> None:
    make(store)
    with pytest.raises(ConfigurationError, match="name must not be the name of another key"):
        store.create(ApiKey(id="other", name="first", created=0.0), generate_key())


def test_a_quota_is_taken_to_the_last_character_and_no_further(store: KeyStore) -> None:
    make(store)
    assert store.take("id-first", "2026-01", 60, limit=100)
    assert not store.take("id-first", "2026-01", 41, limit=100)
    assert store.take("id-first", "2026-01", 40, limit=100)
    assert not store.take("id-first", "2026-01", 1, limit=100)
    assert store.take("id-first", "2026-02", 100, limit=100)
    assert not store.take("id-first", "2026-03", 101, limit=100)  # the first request of a month
    assert not store.take("nobody", "2026-01", 1)
    january = store.usage("id-first", "2026-01")
    assert (january.characters, january.requests) == (100, 2)
    assert [(month.month, month.characters) for month in store.history("id-first")] == [
        ("2026-01", 100),
        ("2026-02", 100),
    ]


def test_what_is_given_back_can_be_taken_again(store: KeyStore) -> None:
    make(store)
    assert store.take("id-first", "2026-01", 100, limit=100)
    store.give_back("id-first", "2026-01", 100)
    assert store.usage("id-first", "2026-01").requests == 0
    assert store.take("id-first", "2026-01", 100, limit=100)


def test_several_writers_never_exceed_a_quota_together(store: KeyStore, tmp_path: Path) -> None:
    make(store)
    other_process = KeyStore(tmp_path)  # a connection of its own, as another process has
    taken: list[int] = []
    start = threading.Barrier(4)

    def take(through: KeyStore) -> None:
        start.wait()
        taken.append(sum(3 for _ in range(30) if through.take("id-first", "2026-01", 3, limit=100)))

    threads = [threading.Thread(target=take, args=(each,)) for each in (store, other_process) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 99
    assert store.usage("id-first", "2026-01").characters == 99


def test_a_deleted_key_takes_its_usage_along(store: KeyStore) -> None:
    key, secret = make(store)
    store.take(key.id, "2026-01", 5)
    store.delete(key.id)
    assert store.find(secret) is None
    assert store.history(key.id) == []


def test_months_are_those_of_utc() -> None:
    assert current_month(0.0) == "1970-01"
    assert current_month(1767225599.0) == "2025-12"  # a second before 2026 begins in UTC
    assert current_month(1767225600.0) == "2026-01"


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / DATABASE_NAME).write_text("something else, long enough to be looked at " * 50)
    with pytest.raises(ConfigurationError, match=r"^data_directory must be a folder for our database"):
        KeyStore(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"^data_directory"):
        KeyStore(tmp_path / "file")


def test_tables_of_others_in_the_same_file_are_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / DATABASE_NAME) as connection:
        connection.execute("CREATE TABLE glossaries (name TEXT)")
        connection.execute("INSERT INTO glossaries VALUES ('mine')")
    make(KeyStore(tmp_path))
    with sqlite3.connect(tmp_path / DATABASE_NAME) as connection:
        assert connection.execute("SELECT name FROM glossaries").fetchall() == [("mine",)]
    connection.close()


# The command line


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one command line with a data directory, and return what it printed."""
    monkeypatch.setenv("DRAGOMAN_DATA_DIRECTORY", str(tmp_path / "data"))

    def run(*arguments: str, status: int = 0) -> str:
        capsys.readouterr()
        assert main(["keys", *arguments]) == status
        captured = capsys.readouterr()
        return captured.err if status else captured.out

    return run


def test_a_key_is_printed_once(run: Run, tmp_path: Path) -> None:
    secret = run("create", "Mastodon", "--characters-per-month", "500", "--admin", "--expires-days", "2").strip()
    [entry] = [json.loads(line) for line in run("list", "--json").splitlines()]
    assert entry["name"] == "Mastodon"
    assert (entry["characters_per_month"], entry["is_admin"], entry["disabled"]) == (500, True, False)
    assert entry["expires"] - entry["created"] == pytest.approx(2 * 86_400)  # floats of about 2e9: exact to 1e-6
    shown = run("list")
    assert shown.startswith(f"{entry['id']}  Mastodon  valid until ")
    assert "(admin)  used 0 characters this month  500 characters/month" in shown
    assert secret not in shown
    found = KeyStore(tmp_path / "data").find(secret)
    assert found is not None
    assert found.id == entry["id"]


def test_keys_are_switched_off_and_on_and_deleted(run: Run, tmp_path: Path) -> None:
    secret = run("create", "first").strip()
    store = KeyStore(tmp_path / "data")
    run("disable", "first")
    found = store.find(secret)
    assert found is not None
    assert found.disabled
    assert "  disabled  " in run("list")
    run("enable", found.id)
    assert store.find(secret) == ApiKey(found.id, "first", found.created)
    run("delete", "first")
    assert store.find(secret) is None
    assert run("list") == ""


def test_usage_by_month(run: Run, tmp_path: Path) -> None:
    run("create", "first")
    store = KeyStore(tmp_path / "data")
    key = store.get("first")
    store.take(key.id, "2026-02", 7)
    store.take(key.id, "2026-01", 5)
    assert run("usage", "first") == "2026-01  5 characters  1 requests\n2026-02  7 characters  1 requests\n"
    assert json.loads(run("usage", key.id, "--json").splitlines()[0])["characters"] == 5


def test_mistakes_on_the_command_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "key must be the name or the id of a key, got 'nobody'" in run("disable", "nobody", status=2)
    run("create", "first")
    assert "name must not be the name of another key" in run("create", "first", status=2)
    assert "printable" in run("create", "a\nb", status=2)
    monkeypatch.delenv("DRAGOMAN_DATA_DIRECTORY")
    assert "data_directory must be set" in run("list", status=2)
