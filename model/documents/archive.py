"""Zip archives from strangers: checked before a member is unpacked, and written again. Nothing goes to disk."""

from __future__ import annotations

import io
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from copy import copy

from model.documents.document import DocumentLimits, invalid
from model.errors import InvalidDocumentError

_SMALL = 2**20
"""Bytes up to which a member may be packed as tightly as it likes."""
_MACROS = re.compile(
    r"(basic|scripts)/|(.*/)?(vba(project|data|projectsignature)\.(bin|xml)|(activex|macrosheets)/)", re.DOTALL
)
"""Members that hold programs: the first two in OpenDocument files, the others in Office Open XML."""


class Archive:
    """A zip file whose members have all been checked and unpacked in memory."""

    def __init__(self, data: bytes, limits: DocumentLimits, *, macros: bool = False) -> None:
        """Check ``data`` and unpack it; ``macros``: members that look like macros are allowed.

        Raises:
            InvalidDocumentError: damaged, encrypted or too large, or names that lead out of the archive, occur twice or
                belong to links or macros.
        """
        self.data = data
        self.members: dict[str, bytes] = {}
        """Names to unpacked bytes, in the archive's order; folders have none."""
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                self._entries = archive.infolist()
                self._comment = archive.comment
                self._check(limits, macros)
                for entry in self._entries:
                    if not entry.is_dir():
                        self.members[entry.filename] = _unpack(archive, entry)
        except InvalidDocumentError:
            raise
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError, OverflowError) as error:
            raise invalid(f"must be an undamaged zip archive ({error})", data[:8]) from None
        except (struct.error, IndexError) as error:
            raise invalid(f"must be an undamaged zip archive ({error})", data[:8]) from None

    def _check(self, limits: DocumentLimits, macros: bool) -> None:
        """Check what the archive says about its members."""
        if len(self._entries) > limits.max_members:
            raise invalid(f"must have at most {limits.max_members} members", len(self._entries))
        unpacked = sum(entry.file_size for entry in self._entries)
        if unpacked > limits.max_unpacked_bytes:
            raise invalid(f"must have at most {limits.max_unpacked_bytes} bytes unpacked", unpacked)
        names = set()
        for entry in self._entries:
            name = entry.filename
            parts = name.replace("\\", "/").rstrip("/").split("/")
            if name != entry.orig_filename or not all(
                part not in ("", ".", "..") and ":" not in part for part in parts
            ):
                raise invalid("must have plain relative member names", entry.orig_filename)
            if name.lower() in names:
                raise invalid("must have each member once", name)
            names.add(name.lower())
            if entry.flag_bits & 0x41:
                raise invalid("must not be encrypted", name)
            if stat.S_ISLNK(entry.external_attr >> 16):
                raise invalid("must have no links", name)
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise invalid("must be packed by deflate or not at all", name)
            if entry.file_size > _SMALL and entry.file_size > limits.max_ratio * max(entry.compress_size, 1):
                raise invalid(f"must not be packed more than {limits.max_ratio} to 1", name)
            if not macros and _MACROS.match(name.lower()):
                raise invalid("must have no macros or scripts", name)

    def read(self, name: str) -> bytes:
        """Return a member that the format requires.

        Raises:
            InvalidDocumentError: there is none of this name.
        """
        if name not in self.members:
            raise invalid(f"must have the member {name}", list(self.members)[:5])
        return self.members[name]

    def replace(self, changed: Mapping[str, bytes]) -> bytes:
        """Return the archive with new content for some members; order, packing, dates and all others stay the same."""
        changed = {name: content for name, content in changed.items() if content != self.members[name]}
        if not changed:
            return self.data
        output = io.BytesIO()
        with zipfile.ZipFile(output, "w") as archive:
            archive.comment = self._comment
            for entry in self._entries:
                content = changed.get(entry.filename, self.members.get(entry.filename, b""))
                written = copy(entry)
                written.extra = _without_sizes(entry.extra)
                archive.writestr(written, content, entry.compress_type)
        return output.getvalue()


def _unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Unpack a member, no further than its stated size; zipfile checks size and checksum."""
    with archive.open(entry) as member:
        content = member.read(entry.file_size + 1)
    if len(content) != entry.file_size:
        raise invalid("must have members of their stated size", entry.filename)
    return content


def _without_sizes(extra: bytes) -> bytes:
    """Return the extra fields of a member but for the 64-bit sizes of the old content."""
    kept, position = b"", 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        if kind != 1:
            kept += extra[position : position + 4 + length]
        position += 4 + length
    return kept
