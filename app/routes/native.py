"""Our own protocol under /v1: lists of texts in, typed translations out, errors as RFC 9457 problem details."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from app.access import Caller
from app.dependencies import FinishedText, JsonRoute, Service, ServiceDependency, translate_texts
from app.errors import INTERNAL, describe, problem_content, renamed
from app.events import Emit, EventStream
from app.limits import REQUEST_ID, Deadline, check_texts, off_loop
from app.native_replies import detected_language, given_language, segment_reply, translation_reply
from app.registry import Choice
from app.schemas import (
    DetectReply,
    DetectRequest,
    GenerationOptions,
    LanguageReply,
    LanguagesReply,
    ProblemReply,
    TextItem,
    TranslateReply,
    TranslateRequest,
    Usage,
)
from app.translators import RequestedTexts
from model import (
    Glossary,
    InvalidOptionError,
    InvalidRequestError,
    MarkupOptions,
    Protection,
    SegmentTranslation,
    TextOptions,
)

PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": ProblemReply, "description": "The body is not JSON."},
    401: {"model": ProblemReply, "description": "An API key is needed."},
    403: {"model": ProblemReply, "description": "The API key is not valid."},
    404: {"model": ProblemReply, "description": "There is no such thing."},
    413: {"model": ProblemReply, "description": "The body is too large."},
    415: {"model": ProblemReply, "description": "The body is of another type than JSON."},
    422: {"model": ProblemReply, "description": "The request breaks a rule; `errors` says which."},
    429: {"model": ProblemReply, "description": "The caller's rate limit or quota is reached."},
    503: {"model": ProblemReply, "description": "The queue is full, or the service is starting or stopping."},
    504: {"model": ProblemReply, "description": "The deadline passed."},
}
_TRANSLATE_PROBLEMS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The translations; with `stream`, server-sent events `segment`, `translation`, and `done` or "
        "`error`.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
    **PROBLEMS,
}
_MOST_TARGETS = 16

router = APIRouter(prefix="/v1", tags=["native"], route_class=JsonRoute)


@dataclass(frozen=True)
class _Order:
    """What a request asks of one model for one target language."""

    choice: Choice
    requested: RequestedTexts
    indices: Sequence[int]
    """Which of the request's texts these are."""


@router.post("/translate", responses=_TRANSLATE_PROBLEMS, response_model=TranslateReply)
async def translate(body: TranslateRequest, request: Request, service: ServiceDependency) -> Any:
    """Translate one text or many, each on its own, to one language or several."""
    deadline = Deadline.of(request.scope, service.settings, body.deadline_ms)
    texts = [item.text if isinstance(item, TextItem) else item for item in body.texts]
    check_texts(texts, service.settings)
    targets = _targets(body)
    service.registry.require_ready()
    caller = await service.access.admit(request, len(targets) * sum(map(len, texts)))
    glossaries = await _glossaries(body, service, caller, targets)
    orders = [
        order for target in targets for order in _orders(body, texts, target, service, request, deadline, glossaries)
    ]
    if body.stream:
        return EventStream(lambda emit: _stream(emit, orders, body, service, request, deadline))
    finished = [item async for item in _finished(orders, service, request, deadline)]
    return _reply(finished, orders, body)


@router.post("/detect", responses={status: PROBLEMS[status] for status in (400, 401, 413, 415, 422, 429, 503)})
async def detect(body: DetectRequest, request: Request, service: ServiceDependency) -> DetectReply:
    """Tell the language of each text, among those of the default model."""
    check_texts(body.texts, service.settings)
    registry = service.registry
    registry.require_ready()
    await service.access.admit(request)
    found = await off_loop(sum(map(len, body.texts)), lambda: [registry.detect(text) for text in body.texts])
    return DetectReply(detections=[[detected_language(guess) for guess in guesses] for guesses in found])


@router.get("/languages", responses={503: PROBLEMS[503]})
async def languages(service: ServiceDependency) -> LanguagesReply:
    """List the languages, and what each can be translated to."""
    registry = service.registry
    registry.require_ready()
    return LanguagesReply(
        languages=[
            LanguageReply(
                code=language.code,
                name=language.name,
                targets=[code for code in registry.targets(language.code) if code != language.code],
            )
            for language in registry.languages()
        ]
    )


def _targets(body: TranslateRequest) -> list[str]:
    """Return the wanted languages, each once."""
    if (body.target is None) == (body.targets is None):
        raise InvalidOptionError("target", "must be given, or targets in its place, but not both", body.target)
    wanted = [body.target] if body.targets is None else body.targets
    targets = list(dict.fromkeys(target for target in wanted if target is not None))
    if not 1 <= len(targets) <= _MOST_TARGETS:
        raise InvalidOptionError("targets", f"must be 1 to {_MOST_TARGETS} languages", len(targets))
    return targets


async def _glossaries(
    body: TranslateRequest, service: Service, caller: Caller, targets: Sequence[str]
) -> tuple[Glossary, ...]:
    """Return the dictionaries that may apply: the request's own terms first, then its glossaries in their order."""
    codes = [service.registry.resolve("target", target) for target in targets]
    sources = [language.code for language in service.registry.languages()]
    pairs = [(source, target) for target in codes for source in sources if source != target]
    own: list[Glossary] = []
    if body.terms:
        entries = tuple((term.source, term.target) for term in body.terms)
        given = {
            given_language((item.source if isinstance(item, TextItem) else None) or body.source) for item in body.texts
        }
        if None not in given:  # with hundreds of languages, no more pairs than there can be in this request
            known = {service.registry.resolve("source", str(code)) for code in given}
            own_pairs = [pair for pair in pairs if pair[0] in known]
        else:
            own_pairs = [pair for pair in pairs if pair[1] in service.registry.targets(pair[0])]
        own = [Glossary("", "terms", source, target, entries) for source, target in own_pairs]
    stored = await service.read_glossaries(caller, body.glossaries, pairs)
    return (*own, *stored)


def _orders(
    body: TranslateRequest,
    texts: Sequence[str],
    target: str,
    service: Service,
    request: Request,
    deadline: Deadline,
    glossaries: tuple[Glossary, ...],
) -> list[_Order]:
    """Return what each model has to do for one target; a model per source language, and texts of one model together."""
    given = [given_language(item.source if isinstance(item, TextItem) else None) for item in body.texts]
    default = given_language(body.source)
    orders: dict[object, tuple[Choice, list[int], list[str | None]]] = {}
    code = target
    for index, source in enumerate(given):
        choice, resolved, code = service.registry.select(source or default, target, body.model)
        key = (choice.entries, choice.via and choice.source)
        first, indices, sources = orders.get(key, (choice, [], []))
        # The one whose source is open, if any, since more models may be needed for it.
        orders[key] = (choice if resolved is None else first, [*indices, index], [*sources, resolved])
    if not texts:
        choice, _, code = service.registry.select(default, target, body.model)
        orders[choice] = (choice, [], [])
    options = _options(body, glossaries)
    return [
        _Order(
            choice,
            RequestedTexts(
                texts=[texts[index] for index in indices],
                source=None,
                sources=sources,
                target=code,
                config=body.options.config(),
                options=options,
                target_prefix=body.target_prefix,
                deadline_seconds=deadline.remaining_seconds(),
                caller=request.scope[REQUEST_ID],
            ),
            indices,
        )
        for choice, indices, sources in orders.values()
    ]


def _options(body: TranslateRequest, glossaries: tuple[Glossary, ...]) -> TextOptions:
    """Return how the texts are to be read."""
    protect = body.protect
    try:
        protection = Protection(patterns=tuple(protect.patterns), literals=tuple(protect.literals))
        if protect.presets is not None:
            protection = replace(protection, presets=tuple(protect.presets))
    except InvalidOptionError as error:
        raise renamed(error, f"protect.{error.name}") from None
    return TextOptions(
        format=body.format,
        markup=MarkupOptions(tuple(body.ignore_tags), tuple(body.splitting_tags), tuple(body.non_splitting_tags)),
        protection=protection,
        glossaries=glossaries,
        splitting=body.splitting,
        guard=body.guard,
        alignment=body.return_alignment,
        quality=body.return_quality,
    )


async def _finished(
    orders: Sequence[_Order], service: Service, request: Request, deadline: Deadline
) -> AsyncIterator[tuple[int, FinishedText]]:
    """Yield each text's number with its result, target by target."""
    for order in orders:
        try:
            finished = await translate_texts(service, order.choice, order.requested, request, deadline)
        except InvalidRequestError as error:
            raise renamed(error, _place(error.name)) from error
        for index, item in sorted(zip(order.indices, finished, strict=True), key=lambda pair: pair[0]):
            yield index, item


def _reply(
    finished: Sequence[tuple[int, FinishedText]], orders: Sequence[_Order], body: TranslateRequest
) -> TranslateReply:
    targets = list(dict.fromkeys(item.plan.target for _, item in finished))
    finished = sorted(finished, key=lambda pair: (targets.index(pair[1].plan.target), pair[0]))
    translations = [item.translation for _, item in finished if item.translation is not None]
    return TranslateReply(
        translations=[translation_reply(index, item, body) for index, item in finished],
        usage=Usage(
            characters=sum(len(item.plan.text) for _, item in finished),
            source_tokens=sum(translation.source_tokens for translation in translations),
            target_tokens=sum(translation.target_tokens for translation in translations),
        ),
        model=orders[0].choice.name,
    )


async def _stream(
    emit: Emit, orders: Sequence[_Order], body: TranslateRequest, service: Service, request: Request, deadline: Deadline
) -> None:
    """Write each segment as soon as it is final, then each whole translation, then what it cost."""

    def watched(order: _Order) -> _Order:
        def on_segment(text: int, segment: int, result: SegmentTranslation) -> None:
            reply = segment_reply(result, body)
            place = {"index": order.indices[text], "target": order.requested.target, "segment": segment}
            emit("segment", {**place, **reply.model_dump(mode="json")})

        return replace(order, requested=replace(order.requested, on_segment=on_segment))

    finished: list[tuple[int, FinishedText]] = []
    try:
        async for index, item in _finished([watched(order) for order in orders], service, request, deadline):
            finished.append((index, item))
            emit("translation", translation_reply(index, item, body).model_dump(mode="json"))
    except Exception as exception:  # the status line is gone: the error is the last event
        problem = describe(exception)
        emit("error", problem_content(problem, request.scope))
        if problem.kind is INTERNAL:
            raise  # our own failure, which the outermost middleware logs
        return
    reply = _reply(finished, orders, body)
    emit("done", {"usage": reply.usage.model_dump(mode="json"), "model": reply.model})


def _place(name: str) -> str:
    """Return where in the body a field is that the translator calls ``name``."""
    if name in GenerationOptions.model_fields:
        return f"options.{name}"
    return name if name in TranslateRequest.model_fields else "texts"
