"""What the service needs of a translator, how one is loaded, and how the texts of a request are handed to it.

Which one answers a request is the registry's; waiting for results, with deadlines and clients that go away, limits'.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from app.settings import Settings

if TYPE_CHECKING:
    from model import (
        Detection,
        EngineObserver,
        EngineStats,
        ExplainedTranslation,
        ExplanationOptions,
        GenerationConfig,
        ScoredTranslation,
        SegmentTranslation,
        TextOptions,
        Translation,
        WordAlternatives,
    )


SegmentObserver = Callable[[int, "SegmentTranslation"], None]
"""Is told of each finished segment, by its number, from another thread."""


class PendingTranslation(Protocol):
    """A text that was handed to an engine."""

    @property
    def future(self) -> Future[Translation]:
        """The result, once it is there."""

    def cancel(self) -> None:
        """Let the engine drop the work before its next step."""


Share = Callable[[str, str | None, str, Callable[[], PendingTranslation], SegmentObserver | None], PendingTranslation]
"""Gives the translation of a text (with its languages) that is there or on its way, or starts one."""


class TextTranslator(Protocol):
    """What the service needs of model.Translator; tests pass a stub."""

    @property
    def name(self) -> str:
        """Name of the model, as requests and metrics spell it."""

    @property
    def fingerprint(self) -> str:
        """Digest of the model: another one for other weights."""

    @property
    def info(self) -> Mapping[str, object]:
        """Facts for people: parameters, number format, device."""

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes that can be source or target."""

    @property
    def source_languages(self) -> tuple[str, ...]:
        """Codes that can be source."""

    @property
    def target_languages(self) -> tuple[str, ...]:
        """Codes that can be target."""

    def submit(
        self,
        text: str,
        source: str | None,
        target: str,
        config: GenerationConfig | None = None,
        *,
        deadline_seconds: float | None = None,
        options: TextOptions | None = None,
        target_prefix: str | None = None,
        caller: str | None = None,
        on_segment: SegmentObserver | None = None,
    ) -> PendingTranslation:
        """Hand a text to the engine without waiting for the result."""

    def score(
        self,
        text: str,
        translation: str,
        source: str | None,
        target: str,
        *,
        alignment: bool = False,
        quality: bool = False,
    ) -> Future[ScoredTranslation]:
        """Score a given translation without waiting for the result."""

    def alternatives(
        self, text: str, prefix: str, source: str | None, target: str, *, count: int = 8
    ) -> Future[WordAlternatives]:
        """Find the words that could come next in a translation, without waiting for the result."""

    def explain(
        self,
        text: str,
        translation: str | None,
        source: str | None,
        target: str,
        config: GenerationConfig | None = None,
        *,
        options: ExplanationOptions | None = None,
        deadline_seconds: float | None = None,
    ) -> Future[ExplainedTranslation]:
        """Show what the network computes on its way to a translation, without waiting for the result."""

    def detect(self, text: str) -> list[Detection]:
        """Return a confidence for each language, best first; nothing for a text without letters."""

    def stats(self) -> EngineStats:
        """Return what the engine has measured so far."""

    def warm_up(self) -> None:
        """Do once what would make the first request slow."""

    def close(self, drain: bool = True) -> None:
        """Stop the engine, after the running requests or at once."""


@dataclass(frozen=True)
class RequestedTexts:
    """The texts of one request and how to translate them."""

    texts: Sequence[str]
    source: str | None
    """A language code, or None to detect it for each text."""
    target: str
    config: GenerationConfig
    options: TextOptions | None = None
    """How the texts are read, what must survive in them, what is reported; None means plain text, as usual."""
    target_prefix: str | None = None
    deadline_seconds: float | None = None
    caller: str | None = None
    """Whose texts these are: callers share the device evenly, so that a book does not hold up a sentence."""
    detections: Sequence[Detection | None] = ()
    """The guess behind each text's source, for those whose language was detected before."""
    sources: Sequence[str | None] = ()
    """A language code for each text, None where ``source`` holds; nothing means that for all of them."""
    on_segment: Callable[[int, int, SegmentTranslation], None] | None = None
    """Is told of each finished segment: which text, which of its segments, and the result; from another thread."""


@dataclass
class TextPlan:
    """One text on its way: its languages, and the engine's work unless there is none to do."""

    text: str
    source: str | None
    """None where the translator detects it, because that takes reading the markup."""
    target: str
    detected: Detection | None
    """Best guess at the source, if the request left it open and the text has letters."""
    pending: PendingTranslation | None = None
    """None for a text that stays as it is: nothing to translate in it, or source and target are the same."""


def has_words(text: str) -> bool:
    """Whether anything in ``text`` can be translated: a letter or digit that is not part of an emoji."""
    return any(map(str.isalnum, _EMOJI_WITH_LETTERS.sub("", text)))


_EMOJI_WITH_LETTERS = re.compile(".\ufe0f?\u20e3|.\ufe0f", re.DOTALL)
"""Keycaps such as 1 + U+20E3, and letters such as U+2139 that U+FE0F turns into an emoji."""


def submit_text(
    translator: TextTranslator,
    requested: RequestedTexts,
    text: str,
    plans: list[TextPlan],
    share: Share | None = None,
) -> None:
    """Hand one of the texts to the engine, unless ``share`` has its translation already.

    Slow for long texts: call it off the event loop.

    Its plan is appended to ``plans``, and not returned, so that it is there to be cancelled even if nobody waits for
    the thread that this runs in.

    Raises:
        InvalidRequestError, UnavailableError: what ``submit`` raises; nothing was appended then.
    """
    index = len(plans)
    plan = _plan(translator, requested, index)
    if plan.source != plan.target and has_words(text):
        on_segment = None if requested.on_segment is None else partial(requested.on_segment, index)
        start = partial(
            translator.submit,
            text,
            plan.source,
            plan.target,
            requested.config,
            options=requested.options,
            deadline_seconds=requested.deadline_seconds,
            target_prefix=requested.target_prefix,
            caller=requested.caller,
            on_segment=on_segment,
        )
        plan.pending = start() if share is None else share(text, plan.source, plan.target, start, on_segment)
    plans.append(plan)


def _plan(translator: TextTranslator, requested: RequestedTexts, index: int) -> TextPlan:
    """Decide the source language of one text. A text without letters is taken to be in the target language."""
    text = requested.texts[index]
    source = (requested.sources[index] if requested.sources else None) or requested.source
    if source is not None:
        detected = requested.detections[index] if requested.detections else None
        return TextPlan(text, source, requested.target, detected)
    if requested.options is not None and requested.options.format != "text":
        return TextPlan(text, None, requested.target, detected=None)
    detections = translator.detect(text) if has_words(text) else []
    if not detections:
        return TextPlan(text, requested.target, requested.target, detected=None)
    return TextPlan(text, detections[0].language, requested.target, detected=detections[0])


def load_translator(settings: Settings, observer: EngineObserver | None, path: Path | None) -> TextTranslator:
    """Load one model. Slow: call it off the event loop.

    Args:
        settings: how its engine uses the device.
        observer: is told of the engine's steps and requests.
        path: its folder; None for the embedded model.

    Raises:
        CheckpointError: the folder has no usable model.
        ConfigurationError: the device is not there.
    """
    from model import Translator

    return Translator.load(path, settings.engine_config(), observer=observer)


def estimate_memory(settings: Settings, path: Path | None) -> int:
    """Return the bytes that a model's weights will take, from its description and the headers of its files.

    The network itself is kept in float32 (it scores and explains), and the compiled decoder has the weights once more
    in its own number format; what requests take comes on top.

    Raises:
        CheckpointError: the folder has no usable model.
    """
    from model import DEFAULT_MODEL, PRETRAINED, inspect_checkpoint

    sizes = inspect_checkpoint(PRETRAINED / DEFAULT_MODEL if path is None else path).bytes_in
    if settings.decoder == "plain":
        return sizes["float32" if settings.dtype == "auto" else settings.dtype]
    return sizes["float32"] + sizes["int8" if settings.dtype == "auto" else settings.dtype]
