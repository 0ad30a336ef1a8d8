"""Which model answers a request: the language pairs of all models, pairs by way of another language, and readiness.

It lends what it chose (:meth:`TranslatorRegistry.borrow`); loading and unloading are the store's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from app.limits import Patience
from app.model_store import Lease, ModelEntry, ModelStore
from app.pivot import PivotTranslator
from app.translators import TextTranslator
from model import EngineClosedError, InvalidOptionError, LanguageDetector, UnsupportedLanguageError, language, resolve

if TYPE_CHECKING:
    from model import Detection, Language

PIVOT_FIRST = "en"
"""The language by way of which a text goes if several would do."""


@dataclass(frozen=True)
class Choice:
    """The models that answer a request: one, or two in a row."""

    entries: tuple[ModelEntry, ...]
    source: str | None
    """Canonical code; None where it must be detected."""
    target: str
    via: str | None = None
    """The language between two models."""
    model: str | None = None
    """The name that the request asked for."""

    @property
    def name(self) -> str:
        """Name of the model, or of both."""
        return " + ".join(entry.name for entry in self.entries)

    @property
    def serials(self) -> str:
        """Tells the models from later ones of the same names."""
        return " ".join(str(entry.serial) for entry in self.entries)


@dataclass(frozen=True)
class Lent:
    """Models that a request has for a while."""

    choice: Choice
    """What was chosen in the end."""
    translator: TextTranslator

    @property
    def is_over(self) -> bool:
        """Whether the models are to leave, so that who has them for long should give them back."""
        return any(entry.retired or entry.state != "loaded" for entry in self.choice.entries)


class TranslatorRegistry:
    """The models of one service, the default one first, and which of them has which languages."""

    def __init__(self, store: ModelStore | None = None, *, pivot: bool = True) -> None:
        self.store = store or ModelStore()
        self.ready = False
        """Whether requests are taken: loaded, warm, and not shutting down."""
        self._pivot = pivot
        self._pairs_now: tuple[tuple[ModelEntry, ...], _Pairs] = (), _Pairs((), self.store, pivot)

    def start(self, translators: Sequence[TextTranslator] = ()) -> None:
        """Warm given translators up, beside those that the store has loaded, then take requests. Slow."""
        self.store.adopt(translators)
        self.ready = True

    def healthy(self) -> bool:
        """Whether requests are taken and every engine runs."""
        running = [entry for entry in self.store.loaded if entry.state == "loaded"]
        return self.ready and all(entry.stats().accepting for entry in running)

    def stop_accepting(self) -> None:
        """Refuse new requests; running ones go on."""
        self.ready = False

    def close(self) -> None:
        """Let running requests finish, then stop the engines. Slow: call it off the event loop."""
        self.ready = False
        self.store.close()

    def require_ready(self) -> None:
        """Raise EngineClosedError while requests are not taken."""
        if not self.ready:
            raise EngineClosedError("the service is starting or shutting down")

    @property
    def _pairs(self) -> _Pairs:
        """What is possible with the models as they are now."""
        entries = self.store.entries
        if self._pairs_now[0] is not entries:
            self._pairs_now = entries, _Pairs(entries, self.store, self._pivot)
        return self._pairs_now[1]

    def languages(self) -> list[Language]:
        """Return the languages that any model has, in the order of the models."""
        return [language(code) for code in self._pairs.languages]

    def targets(self, source: str) -> list[str]:
        """Return the codes that ``source`` can be translated to; itself is one, since such a text stays as it is.

        A language that can only be translated to has no targets at all.
        """
        return self._pairs.targets(source)

    def is_target(self, code: str) -> bool:
        """Whether any model translates to a language."""
        return any(code in entry.target_languages for entry in self.store.entries)

    def select(
        self, source: str | None, target: str, model: str | None = None, *, direct: bool = False
    ) -> tuple[Choice, str | None, str]:
        """Return the models for a request, and its source and target as canonical codes.

        A model that has the pair is always preferred to two.

        Args:
            source: code or alias, None to detect it.
            target: code or alias.
            model: name of the only one that may be chosen.
            direct: take no two models.

        Raises:
            EngineClosedError: requests are not taken now.
            InvalidOptionError: no model is called ``model``.
            UnsupportedLanguageError: no model (or not the one asked for) has the languages, or the pair.
        """
        self.require_ready()
        pairs = self._pairs
        if model is not None:
            candidates = tuple(entry for entry in pairs.entries if entry.name == model)
            if not candidates:
                names = ", ".join(entry.name for entry in pairs.entries)
                raise InvalidOptionError("model", f"must be one of {names}", model)
            pairs = _Pairs(candidates, self.store, pivot=False)
        resolved_target = _resolve("target", target, pairs.languages)
        resolved_source = None if source is None else _resolve("source", source, pairs.languages)
        found = pairs.find(resolved_source, resolved_target, direct)
        if found is None:
            if not pairs.has_target(resolved_target):
                rule = f"must be one of {', '.join(pairs.all_targets)}"
                raise UnsupportedLanguageError("target", rule, target)
            if resolved_source is not None and not pairs.targets(resolved_source):
                raise UnsupportedLanguageError("source", f"must be one of {', '.join(pairs.all_sources)}", source)
            raise UnsupportedLanguageError("target", f"must be a language that {source} can be translated to", target)
        entries, via = found
        return Choice(entries, resolved_source, resolved_target, via, model), resolved_source, resolved_target

    def resolve(self, name: str, code: str) -> str:
        """Return the canonical code of a language that one of the models has.

        Raises:
            UnsupportedLanguageError: with ``name`` as the field that is wrong.
        """
        return _resolve(name, code, self._pairs.languages)

    def possible_sources(self, choice: Choice) -> list[str]:
        """Return the languages that a text may have whose source is open, if the choice depends on which it is.

        Nothing where the chosen model has all of them: it finds out by itself.
        """
        if choice.source is not None or choice.model is not None:
            return []
        pairs = self._pairs
        sources = [code for code in pairs.languages if code == choice.target or pairs.find(code, choice.target, False)]
        return [] if set(sources) <= set(choice.entries[0].source_languages) else sources

    def detect(self, text: str, among: Sequence[str] = ()) -> list[Detection]:
        """Return guesses at the language of ``text``, best first: among some codes, or all that any model has.

        Raises:
            EngineClosedError: requests are not taken now.
        """
        self.require_ready()
        wanted = among or self._pairs.languages
        default = self.store.entries[0]
        translator = default.translator
        if not among and translator is not None and set(wanted) <= set(default.source_languages):
            return translator.detect(text)
        return self._detector.detect(text, wanted)

    @cached_property
    def _detector(self) -> LanguageDetector:
        return LanguageDetector()

    @asynccontextmanager
    async def borrow(self, choice: Choice, patience: Patience | None = None) -> AsyncIterator[Lent]:
        """Lend the chosen models as one translator, loaded if need be, until the context ends.

        Args:
            choice: of :meth:`select`. If its models were taken away meanwhile, others of the same names, or that have
                the same languages, take their place.
            patience: waits for them, as long as the request does; None waits without end.

        Raises:
            EngineClosedError: a model cannot be loaded, or the service is shutting down.
            UnsupportedLanguageError: no model has the languages any more.
            DeadlineExceededError, RequestCancelledError: of ``patience``.
        """
        while True:
            lease: Lease | None = None
            try:
                lease = self.store.lease(choice.entries)
                if lease.future.done():
                    pass  # as nearly always
                elif patience is not None:
                    await patience.wait_for_all([lease])
                else:
                    await asyncio.wrap_future(lease.future)
                translators = lease.future.result()
            except LookupError:
                choice, *_ = self.select(choice.source, choice.target, choice.model)
                continue
            except BaseException:
                if lease is not None:
                    lease.release()
                raise
            try:
                yield Lent(choice, _joined(choice, translators))
                return
            finally:
                lease.release()


class _Pairs:
    """The language pairs of some models; made anew when the models change."""

    def __init__(self, entries: tuple[ModelEntry, ...], store: ModelStore, pivot: bool) -> None:
        self.entries = entries
        self.languages = list(dict.fromkeys(code for entry in entries for code in entry.languages))
        self.all_sources = list(dict.fromkeys(code for entry in entries for code in entry.source_languages))
        self.all_targets = list(dict.fromkeys(code for entry in entries for code in entry.target_languages))
        self._sources = [frozenset(entry.source_languages) for entry in entries]
        self._targets = [frozenset(entry.target_languages) for entry in entries]
        self._order = sorted(self.languages, key=lambda code: code != PIVOT_FIRST)
        self._bridges = list(self._find_bridges(store)) if pivot else []
        self._known_targets: dict[str, list[str]] = {}

    def _find_bridges(self, store: ModelStore) -> Iterator[tuple[int, int, list[str]]]:
        """Yield the models that can follow one another, with the languages between them in order of preference."""
        for first, targets in enumerate(self._targets):
            for second, sources in enumerate(self._sources):
                between = targets & sources
                if first != second and between and store.fit_together([self.entries[first], self.entries[second]]):
                    yield first, second, [code for code in self._order if code in between]

    def has_target(self, code: str) -> bool:
        """Whether anything is translated to a language."""
        return any(code in targets for targets in self._targets)

    def targets(self, source: str) -> list[str]:
        """Return what a language can be translated to, itself included, in the order of the languages."""
        if source not in self._known_targets:
            found: set[str] = set()
            for index, sources in enumerate(self._sources):
                if source in sources:
                    found |= self._targets[index]
            for first, second, between in self._bridges:
                if source in self._sources[first]:
                    found |= self._reached(source, second, between)
            if found or source in self.all_sources:
                found.add(source)
            self._known_targets[source] = [code for code in self.languages if code in found]
        return self._known_targets[source]

    def _reached(self, source: str, second: int, between: Sequence[str]) -> set[str]:
        """Return the targets of the second of two models."""
        bridges = [code for code in between if code != source]
        if not bridges:
            return set()
        reached = set(self._targets[second])
        if len(bridges) == 1:  # which is then no target of its own by this way
            reached -= set(bridges)
        return reached

    def find(self, source: str | None, target: str, direct: bool) -> tuple[tuple[ModelEntry, ...], str | None] | None:
        """Return the models of a pair and the language between them, None if there are none."""
        for index, entry in enumerate(self.entries):
            if source is None and target in self._targets[index]:
                return (entry,), None
            if source == target and target in entry.languages:
                return (entry,), None
            if source in self._sources[index] and target in self._targets[index]:
                return (entry,), None
        ways = [
            (self._order.index(via), first, second, via)
            for first, second, between in ([] if direct or source is None else self._bridges)
            if source in self._sources[first] and target in self._targets[second]
            for via in [code for code in between if code not in (source, target)][:1]
        ]
        if not ways:
            return None
        _, first, second, via = min(ways)
        return (self.entries[first], self.entries[second]), via


def _joined(choice: Choice, translators: Sequence[TextTranslator]) -> TextTranslator:
    if choice.via is None or choice.source is None:
        return translators[0]
    return PivotTranslator(translators[0], translators[1], choice.source, choice.via, choice.target)


def _resolve(name: str, code: str, installed: Sequence[str]) -> str:
    try:
        return resolve(code, installed)
    except UnsupportedLanguageError:
        raise UnsupportedLanguageError(name, f"must be one of {', '.join(installed)}", code) from None
