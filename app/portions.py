"""Feeds the texts of one document to a translator in modest portions; where results are kept is not its business."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self

from app.limits import cancel_unfinished, off_loop
from app.registry import Choice, Lent, TranslatorRegistry
from app.translators import RequestedTexts, TextPlan, submit_text
from model import OverloadedError, TextOptions

if TYPE_CHECKING:
    from model import Translation

TextFormat = Literal["text", "html", "xml", "markdown"]

PORTION_TEXTS = 32
PORTION_CHARACTERS = 8000
"""Most texts and characters of one document in the engine at once; a longer text goes alone."""
PIECE_CHARACTERS = 2000
"""Plain text is cut between lines into pieces of about this length: what is done of it survives a restart."""

_LONGEST_PAUSE_SECONDS = 10.0


class DocumentText(Protocol):
    """A text of a document, as the model reads it."""

    @property
    def text(self) -> str: ...
    @property
    def format(self) -> TextFormat: ...


@dataclass(frozen=True)
class Piece:
    """A text, or a part of a long one, that is translated on its own."""

    text: str
    format: TextFormat
    digest: bytes
    """Tells pieces apart: those with one digest have one translation."""


def split_pieces(text: DocumentText) -> Iterator[Piece]:
    """Yield the pieces whose translations, put together, are the translation of ``text``.

    Sentences never reach over the end of a line, so plain text may be cut there; markup is one piece.
    """
    part = ""
    for line in text.text.splitlines(keepends=True) if text.format == "text" else (text.text,):
        if part and len(part) + len(line) > PIECE_CHARACTERS:
            yield _piece(part, text.format)
            part = ""
        part += line
    yield _piece(part, text.format)


def _piece(text: str, text_format: TextFormat) -> Piece:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, person=text_format.encode())
    return Piece(text, text_format, digest.digest())


class Portion:
    """The pieces of one document that an engine has now; leaving it as a context cancels them."""

    def __init__(
        self,
        registry: TranslatorRegistry,
        choice: Choice,
        requested: RequestedTexts,
        options: TextOptions,
        max_queued_requests: int,
    ) -> None:
        """Prepare to submit.

        Args:
            registry: lends the models. They are borrowed anew when none of the document's pieces is on its way, so that
                a book does not keep a model from being swapped.
            choice: which models take the pieces.
            requested: the texts' languages, and whose they are; its texts and options are not looked at.
            options: how they are translated; each has its own format.
            max_queued_requests: while more of anybody's work waits in the engine, no more than one piece is submitted.
        """
        self._registry = registry
        self._choice = choice
        self._lent: Lent | None = None
        self._loan = AsyncExitStack()
        self._requested = requested
        self._options = options
        self._max_queued_requests = max_queued_requests
        self._running: dict[asyncio.Future[Translation], tuple[Piece, TextPlan]] = {}
        self._unchanged: list[Piece] = []
        self._pause_seconds = 0.0

    def __bool__(self) -> bool:
        """Whether there is anything to wait for."""
        return bool(self._running or self._unchanged)

    def has_room(self, piece: Piece) -> bool:
        """Whether ``piece`` may be submitted now."""
        characters = sum(len(running.text) for running, _ in self._running.values())
        if not self._running:
            return True
        return (
            len(self._running) < PORTION_TEXTS
            and characters + len(piece.text) <= PORTION_CHARACTERS
            and self._lent is not None
            and not self._lent.is_over
            and self._lent.translator.stats().queued_requests < self._max_queued_requests
        )

    async def submit(self, piece: Piece) -> bool:
        """Hand a piece to the engine; False if that is full, and the piece must be submitted again after a wait.

        Raises:
            InvalidRequestError, UnavailableError: what the translator raises.
        """
        plans: list[TextPlan] = []
        if not self._running:
            await self._loan.aclose()
        if self._lent is None or not self._running:
            self._lent = await self._loan.enter_async_context(self._registry.borrow(self._choice))
        translator = self._lent.translator
        requested = replace(self._requested, texts=[piece.text], options=replace(self._options, format=piece.format))
        try:
            await off_loop(len(piece.text), partial(submit_text, translator, requested, piece.text, plans))
        except OverloadedError as exception:
            self._pause_seconds = min(exception.retry_after_seconds, _LONGEST_PAUSE_SECONDS)
            return False
        [plan] = plans
        if plan.pending is None:
            self._unchanged.append(piece)
        else:
            self._running[asyncio.wrap_future(plan.pending.future)] = piece, plan
        return True

    async def wait(self) -> list[tuple[Piece, Translation | None]]:
        """Wait for a piece, and return those that are done: None for one that stays as it is.

        With no piece on its way, wait as long as the engine asked for.

        Raises:
            DragomanError: a piece could not be translated.
        """
        unchanged: list[tuple[Piece, Translation | None]] = [(piece, None) for piece in self._unchanged]
        self._unchanged = []
        if unchanged:
            return unchanged
        if not self._running:
            await asyncio.sleep(self._pause_seconds)
            return []
        finished, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        return [(self._running.pop(future)[0], future.result()) for future in finished]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pending = [plan.pending for _, plan in self._running.values() if plan.pending]
        futures = list(self._running)
        self._running = {}
        cancel_unfinished(pending)
        await asyncio.gather(*futures, return_exceptions=True)
        await self._loan.aclose()
