"""The result of translating one text, and the result that is still on its way; how it is made is the translator's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock
from typing import Generic, Literal, TypeVar

from model.errors import RequestCancelledError
from model.text.languages import Detection

WarningCode = Literal["cut", "looped", "empty", "length"]
"""A sentence was too long and cut; its translation repeats itself; is empty; or reached the token limit."""


@dataclass(frozen=True)
class TranslationWarning:
    """A part of the text that could not be translated normally."""

    code: WarningCode
    """What happened."""
    message: str
    """The same for people."""
    start: int
    """Where the part begins in the source text, in characters."""
    end: int
    """Where it ends."""


@dataclass(frozen=True)
class SegmentTranslation:
    """One sentence, or a piece of a long one, and its translation."""

    start: int
    """Where it begins in the source text, in characters."""
    end: int
    """Where it ends: ``source_text[start:end] == source``."""
    source: str
    """The source."""
    text: str
    """The translation; equal to the source where there was nothing to translate, such as digits alone."""
    score: float
    """Score of the best hypothesis, see :class:`~model.generation.hypothesis.Hypothesis`; 0 if nothing was decoded."""
    token_ids: tuple[int, ...] = ()
    """Its target tokens, without start and end tokens."""
    token_scores: tuple[float, ...] = ()
    """Log-probability of each token, and of the end token, where the request asked for them."""
    alternatives: tuple[str, ...] = ()
    """The other hypotheses' texts, best first."""
    finish_reason: Literal["end", "length"] = "end"
    """Whether the model ended the segment, or its token limit did."""


@dataclass(frozen=True)
class Translation:
    """One translated text."""

    text: str
    """The translation; everything between segments is as in the source."""
    source: str
    """Code of the source language."""
    target: str
    """Code of the target language."""
    detected: Detection | None
    """The detected source language, where none was given and the text has letters."""
    segments: tuple[SegmentTranslation, ...]
    """The translated parts, in order."""
    alternatives: tuple[str, ...]
    """Other translations of the whole text, best first, each different from ``text``."""
    score: float
    """Mean log-probability of a target token; 0 if nothing was decoded."""
    finish_reason: Literal["end", "length"]
    """``"length"`` if the token limit ended any segment."""
    warnings: tuple[TranslationWarning, ...]
    """Parts that could not be translated normally."""
    source_tokens: int
    """Tokens that the encoder saw."""
    target_tokens: int
    """Tokens that were decoded for the best hypotheses, end tokens included."""


Part = TypeVar("Part")


class PendingTranslation(Generic[Part]):
    """A translation whose segments are in the engine.

    Attributes:
        future: the translation, once the last segment is done, or the first segment's error. Cancelling it, as asyncio
            does with an awaited one, cancels the engine's work too.
    """

    def __init__(
        self,
        parts: Sequence[Future[Part]],
        assemble: Callable[[list[Part]], Translation],
        cancel_parts: Callable[[], None],
    ) -> None:
        """Wait, without a thread, for ``parts``, and then ``assemble`` their results in order."""
        self.future: Future[Translation] = Future()
        self._parts = parts
        self._assemble = assemble
        self._cancel_parts = cancel_parts
        self._lock = Lock()
        self._left = len(parts)
        self._claimed = False
        self.future.add_done_callback(self._follow_future)
        if not parts:
            self._complete()
        for part in parts:
            part.add_done_callback(self._part_done)

    def cancel(self) -> None:
        """Give the translation up; the engine drops its segments before the next step."""
        if self._claim():
            self._cancel_parts()
            self._resolve(RequestCancelledError("the request was cancelled by its caller"))

    def _part_done(self, part: Future[Part]) -> None:
        error = RequestCancelledError("a segment was cancelled") if part.cancelled() else part.exception()
        if error is not None:
            if self._claim():
                self._cancel_parts()
                self._resolve(error)
            return
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last:
            self._complete()

    def _complete(self) -> None:
        if not self._claim():
            return
        try:
            outcome: Translation | BaseException = self._assemble([part.result() for part in self._parts])
        except Exception as error:  # whoever waits must hear of it, whatever it is
            outcome = error
        self._resolve(outcome)

    def _claim(self) -> bool:
        with self._lock:
            claimed, self._claimed = self._claimed, True
            return not claimed

    def _resolve(self, outcome: Translation | BaseException) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, BaseException):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)

    def _follow_future(self, future: Future[Translation]) -> None:
        if future.cancelled() and self._claim():
            self._cancel_parts()
