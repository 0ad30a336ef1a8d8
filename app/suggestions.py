"""Translations that people suggest, in SQLite for the operator to read; nothing here uses them.

They hold texts of users, so there is such a store only where the operator asked for it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from app.database import Database
from model import ConfigurationError, OverloadedError

MAX_SUGGESTIONS = 100_000
"""Most suggestions that are kept; the operator may delete some to make room."""

_RETRY_SECONDS = 3600.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS suggestions (
    id INTEGER PRIMARY KEY,
    text TEXT NOT NULL,
    suggestion TEXT NOT NULL,
    source TEXT NOT NULL,
    target TEXT NOT NULL,
    owner TEXT NOT NULL,
    created REAL NOT NULL
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS suggestions_once ON suggestions (text, suggestion, source, target);
"""


@dataclass(frozen=True)
class Suggestion:
    """A text and the translation that somebody would rather have."""

    text: str
    suggestion: str
    source: str
    """A language code, or auto."""
    target: str
    owner: str
    """Id of the key of the caller who suggests it."""


class SuggestionStore:
    """The suggestions of one data directory. Every method may wait for the disk: call it off the event loop.

    Raises:
        ConfigurationError: there is no data directory, or its database cannot be used.
    """

    def __init__(self, data_directory: Path | None) -> None:
        if data_directory is None:
            raise ConfigurationError("data_directory", "must be set when suggestions is", None)
        self._database = Database(data_directory, _SCHEMA)

    def close(self) -> None:
        """Close the database; closing twice is harmless."""
        self._database.close()

    def add(self, suggestion: Suggestion) -> None:
        """Keep a suggestion; the same one is kept once.

        Raises:
            OverloadedError: there are MAX_SUGGESTIONS already.
        """
        with self._database.turn() as connection:
            (count,) = connection.execute("SELECT count(*) FROM suggestions").fetchone()
            if count >= MAX_SUGGESTIONS:
                raise OverloadedError("there is no room for more suggestions", _RETRY_SECONDS)
            connection.execute(
                "INSERT OR IGNORE INTO suggestions (text, suggestion, source, target, owner, created)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (*astuple(suggestion), time.time()),
            )

    def all_suggestions(self) -> Sequence[Suggestion]:
        """Return all suggestions, the oldest first."""
        with self._database.turn() as connection:
            rows = connection.execute(
                "SELECT text, suggestion, source, target, owner FROM suggestions ORDER BY id"
            ).fetchall()
        return [Suggestion(*row) for row in rows]
