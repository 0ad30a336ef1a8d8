"""The loaded translators: what the service needs of one, which one answers a request, when they are ready.

It submits work and detects languages; waiting for results, with deadlines and clients that go away, is in limits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol

from app.settings import Settings
from model import EngineClosedError, InvalidOptionError, UnsupportedLanguageError, language, resolve

if TYPE_CHECKING:
    from model import (
        Detection,
        EngineObserver,
        EngineStats,
        ExplainedTranslation,
        ExplanationOptions,
        GenerationConfig,
        Language,
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
        """Codes that can be both source and target."""

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


@dataclass
class TranslatorRegistry:
    """The translators of one service, the default one first."""

    translators: Sequence[TextTranslator] = ()
    ready: bool = field(default=False, init=False)
    """Whether requests are taken: loaded, warm, and not shutting down."""

    def start(self, translators: Sequence[TextTranslator]) -> None:
        """Warm the translators up, then take requests. Slow: call it off the event loop."""
        for translator in translators:
            translator.warm_up()
        self.translators = tuple(translators)
        self.ready = True

    def healthy(self) -> bool:
        """Whether requests are taken and every engine runs."""
        return self.ready and all(translator.stats().accepting for translator in self.translators)

    def stop_accepting(self) -> None:
        """Refuse new requests; running ones go on."""
        self.ready = False

    def close(self) -> None:
        """Let running requests finish, then stop the engines. Slow: call it off the event loop."""
        self.ready = False
        for translator in self.translators:
            translator.close(drain=True)

    def require_ready(self) -> None:
        """Raise EngineClosedError while requests are not taken."""
        if not self.ready:
            raise EngineClosedError("the service is starting or shutting down")

    def languages(self) -> list[Language]:
        """Return the languages that any translator has, in the order of the translators."""
        codes = dict.fromkeys(code for translator in self.translators for code in translator.languages)
        return [language(code) for code in codes]

    def targets(self, source: str) -> list[str]:
        """Return the codes that ``source`` can be translated to; itself is one, since such a text stays as it is."""
        with_source = (translator for translator in self.translators if source in translator.languages)
        return list(dict.fromkeys(code for translator in with_source for code in translator.languages))

    def select(
        self, source: str | None, target: str, model: str | None = None
    ) -> tuple[TextTranslator, str | None, str]:
        """Return the translator for a request, and its source and target as canonical codes.

        Raises:
            EngineClosedError: requests are not taken now.
            InvalidOptionError: no translator is called ``model``.
            UnsupportedLanguageError: no translator (or not the one asked for) has both languages.
        """
        self.require_ready()
        candidates = [translator for translator in self.translators if model in (None, translator.name)]
        if not candidates:
            names = ", ".join(translator.name for translator in self.translators)
            raise InvalidOptionError("model", f"must be one of {names}", model)
        resolved_target = self.resolve("target", target, candidates)
        resolved_source = None if source is None else self.resolve("source", source, candidates)
        for translator in candidates:
            if {resolved_target, resolved_source or resolved_target} <= set(translator.languages):
                return translator, resolved_source, resolved_target
        raise UnsupportedLanguageError("target", f"must be a language that {source} can be translated to", target)

    def resolve(self, name: str, code: str, candidates: Sequence[TextTranslator] | None = None) -> str:
        """Return the canonical code of a language that one of the translators has.

        Raises:
            UnsupportedLanguageError: with ``name`` as the field that is wrong.
        """
        among = self.translators if candidates is None else candidates
        installed = list(dict.fromkeys(installed for translator in among for installed in translator.languages))
        try:
            return resolve(code, installed)
        except UnsupportedLanguageError:
            raise UnsupportedLanguageError(name, f"must be one of {', '.join(installed)}", code) from None

    def detect(self, text: str) -> list[Detection]:
        """Return the default translator's guesses at the language of ``text``.

        Raises:
            EngineClosedError: requests are not taken now.
        """
        self.require_ready()
        return self.translators[0].detect(text)


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
        return TextPlan(text, source, requested.target, detected=None)
    if requested.options is not None and requested.options.format != "text":
        return TextPlan(text, None, requested.target, detected=None)
    detections = translator.detect(text) if has_words(text) else []
    if not detections:
        return TextPlan(text, requested.target, requested.target, detected=None)
    return TextPlan(text, detections[0].language, requested.target, detected=detections[0])


def load_translators(settings: Settings, observer: EngineObserver | None = None) -> Sequence[TextTranslator]:
    """Load every model of the settings, or the embedded one. Slow: call it off the event loop.

    Args:
        settings: which models, and how their engines use the device.
        observer: is told of every engine's steps and requests.

    Raises:
        CheckpointError: a folder has no usable model.
        ConfigurationError: two models have one name, or the device is not there.
    """
    from model import ConfigurationError, Translator

    loaded = [Translator.load(path, settings.engine_config(), observer=observer) for path in settings.models or (None,)]
    names = [translator.name for translator in loaded]
    if len(set(names)) < len(names):
        for translator in loaded:
            translator.close(drain=False)
        raise ConfigurationError("models", "must have different names", names)
    return loaded
