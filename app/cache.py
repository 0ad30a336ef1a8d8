"""Translations that were made before, in memory and bounded, and one computation for all who ask the same at once.

It decides neither what may be cached nor how a text is translated; nothing of it is ever written to a disk.
"""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from app.metrics import Metrics
from model import DeadlineExceededError, RequestCancelledError

if TYPE_CHECKING:
    from app.translators import PendingTranslation, SegmentObserver
    from model import GenerationConfig, Translation

_ENTRY_BYTES = 300
"""What an entry takes beside its translation: the key, the links of the dictionary."""
_OBJECT_BYTES = 56
"""About the size of a small Python object."""
_NUMBER_BYTES = 32
_CALLERS_OWN = (DeadlineExceededError, RequestCancelledError)
"""Failures that are one caller's, and not those of the text."""


class CacheKeys:
    """Makes the keys of one request's texts: a digest of everything that the translation depends on.

    Every field is written with its type and its length before it, so that no two different requests have one key. What
    all texts of a request have in common is digested once. A glossary of 10,000 terms takes some 20 milliseconds: make
    the keys of such a request off the event loop.
    """

    def __init__(self, model: str, config: GenerationConfig, *options: object) -> None:
        """Digest what the texts have in common.

        Args:
            model: what the model is; two models must differ in it.
            config: how texts are decoded. Sampling without a seed gives another text each time: there are no keys then.
            options: everything else that matters, such as TextOptions with its glossaries, and a target prefix; made
                of dataclasses, sequences, strings, bytes, numbers and None.

        Raises:
            TypeError: an option is of another type, of which we cannot know that it is written down whole.
        """
        self._common: hashlib.blake2b | None = None
        if not config.sampling or config.seed is not None:
            self._common = hashlib.blake2b(digest_size=32)
            _write(self._common, (model, config, options))

    def key(self, text: str, source: str | None, target: str) -> bytes | None:
        """Return the key of one text (32 bytes), None if its translation must not be cached."""
        if self._common is None:
            return None
        digest = self._common.copy()
        _write(digest, (text, source, target))
        return digest.digest()


class TranslationCache:
    """The translations that were used last, up to a number of bytes; all methods are thread-safe.

    Use :meth:`submit` where a text would be handed to a translator.
    """

    def __init__(self, megabytes: float, metrics: Metrics) -> None:
        """Start empty; with 0 megabytes nothing is kept and nothing is shared."""
        self.max_bytes = int(megabytes * 1_000_000)
        self.num_bytes = 0
        self._metrics = metrics
        self._lock = threading.Lock()
        self._entries: OrderedDict[bytes, tuple[Translation, int]] = OrderedDict()
        self._flights: dict[bytes, _Flight] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def submit(
        self, key: bytes | None, start: Callable[[], PendingTranslation], on_segment: SegmentObserver | None = None
    ) -> PendingTranslation:
        """Return the translation with this key: one that is kept, one that is on its way, or else a new one.

        Those who ask for a key that is on its way wait for the same work. It ends early only when all of them have let
        go; and if it fails because its own caller's deadline passed, the next one's ``start`` takes its place.

        Args:
            key: of :class:`CacheKeys`; None for what must be computed anew each time.
            start: hands the text to a translator; called at once, in this thread, if the work is neither kept nor on
                its way. Later it may be called in another thread, or never.
            on_segment: is told of each segment of a translation that ``start`` did not make, when it is complete;
                ``start`` itself gives it to the translator.

        Raises:
            InvalidRequestError, UnavailableError: what ``start`` raises.
        """
        if key is None or not self.max_bytes:
            self._metrics.count_cache("bypassed")
            return start()
        waiter = _Waiter(self, start, on_segment)
        with self._lock:
            kept = self._find(key)
            flight = self._flights.get(key)
            if kept is None and flight is None:
                outcome, flight = "miss", _Flight(key, owner=waiter)
                self._flights[key] = flight
            else:
                outcome = "hit" if flight is None else "joined"
            if kept is None and flight is not None:
                flight.waiters.append(waiter)
                waiter.flight = flight
        self._metrics.count_cache(outcome)
        if kept is not None:
            waiter.succeed(kept)
        elif outcome == "miss" and flight is not None:
            self._launch(flight)
        return waiter

    def lookup(self, key: bytes | None) -> Translation | None:
        """Return the translation that is kept under this key."""
        with self._lock:
            return None if key is None else self._find(key)

    def store(self, key: bytes, translation: Translation) -> None:
        """Keep a translation, and let go of those that were not used for the longest time."""
        size = _ENTRY_BYTES + _size(translation)
        if size > self.max_bytes:
            return
        with self._lock:
            self._remove(key)
            self._entries[key] = translation, size
            self.num_bytes += size
            while self.num_bytes > self.max_bytes:
                self._remove(next(iter(self._entries)))
                self._metrics.count_cache_eviction()

    def clear(self) -> None:
        """Forget all translations; those on their way are not concerned."""
        with self._lock:
            self._entries.clear()
            self.num_bytes = 0

    def _find(self, key: bytes) -> Translation | None:
        """Return an entry and make it the one used last; the lock is held."""
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key][0]

    def _remove(self, key: bytes) -> None:
        """Drop an entry if it is there; the lock is held."""
        _, size = self._entries.pop(key, (None, 0))
        self.num_bytes -= size

    def _launch(self, flight: _Flight) -> None:
        """Start the work of a flight's owner; whoever waits hears of a failure, and the caller too."""
        owner = flight.owner
        try:
            pending = owner.start()
        except BaseException as error:
            for waiter in self._end(flight):
                if waiter is not owner:
                    waiter.fail(error)
            raise
        with self._lock:
            flight.pending = pending
            abandoned = not flight.waiters
        if abandoned:
            pending.cancel()
        pending.future.add_done_callback(partial(self._land, flight))

    def _relaunch(self, flight: _Flight) -> None:
        """Start the work again for those who still wait; the body of a thread."""
        try:
            self._launch(flight)
        except BaseException as error:  # its own caller waits too, and this thread has nobody to tell
            flight.owner.fail(error)

    def _land(self, flight: _Flight, done: Future[Translation]) -> None:
        """Give everybody the result of a flight's work."""
        error = RequestCancelledError("the request was cancelled") if done.cancelled() else done.exception()
        if error is None:
            translation = done.result()
            self.store(flight.key, translation)
            for waiter in self._end(flight):
                waiter.succeed(translation)
            return
        if isinstance(error, _CALLERS_OWN):
            owner = flight.owner
            with self._lock:
                if owner in flight.waiters:
                    flight.waiters.remove(owner)
                others = bool(flight.waiters)
                if others:
                    flight.owner, flight.pending = flight.waiters[0], None
            owner.fail(error)
            if others:
                # Not here: this may be the engine's own thread, in the middle of something.
                threading.Thread(target=self._relaunch, args=(flight,), daemon=True).start()
                return
        for waiter in self._end(flight):
            waiter.fail(error)

    def _end(self, flight: _Flight) -> list[_Waiter]:
        """Close a flight to others, and return who waits for it."""
        with self._lock:
            if self._flights.get(flight.key) is flight:
                del self._flights[flight.key]
            waiters, flight.waiters = flight.waiters, []
        return waiters

    def _leave(self, waiter: _Waiter) -> None:
        """Let a waiter go, and the work too if it was the last one."""
        flight = waiter.flight
        if flight is None:
            return
        with self._lock:
            if waiter not in flight.waiters:
                return
            flight.waiters.remove(waiter)
            if flight.waiters:
                return
            if self._flights.get(flight.key) is flight:
                del self._flights[flight.key]
            pending = flight.pending
        if pending is not None:
            pending.cancel()


class _Waiter:
    """One caller's share in a translation; cancelling it concerns nobody else."""

    def __init__(
        self, cache: TranslationCache, start: Callable[[], PendingTranslation], on_segment: SegmentObserver | None
    ) -> None:
        self.future: Future[Translation] = Future()
        self.start = start
        self.flight: _Flight | None = None
        self._cache = cache
        self._on_segment = on_segment
        self.future.add_done_callback(self._follow_future)

    def cancel(self) -> None:
        """Wait no longer."""
        self._cache._leave(self)
        self.fail(RequestCancelledError("the request was cancelled by its caller"))

    def succeed(self, translation: Translation) -> None:
        """Give the result, unless the caller has left."""
        started_it = self.flight is not None and self.flight.owner is self
        if self._on_segment is not None and not started_it and not self.future.done():
            for number, segment in enumerate(translation.segments):
                self._on_segment(number, segment)
        with suppress(InvalidStateError):
            self.future.set_result(translation)

    def fail(self, error: BaseException) -> None:
        """Give the failure, unless the caller has left."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)

    def _follow_future(self, done: Future[Translation]) -> None:
        """Leave when somebody cancels the future itself, as asyncio does with one that is awaited."""
        if done.cancelled():
            self._cache._leave(self)


@dataclass(eq=False)
class _Flight:
    """A translation on its way, and who waits for it."""

    key: bytes
    owner: _Waiter
    """Whose work it is."""
    waiters: list[_Waiter] = field(default_factory=list)
    pending: PendingTranslation | None = None
    """None while it is being started."""


def _write(digest: hashlib.blake2b, value: object) -> None:
    """Digest a value."""
    parts: list[bytes] = []
    _spell(value, parts)
    digest.update(b"".join(parts))


def _spell(value: object, parts: list[bytes]) -> None:
    """Spell a value with its type and length, so that no two different values are spelt alike."""
    if isinstance(value, str):
        encoded = value.encode("utf-8", "surrogatepass")
        parts += (b"s%d:" % len(encoded), encoded)
    elif isinstance(value, bytes):
        parts += (b"b%d:" % len(value), value)
    elif value is None or isinstance(value, bool | int | float):
        written = repr(value).encode("ascii")
        parts += (b"n%d:" % len(written), written)
    elif isinstance(value, tuple | list):
        parts.append(b"t%d:" % len(value))
        for part in value:
            _spell(part, parts)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        _spell(type(value).__qualname__, parts)
        parts.append(b"d%d:" % len(fields))
        for each in fields:
            _spell(each.name, parts)
            _spell(getattr(value, each.name), parts)
    else:
        raise TypeError(f"a cache key cannot be made of {type(value).__qualname__}")


def _size(value: object) -> int:
    """Estimate the memory of a value, in bytes; what several parts share is counted for each."""
    if isinstance(value, str):
        return _OBJECT_BYTES + len(value) * (1 if value.isascii() else 2)
    if isinstance(value, tuple | list):
        if value and isinstance(value[0], int | float):  # token ids and scores: many, and all of a kind
            return _OBJECT_BYTES + len(value) * (8 + _NUMBER_BYTES)
        return _OBJECT_BYTES + 8 * len(value) + sum(map(_size, value))
    if dataclasses.is_dataclass(value):
        return _OBJECT_BYTES + sum(8 + _size(getattr(value, each.name)) for each in dataclasses.fields(value))
    return 0 if value is None or isinstance(value, bool) else _NUMBER_BYTES
