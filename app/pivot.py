"""Two translators in a row as one: each segment of the first one's translation is translated by the second one.

What is reported is put together segment by segment: spans of the source are the first leg's, spans of the translation
the second leg's, and the text between is not reported.

- Plain text is handed on a segment at a time, as soon as it is translated. Markup is handed on as a whole, so that its
  structure is kept by both legs; where the second leg cuts other segments than the first, those that belong together
  become one.
- An alignment links words that are linked to the same word between them; its weight is the sum of the products.
- A quality is the product of both legs' (the word is right if both legs were, taken as independent); a segment's
  log-probability is the sum, and its score the mean over the tokens of both legs.
- Warnings say in which leg they arose; those of the second have the span of the segment's source.
- A glossary for the pair asked for cannot be applied, since no leg has that pair: its terms are reported as skipped.
  One for the pair of a leg is applied there. Terms that belong to one request alone are for the pair asked for.
- Protected pieces are found in both legs, and what the first leg protected the second does too.
- Beam size and the like are both legs'; hypotheses, prefixes, token ids and banned tokens the second one's.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING

from app.pivot_reports import SecondLeg, composed_segment, composed_translation, grouped
from app.translators import PendingTranslation, SegmentObserver, TextTranslator, has_words
from model import (
    MAX_LITERAL_LENGTH,
    MAX_LITERALS,
    GenerationConfig,
    OverloadedError,
    RequestCancelledError,
    TextOptions,
    UnsupportedLanguageError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from model import (
        Detection,
        EngineStats,
        ExplainedTranslation,
        ExplanationOptions,
        Glossary,
        ScoredTranslation,
        SegmentTranslation,
        Translation,
        WordAlternatives,
    )

_WINDOW = 32
"""Most segments of one text that are in the second engine at once."""


class PivotTranslator:
    """Translates one pair by way of a third language; closing the two translators is their owner's."""

    def __init__(self, first: TextTranslator, second: TextTranslator, source: str, via: str, target: str) -> None:
        self.name = f"{first.name} + {second.name}"
        self.fingerprint = f"{first.fingerprint} {via} {second.fingerprint}"
        self.info: Mapping[str, object] = {"first": dict(first.info), "second": dict(second.info), "via": via}
        self.languages: tuple[str, ...] = (source, target)
        self.source_languages: tuple[str, ...] = (source,)
        self.target_languages: tuple[str, ...] = (target,)
        self._first, self._second = first, second
        self._via = via

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
        """Hand a text to the first engine; raises what its ``submit`` raises."""
        self._require_pair(source, target)
        given = _Given(
            config or GenerationConfig(),
            options or TextOptions(),
            target_prefix,
            caller,
            None if deadline_seconds is None else time.monotonic() + deadline_seconds,
            on_segment,
        )
        way = _Way(self.languages[0], self._via, self.languages[1])
        kind = _PlainPivot if given.options.format == "text" else _MarkupPivot
        pending = kind(self._first, self._second, way, given)
        pending.start(text)
        return pending

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
        """Refuse: the probability over all texts between is nothing that two networks can tell."""
        del text, translation, source, alignment, quality
        raise self._refusal(target)

    def alternatives(
        self, text: str, prefix: str, source: str | None, target: str, *, count: int = 8
    ) -> Future[WordAlternatives]:
        """Refuse, as :meth:`score` does."""
        del text, prefix, source, count
        raise self._refusal(target)

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
        """Refuse: there are two networks to look into."""
        del text, translation, source, config, options, deadline_seconds
        raise self._refusal(target)

    def detect(self, text: str) -> list[Detection]:
        """Return the first translator's guesses."""
        return self._first.detect(text)

    def stats(self) -> EngineStats:
        """Return the first engine's statistics, with the longer queue, and whether both take requests."""
        first, second = self._first.stats(), self._second.stats()
        return replace(
            first,
            queued_requests=max(first.queued_requests, second.queued_requests),
            accepting=first.accepting and second.accepting,
        )

    def warm_up(self) -> None:
        """Do nothing: both translators are warm."""

    def close(self, drain: bool = True) -> None:
        """Do nothing: the translators are others'."""

    def _require_pair(self, source: str | None, target: str) -> None:
        if (source, target) != self.languages:
            pair = " to ".join(self.languages)
            raise UnsupportedLanguageError("source", f"must be that of {pair}", f"{source} to {target}")

    def _refusal(self, target: str) -> UnsupportedLanguageError:
        return UnsupportedLanguageError("target", "must be a language that one model translates to directly", target)


@dataclass(frozen=True)
class _Way:
    """The three languages."""

    source: str
    via: str
    target: str


@dataclass(frozen=True)
class _Given:
    """How a text is to be translated."""

    config: GenerationConfig
    options: TextOptions
    target_prefix: str | None
    caller: str | None
    until: float | None
    """Deadline, as time.monotonic() has it."""
    on_segment: SegmentObserver | None

    @property
    def has_prefix(self) -> bool:
        """Whether the translation must begin in a certain way."""
        return bool(self.target_prefix or self.config.target_prefix)

    def seconds_left(self) -> float | None:
        return None if self.until is None else self.until - time.monotonic()

    def first_config(self) -> GenerationConfig:
        """Return the options of the first leg, which needs one hypothesis and knows no ids of the second."""
        return replace(
            self.config,
            num_hypotheses=1,
            banned_tokens=(),
            target_prefix=(),
            num_unscored=0,
            required_phrases=(),
            min_new_tokens=0,
            return_token_scores=False,
        )

    def leg_options(self) -> TextOptions:
        """Return the options of a leg, without the terms that are meant for the pair asked for alone."""
        return replace(self.options, glossaries=tuple(each for each in self.options.glossaries if each.id))

    def pair_glossaries(self, way: _Way) -> list[Glossary]:
        """Return the glossaries that the caller wanted for the whole way."""
        pair = (way.source, way.target)
        return [each for each in self.options.glossaries if (each.source_language, each.target_language) == pair]


@dataclass(eq=False)
class _Pivot:
    """A text on its way through both engines."""

    first: TextTranslator
    second: TextTranslator
    way: _Way
    given: _Given
    future: Future[Translation] = field(default_factory=Future)
    lock: Lock = field(default_factory=Lock)
    running: dict[int, PendingTranslation] = field(default_factory=dict)
    """Work in the engines: -1 in the first, a segment's number in the second."""
    ended: bool = False

    def start(self, text: str) -> None:
        """Hand the text to the first engine."""
        self.future.add_done_callback(self._follow_future)
        pending = self.first.submit(
            text,
            self.way.source,
            self.way.via,
            self.given.first_config(),
            deadline_seconds=self.given.seconds_left(),
            options=self.given.leg_options(),
            caller=self.given.caller,
            on_segment=self.first_segment,
        )
        self._keep(-1, pending)
        pending.future.add_done_callback(lambda done: self._guarded(self.first_done, done))

    def cancel(self) -> None:
        """Let both engines drop the work."""
        self.fail(RequestCancelledError("the request was cancelled by its caller"))

    def first_segment(self, number: int, segment: SegmentTranslation) -> None:
        """A segment is in the language between."""

    def first_done(self, translation: Translation) -> None:
        """The whole text is in the language between: what comes next is each kind's own."""
        raise AssertionError(f"nothing is done with {len(translation.segments)} segments")

    def second_submit(
        self, number: int, text: str, options: TextOptions, on_done: Callable[[Translation], None], is_first: bool
    ) -> None:
        """Hand something to the second engine; raises what its ``submit`` raises."""
        pending = self.second.submit(
            text,
            self.way.via,
            self.way.target,
            self.given.config if is_first else replace(self.given.config, target_prefix=(), num_unscored=0),
            deadline_seconds=self.given.seconds_left(),
            options=options,
            target_prefix=self.given.target_prefix if is_first else None,
            caller=self.given.caller,
        )
        self._keep(number, pending)
        pending.future.add_done_callback(lambda done: self._guarded(on_done, done))

    def finish(self, translation: Translation) -> None:
        """Give the result."""
        with self.lock:
            self.ended = True
        with suppress(InvalidStateError):
            self.future.set_result(translation)

    def fail(self, error: BaseException) -> None:
        """Give the failure, and drop what is left."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)  # first, since what is dropped fails too
        self._stop()

    def _keep(self, number: int, pending: PendingTranslation) -> None:
        with self.lock:
            self.running[number] = pending
            ended = self.ended
        if ended:
            pending.cancel()

    def _guarded(self, work: Callable[[Translation], None], done: Future[Translation]) -> None:
        """Go on with the result of a leg; whoever waits hears of every failure."""
        error = RequestCancelledError("the request was cancelled") if done.cancelled() else done.exception()
        if error is not None:
            self.fail(error)
            return
        try:
            work(done.result())
        except Exception as failure:
            self.fail(failure)

    def _stop(self) -> None:
        with self.lock:
            self.ended = True
            running = list(self.running.values())
        for pending in running:
            if not pending.future.done():
                pending.cancel()

    def _follow_future(self, done: Future[Translation]) -> None:
        if done.cancelled():
            self._stop()


@dataclass(eq=False)
class _PlainPivot(_Pivot):
    """A plain text, a segment at a time."""

    text: str = ""
    parts: dict[int, SegmentTranslation] = field(default_factory=dict)
    """The first leg's segments."""
    results: dict[int, SegmentTranslation] = field(default_factory=dict)
    """The same, composed."""
    queue: deque[int] = field(default_factory=deque)
    whole: Translation | None = None
    """The first leg's translation."""
    seconds: list[Translation] = field(default_factory=list)
    """The second leg's translations."""
    num_running: int = 0
    feeding: bool = False
    """Whether a thread hands segments to the second engine now."""

    def start(self, text: str) -> None:
        self.text = text
        super().start(text)

    def first_segment(self, number: int, segment: SegmentTranslation) -> None:
        if self.given.has_prefix:
            return  # which segment is the first to be translated is known in the end
        try:
            self._take(number, segment)
        except Exception as error:  # this is the engine's thread, which has nobody to tell
            self.fail(error)

    def first_done(self, translation: Translation) -> None:
        with self.lock:
            self.whole = translation
        for number, segment in enumerate(translation.segments):
            self._take(number, segment, feed=False)
        self._feed()
        self._try_finish()

    def _take(self, number: int, segment: SegmentTranslation, feed: bool = True) -> None:
        """Let a segment wait for the second engine, unless it has nothing to translate or is known."""
        with self.lock:
            if number in self.parts:
                return
            self.parts[number] = segment = replace(segment, target_start=0, target_end=len(segment.text))
            if has_words(segment.text):
                self.queue.append(number)
        if not has_words(segment.text):
            self._note(number, segment, None)
        if feed:
            self._feed()

    def _feed(self) -> None:
        """Hand segments to the second engine while it has room; one that it refuses waits for another of this text.

        One thread does so at a time: what others finish meanwhile, it sees before it ends.
        """
        with self.lock:
            if self.feeding:
                return
            self.feeding = True
        while True:
            with self.lock:
                if self.ended or not self.queue or self.num_running >= _WINDOW:
                    self.feeding = False
                    return
                number, num_done = self.queue.popleft(), len(self.seconds)
                self.num_running += 1
                part = self.parts[number]
            try:
                on_done = partial(self._second_done, number)
                self.second_submit(number, part.text, self._options(part), on_done, self._is_first(number))
            except OverloadedError:
                with self.lock:
                    self.num_running -= 1
                    self.queue.appendleft(number)
                    if len(self.seconds) > num_done:
                        continue
                    self.feeding = False
                    if self.num_running:
                        return
                raise

    def _is_first(self, number: int) -> bool:
        """Whether a segment is the first one that is translated, where that matters."""
        return self.given.has_prefix and number == min(n for n, part in self.parts.items() if has_words(part.text))

    def _options(self, part: SegmentTranslation) -> TextOptions:
        """Return the second leg's options: one segment, in which what the first one protected is protected."""
        kept = {part.text[start:end].strip() for start, end, _ in part.protected}
        kept = {each for each in kept if 0 < len(each) <= MAX_LITERAL_LENGTH}
        options = self.given.leg_options()
        literals = tuple(dict.fromkeys((*options.protection.literals, *sorted(kept))))[:MAX_LITERALS]
        return replace(options, splitting="none", protection=replace(options.protection, literals=literals))

    def _second_done(self, number: int, translation: Translation) -> None:
        with self.lock:
            self.num_running -= 1
            self.running.pop(number, None)
            self.seconds.append(translation)
        self._note(number, self.parts[number], translation)
        self._feed()
        self._try_finish()

    def _note(self, number: int, part: SegmentTranslation, translation: Translation | None) -> None:
        glossaries = self.given.pair_glossaries(self.way)
        second = None if translation is None else SecondLeg.of(translation)
        result = composed_segment([part], second, self.way, glossaries)
        with self.lock:
            self.results[number] = result
            tell = self.given.on_segment if not self.ended else None
        if tell is not None:
            tell(number, result)

    def _try_finish(self) -> None:
        with self.lock:
            whole = self.whole
            if whole is None or len(self.results) < len(whole.segments) or self.ended:
                return
            self.ended = True
            segments = [self.results[number] for number in range(len(whole.segments))]
        best = self._joined([segment.text for segment in segments])
        count = max((len(segment.alternatives) for segment in segments), default=0)
        others = [
            self._joined([(*segment.alternatives[index : index + 1], segment.text)[0] for segment in segments])
            for index in range(count)
        ]
        self.finish(composed_translation(best, list(_placed(segments)), others, whole, self.seconds, self.way))

    def _joined(self, texts: Sequence[str]) -> str:
        """Put texts in the place of the source's segments."""
        parts, position = [], 0
        for number, text in enumerate(texts):
            segment = self.parts[number]
            parts += [self.text[position : segment.start], text]
            position = segment.end
        return "".join([*parts, self.text[position:]])


@dataclass(eq=False)
class _MarkupPivot(_Pivot):
    """A marked-up text, whole through one engine and then whole through the other."""

    def first_done(self, translation: Translation) -> None:
        self.second_submit(
            0, translation.text, self.given.leg_options(), lambda done: self._second_done(translation, done), True
        )

    def _second_done(self, whole: Translation, second: Translation) -> None:
        glossaries = self.given.pair_glossaries(self.way)
        segments = [composed_segment(parts, leg, self.way, glossaries) for parts, leg in grouped(whole, second)]
        if self.given.on_segment is not None:
            for number, segment in enumerate(segments):
                self.given.on_segment(number, segment)
        self.finish(composed_translation(second.text, segments, second.alternatives, whole, [second], self.way))


def _placed(segments: Sequence[SegmentTranslation]) -> Iterator[SegmentTranslation]:
    """Yield the segments with their places in the translation of the one unit that a plain text is."""
    grown = 0
    for segment in segments:
        start = segment.start + grown
        grown += len(segment.text) - (segment.end - segment.start)
        yield replace(segment, target_start=start, target_end=start + len(segment.text))
