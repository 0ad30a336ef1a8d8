"""Text files, plain or compressed, as lines of UTF-8, read and written; what a line holds is the corpus' business."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from model.errors import CorpusError

_BLOCK_BYTES = 2**17


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file, plain or compressed (gz, bz2, xz, zst) by its ending, without line ends.

    Only ``\\n`` and ``\\r\\n`` end a line: a lone carriage return inside a column is text.

    Raises:
        CorpusError: the file is missing, damaged, cut short or not UTF-8, or zstandard is not installed.
    """
    line_number = 0
    try:
        with path.open("rb") as file:
            stream = _DECOMPRESSORS[path.suffix](file) if path.suffix in _DECOMPRESSORS else file
            with io.TextIOWrapper(cast(BinaryIO, stream), encoding="utf-8", newline="\n") as lines:
                for line in lines:
                    line_number += 1
                    yield line.removesuffix("\n").removesuffix("\r")
    except ImportError as error:
        raise CorpusError(f"{path}: reading zst needs the package zstandard (extra 'train')") from error
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        where = f" after line {line_number}" if line_number else ""
        raise CorpusError(f"cannot read {path}{where}: {getattr(error, 'strerror', None) or error}") from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}, after line {line_number}: must be UTF-8 ({error.reason})") from error


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines, each with its end, compressed by the name's ending; the file is there whole or not at all.

    The same lines give the same bytes.

    Raises:
        CorpusError: the file cannot be written, or zstandard is not installed.
    """
    temporary = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            stream = _COMPRESSORS[path.suffix](file) if path.suffix in _COMPRESSORS else None
            with io.TextIOWrapper(cast(BinaryIO, stream or file), encoding="utf-8", newline="\n") as text:
                text.writelines(lines)
        temporary.replace(path)
    except ImportError as error:
        raise CorpusError(f"{path}: writing zst needs the package zstandard (extra 'train')") from error
    except OSError as error:
        raise CorpusError(f"cannot write {path}: {error.strerror or error}") from error


class _ZstdReader(io.RawIOBase):
    """The decompressed bytes of a zst file; zstandard's own reader ends without an error where a file is cut short."""

    def __init__(self, file: BinaryIO) -> None:
        import zstandard

        self._file = file
        self._damage: type[Exception] = zstandard.ZstdError
        self._new_frame: Callable[[], Any] = zstandard.ZstdDecompressor().decompressobj
        self._frame = self._new_frame()
        self._compressed = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        """True, as io.BufferedReader asks."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` with the next bytes and return how many they are; 0 is the end."""
        while not self._ready:
            self._compressed = self._compressed or self._file.read(_BLOCK_BYTES)
            if not self._compressed:
                if not self._frame.eof:
                    raise EOFError("Compressed file ended before the end of its last frame")
                return 0
            self._ready = memoryview(self._decompress())
        taken = min(len(buffer), len(self._ready))
        buffer[:taken] = self._ready[:taken]
        self._ready = self._ready[taken:]
        return taken

    def _decompress(self) -> bytes:
        """Return what the compressed bytes at hand hold of the current frame, and keep those of the next one."""
        if self._frame.eof:
            self._frame = self._new_frame()
        try:
            data: bytes = self._frame.decompress(self._compressed)
        except self._damage as error:
            raise OSError(f"{error}") from error
        self._compressed = self._frame.unused_data if self._frame.eof else b""
        return data


_DECOMPRESSORS: dict[str, Callable[[BinaryIO], object]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": lambda file: io.BufferedReader(_ZstdReader(file), _BLOCK_BYTES),
}
"""The stream of decompressed bytes, by the ending of the file's name."""


def _zstd_writer(file: BinaryIO) -> object:
    import zstandard

    return zstandard.ZstdCompressor(level=19, write_checksum=True).stream_writer(file, closefd=False)


_COMPRESSORS: dict[str, Callable[[BinaryIO], object]] = {
    ".gz": lambda file: gzip.GzipFile("", "wb", fileobj=file, mtime=0),
    ".bz2": lambda file: bz2.BZ2File(file, "wb"),
    ".xz": lambda file: lzma.LZMAFile(file, "wb", preset=6),  # noqa: SIM115, its wrapper closes it
    ".zst": _zstd_writer,
}
"""The stream that compresses, by the ending of the file's name."""
