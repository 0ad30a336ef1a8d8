"""Callers' glossaries in SQLite: created, listed, changed, deleted, and read for a translation; it knows no protocol.

A glossary has a name and dictionaries, one for each pair of languages; a dictionary has entries. Every change replaces
a dictionary as a whole in one transaction, so that a reader never sees half of one.
"""

from __future__ import annotations

import sqlite3
import time
import unicodedata
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import orjson

from app.database import Database
from app.errors import DICTIONARY_NOT_FOUND, GLOSSARY_NOT_FOUND, RequestError
from model import ConfigurationError, Glossary, InvalidRequestError

MAX_NAME_BYTES = 1024
"""Longest name of a glossary, in UTF-8; DeepL's limit."""
MAX_GLOSSARIES = 1000
"""Most glossaries of one owner; DeepL's limit."""
MAX_DICTIONARIES = 200
"""Most pairs of languages in one glossary."""

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS glossary_schema (version INTEGER NOT NULL) STRICT;
INSERT INTO glossary_schema SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM glossary_schema);
CREATE TABLE IF NOT EXISTS glossaries (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    created REAL NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS glossaries_of_owner ON glossaries (owner);
CREATE TABLE IF NOT EXISTS glossary_dictionaries (
    glossary_id TEXT NOT NULL REFERENCES glossaries (id) ON DELETE CASCADE,
    source_language TEXT NOT NULL,
    target_language TEXT NOT NULL,
    revision TEXT NOT NULL,
    entry_count INTEGER NOT NULL,
    entries BLOB NOT NULL,
    PRIMARY KEY (glossary_id, source_language, target_language)
) STRICT;
"""
_CACHED_ENTRIES = 200_000
"""Entries of recently used dictionaries that are kept ready, all dictionaries together."""


@dataclass(frozen=True)
class Dictionary:
    """Wanted translations of terms from one language to another, in the order in which they were given."""

    source: str
    target: str
    entries: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class DictionaryInfo:
    """A dictionary without its entries."""

    source: str
    target: str
    entry_count: int


@dataclass(frozen=True)
class GlossaryInfo:
    """A glossary without its entries."""

    id: str
    """A UUID in its usual spelling, in small letters."""
    name: str
    created: datetime
    """In UTC."""
    dictionaries: tuple[DictionaryInfo, ...]
    """In the order in which they were added."""


class GlossaryStore:
    """The glossaries of all owners; none sees another's.

    Every method may wait for the disk: call it off the event loop. Threads may share a store, they take turns;
    processes may share its file.

    Args:
        data_directory: folder of the database, which other parts of the service use too. None keeps the glossaries in
            memory, and they are gone when the store is closed.

    Raises:
        ConfigurationError: the folder cannot be made, or its database is not ours or from a later version.
    """

    def __init__(self, data_directory: Path | None = None) -> None:
        self._cache: OrderedDict[str, Glossary] = OrderedDict()
        self._database = Database(data_directory, f"BEGIN IMMEDIATE;{_SCHEMA}COMMIT;")
        try:
            with self._database.turn() as connection:
                (version,) = connection.execute("SELECT version FROM glossary_schema").fetchone()
        except sqlite3.Error as exception:
            self._database.close()
            raise ConfigurationError(
                "data_directory", f"must be a folder for our database ({exception})", str(data_directory)
            ) from exception
        if version > _SCHEMA_VERSION:
            self._database.close()
            raise ConfigurationError(
                "data_directory", f"must have glossaries of version {_SCHEMA_VERSION} or before", version
            )

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        self._database.close()

    def create(self, owner: str, name: str, dictionaries: Sequence[Dictionary]) -> GlossaryInfo:
        """Keep a new glossary under a new id.

        Raises:
            InvalidRequestError: the name, an entry or a pair of languages breaks a rule, or the owner has too many
                glossaries.
        """
        _check_name(name)
        pairs = {(dictionary.source, dictionary.target) for dictionary in dictionaries}
        if len(pairs) < len(dictionaries):
            raise InvalidRequestError("dictionaries", "must have each pair of languages once", len(dictionaries))
        glossary_id = str(uuid.uuid4())
        checked = [_checked(glossary_id, name, dictionary) for dictionary in dictionaries]
        with self._database.transaction() as connection:
            (count,) = connection.execute("SELECT count(*) FROM glossaries WHERE owner = ?", (owner,)).fetchone()
            if count >= MAX_GLOSSARIES:
                raise InvalidRequestError("glossaries", f"must be at most {MAX_GLOSSARIES} of one owner", count + 1)
            connection.execute("INSERT INTO glossaries VALUES (?, ?, ?, ?)", (glossary_id, owner, name, time.time()))
            for glossary in checked:
                _write(connection, glossary)
            _check_size(connection, glossary_id)
            return _info(connection, owner, glossary_id)

    def all_glossaries(self, owner: str) -> list[GlossaryInfo]:
        """Return the owner's glossaries, the oldest first."""
        with self._database.turn() as connection:
            rows = connection.execute(
                "SELECT g.id, g.name, g.created, d.source_language, d.target_language, d.entry_count FROM glossaries g"
                " LEFT JOIN glossary_dictionaries d ON d.glossary_id = g.id WHERE g.owner = ?"
                " ORDER BY g.created, g.rowid, d.rowid",
                (owner,),
            ).fetchall()
        grouped: dict[str, tuple[str, float, list[DictionaryInfo]]] = {}
        for glossary_id, name, created, source, target, entry_count in rows:
            _, _, dictionaries = grouped.setdefault(glossary_id, (name, created, []))
            if source is not None:
                dictionaries.append(DictionaryInfo(source, target, entry_count))
        return [
            GlossaryInfo(glossary_id, name, datetime.fromtimestamp(created, UTC), tuple(dictionaries))
            for glossary_id, (name, created, dictionaries) in grouped.items()
        ]

    def get(self, owner: str, glossary_id: str) -> GlossaryInfo:
        """Return one of the owner's glossaries.

        Raises:
            RequestError: of kind GLOSSARY_NOT_FOUND.
        """
        with self._database.turn() as connection:
            return _info(connection, owner, glossary_id)

    def read(self, owner: str, glossary_id: str, source: str, target: str) -> Glossary:
        """Return one dictionary with its entries; the same object as long as nothing of it changes.

        Raises:
            RequestError: of kind GLOSSARY_NOT_FOUND or DICTIONARY_NOT_FOUND.
        """
        with self._database.turn() as connection:
            return self._read(connection, owner, glossary_id, source, target)

    def rename(self, owner: str, glossary_id: str, name: str) -> GlossaryInfo:
        """Give a glossary another name; raises as :meth:`create` and :meth:`get` do."""
        return self.update(owner, glossary_id, name=name)

    def update(
        self,
        owner: str,
        glossary_id: str,
        *,
        name: str | None = None,
        dictionaries: Sequence[Dictionary] = (),
        merge: bool = True,
    ) -> GlossaryInfo:
        """Change a glossary's name and dictionaries, all of it or, when something is refused, nothing.

        Args:
            owner: whose glossary it must be.
            glossary_id: its id.
            name: the new name; None leaves it.
            dictionaries: are added where the pair of languages is new.
            merge: what happens where it is not. True: their entries are added, and replace those of the same source
                term; False: they replace the dictionary.

        Raises:
            InvalidRequestError: the name or an entry breaks a rule.
            RequestError: of kind GLOSSARY_NOT_FOUND.
        """
        if name is not None:
            _check_name(name)
        with self._database.transaction() as connection:
            before = _info(connection, owner, glossary_id)
            if name is not None:
                connection.execute("UPDATE glossaries SET name = ? WHERE id = ?", (name, glossary_id))
            for dictionary in dictionaries:
                _write(connection, self._updated(connection, glossary_id, name or before.name, dictionary, merge))
            _check_size(connection, glossary_id)
            return _info(connection, owner, glossary_id)

    def delete(self, owner: str, glossary_id: str) -> None:
        """Delete a glossary; raises as :meth:`get` does."""
        with self._database.transaction() as connection:
            deleted = connection.execute("DELETE FROM glossaries WHERE id = ? AND owner = ?", (glossary_id, owner))
            if not deleted.rowcount:
                raise _no_glossary(glossary_id)

    def delete_dictionary(self, owner: str, glossary_id: str, source: str, target: str) -> None:
        """Delete one dictionary, and leave the glossary even if it was the last; raises as :meth:`read` does."""
        with self._database.transaction() as connection:
            _info(connection, owner, glossary_id)
            deleted = connection.execute(
                "DELETE FROM glossary_dictionaries"
                " WHERE glossary_id = ? AND source_language = ? AND target_language = ?",
                (glossary_id, source, target),
            )
            if not deleted.rowcount:
                raise _no_dictionary(source, target)

    def _read(self, connection: sqlite3.Connection, owner: str, glossary_id: str, source: str, target: str) -> Glossary:
        """Return a dictionary from the cache if it has not changed since, else from the database."""
        row = connection.execute(
            "SELECT g.name, d.revision FROM glossaries g LEFT JOIN glossary_dictionaries d"
            " ON d.glossary_id = g.id AND d.source_language = ? AND d.target_language = ?"
            " WHERE g.id = ? AND g.owner = ?",
            (source, target, glossary_id, owner),
        ).fetchone()
        if row is None:
            raise _no_glossary(glossary_id)
        name, revision = row
        if revision is None:
            raise _no_dictionary(source, target)
        cached = self._cache.get(revision)
        if cached is None or cached.name != name:
            (entries,) = connection.execute(
                "SELECT entries FROM glossary_dictionaries"
                " WHERE glossary_id = ? AND source_language = ? AND target_language = ?",
                (glossary_id, source, target),
            ).fetchone()
            cached = _glossary(glossary_id, name, Dictionary(source, target, orjson.loads(entries)))
            self._cache[revision] = cached
        self._cache.move_to_end(revision)
        while len(self._cache) > 1 and sum(len(kept.entries) for kept in self._cache.values()) > _CACHED_ENTRIES:
            self._cache.popitem(last=False)
        return cached

    def _updated(
        self, connection: sqlite3.Connection, glossary_id: str, name: str, dictionary: Dictionary, merge: bool
    ) -> Glossary:
        """Return what a dictionary is after an update, checked."""
        new = _checked(glossary_id, name, dictionary)
        if not merge:
            return new
        row = connection.execute(
            "SELECT entries FROM glossary_dictionaries"
            " WHERE glossary_id = ? AND source_language = ? AND target_language = ?",
            (glossary_id, dictionary.source, dictionary.target),
        ).fetchone()
        if row is None:
            return new
        merged = dict(orjson.loads(row[0])) | dict(new.entries)
        return _checked(glossary_id, name, Dictionary(dictionary.source, dictionary.target, list(merged.items())))


def parse_dictionary(text: str, entries_format: Literal["tsv", "csv"], source: str, target: str) -> Dictionary:
    """Return the entries of a text, read by Glossary.from_tsv or from_csv.

    Slow for long texts: call it off the event loop.

    Raises:
        InvalidRequestError: a line breaks a rule.
    """
    parse = Glossary.from_tsv if entries_format == "tsv" else Glossary.from_csv
    glossary = parse(text, id="", name="entries", source_language=source, target_language=target)
    return Dictionary(source, target, glossary.entries)


def _check_name(name: str) -> None:
    """Raise InvalidRequestError for a name that is empty, too long or has control characters."""
    if not name.strip():
        raise InvalidRequestError("name", "must not be empty", name)
    if len(name.encode()) > MAX_NAME_BYTES:
        raise InvalidRequestError("name", f"must have at most {MAX_NAME_BYTES} bytes", len(name.encode()))
    if any(unicodedata.category(character) == "Cc" for character in name):
        raise InvalidRequestError("name", "must not have control characters", name)


def _glossary(glossary_id: str, name: str, dictionary: Dictionary) -> Glossary:
    """Return a dictionary as the model takes it, or raise InvalidRequestError."""
    return Glossary(
        id=glossary_id,
        name=name,
        source_language=dictionary.source,
        target_language=dictionary.target,
        entries=tuple((source, target) for source, target in dictionary.entries),
    )


def _checked(glossary_id: str, name: str, dictionary: Dictionary) -> Glossary:
    """Return a new dictionary as the model takes it, or raise InvalidRequestError."""
    if dictionary.source == dictionary.target:
        raise InvalidRequestError("target", "must be another language than the source", dictionary.target)
    return _glossary(glossary_id, name, dictionary)


def _write(connection: sqlite3.Connection, glossary: Glossary) -> None:
    """Add a dictionary, or replace the one of the same languages in its place."""
    connection.execute(
        "INSERT INTO glossary_dictionaries VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (glossary_id, source_language, target_language) DO UPDATE"
        " SET revision = excluded.revision, entry_count = excluded.entry_count, entries = excluded.entries",
        (
            glossary.id,
            glossary.source_language,
            glossary.target_language,
            uuid.uuid4().hex,
            len(glossary.entries),
            orjson.dumps(glossary.entries),
        ),
    )


def _check_size(connection: sqlite3.Connection, glossary_id: str) -> None:
    """Raise InvalidRequestError if a glossary has too many dictionaries."""
    query = "SELECT count(*) FROM glossary_dictionaries WHERE glossary_id = ?"
    (count,) = connection.execute(query, (glossary_id,)).fetchone()
    if count > MAX_DICTIONARIES:
        raise InvalidRequestError("dictionaries", f"must be at most {MAX_DICTIONARIES}", count)


def _info(connection: sqlite3.Connection, owner: str, glossary_id: str) -> GlossaryInfo:
    """Return a glossary of an owner, or raise RequestError."""
    row = connection.execute(
        "SELECT name, created FROM glossaries WHERE id = ? AND owner = ?", (glossary_id, owner)
    ).fetchone()
    if row is None:
        raise _no_glossary(glossary_id)
    dictionaries = connection.execute(
        "SELECT source_language, target_language, entry_count FROM glossary_dictionaries"
        " WHERE glossary_id = ? ORDER BY rowid",
        (glossary_id,),
    ).fetchall()
    name, created = row
    return GlossaryInfo(
        glossary_id, name, datetime.fromtimestamp(created, UTC), tuple(DictionaryInfo(*each) for each in dictionaries)
    )


def _no_glossary(glossary_id: str) -> RequestError:
    return RequestError(GLOSSARY_NOT_FOUND, f"there is no glossary {glossary_id[:64]}")


def _no_dictionary(source: str, target: str) -> RequestError:
    return RequestError(DICTIONARY_NOT_FOUND, f"the glossary has no dictionary from {source} to {target}")
