"""Puts results of the translator into the native face's shapes; it decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.dependencies import FinishedText
from app.schemas import (
    AlignedWords,
    DetectedLanguage,
    GlossaryHitReply,
    RatedWord,
    SegmentReply,
    TranslateRequest,
    TranslationReply,
    WarningReply,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model import Detection, SegmentTranslation, WordAlignment, WordQuality


def translation_reply(index: int, item: FinishedText, body: TranslateRequest) -> TranslationReply:
    """Return one text's result, as far as the request asked for it."""
    translation = item.translation
    return TranslationReply(
        index=index,
        text=item.text,
        source=item.source,
        target=item.plan.target,
        via=None if translation is None else item.via,
        detected=found_language(item.detected),
        alternatives=item.alternatives,
        score=None if translation is None else translation.score,
        segments=[] if translation is None else [segment_reply(part, body) for part in translation.segments],
        finish_reason="unchanged" if translation is None else translation.finish_reason,
        warnings=[]
        if translation is None
        else [
            WarningReply(
                code=warning.code, message=warning.message, start=warning.start, end=warning.end, unit=warning.unit
            )
            for warning in translation.warnings
        ],
        quality=None if translation is None else translation.quality,
        glossary_hits=[]
        if translation is None
        else [
            GlossaryHitReply(
                source=hit.source,
                target=hit.target,
                start=hit.start,
                end=hit.end,
                status=hit.status,
                reason=hit.reason,
                glossary=hit.glossary_id,
            )
            for hit in translation.glossary_hits
        ],
    )


def segment_reply(part: SegmentTranslation, body: TranslateRequest) -> SegmentReply:
    """Return one segment's result, as far as the request asked for it."""
    with_tokens = body.options.return_token_scores
    return SegmentReply(
        unit=part.unit,
        start=part.start,
        end=part.end,
        target_start=part.target_start,
        target_end=part.target_end,
        source=part.source,
        text=part.text,
        alternatives=list(part.alternatives),
        score=part.score,
        token_ids=list(part.token_ids) if with_tokens else None,
        token_scores=list(part.token_scores) if with_tokens else None,
        alignment=aligned_words(part.alignment) if body.return_alignment else None,
        quality=part.quality,
        words=rated_words(part.words) if body.return_quality else None,
    )


def found_language(guess: Detection | None) -> DetectedLanguage | None:
    """Return the detected source, None where it was given or nothing was found."""
    return None if guess is None else detected_language(guess)


def detected_language(guess: Detection) -> DetectedLanguage:
    """Return one guess of the detector."""
    return DetectedLanguage(language=guess.language, confidence=guess.confidence)


def given_language(code: str | None) -> str | None:
    """Return a source language, None where the request leaves it open."""
    return None if code is None or code.lower() == "auto" else code


def rated_words(words: Sequence[WordQuality]) -> list[RatedWord]:
    """Return words with their estimated quality."""
    return [RatedWord(start=word.start, end=word.end, quality=word.quality) for word in words]


def aligned_words(alignment: WordAlignment | None) -> list[AlignedWords]:
    """Return the pairs of words that are linked."""
    if alignment is None:
        return []
    pairs = ((alignment.source_words[i], alignment.target_words[j]) for i, j in alignment.links)
    return [
        AlignedWords(source_start=source[0], source_end=source[1], target_start=target[0], target_end=target[1])
        for source, target in pairs
    ]
