"""Translates documents behind the requests' backs: takes them in, feeds their texts to a translator, keeps the results.

A document's texts go to the engine in modest portions and under the document's own name, so that a book does not hold
up a sentence. What the formats are is the model's business, and where documents are kept is the store's.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import anyio
import anyio.to_thread
import structlog

from app.access import Access, Caller
from app.document_names import hash_secret, safe_name
from app.document_options import read_options, write_options
from app.document_store import Claim, DocumentRecord, DocumentStore
from app.keys import current_month
from app.metrics import Metrics
from app.portions import DocumentText, Piece, Portion, split_pieces
from app.registry import TranslatorRegistry
from app.settings import Settings
from app.translators import RequestedTexts
from model import (
    DeadlineExceededError,
    EngineClosedError,
    GenerationConfig,
    InvalidRequestError,
    OverloadedError,
    TextOptions,
)

FAILURE = "The service failed to translate this document."
"""What the owner of a document is told when the reason is not the document."""

_DETECTION_CHARACTERS = 20_000
"""As much of a document tells its language."""
_POLL_SECONDS = 5.0
"""How often a worker that has nothing to do looks for documents that another process has left behind."""
_LONGEST_PAUSE_SECONDS = 10.0
_TAG = re.compile(r"<[^<>]*>")

_logger = structlog.get_logger("app")

Result = TypeVar("Result")


class OpenDocument(Protocol):
    """What the service needs of model.Document; tests pass a stub."""

    @property
    def texts(self) -> Sequence[DocumentText]: ...
    @property
    def suffix(self) -> str: ...
    @property
    def media_type(self) -> str: ...
    def render(self, translations: Sequence[str]) -> bytes: ...


@dataclass(frozen=True)
class NewDocument:
    """A document that a caller sent."""

    data: bytes
    name: str
    """As the caller gave it; only the last part of a path is kept."""
    source: str | None
    """A canonical code, or None to detect it."""
    target: str
    model: str | None = None
    options: TextOptions = field(default_factory=TextOptions)
    """How its texts are translated; their format is the document's."""
    secret: str | None = None
    """What a caller must know beside the id."""
    is_shared: bool = False
    """Whether who knows the id may have the result, whoever that is."""


@dataclass
class _Run:
    """A document that is being translated here."""

    task: asyncio.Task[None]
    owner: str
    started: float = 0.0
    """When its first piece was submitted, as time.monotonic() has it."""
    done_characters: int = 0
    """Translated since then."""


class DocumentService:
    """The documents of one application.

    Raises:
        ConfigurationError: when started, if the data directory cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        registry: TranslatorRegistry,
        metrics: Metrics,
        access: Access,
        open_document: Callable[[bytes, str], OpenDocument] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.open_document = open_document or partial(_open_document, settings.max_document_bytes)
        self.formats: Sequence[str] = ()
        """Ends of the names of files that can be read, with the dot; those of the model unless set."""
        self._settings = settings
        self._registry = registry
        self._metrics = metrics
        self._access = access
        self._clock = clock
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._started_store: DocumentStore | None = None
        self._workers: list[asyncio.Task[None]] = []
        self._running: dict[str, _Run] = {}
        self._leaving: set[str] = set()
        self._wake = asyncio.Event()
        self._over: dict[str, asyncio.Event] = {}

    # Life

    async def start(self) -> None:
        """Open the store, delete what is too old, and begin to translate, first what was left unfinished."""
        self.formats = self.formats or await anyio.to_thread.run_sync(_document_formats)
        directory = self._settings.data_directory
        if directory is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="dragoman-")
            directory = Path(self._temporary.name)
        self._started_store = await anyio.to_thread.run_sync(DocumentStore, directory)
        await self.clean()
        self._readers = anyio.CapacityLimiter(2)
        self._wake, self._over = asyncio.Event(), {}
        self._workers = [asyncio.create_task(self._work()) for _ in range(self._settings.document_workers)]
        self._workers.append(asyncio.create_task(self._clean_regularly()))

    async def close(self) -> None:
        """Stop translating; what is done is kept, and the next start goes on from there."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        self._workers = []
        if self._started_store is not None:
            await anyio.to_thread.run_sync(self._started_store.close)
        self._started_store = None
        if self._temporary is not None:
            await anyio.to_thread.run_sync(self._temporary.cleanup)
            self._temporary = None

    @property
    def _store(self) -> DocumentStore:
        if self._started_store is None:
            raise EngineClosedError("the service is starting or shutting down")
        return self._started_store

    # What callers ask

    async def add(self, new: NewDocument, caller: Caller) -> DocumentRecord:
        """Take a document in, charge the caller for its characters, and let it wait for its turn.

        A file that cannot be read is taken too: it is at once over, with its error.

        Raises:
            OverloadedError: too many documents wait, or all together are too large.
            RequestError: the caller's quota does not suffice.
            UnsupportedLanguageError: no translator has the languages.
            EngineClosedError: requests are not taken now.
        """
        self._registry.require_ready()
        await self._require_room(len(new.data))
        record = DocumentRecord(
            id=uuid.uuid4().hex,
            owner=caller.id,
            name=safe_name(new.name),
            source=new.source,
            target=new.target,
            model=new.model or "",
            options=write_options(new.options),
            created=self._clock(),
            secret=None if new.secret is None else hash_secret(new.secret),
            is_shared=new.is_shared,
            num_bytes=len(new.data),
            month=current_month(),
        )
        try:
            document = await self._patiently(partial(self.open_document, new.data, record.name))
            texts = document.texts
        except (InvalidRequestError, DeadlineExceededError) as exception:
            broken = replace(record, state="error", error=str(exception), num_bytes=0, finished=self._clock())
            await self._in_thread(partial(self._store.add, broken, b""))
            return broken
        characters = sum(len(text.text) for text in texts)
        if record.source is None:
            record = replace(record, source=await anyio.to_thread.run_sync(self._detect, texts))
        choice, *_ = self._registry.select(record.source, record.target, new.model)
        record = replace(record, characters=characters, model=choice.name)
        await self._access.charge(caller, characters)
        try:
            await self._in_thread(partial(self._store.add, record, new.data))
        except BaseException:
            await self._refund(record)
            raise
        self._wake.set()
        return record

    async def find(self, document_id: str, owner: str | None = None) -> DocumentRecord | None:
        """Return a document, if there is one with this id, and of this owner unless that is None."""
        if not re.fullmatch("[0-9a-f]{32}", document_id):
            return None
        record = await self._in_thread(partial(self._store.get, document_id))
        return record if record is not None and owner in (None, record.owner) else None

    async def of_owner(self, owner: str) -> Sequence[DocumentRecord]:
        """Return a caller's documents, the newest first."""
        return await self._in_thread(partial(self._store.of_owner, owner))

    async def result(self, record: DocumentRecord) -> bytes | None:
        """Return the bytes of a document that is done, None if it is not or was deleted."""
        return await self._in_thread(partial(self._store.result, record.id))

    async def take_result(self, record: DocumentRecord) -> bytes | None:
        """Return the bytes of a document that is done, and delete it; of several who ask, one gets them."""
        data = await self.result(record)
        deleted = data is not None and await self._in_thread(partial(self._store.delete, record.id))
        return data if deleted else None

    async def delete(self, record: DocumentRecord) -> None:
        """Forget a document; if it is being translated, stop that, and give back what was charged for the rest."""
        self._leaving.add(record.id)  # or else a worker could take it again before it is gone
        try:
            run = self._running.get(record.id)
            if run is not None:
                run.task.cancel()
                await asyncio.gather(run.task, return_exceptions=True)
            last = await self.find(record.id)
            deleted = await self._in_thread(partial(self._store.delete, record.id))
        finally:
            self._leaving.discard(record.id)
        if deleted and last is not None and not last.is_over:
            await self._refund(last, last.characters - last.translated_characters)
        self._tell(record.id)

    async def wait(self, record: DocumentRecord) -> DocumentRecord | None:
        """Wait until a document is over, and return what is known of it then; None if it was deleted."""
        over = self._over.setdefault(record.id, asyncio.Event())
        try:
            while True:
                now = await self.find(record.id)
                if now is None or now.is_over:
                    return now
                with suppress(TimeoutError):  # another process may finish it, which nobody tells us
                    await asyncio.wait_for(over.wait(), _POLL_SECONDS)
        finally:
            self._over.pop(record.id, None)

    def seconds_remaining(self, record: DocumentRecord) -> int | None:
        """Estimate when a document is done by the speed of its translation so far; None before there is one."""
        run = self._running.get(record.id)
        if run is None or run.done_characters <= 0:
            return None
        speed = run.done_characters / max(time.monotonic() - run.started, 1e-3)
        return round((record.characters - record.translated_characters) / speed) + 1

    def expires(self, record: DocumentRecord) -> float | None:
        """Return when a document that is over will be deleted, in seconds since 1970."""
        return None if record.finished is None else record.finished + self._settings.document_retention_seconds

    async def clean(self) -> None:
        """Delete what has been over for too long."""
        until = self._clock() - self._settings.document_retention_seconds
        await self._in_thread(partial(self._store.clean, until))

    # Translating

    async def _work(self) -> None:
        """Translate one document after the other until cancelled."""
        while True:
            self._wake.clear()
            try:
                claim = await self._next()
            except Exception as exception:  # a worker must not end because the disk was full for a moment
                _logger.error("no document could be taken", exc_info=exception)
                claim = None
            if claim is None:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), _POLL_SECONDS)
                continue
            await self._translate_claimed(claim)
            self._wake.set()  # another worker may have passed over a document of the same owner

    async def _next(self) -> Claim | None:
        """Claim the next document: the oldest of an owner of whom none is being translated, or else the oldest."""
        busy = {run.owner for run in self._running.values()}
        for record in sorted(
            await self._in_thread(self._store.unfinished), key=lambda record: (record.owner in busy, record.created)
        ):
            if record.id not in self._running and record.id not in self._leaving:
                claim = await self._claim(record.id)
                if claim is not None:
                    return claim
        return None

    async def _claim(self, document_id: str) -> Claim | None:
        """Claim a document, if that is still possible."""
        claims: list[Claim | None] = []
        try:
            await self._in_thread(lambda: claims.append(self._store.claim(document_id)))
        except asyncio.CancelledError:
            for claim in filter(None, claims):
                claim.close()
            raise
        return claims[0]

    async def _translate_claimed(self, claim: Claim) -> None:
        """Translate one document in a task of its own, which a deletion cancels; its errors are noted, not raised."""
        record = claim.record
        task = asyncio.create_task(self._translate(claim))
        self._running[record.id] = _Run(task, record.owner)
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            del self._running[record.id]
            claim.close()
        if task.cancelled():
            return
        exception = task.exception()
        if isinstance(exception, EngineClosedError):  # the service is going down, or will be restarted
            _logger.warning("a document waits for another engine", exc_info=exception)
            await asyncio.sleep(_LONGEST_PAUSE_SECONDS)
        elif exception is not None:
            await self._fail(record, exception)
        self._metrics.count_document("failed" if exception else "done")
        self._tell(record.id)

    async def _fail(self, record: DocumentRecord, exception: BaseException) -> None:
        """Note for its owner why a document has no result, and give back what was charged."""
        if isinstance(exception, InvalidRequestError | DeadlineExceededError):
            reason = str(exception)
        else:
            reason = FAILURE
            _logger.error("a document failed", exc_info=exception)
        try:
            await self._in_thread(partial(self._store.fail, record.id, reason, self._clock()))
            await self._refund(record)
        except Exception as failure:  # then the document is tried again
            _logger.error("a document's failure could not be noted", exc_info=failure)

    async def _translate(self, claim: Claim) -> None:
        """Translate a document from where it was left, and store the result."""
        record = claim.record
        data = await anyio.to_thread.run_sync(claim.file.read)
        document = await self._patiently(partial(self.open_document, data, record.name))
        texts = [list(split_pieces(text)) for text in document.texts]
        done = dict(await self._in_thread(partial(self._store.translations, record.id)))
        await self._translate_pieces(record, [piece for pieces in texts for piece in pieces], done)
        translations = ["".join(done[piece.digest] for piece in pieces) for pieces in texts]
        result = await self._patiently(partial(document.render, translations))
        await self._in_thread(
            partial(self._store.finish, record.id, result, document.suffix, document.media_type, self._clock())
        )

    async def _translate_pieces(self, record: DocumentRecord, pieces: Sequence[Piece], done: dict[bytes, str]) -> None:
        """Translate the pieces that are not ``done``, a portion at a time, and add them to it, and to the store."""
        choice, source, target = self._registry.select(record.source, record.target, self._model(record))
        sizes = Counter[bytes]()
        for piece in pieces:
            sizes[piece.digest] += len(piece.text)
        waiting = deque({piece.digest: piece for piece in pieces if piece.digest not in done}.values())
        translated = sum(size for digest, size in sizes.items() if digest in done)
        requested = RequestedTexts([], source, target, GenerationConfig(), caller=record.id)
        max_queued_requests = self._settings.max_queued_requests // 2
        run = self._running[record.id]
        run.started = time.monotonic()
        chosen = self._registry, choice
        async with Portion(*chosen, requested, read_options(record.options), max_queued_requests) as portion:
            while waiting or portion:
                while waiting and portion.has_room(waiting[0]) and await portion.submit(waiting[0]):
                    waiting.popleft()
                finished = await portion.wait()
                for piece, translation in finished:
                    done[piece.digest] = piece.text if translation is None else translation.text
                    run.done_characters += sizes[piece.digest]
                    translated += sizes[piece.digest]
                    self._metrics.count_text(choice.name, len(piece.text), translation)
                kept = [(piece.digest, done[piece.digest]) for piece, _ in finished]
                if kept and not await self._in_thread(partial(self._store.keep, record.id, kept, translated)):
                    raise asyncio.CancelledError  # another process deleted it

    def _model(self, record: DocumentRecord) -> str | None:
        """Return the document's model, None if it is no longer loaded."""
        return record.model if record.model in {each.name for each in self._registry.store.entries} else None

    def _detect(self, texts: Sequence[DocumentText]) -> str | None:
        """Return the language of most of the document's beginning; tags do not count. None if nothing tells."""
        sample: list[str] = []
        size = 0
        for text in texts:
            if size >= _DETECTION_CHARACTERS:
                break
            part = text.text[: _DETECTION_CHARACTERS - size]
            sample.append(part if text.format in ("text", "markdown") else _TAG.sub(" ", part))
            size += len(part)
        found = self._registry.detect("\n".join(sample))
        return found[0].language if found else None

    async def _require_room(self, size: int) -> None:
        """Raise OverloadedError if no more documents can be taken."""
        waiting, stored = await self._in_thread(self._store.totals)
        if waiting >= self._settings.max_queued_documents:
            raise OverloadedError("too many documents are waiting", _LONGEST_PAUSE_SECONDS)
        if stored + size > self._settings.max_stored_document_bytes:
            raise OverloadedError("there is no room for more documents", _LONGEST_PAUSE_SECONDS)

    async def _refund(self, record: DocumentRecord, characters: int | None = None) -> None:
        """Give back what was charged for a document that has no result."""
        amount = record.characters if characters is None else characters
        if self._access.keys is not None and amount > 0:
            await anyio.to_thread.run_sync(
                partial(self._access.keys.give_back, record.owner, record.month, amount, requests=0)
            )

    async def _patiently(self, work: Callable[[], Result]) -> Result:
        """Read or write a document in a thread.

        Raises:
            DeadlineExceededError: it takes too long. The thread goes on until its work ends; few of them can be busy.
        """
        with anyio.move_on_after(self._settings.document_timeout_seconds):
            return await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._readers)
        raise DeadlineExceededError(
            f"reading or writing the document took over {self._settings.document_timeout_seconds:g} s"
        )

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        """Let the store work off the event loop. Its work is short: whoever is cancelled waits for its end first."""
        task = asyncio.ensure_future(anyio.to_thread.run_sync(work))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait({task})
            raise

    async def _clean_regularly(self) -> None:
        """Delete old documents until cancelled."""
        while True:
            await asyncio.sleep(min(60.0, self._settings.document_retention_seconds / 2))
            try:
                await self.clean()
            except Exception as exception:  # the next time may be better
                _logger.error("old documents could not be deleted", exc_info=exception)

    def _tell(self, document_id: str) -> None:
        """Wake who waits for a document."""
        if document_id in self._over:
            self._over[document_id].set()


def _open_document(max_bytes: int, data: bytes, name: str) -> OpenDocument:
    """Open a document with the model's readers, which are imported only now."""
    from model import DocumentLimits, open_document

    document: OpenDocument = open_document(data, name, DocumentLimits(max_bytes=max_bytes))
    return document


def _document_formats() -> Sequence[str]:
    """Return the ends of names that the model's readers know."""
    from model import DOCUMENT_FORMATS

    return tuple(DOCUMENT_FORMATS)
