"""The cache: what has one key and what must not, what is kept, and one computation for all who wait for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, fields, replace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.cache import CacheKeys, TranslationCache
from app.metrics import Metrics
from model import (
    DeadlineExceededError,
    DecodingError,
    GenerationConfig,
    Glossary,
    MarkupOptions,
    OverloadedError,
    Protection,
    RequestCancelledError,
    SegmentTranslation,
    TextOptions,
    Translation,
)

PATIENCE_SECONDS = 30.0
"""Only ever waited for by a test that fails."""


def translation(text: str) -> Translation:
    """Return a translation of two segments."""
    segments = tuple(SegmentTranslation(0, 1, "x", part, -1.0) for part in (text[:1], text[1:]))
    return Translation(text, "fr", "en", None, segments, (), -1.0, "end", (), 1, 1)


@dataclass
class Work:
    """A translation that the test finishes."""

    future: Future[Translation] = field(default_factory=Future)
    cancelled: int = 0

    def cancel(self) -> None:
        """Do what a translator does."""
        self.cancelled += 1
        if not self.future.done():
            self.future.set_exception(RequestCancelledError("cancelled by its caller"))


class Translator:
    """Starts work, and remembers it."""

    def __init__(self) -> None:
        self.started: list[Work] = []
        self.semaphore = threading.Semaphore(0)

    def start(self) -> Work:
        """Start one translation."""
        self.started.append(Work())
        self.semaphore.release()
        return self.started[-1]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def cache(metrics: Metrics) -> TranslationCache:
    return TranslationCache(1, metrics)


@pytest.fixture
def translator() -> Translator:
    return Translator()


def outcomes(metrics: Metrics) -> dict[str, float]:
    """Return how often the cache had what."""
    families = text_string_to_metric_families(metrics.render().decode())
    samples = [sample for family in families for sample in family.samples]
    return {each.labels["outcome"]: each.value for each in samples if each.name == "dragoman_cache_lookups_total"}


# Keys


def glossary(**changes: Any) -> Glossary:
    values: dict[str, Any] = {
        "id": "1", "name": "terms", "source_language": "fr", "target_language": "en", "entries": (("chat", "cat"),),
    }  # fmt: skip
    return Glossary(**(values | changes))


def key(
    text: str = "chat",
    source: str | None = "fr",
    target: str = "en",
    model: str = "m",
    config: GenerationConfig | None = None,
    options: TextOptions | None = None,
    prefix: str | None = None,
) -> bytes | None:
    """Return the key of a request."""
    return CacheKeys(model, config or GenerationConfig(), options or TextOptions(), prefix).key(text, source, target)


def test_the_same_request_has_the_same_key() -> None:
    assert key() == key()
    made = CacheKeys("m", GenerationConfig(), TextOptions(glossaries=(glossary(),)), None)
    assert made.key("a", "fr", "en") == made.key("a", "fr", "en") != made.key("b", "fr", "en")


def test_every_difference_makes_another_key() -> None:
    different = [
        key(),
        key(text="chats"),
        key(text="cha", source="tfr"),  # where one field ends and the next one begins
        key(source="f", target="ren"),
        key(source=None),
        key(source="None"),
        key(target="de"),
        key(model="other"),
        key(prefix=""),
        key(prefix="The"),
        key(options=TextOptions(glossaries=(glossary(),))),
        key(options=TextOptions(glossaries=(glossary(id="2"),))),
        key(options=TextOptions(glossaries=(glossary(entries=(("chat", "tomcat"),)),))),
        key(options=TextOptions(glossaries=(glossary(entries=(("chat", "cat"), ("chien", "dog"))),))),
        key(options=TextOptions(glossaries=(glossary(), glossary(id="2")))),
        key(options=TextOptions(glossaries=(glossary(id="2"), glossary()))),
        key(options=TextOptions(protection=Protection(presets=()))),
        key(options=TextOptions(protection=Protection(literals=("a,b",)))),
        key(options=TextOptions(protection=Protection(literals=("a", "b")))),
        key(options=TextOptions(protection=Protection(patterns=("a",)))),
        key(options=TextOptions(markup=MarkupOptions(ignore_tags=("a",)))),
        key(options=TextOptions(markup=MarkupOptions(splitting_tags=("a",)))),
    ]
    assert None not in different
    assert len(set(different)) == len(different)


def test_every_field_of_the_options_is_part_of_the_key() -> None:
    others: dict[str, Any] = {
        "format": "html", "splitting": "none", "guard": False, "alignment": True, "quality": True,
    }  # fmt: skip
    apart = {"markup", "protection", "glossaries"}  # the test above has these
    assert {each.name for each in fields(TextOptions)} == others.keys() | apart
    for name, value in others.items():
        assert key(options=replace(TextOptions(), **{name: value})) != key()


def test_every_field_of_the_decoding_is_part_of_the_key() -> None:
    for each in fields(GenerationConfig):
        config = GenerationConfig()
        changed = object.__new__(GenerationConfig)  # whether the values go together does not matter here
        for name in (other.name for other in fields(config)):
            object.__setattr__(changed, name, getattr(config, name))
        object.__setattr__(changed, each.name, "changed")
        if each.name != "sampling":
            assert key(config=changed) != key(), each.name


def test_sampling_has_a_key_only_with_a_seed() -> None:
    assert key(config=GenerationConfig(sampling=True, beam_size=1)) is None
    seeded = [key(config=GenerationConfig(sampling=True, beam_size=1, seed=seed)) for seed in (1, 1, 2)]
    assert seeded[0] == seeded[1] != seeded[2]
    assert None not in seeded


def test_what_cannot_be_written_whole_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot be made of set"):
        CacheKeys("m", GenerationConfig(), {"a"})


# What is kept


def test_a_translation_is_made_once(cache: TranslationCache, translator: Translator, metrics: Metrics) -> None:
    first = cache.submit(b"k", translator.start)
    assert not first.future.done()
    translator.started[0].future.set_result(translation("ab"))
    second = cache.submit(b"k", translator.start)
    assert first.future.result() is second.future.result() is cache.lookup(b"k")
    other = cache.submit(b"l", translator.start)
    assert len(translator.started) == 2
    assert not other.future.done()
    assert outcomes(metrics) == {"miss": 2, "hit": 1}


def test_what_has_no_key_is_made_anew(cache: TranslationCache, translator: Translator, metrics: Metrics) -> None:
    works = [cache.submit(None, translator.start) for _ in range(2)]
    assert works == translator.started
    assert cache.lookup(None) is None
    assert outcomes(metrics) == {"bypassed": 2}


def test_without_memory_nothing_is_kept_or_shared(metrics: Metrics, translator: Translator) -> None:
    cache = TranslationCache(0, metrics)
    works = [cache.submit(b"k", translator.start) for _ in range(2)]
    assert works == translator.started
    cache.store(b"k", translation("ab"))
    assert len(cache) == 0


def test_those_used_last_are_kept_within_the_memory(metrics: Metrics) -> None:
    cache = TranslationCache(0.1, metrics)
    for number in range(10):
        cache.store(b"%d" % number, translation("x" * 8000))
        cache.lookup(b"0")
    assert cache.num_bytes <= 100_000
    kept = [number for number in range(10) if cache.lookup(b"%d" % number)]
    assert kept == [0, *range(10 - len(kept) + 1, 10)]
    # Each has its text twice, once in its segments: at least 16,000 bytes, so that at most 6 have room.
    assert 3 <= len(kept) <= 6
    assert f"dragoman_cache_evictions_total {10.0 - len(kept)}" in metrics.render().decode()


def test_the_count_of_bytes_stays_right(cache: TranslationCache) -> None:
    cache.store(b"k", translation("ab"))
    size = cache.num_bytes
    assert size > 0
    cache.store(b"k", translation("ab"))
    assert cache.num_bytes == size
    cache.store(b"l", translation("ab"))
    assert cache.num_bytes == 2 * size
    cache.clear()
    assert (cache.num_bytes, len(cache), cache.lookup(b"k")) == (0, 0, None)


def test_a_translation_larger_than_the_memory_is_not_kept(metrics: Metrics) -> None:
    cache = TranslationCache(0.1, metrics)
    cache.store(b"small", translation("ab"))
    cache.store(b"large", translation("x" * 100_000))
    assert cache.lookup(b"large") is None
    assert cache.lookup(b"small") is not None


def test_failures_are_not_kept(cache: TranslationCache, translator: Translator) -> None:
    first = cache.submit(b"k", translator.start)
    translator.started[0].future.set_exception(DecodingError("broken"))
    with pytest.raises(DecodingError):
        first.future.result()
    cache.submit(b"k", translator.start)
    assert len(translator.started) == 2


# On its way


def test_those_who_ask_meanwhile_wait_for_the_same(
    cache: TranslationCache, translator: Translator, metrics: Metrics
) -> None:
    waiters = [cache.submit(b"k", translator.start) for _ in range(3)]
    [work] = translator.started
    assert len({id(waiter.future) for waiter in waiters}) == 3
    work.future.set_result(translation("ab"))
    assert [waiter.future.result().text for waiter in waiters] == ["ab"] * 3
    assert outcomes(metrics) == {"miss": 1, "joined": 2}


@pytest.mark.parametrize("leave", [lambda waiter: waiter.cancel(), lambda waiter: waiter.future.cancel()])
def test_who_leaves_does_not_end_it_for_the_others(
    cache: TranslationCache, translator: Translator, leave: Callable[[Any], object]
) -> None:
    first, second, third = (cache.submit(b"k", translator.start) for _ in range(3))
    leave(first)
    leave(third)
    [work] = translator.started
    assert work.cancelled == 0
    assert first.future.done()
    assert third.future.done()
    assert not second.future.done()
    work.future.set_result(translation("ab"))
    assert second.future.result().text == "ab"


@pytest.mark.parametrize("leave", [lambda waiter: waiter.cancel(), lambda waiter: waiter.future.cancel()])
def test_the_last_one_to_leave_ends_it(
    cache: TranslationCache, translator: Translator, leave: Callable[[Any], object]
) -> None:
    first, second = (cache.submit(b"k", translator.start) for _ in range(2))
    leave(second)
    leave(first)
    leave(first)
    [work] = translator.started
    assert work.cancelled == 1
    cache.submit(b"k", translator.start)
    assert len(translator.started) == 2  # it does not wait for what was given up


def test_a_wait_that_asyncio_gives_up(cache: TranslationCache, translator: Translator) -> None:
    first, second = (cache.submit(b"k", translator.start) for _ in range(2))

    async def scenario() -> None:
        waiting = asyncio.ensure_future(asyncio.wait_for(asyncio.wrap_future(first.future), timeout=None))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(scenario())
    translator.started[0].future.set_result(translation("ab"))
    assert first.future.cancelled()
    assert second.future.result().text == "ab"


def test_a_failure_is_everybodys(cache: TranslationCache, translator: Translator) -> None:
    waiters = [cache.submit(b"k", translator.start) for _ in range(2)]
    translator.started[0].future.set_exception(DecodingError("broken"))
    assert [type(waiter.future.exception()) for waiter in waiters] == [DecodingError] * 2


def test_the_deadline_of_one_is_not_that_of_the_others(cache: TranslationCache, translator: Translator) -> None:
    first, second, third = (cache.submit(b"k", translator.start) for _ in range(3))
    assert translator.semaphore.acquire(timeout=PATIENCE_SECONDS)
    translator.started[0].future.set_exception(DeadlineExceededError("too late"))
    assert isinstance(first.future.exception(), DeadlineExceededError)
    assert translator.semaphore.acquire(timeout=PATIENCE_SECONDS)  # the second one's work was started instead
    assert not second.future.done()
    translator.started[1].future.set_result(translation("ab"))
    assert second.future.result(PATIENCE_SECONDS).text == third.future.result(PATIENCE_SECONDS).text == "ab"
    assert len(translator.started) == 2


def test_a_refusal_is_the_callers_and_of_those_who_joined(cache: TranslationCache, translator: Translator) -> None:
    joined: list[Any] = []

    def refuse() -> Work:
        joined.append(cache.submit(b"k", translator.start))
        raise OverloadedError("the queue is full", 1.0)

    with pytest.raises(OverloadedError):
        cache.submit(b"k", refuse)
    assert isinstance(joined[0].future.exception(), OverloadedError)
    assert translator.started == []
    cache.submit(b"k", translator.start)
    assert len(translator.started) == 1


def test_segments_are_told_to_those_who_did_not_start_it(cache: TranslationCache, translator: Translator) -> None:
    told: dict[str, list[tuple[int, str]]] = {"starter": [], "joiner": [], "later": []}

    def observe(name: str) -> Callable[[int, SegmentTranslation], None]:
        return lambda number, segment: told[name].append((number, segment.text))

    cache.submit(b"k", translator.start, observe("starter"))
    cache.submit(b"k", translator.start, observe("joiner"))
    assert told["joiner"] == []
    translator.started[0].future.set_result(translation("ab"))
    cache.submit(b"k", translator.start, observe("later"))
    # The starter's own work tells it, as soon as each is final.
    assert told == {"starter": [], "joiner": [(0, "a"), (1, "b")], "later": [(0, "a"), (1, "b")]}


def test_many_threads_share_one_computation(cache: TranslationCache, translator: Translator) -> None:
    start = threading.Barrier(8)
    waiters: list[Any] = []

    def ask() -> None:
        start.wait(PATIENCE_SECONDS)
        waiters.append(cache.submit(b"k", translator.start))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [work] = translator.started
    work.future.set_result(translation("ab"))
    assert [waiter.future.result().text for waiter in waiters] == ["ab"] * 8
