"""What every endpoint needs: the service behind it, its body read strictly, its texts translated; no protocol's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import parse_qsl

import anyio.to_thread
import orjson
from fastapi import Depends
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from app.access import Access, Caller
from app.cache import CacheKeys, TranslationCache
from app.documents import DocumentService
from app.errors import MALFORMED_BODY, UNSUPPORTED_MEDIA_TYPE, RequestError
from app.glossaries import GlossaryStore
from app.limits import Deadline, Patience, cancel_unfinished, off_loop
from app.metrics import Metrics
from app.registry import Choice, Lent, TranslatorRegistry
from app.settings import Settings
from app.suggestions import SuggestionStore
from app.translators import (
    PendingTranslation,
    RequestedTexts,
    SegmentObserver,
    Share,
    TextPlan,
    TextTranslator,
    has_words,
    submit_text,
)
from model import DeadlineExceededError, InvalidOptionError, OverloadedError, RequestCancelledError

if TYPE_CHECKING:
    from model import Detection, Glossary, SegmentTranslation, Translation

_TERM_CHARACTERS = 20
"""About what a glossary's term has, to tell small glossaries from large ones."""
_TAG = re.compile(r"<[^<>]*>")
_MAX_FORM_FIELDS = 100
"""Far more than any endpoint has; bounds the work on a hostile form."""


@dataclass(frozen=True)
class Service:
    """What one application consists of, apart from its routes."""

    settings: Settings
    registry: TranslatorRegistry
    metrics: Metrics
    access: Access
    glossaries: GlossaryStore
    documents: DocumentService
    cache: TranslationCache
    suggestions: SuggestionStore | None = None
    """None unless the operator wants suggestions."""

    async def read_glossaries(
        self, caller: Caller, glossary_ids: Sequence[str], pairs: Sequence[tuple[str, str]]
    ) -> tuple[Glossary, ...]:
        """Return the dictionaries of some of a caller's glossaries, for the language pairs that they have.

        Raises:
            RequestError: there is no such glossary, or it has none of the pairs.
        """
        found: list[Glossary] = []
        for glossary_id in glossary_ids:
            info = await anyio.to_thread.run_sync(self.glossaries.get, caller.id, glossary_id)
            present = {(entry.source, entry.target) for entry in info.dictionaries}
            wanted = [pair for pair in pairs if pair in present]
            if not wanted:
                raise InvalidOptionError("glossaries", "must have a dictionary for the languages", glossary_id)
            for source, target in wanted:
                read = partial(self.glossaries.read, caller.id, glossary_id, source, target)
                found.append(await anyio.to_thread.run_sync(read))
        return tuple(found)


def get_service(request: Request) -> Service:
    """Return the service that the application was created with."""
    service: Service = request.app.state.service
    return service


ServiceDependency = Annotated[Service, Depends(get_service)]


@dataclass(frozen=True)
class FinishedText:
    """One text of a request with its result."""

    plan: TextPlan
    translation: Translation | None
    """None for a text that stays as it is."""
    via: str | None = None
    """The language between two models."""

    @property
    def text(self) -> str:
        """The translated text, or the unchanged one."""
        return self.plan.text if self.translation is None else self.translation.text

    @property
    def source(self) -> str:
        """Code of the source language, given or detected."""
        if self.plan.source is not None:
            return self.plan.source
        return self.plan.target if self.translation is None else self.translation.source

    @property
    def detected(self) -> Detection | None:
        """The guess at the source language, where the request left it open and the text has letters."""
        if self.plan.detected is None and self.translation is not None:
            return self.translation.detected
        return self.plan.detected

    @property
    def alternatives(self) -> list[str]:
        """Other translations, best first, each different from the text and from one another."""
        if self.translation is None:
            return []
        return [text for text in dict.fromkeys(self.translation.alternatives) if text != self.text]


async def translate_texts(
    service: Service, choice: Choice, requested: RequestedTexts, request: Request, deadline: Deadline
) -> list[FinishedText]:
    """Translate the texts of a request, in order, as long as the client waits and the deadline allows.

    What is larger than the queue is handed over as room appears, and takes no more than half of it, so that others are
    not turned away. What was translated before, or is being translated for somebody else, comes from the cache. A model
    that is not in memory is loaded first. Where the source is open and the model depends on it, each text goes to the
    model of its language.

    Raises:
        OverloadedError: the queue is full of others' work.
        DragomanError: what the translator raised for the first text that failed; the others are cancelled.
    """
    if deadline.remaining_seconds() <= 0:
        raise DeadlineExceededError("the deadline passed before the translation began")
    finished: dict[int, FinishedText] = {}
    for part, own, indices in await _by_language(service, choice, requested):
        results = await _translate_part(service, part, own, request, deadline)
        finished.update(zip(indices, results, strict=True))
    return [finished[index] for index in range(len(requested.texts))]


async def _translate_part(
    service: Service, choice: Choice, requested: RequestedTexts, request: Request, deadline: Deadline
) -> list[FinishedText]:
    """Translate texts with the models of one choice."""
    plans: list[TextPlan] = []
    async with Patience(request.receive, deadline) as patience, service.registry.borrow(choice, patience) as lent:
        translator = lent.translator
        requested = replace(requested, deadline_seconds=deadline.remaining_seconds())  # loading may have taken a while
        share = await _sharing(service, lent, requested)
        try:
            for text in requested.texts:
                while not await _hand_over(service, translator, requested, text, plans, share):
                    await patience.wait_for_any(_unfinished(plans))
            await patience.wait_for_all([plan.pending for plan in plans if plan.pending])
        finally:
            cancel_unfinished(_unfinished(plans))
    finished = [
        FinishedText(plan, plan.pending.future.result() if plan.pending else None, lent.choice.via) for plan in plans
    ]
    for item in finished:
        service.metrics.count_text(lent.choice.name, len(item.plan.text), item.translation)
    return finished


async def _by_language(
    service: Service, choice: Choice, requested: RequestedTexts
) -> list[tuple[Choice, RequestedTexts, Sequence[int]]]:
    """Return what each choice of models has to do: all of it, unless the choice depends on what the texts are in."""
    everything = range(len(requested.texts))
    sources = list(requested.sources) or [requested.source] * len(everything)
    possible = [] if None not in sources else service.registry.possible_sources(choice)
    if not possible:
        return [(choice, requested, everything)]
    is_markup = requested.options is not None and requested.options.format in ("html", "xml")
    samples = [_TAG.sub(" ", text) if is_markup else text for text in requested.texts]

    def detect_all() -> list[Detection | None]:
        found = [
            service.registry.detect(sample, possible) if source is None and has_words(sample) else []
            for sample, source in zip(samples, sources, strict=True)
        ]
        return [guesses[0] if guesses else None for guesses in found]

    detections = await off_loop(sum(map(len, samples)), detect_all)
    groups: dict[Choice, list[int]] = {}
    for index, (source, guess) in enumerate(zip(sources, detections, strict=True)):
        code = source or (guess.language if guess is not None else requested.target)
        own, *_ = service.registry.select(code, requested.target, choice.model)
        groups.setdefault(own, []).append(index)
    return [(own, _only(requested, indices, own.source, detections), indices) for own, indices in groups.items()]


def _only(
    requested: RequestedTexts, indices: Sequence[int], source: str | None, detections: Sequence[Detection | None]
) -> RequestedTexts:
    """Return some of the texts of a request, which are all in one language."""
    on_segment = requested.on_segment

    def tell(text: int, segment: int, result: SegmentTranslation) -> None:
        if on_segment is not None:
            on_segment(indices[text], segment, result)

    return replace(
        requested,
        texts=[requested.texts[index] for index in indices],
        source=source,
        sources=(),
        detections=[detections[index] for index in indices],
        on_segment=None if on_segment is None else tell,
    )


async def _sharing(service: Service, lent: Lent, requested: RequestedTexts) -> Share:
    """Return how the texts of a request share the work on equal ones."""
    # The serials, since work on its way must not outlive its model: another one of the same weights shares none of it.
    model = f"{lent.choice.serials} {lent.translator.name} {lent.translator.fingerprint}"
    parts = (requested.config, requested.options, requested.target_prefix)
    glossaries = () if requested.options is None else requested.options.glossaries
    num_terms = sum(len(glossary.entries) for glossary in glossaries)
    keys = await off_loop(_TERM_CHARACTERS * num_terms, partial(CacheKeys, model, *parts))

    def share(
        text: str,
        source: str | None,
        target: str,
        start: Callable[[], PendingTranslation],
        on_segment: SegmentObserver | None,
    ) -> PendingTranslation:
        return service.cache.submit(keys.key(text, source, target), start, on_segment)

    return share


async def _hand_over(
    service: Service,
    translator: TextTranslator,
    requested: RequestedTexts,
    text: str,
    plans: list[TextPlan],
    share: Share,
) -> bool:
    """Submit one more text, or return False if some of the request's own work must be finished first."""
    waits_for_itself = bool(_unfinished(plans))
    if waits_for_itself and translator.stats().queued_requests >= service.settings.max_queued_requests // 2:
        return False
    try:
        await off_loop(sum(map(len, requested.texts)), partial(submit_text, translator, requested, text, plans, share))
    except OverloadedError:
        if waits_for_itself:
            return False
        raise
    return True


def _unfinished(plans: Sequence[TextPlan]) -> list[PendingTranslation]:
    """Return what the engine still has to do."""
    return [plan.pending for plan in plans if plan.pending and not plan.pending.future.done()]


class JsonRequest(Request):
    """A request whose body must be JSON: UTF-8, no lone surrogates, no NaN, at most 1024 levels deep."""

    async def json(self) -> Any:
        """Return the parsed body.

        Raises:
            RequestError: another content type, or a body that is not JSON.
        """
        if not hasattr(self, "_json"):
            if not is_json(self):
                raise RequestError(UNSUPPORTED_MEDIA_TYPE, "the Content-Type must be application/json")
            self._json = parse_json(await read_body(self))
        return self._json


class JsonRoute(APIRoute):
    """A route that reads its body as :class:`JsonRequest` does; FastAPI by itself is more lenient and less clear."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return a handler that has read the body before FastAPI looks at it."""
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            if self.body_field is not None:
                request = JsonRequest(request.scope, request.receive)
                await request.json()
            return await handle(request)

        return handle_json


def is_json(request: Request) -> bool:
    """Whether the content type is application/json or ends in +json."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return media_type == "application/json" or (media_type.startswith("application/") and media_type.endswith("+json"))


def parse_json(body: bytes) -> Any:
    """Return the value of a JSON document, or raise RequestError; its message holds no part of the body."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as exception:
        # The exception keeps the whole document; "from None" lets go of it.
        raise RequestError(MALFORMED_BODY, f"the body is not JSON: {exception}") from None


async def read_body(request: Request) -> bytes:
    """Return the whole body.

    Raises:
        RequestCancelledError: the client went away while sending it.
        RequestError: it is too large or too slow (see limits).
    """
    try:
        return await request.body()
    except ClientDisconnect:
        raise RequestCancelledError("the client closed the connection while sending the body") from None


async def read_parameters(request: Request) -> Mapping[str, Any]:
    """Return the parameters of a request in any of the encodings that LibreTranslate takes.

    A JSON object stands alone. Otherwise the query string comes first, then a urlencoded or multipart form; a body of
    another type is ignored. Line ends of the latter become LF, as browsers send CRLF.

    Raises:
        RequestError: a body that is not what its content type says, or not UTF-8.
    """
    if is_json(request):
        value = parse_json(await read_body(request))
        if not isinstance(value, dict):
            raise RequestError(MALFORMED_BODY, "Invalid JSON format")
        return value
    values: dict[str, str] = {}
    for name, text in await read_fields(request):
        values.setdefault(name, text.replace("\r\n", "\n").replace("\r", "\n"))
    return values


async def read_fields(request: Request, max_fields: int = _MAX_FORM_FIELDS) -> list[tuple[str, str]]:
    """Return the fields of the query string, then those of a form in the body, as often as they occur.

    Raises:
        RequestError: a body that is not what its content type says, not UTF-8, or over ``max_fields`` fields.
    """
    return [
        *_parse_urlencoded(request.scope["query_string"], max_fields),
        *await _read_form(request, max_fields),
    ]


async def _read_form(request: Request, max_fields: int) -> Sequence[tuple[str, str]]:
    """Return the text fields of a form in the body."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "application/x-www-form-urlencoded":
        return _parse_urlencoded(await read_body(request), max_fields)
    if media_type != "multipart/form-data":
        return []
    body = await read_body(request)
    try:
        body.decode()  # Starlette would take invalid UTF-8 for Latin-1
    except UnicodeDecodeError:
        raise RequestError(MALFORMED_BODY, "the form is not UTF-8") from None
    async with request.form(max_files=0, max_fields=max_fields, max_part_size=len(body)) as form:
        return [(name, value) for name, value in form.multi_items() if isinstance(value, str)]


def _parse_urlencoded(encoded: bytes, max_fields: int) -> list[tuple[str, str]]:
    """Return the fields of a query string or of a urlencoded form, or raise RequestError."""
    try:
        return parse_qsl(encoded.decode(), keep_blank_values=True, errors="strict", max_num_fields=max_fields)
    except UnicodeDecodeError:
        raise RequestError(MALFORMED_BODY, "the form is not UTF-8") from None
    except ValueError:  # too many fields; the message of parse_qsl says no more
        raise RequestError(MALFORMED_BODY, f"the form has over {max_fields} fields") from None
