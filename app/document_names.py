"""What a document is called and opened by: safe file names and hashes of secrets; it keeps nothing."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

_LONGEST_NAME, _LONGEST_SUFFIX = 120, 20
_PERSON = b"dragoman-docs"
"""Makes our hashes different from those of anybody else who hashes the same string."""


def safe_name(name: str) -> str:
    """Return a file name that is safe to show and to send back: no folders, no control characters, not too long."""
    last = re.split(r"[/\\]", name)[-1]
    path = Path("".join(character for character in last if character.isprintable()).strip(" .") or "document")
    suffix = path.suffix[:_LONGEST_SUFFIX]
    return f"{path.stem[: _LONGEST_NAME - len(suffix)]}{suffix}"


def hash_secret(secret: str) -> bytes:
    """Return what is kept of a document's secret, which is long and random, so that a quick hash is safe."""
    return hashlib.blake2b(secret.encode("utf-8", "surrogatepass"), digest_size=32, person=_PERSON).digest()
