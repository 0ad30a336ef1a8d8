"""API keys and what they have used, in SQLite: only a key's hash is kept. It knows no HTTP and no rate limit.

Several processes may share the file: SQLite's write-ahead log lets them read while one writes, and a quota is taken in
one statement, so that together they cannot exceed it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from app.database import Database
from model import ConfigurationError

"""File in the data directory; other parts of the service keep tables of their own in it."""
KEY_PREFIX = "dragoman_"
"""What every key begins with, so that people and secret scanners recognise one."""

_PERSON = b"dragoman-api-key"
"""Makes our hashes different from those of anybody else who hashes the same string."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS api_keys (
    id TEXT PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    name TEXT NOT NULL UNIQUE,
    created REAL NOT NULL,
    expires REAL,
    disabled INTEGER NOT NULL DEFAULT 0,
    is_admin INTEGER NOT NULL DEFAULT 0,
    characters_per_minute INTEGER NOT NULL DEFAULT 0,
    requests_per_minute INTEGER NOT NULL DEFAULT 0,
    characters_per_month INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE IF NOT EXISTS api_key_usage (
    key_id TEXT NOT NULL REFERENCES api_keys (id) ON DELETE CASCADE,
    month TEXT NOT NULL,
    characters INTEGER NOT NULL DEFAULT 0,
    requests INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (key_id, month)
) STRICT, WITHOUT ROWID;
"""
_COLUMNS = (
    "id, name, created, expires, disabled, is_admin, characters_per_minute, requests_per_minute, characters_per_month"
)


@dataclass(frozen=True)
class ApiKey:
    """What is known of a key; the key itself is not. Times are seconds since 1970, in UTC."""

    id: str
    name: str
    created: float
    expires: float | None = None
    """When it stops to be valid; None for never."""
    disabled: bool = False
    is_admin: bool = False
    characters_per_minute: int = 0
    """Rate limit; 0 for none."""
    requests_per_minute: int = 0
    """Rate limit; 0 for none."""
    characters_per_month: int = 0
    """Quota of a calendar month in UTC; 0 for none."""

    def expired(self, now: float | None = None) -> bool:
        """Whether the key was valid only until some time that has passed."""
        return self.expires is not None and self.expires <= (time.time() if now is None else now)


@dataclass(frozen=True)
class MonthlyUsage:
    """What one key used in one calendar month (``YYYY-MM``, in UTC)."""

    month: str
    characters: int
    requests: int


def generate_key() -> str:
    """Return a new key with 256 random bits."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def hash_key(key: str) -> bytes:
    """Return what is kept of a key. A key is random and long, so that a quick hash is as safe as a slow one."""
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=32, person=_PERSON).digest()


def current_month(now: float | None = None) -> str:
    """Return the calendar month in UTC, as ``YYYY-MM``."""
    return datetime.fromtimestamp(time.time() if now is None else now, UTC).strftime("%Y-%m")


class KeyStore:
    """The keys and their usage in one SQLite file. Every method may wait for the disk: call it off the event loop.

    It may be used from several threads; they take turns.

    Raises:
        ConfigurationError: the folder cannot be made, or the file is no database of ours.
    """

    def __init__(self, data_directory: Path) -> None:
        self._database = Database(data_directory, _SCHEMA)

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        self._database.close()

    def create(self, key: ApiKey, secret: str) -> None:
        """Keep a new key; of ``secret`` only the hash.

        Raises:
            ConfigurationError: another key has this name.
        """
        values = (key.id, hash_key(secret), key.name, key.created, key.expires, int(key.disabled), int(key.is_admin))
        limits = (key.characters_per_minute, key.requests_per_minute, key.characters_per_month)
        try:
            with self._database.turn() as connection:
                connection.execute(
                    "INSERT INTO api_keys (id, hash, name, created, expires, disabled, is_admin,"
                    " characters_per_minute, requests_per_minute, characters_per_month)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (*values, *limits),
                )
        except sqlite3.IntegrityError:
            raise ConfigurationError("name", "must not be the name of another key", key.name) from None

    def find(self, secret: str) -> ApiKey | None:
        """Return the key that ``secret`` is, None if there is no such key; whether it is valid is not looked at."""
        wanted = hash_key(secret)
        with self._database.turn() as connection:
            row = connection.execute(f"SELECT hash, {_COLUMNS} FROM api_keys WHERE hash = ?", (wanted,)).fetchone()  # noqa: S608
        if row is None or not hmac.compare_digest(row[0], wanted):
            return None
        return _key(row[1:])

    def get(self, name_or_id: str) -> ApiKey:
        """Return the key with this name or id.

        Raises:
            ConfigurationError: there is none.
        """
        with self._database.turn() as connection:
            row = connection.execute(
                f"SELECT {_COLUMNS} FROM api_keys WHERE id = ?1 OR name = ?1 ORDER BY id = ?1 DESC",  # noqa: S608
                (name_or_id,),
            ).fetchone()
        if row is None:
            raise ConfigurationError("key", "must be the name or the id of a key", name_or_id)
        return _key(row)

    def all_keys(self) -> Sequence[ApiKey]:
        """Return all keys, the oldest first."""
        with self._database.turn() as connection:
            rows = connection.execute(f"SELECT {_COLUMNS} FROM api_keys ORDER BY created, id").fetchall()  # noqa: S608
        return [_key(row) for row in rows]

    def is_empty(self) -> bool:
        """Whether there is no key at all, not even one that is not valid."""
        with self._database.turn() as connection:
            return connection.execute("SELECT 1 FROM api_keys LIMIT 1").fetchone() is None

    def has_admin(self) -> bool:
        """Whether there is an admin key that is valid."""
        with self._database.turn() as connection:
            found = connection.execute(
                "SELECT 1 FROM api_keys WHERE is_admin AND NOT disabled AND (expires IS NULL OR expires > ?) LIMIT 1",
                (time.time(),),
            )
            return found.fetchone() is not None

    def set_disabled(self, key_id: str, disabled: bool) -> None:
        """Let a key be refused from now on, or accepted again."""
        with self._database.turn() as connection:
            connection.execute("UPDATE api_keys SET disabled = ? WHERE id = ?", (int(disabled), key_id))

    def delete(self, key_id: str) -> None:
        """Forget a key and its usage."""
        with self._database.turn() as connection:
            connection.execute("DELETE FROM api_keys WHERE id = ?", (key_id,))

    def take(self, key_id: str, month: str, characters: int, limit: int = 0, requests: int = 1) -> bool:
        """Add ``characters`` and ``requests`` to a key's usage unless the characters would exceed ``limit`` (0: none).

        Returns:
            False if they would; nothing was added then.
        """
        with self._database.turn() as connection:
            changed = connection.execute(
                "INSERT INTO api_key_usage (key_id, month, characters, requests)"
                " SELECT id, ?2, ?3, ?5 FROM api_keys WHERE id = ?1 AND (?4 = 0 OR ?3 <= ?4)"
                " ON CONFLICT (key_id, month) DO UPDATE SET characters = characters + ?3, requests = requests + ?5"
                " WHERE ?4 = 0 OR characters + ?3 <= ?4",
                (key_id, month, characters, limit, requests),
            )
            return changed.rowcount > 0

    def give_back(self, key_id: str, month: str, characters: int, requests: int = 1) -> None:
        """Take back what :meth:`take` added, for a request that was not answered."""
        with self._database.turn() as connection:
            connection.execute(
                "UPDATE api_key_usage SET characters = max(0, characters - ?), requests = max(0, requests - ?)"
                " WHERE key_id = ? AND month = ?",
                (characters, requests, key_id, month),
            )

    def usage(self, key_id: str, month: str) -> MonthlyUsage:
        """Return what a key used in a month."""
        with self._database.turn() as connection:
            row = connection.execute(
                "SELECT characters, requests FROM api_key_usage WHERE key_id = ? AND month = ?", (key_id, month)
            ).fetchone()
        return MonthlyUsage(month, *(row or (0, 0)))

    def history(self, key_id: str) -> Sequence[MonthlyUsage]:
        """Return what a key used in every month in which it was used, the first month first."""
        with self._database.turn() as connection:
            rows = connection.execute(
                "SELECT month, characters, requests FROM api_key_usage WHERE key_id = ? ORDER BY month", (key_id,)
            ).fetchall()
        return [MonthlyUsage(*row) for row in rows]


def _key(row: Sequence[object]) -> ApiKey:
    """Make a key of a row with the columns of ``_COLUMNS``."""
    key_id, name, created, expires, disabled, is_admin, *limits = row
    return ApiKey(key_id, name, created, expires, bool(disabled), bool(is_admin), *limits)  # type: ignore[arg-type]
