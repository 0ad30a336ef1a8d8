"""The SQLite file of a data directory: opened with a store's tables, shared by threads in turns; it knows no table."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from model import ConfigurationError

DATABASE_NAME = "dragoman.sqlite3"
"""The file's name in the data directory; every store has its own tables in it."""
_BUSY_SECONDS = 10.0
"""How long a statement waits for another process."""
_PRAGMAS = ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON")


class Database:
    """One store's connection; threads take turns. Every use may wait for the disk: call it off the event loop.

    Args:
        data_directory: folder of the file, made if missing; None keeps everything in memory until it is closed.
        schema: the statements that make the store's tables where they are missing.
        pragmas: more of SQLite's settings for this connection.

    Raises:
        ConfigurationError: the folder cannot be made, or the file is no database of ours.
    """

    def __init__(self, data_directory: Path | None, schema: str, pragmas: Sequence[str] = ()) -> None:
        self._lock = threading.Lock()
        try:
            if data_directory is not None:
                data_directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            path = ":memory:" if data_directory is None else data_directory / DATABASE_NAME
            self._connection = sqlite3.connect(
                path, timeout=_BUSY_SECONDS, check_same_thread=False, isolation_level=None
            )
            for pragma in (*_PRAGMAS, *pragmas):
                self._connection.execute(f"PRAGMA {pragma}")
            self._connection.executescript(schema)
        except (OSError, sqlite3.Error) as exception:
            raise ConfigurationError(
                "data_directory", f"must be a folder for our database ({exception})", str(data_directory)
            ) from exception

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def turn(self) -> Iterator[sqlite3.Connection]:
        """Give the connection to one thread at a time; every statement is a transaction of its own."""
        with self._lock:
            yield self._connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The same with one transaction around all statements: done as a whole, or undone if it raises."""
        with self.turn() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
