"""The models of one process: loaded, lent to requests, swapped and unloaded under one memory budget.

It knows neither languages nor HTTP. A model is lent for the length of a request (a :class:`Lease`) and is closed only
when nobody has it, so that no request loses its model half way. Loading is done by one thread, one model at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from threading import Condition, RLock
from typing import TYPE_CHECKING, Literal

import structlog

from app.metrics import Metrics
from app.translators import TextTranslator
from model import ConfigurationError, EngineClosedError, RequestCancelledError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from model import EngineStats

ModelState = Literal["loaded", "loading", "unloading", "unloaded"]
Load = Callable[[Path | None], TextTranslator]
"""Loads a folder, None for the embedded model; slow."""
Estimate = Callable[[Path | None], int]
"""Returns the bytes that a loaded model will need, without loading it."""

_serials = count()
_logger = structlog.get_logger("app")


class NoRoomError(Exception):
    """A model that the memory budget can never hold; the message has the numbers."""


@dataclass(eq=False)
class ModelEntry:
    """A model that the service has, in memory or not; the store alone changes it."""

    name: str
    path: Path | None
    """Its folder; None for the embedded model, and for one that was given."""
    source_languages: tuple[str, ...]
    target_languages: tuple[str, ...]
    languages: tuple[str, ...]
    info: Mapping[str, object]
    memory_bytes: int
    """Estimate; 0 for a model that was given."""
    owned: bool = True
    """Whether the store loaded it, and so may close it and load it again."""
    state: ModelState = "loaded"
    translator: TextTranslator | None = None
    users: int = 0
    """Leases that have it."""
    last_used: float | None = None
    """In seconds since 1970; None before the first request."""
    closing: bool = False
    """Whether its engine is being stopped."""
    retired: bool = False
    """Whether it is no longer among the service's models."""
    serial: int = field(default_factory=lambda: next(_serials))
    """Another one for each model that was ever added, also under the name of another one."""

    def stats(self) -> EngineStats:
        """Return its engine's statistics; of a model that is not in memory, those of an engine that does nothing."""
        from model import EngineStats

        translator = self.translator
        return EngineStats() if translator is None else translator.stats()


class Lease:
    """Models that a request has, or waits for; all of them or none. It is the request's to release."""

    def __init__(self, store: ModelStore, entries: Sequence[ModelEntry]) -> None:
        self.entries = tuple(entries)
        self.future: Future[tuple[TextTranslator, ...]] = Future()
        """The translators, in the order of the entries, or why they cannot be had."""
        self.granted = False
        self.over = False
        self._store = store

    def cancel(self) -> None:
        """Wait no longer; the same as :meth:`release`."""
        self.release()

    def release(self) -> None:
        """Give the models back; doing so twice is harmless."""
        self._store._release(self)


class ModelStore:
    """The models of one service; all methods may be called from any thread, and only :meth:`start` and
    :meth:`close` wait.

    The first model is pinned: it is never unloaded, only swapped.

    Args:
        load: loads one model.
        estimate: tells beforehand what it will need.
        budget_bytes: for all models together; 0 for no limit.
        metrics: counts loads and unloads.
    """

    def __init__(
        self, load: Load | None = None, estimate: Estimate = lambda _: 0, *, budget_bytes: int = 0,
        metrics: Metrics | None = None,
    ) -> None:  # fmt: skip
        self.entries: tuple[ModelEntry, ...] = ()
        """The default model first; replaced as a whole, never changed in place."""
        self.budget_bytes = budget_bytes
        self._load = load
        self._estimate = estimate
        self._metrics = metrics or Metrics()
        self._changed = Condition(RLock())
        self._waiting: list[Lease] = []
        self._leaving: list[ModelEntry] = []
        """Retired models that are not closed yet."""
        self._arriving_bytes = 0
        """Of the model that is being loaded."""
        self._closed = False
        self._loading = ThreadPoolExecutor(1, "dragoman-loading")
        self._closing = ThreadPoolExecutor(1, "dragoman-closing")

    # What everybody may ask

    @property
    def loaded(self) -> tuple[ModelEntry, ...]:
        """The models that are in memory."""
        return tuple(entry for entry in self.entries if entry.translator is not None)

    @property
    def memory_bytes(self) -> int:
        """Estimated bytes of everything in memory, also of what is about to leave it."""
        with self._changed:
            entries = {*self.entries, *self._leaving}
            return self._arriving_bytes + sum(each.memory_bytes for each in entries if each.translator is not None)

    def fit_together(self, entries: Sequence[ModelEntry]) -> bool:
        """Whether the budget can hold these models at once, beside the pinned one."""
        wanted = {*self.entries[:1], *entries}
        return not self.budget_bytes or sum(each.memory_bytes for each in wanted) <= self.budget_bytes

    # Life of the service

    def start(self, paths: Sequence[Path | None]) -> None:
        """Load every model once, which tells what it is; where the budget does not hold all, earlier ones leave.

        Raises:
            CheckpointError: a folder has no usable model.
            ConfigurationError: two models have one name, or one is too large for the budget.
        """
        for path in paths:
            try:
                entry = self._loading.submit(self._load_new, path, None, ()).result()
            except NoRoomError as error:
                raise ConfigurationError("model_memory_megabytes", f"must be more ({error})", self._megabytes) from None
            if entry.name in {each.name for each in self.entries}:
                self._close_translator(entry, drain=False)
                names = [*(each.name for each in self.entries), entry.name]
                raise ConfigurationError("models", "must have different names", names)
            self._admit(entry)

    def adopt(self, translators: Iterable[TextTranslator]) -> None:
        """Take translators that somebody else closes, and warm them up."""
        for translator in translators:
            translator.warm_up()
            self._admit(_entry(translator, None, translator.name, 0, owned=False))

    def close(self) -> None:
        """Refuse new leases, let running requests finish, and stop the engines that the store has loaded."""
        with self._changed:
            self._closed = True
            waiting, self._waiting = self._waiting, []
            self._changed.notify_all()
        for lease in waiting:
            _fail(lease, EngineClosedError("the service is shutting down"))
        self._loading.shutdown(wait=True, cancel_futures=True)
        self._closing.shutdown(wait=True)
        for entry in (*self.entries, *self._leaving):
            self._close_translator(entry, drain=True)

    # Requests

    def lease(self, entries: Sequence[ModelEntry]) -> Lease:
        """Borrow models; what is not in memory is loaded first, once for all who wait for it.

        Raises:
            EngineClosedError: the store is closed.
            LookupError: one of the models is no longer among the service's.
        """
        lease = Lease(self, entries)
        with self._changed:
            if self._closed:
                raise EngineClosedError("the service is starting or shutting down")
            if any(entry.retired for entry in entries):
                raise LookupError("a model was unloaded or swapped")
            if not self._grant(lease):
                self._waiting.append(lease)
                self._loading.submit(self._serve, lease)
        return lease

    def add(self, path: Path, name: str | None = None) -> Future[tuple[ModelEntry, bool]]:
        """Load a folder; one with the name of a model that is there takes its place, once it is warm.

        Returns:
            The model, and whether it took the place of another one. The future may raise CheckpointError,
            ConfigurationError or NoRoomError.
        """
        return self._loading.submit(self._add, path, name)

    def remove(self, name: str) -> ModelEntry | None:
        """Take a model out, and close it when the last request has given it back; None if there is none.

        Raises:
            ConfigurationError: it is the default model.
        """
        with self._changed:
            entry = next((each for each in self.entries if each.name == name), None)
            if entry is None:
                return None
            if entry is self.entries[0]:
                raise ConfigurationError("name", "must not be the default model, which can only be swapped", name)
            self.entries = tuple(each for each in self.entries if each is not entry)
            self._retire(entry)
        return entry

    # Behind that

    @property
    def _megabytes(self) -> float:
        return self.budget_bytes / 1e6

    def _grant(self, lease: Lease) -> bool:
        """Give a lease its models if all are there; the lock is held."""
        there = [entry for entry in lease.entries if entry.state == "loaded" and not entry.retired]
        translators = [entry.translator for entry in there]
        found = tuple(each for each in translators if each is not None)
        if len(found) < len(lease.entries):
            return False
        for entry in lease.entries:
            entry.users += 1
            entry.last_used = time.time()
        lease.granted = True
        with suppress(InvalidStateError):  # cancelled by who waits for it, and so released soon
            lease.future.set_result(found)
        return True

    def _grant_all(self) -> None:
        with self._changed:
            self._waiting = [lease for lease in self._waiting if not self._grant(lease)]

    def _release(self, lease: Lease) -> None:
        with self._changed:
            if lease.over:
                return
            lease.over = True
            if lease in self._waiting:
                self._waiting.remove(lease)
            for entry in lease.entries if lease.granted else ():
                entry.users -= 1
                if entry.retired and not entry.users and not self._closed:
                    self._closing.submit(self._close_translator, entry, True)
            self._changed.notify_all()
        if not lease.granted:
            _fail(lease, RequestCancelledError("the request was cancelled by its caller"))

    def _serve(self, lease: Lease) -> None:
        """Load what a lease lacks; in the loading thread."""
        for entry in lease.entries:
            with self._changed:
                if lease not in self._waiting:
                    return  # granted with another one's, or given up
            if entry.translator is not None:
                continue
            try:
                self._load_again(entry, lease)
            except RequestCancelledError:
                return
            except Exception as error:  # all who wait for this model hear of it
                _logger.error("a model could not be loaded", model=entry.name, exc_info=error)
                self._refuse(entry, EngineClosedError(f"the model {entry.name} cannot be loaded now"))
        self._grant_all()

    def _refuse(self, entry: ModelEntry, error: Exception) -> None:
        """Tell all who wait for a model that they will not get it."""
        with self._changed:
            refused = [lease for lease in self._waiting if entry in lease.entries]
            self._waiting = [lease for lease in self._waiting if lease not in refused]
        for lease in refused:
            _fail(lease, error)

    def _load_again(self, entry: ModelEntry, lease: Lease) -> None:
        self._make_room(entry.memory_bytes, lease.entries, lambda: lease in self._waiting)
        entry.state = "loading"
        try:
            translator = self._loaded(entry.path, entry.memory_bytes)
        except BaseException:
            entry.state = "unloaded"
            raise
        with self._changed:
            entry.translator, entry.state, self._arriving_bytes = translator, "loaded", 0
            if entry.retired:  # removed meanwhile, before anybody had it
                self._closing.submit(self._close_translator, entry, True)

    def _load_new(self, path: Path | None, name: str | None, keep: Sequence[ModelEntry]) -> ModelEntry:
        """Load a model that is not among ours yet; the caller adds it."""
        needed = self._estimate(path)
        self._make_room(needed, keep, lambda: not self._closed)
        translator = self._loaded(path, needed)
        return _entry(translator, path, name or translator.name, needed, owned=True)

    def _loaded(self, path: Path | None, needed: int) -> TextTranslator:
        """Load and warm up; the memory is counted from the beginning, and by the entry afterwards."""
        assert self._load is not None, "translators that were given cannot be loaded"
        self._arriving_bytes = needed
        try:
            translator = self._load(path)
            try:
                translator.warm_up()
            except BaseException:
                translator.close(drain=False)
                raise
        except BaseException:
            self._arriving_bytes = 0
            self._metrics.count_model("failed")
            raise
        self._metrics.count_model("loaded")
        return translator

    def _add(self, path: Path, name: str | None) -> tuple[ModelEntry, bool]:
        entry = self._load_new(path, name, [each for each in self.entries if each.name == name])
        old = self._admit(entry)
        return entry, old

    def _admit(self, entry: ModelEntry) -> bool:
        """Let requests have a model from now on; whether it took another one's place."""
        with self._changed:
            self._arriving_bytes = 0
            if self._closed:
                self._close_translator(entry, drain=False)
                raise EngineClosedError("the service is shutting down")
            old = next((each for each in self.entries if each.name == entry.name), None)
            if old is None:
                self.entries = (*self.entries, entry)
            else:
                self.entries = tuple(entry if each is old else each for each in self.entries)
                self._retire(old)
        return old is not None

    def _retire(self, entry: ModelEntry) -> None:
        """Close a model as soon as nobody has it; the lock is held."""
        entry.retired = True
        self._refuse(entry, LookupError("a model was unloaded or swapped"))
        if entry.translator is None:
            return
        self._leaving.append(entry)
        if not entry.users:
            self._closing.submit(self._close_translator, entry, True)

    def _close_translator(self, entry: ModelEntry, drain: bool) -> None:
        """Stop a model's engine, if it is ours, and forget it."""
        with self._changed:
            translator = entry.translator
            if translator is None or entry.closing:
                return
            entry.closing = True
        if entry.owned:
            translator.close(drain=drain)
            self._metrics.count_model("unloaded")
        with self._changed:
            entry.translator, entry.state, entry.closing = None, "unloaded", False
            if entry in self._leaving:
                self._leaving.remove(entry)
            self._changed.notify_all()

    def _make_room(self, needed: int, keep: Sequence[ModelEntry], wanted: Callable[[], bool]) -> None:
        """Unload what was used least recently until ``needed`` bytes are free.

        Args:
            needed: bytes of the model that is to come.
            keep: models that must not leave.
            wanted: whether somebody still waits for it.

        Raises:
            NoRoomError: even alone, beside the pinned model and those to keep, it is too large.
            RequestCancelledError: nobody waits for it any more.
        """
        pinned = {*self.entries[:1], *keep}
        staying = sum(each.memory_bytes for each in pinned if each.translator is not None)
        if self.budget_bytes and staying + needed > self.budget_bytes:
            raise NoRoomError(
                f"it needs about {needed / 1e6:.1f} MB, what must stay has {staying / 1e6:.1f} MB, and "
                f"{self._megabytes:.1f} MB are allowed"
            )
        while self.budget_bytes and self.memory_bytes + needed > self.budget_bytes:
            with self._changed:
                loaded = [each for each in self.entries if each.translator and each.owned and each not in pinned]
                if not loaded:  # models that were taken out have not been given back yet
                    if not wanted():
                        raise RequestCancelledError("nobody waits for the model")
                    self._changed.wait()
                    continue
                victim = min(loaded, key=lambda each: (bool(each.users), each.last_used or 0.0))
                victim.state = "unloading"  # whoever wants it now waits until it is loaded again
                self._changed.notify_all()
                while victim.users and not victim.retired and wanted():
                    self._changed.wait()
                if victim.retired:  # and so closed by who has it last
                    continue
                if victim.users:
                    victim.state = "loaded"
                    self._grant_all()
                    raise RequestCancelledError("nobody waits for the model")
            self._close_translator(victim, drain=True)


def _entry(translator: TextTranslator, path: Path | None, name: str, memory_bytes: int, owned: bool) -> ModelEntry:
    return ModelEntry(
        name,
        path,
        tuple(translator.source_languages),
        tuple(translator.target_languages),
        tuple(translator.languages),
        dict(translator.info),
        memory_bytes,
        owned,
        translator=translator,
    )


def _fail(lease: Lease, error: Exception) -> None:
    with suppress(InvalidStateError):
        lease.future.set_exception(error)
