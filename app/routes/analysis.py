"""Our own protocol's look at one translation: /v1/score, /v1/complete, /v1/alternatives, /v1/explain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.analysis_schemas import (
    AlternativesReply,
    AlternativesRequest,
    AlternativeWord,
    CompleteReply,
    CompleteRequest,
    ExplainReply,
    ExplainRequest,
    LanguagePair,
    ScorePair,
    ScoreReply,
    ScoreRequest,
    ScoresReply,
    TokenScore,
)
from app.dependencies import JsonRoute, Service, ServiceDependency, translate_texts
from app.errors import renamed
from app.limits import REQUEST_ID, Deadline, Patience, cancel_unfinished, check_texts, off_loop
from app.native_replies import aligned_words, detected_language, found_language, given_language, rated_words
from app.registry import Choice
from app.routes.native import PROBLEMS
from app.schemas import GenerationOptions, Usage
from app.translators import RequestedTexts, TextTranslator
from model import ExplanationOptions, InvalidRequestError, TextOptions

if TYPE_CHECKING:
    from model import ExplainedTranslation, ScoredTranslation, WordAlternatives

Result = TypeVar("Result")

router = APIRouter(prefix="/v1", tags=["native"], route_class=JsonRoute, responses=PROBLEMS)


@dataclass(frozen=True)
class _Analysis:
    """Something that a translator was asked about one translation."""

    future: Future[Any]

    def cancel(self) -> None:
        """Drop it, unless it has begun; then it is over in less than a second."""
        self.future.cancel()


@router.post("/score")
async def score(body: ScoreRequest, request: Request, service: ServiceDependency) -> ScoresReply:
    """Tell how probable given translations are, token by token, and optionally how good their words are."""
    deadline = Deadline.of(request.scope, service.settings, body.deadline_ms)
    texts = [pair.text for pair in body.pairs]
    check_texts(texts, service.settings, "pairs")
    check_texts([pair.translation for pair in body.pairs], service.settings, "pairs")
    choice, source, target = _select(body, service)
    await service.access.admit(request, sum(map(len, texts)))
    wants = {"alignment": body.return_alignment, "quality": body.return_quality}

    def start(translator: TextTranslator, pair: ScorePair) -> Future[ScoredTranslation]:
        return translator.score(pair.text, pair.translation, source, target, **wants)

    starts = [partial(start, pair=pair) for pair in body.pairs]
    asked = _Asked(service, choice, request, deadline)
    scored = await _wait(asked, starts, sum(map(len, texts)), "pairs[{}].{}")
    return ScoresReply(
        scores=[_score_reply(index, each, body) for index, each in enumerate(scored)],
        usage=Usage(
            characters=sum(map(len, texts)),
            source_tokens=sum(each.num_source_tokens for each in scored),
            target_tokens=sum(len(each.tokens) for each in scored),
        ),
        model=choice.name,
    )


@router.post("/complete")
async def complete(body: CompleteRequest, request: Request, service: ServiceDependency) -> CompleteReply:
    """Translate a text, taken as one segment, so that its translation begins as wanted."""
    deadline = Deadline.of(request.scope, service.settings, body.deadline_ms)
    check_texts([body.text], service.settings)
    choice, source, target = _select(body, service)
    await service.access.admit(request, len(body.text))
    requested = RequestedTexts(
        [body.text],
        source,
        target,
        body.options.config(),
        options=TextOptions(splitting="none"),
        target_prefix=body.prefix or None,
        deadline_seconds=deadline.remaining_seconds(),
        caller=request.scope[REQUEST_ID],
    )
    try:
        [item] = await translate_texts(service, choice, requested, request, deadline)
    except InvalidRequestError as error:
        raise renamed(error, _place(error.name)) from error
    return CompleteReply(
        text=item.text,
        source=item.source,
        target=target,
        detected=found_language(item.detected),
        alternatives=item.alternatives,
        score=None if item.translation is None else item.translation.score,
        finish_reason="unchanged" if item.translation is None else item.translation.finish_reason,
        model=choice.name,
    )


@router.post("/alternatives")
async def alternatives(body: AlternativesRequest, request: Request, service: ServiceDependency) -> AlternativesReply:
    """Tell which words could come next in a translation; /v1/complete goes on with one of them."""
    deadline = Deadline.of(request.scope, service.settings, body.deadline_ms)
    check_texts([body.text], service.settings)
    check_texts([body.prefix], service.settings, "prefix")
    choice, source, target = _select(body, service)
    await service.access.admit(request, len(body.text))

    def start(translator: TextTranslator) -> Future[WordAlternatives]:
        return translator.alternatives(body.text, body.prefix, source, target, count=body.num_alternatives)

    [found] = await _wait(_Asked(service, choice, request, deadline), [start], len(body.text))
    return AlternativesReply(
        alternatives=[
            AlternativeWord(word=each.word, probability=min(1.0, each.probability), prefix=each.prefix)
            for each in found.alternatives
        ],
        source=found.source,
        target=found.target,
        detected=found_language(found.detected),
        model=choice.name,
    )


@router.post("/explain", response_model=ExplainReply)
async def explain(body: ExplainRequest, request: Request, service: ServiceDependency) -> Response:
    """Show a short text on its way through the network: tokens, vectors, attention, and each step of the decoder."""
    deadline = Deadline.of(request.scope, service.settings, body.deadline_ms)
    check_texts([body.text, body.translation or ""], service.settings)
    choice, source, target = _select(body, service)
    await service.access.admit(request, len(body.text))
    config = body.options.config()
    options = ExplanationOptions(body.temperature, body.top_k, body.top_p, body.num_candidates, body.num_dimensions)

    def start(translator: TextTranslator) -> Future[ExplainedTranslation]:
        seconds = deadline.remaining_seconds()
        texts = (body.text, body.translation)
        return translator.explain(*texts, source, target, config, options=options, deadline_seconds=seconds)

    [found] = await _wait(_Asked(service, choice, request, deadline), [start], len(body.text))
    detected = None if found.detected is None else detected_language(found.detected).model_dump()
    reply = {
        "source": found.source,
        "target": found.target,
        "detected": detected,
        "model": choice.name,
        "shape": found.shape,
        "explanation": found.explanation,
    }
    # Some 100,000 numbers: written at once, since pydantic would look at each of them first.
    return Response(orjson.dumps(reply), media_type="application/json")


def _select(body: LanguagePair, service: Service) -> tuple[Choice, str | None, str]:
    """Return the model of a request, and its languages; two models in a row cannot be looked into."""
    service.registry.require_ready()
    return service.registry.select(given_language(body.source), body.target, body.model, direct=True)


@dataclass(frozen=True)
class _Asked:
    """Who asks which model, and until when."""

    service: Service
    choice: Choice
    request: Request
    deadline: Deadline


async def _wait(
    asked: _Asked, starts: Sequence[Callable[[TextTranslator], Future[Result]]], characters: int, place: str = "{1}"
) -> list[Result]:
    """Start analyses and wait for them as long as the client and the deadline allow.

    Args:
        asked: who asks which model.
        starts: each starts one.
        characters: of all texts together; detecting their language takes time.
        place: where in the body something is, by the number of its analysis and its name.
    """
    analyses: list[_Analysis] = []
    registry = asked.service.registry
    try:
        async with (
            Patience(asked.request.receive, asked.deadline) as patience,
            registry.borrow(asked.choice, patience) as lent,
        ):
            try:
                translator = lent.translator
                analyses += await off_loop(characters, lambda: [_Analysis(start(translator)) for start in starts])
                await patience.wait_for_all(analyses)
            finally:
                cancel_unfinished(analyses)
    except InvalidRequestError as error:
        failed = [i for i, each in enumerate(analyses) if _failure(each.future) is error]
        if not failed:  # of the request as a whole
            raise
        raise renamed(error, place.format(failed[0], _place(error.name))) from error
    return [each.future.result() for each in analyses]


def _failure(future: Future[Any]) -> BaseException | None:
    return future.exception() if future.done() and not future.cancelled() else None


def _place(name: str) -> str:
    """Return where in the body a field is that the translator calls ``name``."""
    if name in GenerationOptions.model_fields:
        return f"options.{name}"
    return {"target_prefix": "prefix", "count": "num_alternatives", "target_ids": "translation"}.get(name, name)


def _score_reply(index: int, scored: ScoredTranslation, body: ScoreRequest) -> ScoreReply:
    return ScoreReply(
        index=index,
        source=scored.source,
        target=scored.target,
        detected=found_language(scored.detected),
        log_prob=scored.log_prob,
        score=scored.score,
        tokens=[
            TokenScore(id=token.id, piece=token.piece, start=token.start, end=token.end, log_prob=token.log_prob)
            for token in scored.tokens
        ],
        alignment=aligned_words(scored.alignment) if body.return_alignment else None,
        quality=scored.quality,
        words=rated_words(scored.words) if body.return_quality else None,
    )
