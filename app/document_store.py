"""Documents on their way, in SQLite and in files: what came in, how far it is, what goes out; it translates nothing.

A document's row says what it is and how far it is; its bytes are files in a folder of its own, whose name is the
document's id and never anything that a caller chose. What was translated already is kept text by text, so that a
restart goes on where it stopped. All of it is removed with the document.

Several processes may share the folder: whoever translates a document holds a lock on its file, and the system lets go
of that lock when the process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import BinaryIO, Literal

from app.database import Database
from model import ConfigurationError

DocumentState = Literal["queued", "translating", "done", "error"]

_SOURCE, _RESULT = "source", "result"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    source TEXT,
    target TEXT NOT NULL,
    model TEXT NOT NULL,
    options TEXT NOT NULL,
    secret BLOB,
    is_shared INTEGER NOT NULL,
    state TEXT NOT NULL,
    error TEXT NOT NULL,
    num_bytes INTEGER NOT NULL,
    characters INTEGER NOT NULL,
    translated_characters INTEGER NOT NULL,
    month TEXT NOT NULL,
    suffix TEXT NOT NULL,
    media_type TEXT NOT NULL,
    created REAL NOT NULL,
    finished REAL
) STRICT;
CREATE INDEX IF NOT EXISTS documents_of_owner ON documents (owner, created);
CREATE TABLE IF NOT EXISTS document_texts (
    document TEXT NOT NULL REFERENCES documents (id) ON DELETE CASCADE,
    digest BLOB NOT NULL,
    translation TEXT NOT NULL,
    PRIMARY KEY (document, digest)
) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True)
class DocumentRecord:
    """What is known of a document. Times are seconds since 1970, in UTC."""

    id: str
    """32 hexadecimal digits."""
    owner: str
    """Id of the caller's key."""
    name: str
    """File name, without folders."""
    source: str | None
    """Language of its texts; None if there was nothing to tell it by."""
    target: str
    model: str
    """Name of the translator that was chosen."""
    options: str
    """How its texts are translated, as JSON."""
    created: float
    secret: bytes | None = None
    """Hash of what a caller must know beside the id; None if there is no such thing."""
    is_shared: bool = False
    """Whether who knows the id may have the result, whoever that is."""
    state: DocumentState = "queued"
    error: str = ""
    """What went wrong, for its owner."""
    num_bytes: int = 0
    """Size of its files."""
    characters: int = 0
    """Of all its texts."""
    translated_characters: int = 0
    """Of the texts that are done."""
    month: str = ""
    """Calendar month whose quota was charged."""
    suffix: str = ""
    """End of the result's file name, with the dot."""
    media_type: str = ""
    """Of the result."""
    finished: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ("done", "error")

    @property
    def result_name(self) -> str:
        """File name of the result: that of the source with the target language before its suffix."""
        return f"{Path(self.name).stem}_{self.target}{self.suffix}"


_COLUMNS = ", ".join(field.name for field in fields(DocumentRecord))
_PLACES = ", ".join(f":{field.name}" for field in fields(DocumentRecord))


@dataclass(frozen=True)
class Claim:
    """A document that this process translates now; close it to let others have it."""

    record: DocumentRecord
    file: BinaryIO
    """Its bytes, locked."""

    def close(self) -> None:
        """Give the document back; closing twice is harmless."""
        self.file.close()


class DocumentStore:
    """The documents of one data directory. Every method may wait for the disk: call it off the event loop.

    It may be used from several threads; they take turns.

    Raises:
        ConfigurationError: the folder cannot be made, or the file is no database of ours.
    """

    def __init__(self, data_directory: Path) -> None:
        self.directory = data_directory / "documents"
        self._database = Database(data_directory, _SCHEMA, ("secure_delete = ON",))
        try:
            self.directory.mkdir(exist_ok=True, mode=0o700)
        except OSError as exception:
            self._database.close()
            raise ConfigurationError(
                "data_directory", f"must be a folder for our database ({exception})", str(data_directory)
            ) from exception

    def close(self) -> None:
        """Close the database; closing twice is harmless."""
        self._database.close()

    def add(self, record: DocumentRecord, data: bytes) -> None:
        """Keep a new document; it is there for others once its row is, so the file comes first."""
        folder = self._folder(record.id)
        folder.mkdir(mode=0o700)
        _write(folder / _SOURCE, data)
        values = {field.name: getattr(record, field.name) for field in fields(record)}
        values["is_shared"] = int(record.is_shared)
        with self._database.turn() as connection:
            connection.execute(f"INSERT INTO documents ({_COLUMNS}) VALUES ({_PLACES})", values)  # noqa: S608

    def get(self, document_id: str) -> DocumentRecord | None:
        """Return what is known of a document, None if there is none with this id."""
        return next(iter(self._select("id = ?", document_id)), None)

    def of_owner(self, owner: str) -> Sequence[DocumentRecord]:
        """Return a caller's documents, the newest first."""
        return self._select("owner = ? ORDER BY created DESC, id", owner)

    def unfinished(self) -> Sequence[DocumentRecord]:
        """Return the documents that are still to be translated, the oldest first."""
        return self._select("state IN ('queued', 'translating') ORDER BY created, id")

    def over_before(self, time: float) -> Sequence[DocumentRecord]:
        """Return the documents that were over before a time."""
        return self._select("finished < ?", time)

    def totals(self) -> tuple[int, int]:
        """Return how many documents are still to be translated, and how many bytes all documents have."""
        with self._database.turn() as connection:
            count, size = connection.execute(
                "SELECT count(*) FILTER (WHERE state IN ('queued', 'translating')), ifnull(sum(num_bytes), 0)"
                " FROM documents"
            ).fetchone()
        return int(count), int(size)

    def claim(self, document_id: str) -> Claim | None:
        """Lock a document that is to be translated, and return it; None if another one has it, or nobody needs it."""
        try:
            file = (self._folder(document_id) / _SOURCE).open("rb")
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        with self._database.turn() as connection:  # only now, since whoever had the lock may have finished it
            connection.execute(
                "UPDATE documents SET state = 'translating' WHERE id = ? AND state = 'queued'", (document_id,)
            )
        record = self.get(document_id)
        if record is None or record.state != "translating":
            file.close()
            return None
        return Claim(record, file)

    def translations(self, document_id: str) -> Mapping[bytes, str]:
        """Return the texts that are done, by the digests of their sources."""
        with self._database.turn() as connection:
            rows = connection.execute(
                "SELECT digest, translation FROM document_texts WHERE document = ?", (document_id,)
            ).fetchall()
        return dict(rows)

    def keep(self, document_id: str, translations: Iterable[tuple[bytes, str]], translated_characters: int) -> bool:
        """Keep texts that are done, by the digests of their sources; False if the document was deleted meanwhile."""
        with self._database.transaction() as connection:
            changed = connection.execute(
                "UPDATE documents SET translated_characters = ? WHERE id = ?", (translated_characters, document_id)
            )
            if not changed.rowcount:
                return False
            connection.executemany(
                "INSERT OR REPLACE INTO document_texts (document, digest, translation) VALUES (?, ?, ?)",
                [(document_id, digest, translation) for digest, translation in translations],
            )
        return True

    def finish(self, document_id: str, result: bytes, suffix: str, media_type: str, time: float) -> None:
        """Keep the result; the source and the single texts are removed."""
        folder = self._folder(document_id)
        if not folder.is_dir():  # deleted meanwhile
            return
        _write(folder / _RESULT, result)
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE documents SET state = 'done', suffix = ?, media_type = ?, num_bytes = ?, finished = ?,"
                " translated_characters = characters WHERE id = ?",
                (suffix, media_type, len(result), time, document_id),
            )
            connection.execute("DELETE FROM document_texts WHERE document = ?", (document_id,))
        (folder / _SOURCE).unlink(missing_ok=True)

    def fail(self, document_id: str, error: str, time: float) -> None:
        """Note that a document cannot be translated; only the reason stays."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE documents SET state = 'error', error = ?, num_bytes = 0, finished = ? WHERE id = ?",
                (error, time, document_id),
            )
            connection.execute("DELETE FROM document_texts WHERE document = ?", (document_id,))
        (self._folder(document_id) / _SOURCE).unlink(missing_ok=True)

    def result(self, document_id: str) -> bytes | None:
        """Return the bytes of a document that is done, None if there are none."""
        try:
            return (self._folder(document_id) / _RESULT).read_bytes()
        except FileNotFoundError:
            return None

    def delete(self, document_id: str) -> bool:
        """Remove a document and everything that belongs to it; False if there was none."""
        with self._database.turn() as connection:
            deleted = connection.execute("DELETE FROM documents WHERE id = ?", (document_id,)).rowcount > 0
        shutil.rmtree(self._folder(document_id), ignore_errors=True)
        return deleted

    def clean(self, time: float) -> Sequence[DocumentRecord]:
        """Delete documents that were over before ``time``, and folders that belong to none; return the former."""
        old = self.over_before(time)
        for record in old:
            self.delete(record.id)
        with self._database.turn() as connection:
            known = {row[0] for row in connection.execute("SELECT id FROM documents")}
        for folder in self.directory.iterdir():
            # A folder without a row may be one that is just being added; its time tells.
            if folder.name not in known and folder.stat().st_mtime < time:
                shutil.rmtree(folder, ignore_errors=True)
        return old

    def _folder(self, document_id: str) -> Path:
        assert len(document_id) == 32, "ids are made here, and are looked up before a folder is"
        assert set(document_id) <= set("0123456789abcdef"), "as above"
        return self.directory / document_id

    def _select(self, condition: str, *values: object) -> Sequence[DocumentRecord]:
        with self._database.turn() as connection:
            rows = connection.execute(f"SELECT {_COLUMNS} FROM documents WHERE {condition}", values).fetchall()  # noqa: S608
        return [_record(row) for row in rows]


def _record(row: Sequence[object]) -> DocumentRecord:
    """Make a record of a row with the columns of ``_COLUMNS``."""
    values = dict(zip((field.name for field in fields(DocumentRecord)), row, strict=True))
    values["is_shared"] = bool(values["is_shared"])
    return DocumentRecord(**values)  # type: ignore[arg-type]


def _write(path: Path, data: bytes) -> None:
    """Write a file that only we may read; it is whole or not there, even after a crash."""
    partial = path.with_suffix(".part")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
