"""Our own protocol under /v1: lists of texts in, typed translations out, errors as RFC 9457 problem details."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from starlette.requests import Request

from app.dependencies import FinishedText, JsonRoute, ServiceDependency, translate_job
from app.errors import renamed
from app.limits import REQUEST_ID, Deadline, check_texts, off_loop
from app.schemas import (
    DetectedLanguage,
    DetectReply,
    DetectRequest,
    GenerationOptions,
    LanguageReply,
    LanguagesReply,
    ModelReply,
    ModelsReply,
    ProblemReply,
    SegmentReply,
    TranslateReply,
    TranslateRequest,
    TranslationReply,
    Usage,
    WarningReply,
)
from app.translators import Job
from model import InvalidRequestError

if TYPE_CHECKING:
    from model import Detection, SegmentTranslation

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": ProblemReply, "description": "The body is not JSON."},
    413: {"model": ProblemReply, "description": "The body is too large."},
    415: {"model": ProblemReply, "description": "The body is of another type than JSON."},
    422: {"model": ProblemReply, "description": "The request breaks a rule; `errors` says which."},
    503: {"model": ProblemReply, "description": "The queue is full, or the service is starting or stopping."},
    504: {"model": ProblemReply, "description": "The deadline passed."},
}

router = APIRouter(prefix="/v1", tags=["native"], route_class=JsonRoute)


@router.post("/translate", responses=_PROBLEMS)
async def translate(body: TranslateRequest, request: Request, service: ServiceDependency) -> TranslateReply:
    """Translate one text or many, each on its own."""
    deadline = Deadline.of(request.scope, service.settings, body.deadline_ms)
    check_texts(body.texts, service.settings)
    source = None if body.source is None or body.source.lower() == "auto" else body.source
    translator, source, target = service.registry.select(source, body.target, body.model)
    job = Job(
        texts=body.texts,
        source=source,
        target=target,
        config=body.options.config(),
        target_prefix=body.target_prefix,
        deadline_seconds=deadline.remaining_seconds(),
        caller=request.scope[REQUEST_ID],
    )
    try:
        finished = await translate_job(service, translator, job, request, deadline)
    except InvalidRequestError as error:
        raise renamed(error, _place(error.name)) from error
    translations = [item.translation for item in finished if item.translation is not None]
    return TranslateReply(
        translations=[_translation(item, body.options.return_token_scores) for item in finished],
        usage=Usage(
            characters=sum(map(len, body.texts)),
            source_tokens=sum(translation.source_tokens for translation in translations),
            target_tokens=sum(translation.target_tokens for translation in translations),
        ),
        model=translator.name,
    )


@router.post("/detect", responses={status: _PROBLEMS[status] for status in (400, 413, 415, 422, 503)})
async def detect(body: DetectRequest, service: ServiceDependency) -> DetectReply:
    """Tell the language of each text, among those of the default model."""
    check_texts(body.texts, service.settings)
    registry = service.registry
    registry.require_ready()
    found = await off_loop(sum(map(len, body.texts)), lambda: [registry.detect(text) for text in body.texts])
    return DetectReply(detections=[[_detected(guess) for guess in guesses] for guesses in found])


@router.get("/languages", responses={503: _PROBLEMS[503]})
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


@router.get("/models", responses={503: _PROBLEMS[503]})
async def models(service: ServiceDependency) -> ModelsReply:
    """List the loaded models, the default one first."""
    service.registry.require_ready()
    return ModelsReply(
        models=[
            ModelReply(
                name=translator.name,
                languages=list(translator.languages),
                default=index == 0,
                info=dict(translator.info),
            )
            for index, translator in enumerate(service.registry.translators)
        ]
    )


def _place(name: str) -> str:
    """Return where in the body a field is that the translator calls ``name``."""
    if name in GenerationOptions.model_fields:
        return f"options.{name}"
    return name if name in TranslateRequest.model_fields else "texts"


def _translation(item: FinishedText, with_tokens: bool) -> TranslationReply:
    """Put one result into the reply's shape."""
    plan, translation = item.plan, item.translation
    return TranslationReply(
        text=item.text,
        source=plan.source,
        target=plan.target,
        detected=None if plan.detected is None else _detected(plan.detected),
        alternatives=item.alternatives,
        score=None if translation is None else translation.score,
        segments=[] if translation is None else [_segment(part, with_tokens) for part in translation.segments],
        finish_reason="unchanged" if translation is None else translation.finish_reason,
        warnings=[]
        if translation is None
        else [
            WarningReply(code=warning.code, message=warning.message, start=warning.start, end=warning.end)
            for warning in translation.warnings
        ],
    )


def _segment(part: SegmentTranslation, with_tokens: bool) -> SegmentReply:
    """Put one segment into the reply's shape."""
    return SegmentReply(
        start=part.start,
        end=part.end,
        source=part.source,
        text=part.text,
        score=part.score,
        token_ids=list(part.token_ids) if with_tokens else None,
        token_scores=list(part.token_scores) if with_tokens else None,
    )


def _detected(guess: Detection) -> DetectedLanguage:
    """Put one guess of the detector into the reply's shape."""
    return DetectedLanguage(language=guess.language, confidence=guess.confidence)
