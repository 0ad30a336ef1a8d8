"""Translates a stream of texts in order while reading ahead, so that the engine always has a full batch.

It prints nothing and parses no options; the command line does both.
"""

from __future__ import annotations

import codecs
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO

from model.errors import InvalidTextError, OverloadedError

if TYPE_CHECKING:
    from model.pipeline.pending import PendingTranslation
    from model.translation import Translation

DEFAULT_WINDOW = 512
"""Texts that may be submitted before the first of them has been written: some batches' worth, and bounded memory."""


def read_lines(stream: BinaryIO, name: str) -> Iterator[str]:
    """Yield the lines of UTF-8 ``stream`` without their ends; a byte-order mark at its start is dropped.

    Raises:
        InvalidTextError: a line is not UTF-8; the error names the stream and the line.
    """
    for number, line in enumerate(stream, start=1):
        content = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        content = content.removesuffix(b"\n").removesuffix(b"\r")
        try:
            yield content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidTextError(f"line {number} of {name}", "must be UTF-8", content) from error


def read_document(stream: BinaryIO, name: str) -> str:
    """Return the whole of UTF-8 ``stream`` as one text, line ends untouched.

    Raises:
        InvalidTextError: the stream is not UTF-8.
    """
    content = stream.read().removeprefix(codecs.BOM_UTF8)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        wrong = content[error.start : error.end]
        raise InvalidTextError(name, f"must be UTF-8 (byte {error.start} is not)", wrong) from error


def translate_ahead(
    submit: Callable[[str], PendingTranslation], texts: Iterable[str], window: int = DEFAULT_WINDOW
) -> Generator[Translation, None, None]:
    """Yield the translation of each text, in order, as soon as it is there.

    ``texts`` is read in a thread of its own: the last line that a slow pipe has given is answered while the next one
    is still awaited. Closing the generator cancels what has been submitted and not yielded.

    Args:
        submit: starts one translation; it may raise OverloadedError, and is then called again once an earlier
            translation is done.
        texts: read lazily, at most ``window`` ahead of what has been yielded.

    Raises:
        Exception: whatever ``texts``, ``submit`` or a translation raised, after everything before it was yielded.
    """
    ready: queue.SimpleQueue[PendingTranslation | Exception | None] = queue.SimpleQueue()
    free = threading.Semaphore(window)
    stopped = threading.Event()

    def feed() -> None:
        previous = None
        try:
            for text in texts:
                free.acquire()
                if stopped.is_set():
                    return
                previous = _submit_when_possible(submit, text, previous)
                ready.put(previous)
            ready.put(None)
        except Exception as error:  # raised again by the thread that reads the results
            ready.put(error)

    threading.Thread(target=feed, name="dragoman-reader", daemon=True).start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item.future.result()
            free.release()
    finally:
        stopped.set()
        free.release()
        while not ready.empty():
            left = ready.get()
            if left is not None and not isinstance(left, Exception):
                left.cancel()


def _submit_when_possible(
    submit: Callable[[str], PendingTranslation], text: str, previous: PendingTranslation | None
) -> PendingTranslation:
    """Submit ``text``, after ``previous`` is done where the queue is full."""
    try:
        return submit(text)
    except OverloadedError:
        if previous is None:
            raise
        previous.future.exception()  # waits
        return submit(text)
