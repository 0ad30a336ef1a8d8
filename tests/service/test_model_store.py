"""The models of a process: lent, loaded on demand, unloaded for others, swapped; nothing is lost and nobody waits."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from safetensors import safe_open

from app.model_store import Lease, ModelEntry, ModelStore, NoRoomError
from app.registry import TranslatorRegistry
from app.settings import Settings
from app.translators import estimate_memory
from model import (
    DEFAULT_MODEL,
    PRETRAINED,
    CheckpointError,
    ConfigurationError,
    EngineClosedError,
    RequestCancelledError,
)
from tests.service.stub_models import MEGABYTE, StubShelf

DIRECTIONS = {
    "default": ("fr", "en"),
    "a": ("en", "de"),
    "b": ("en", "es"),
    "c": ("en", "it"),
    "d": ("en", "pt"),
    "huge": ("en", "ja"),
}
SECONDS = 10


@pytest.fixture
def shelf() -> StubShelf:
    return StubShelf(DIRECTIONS, {"huge": 50 * MEGABYTE})


class Stores:
    """Makes stores, and closes them in the end."""

    def __init__(self, shelf: StubShelf) -> None:
        self.shelf = shelf
        self.made: list[ModelStore] = []

    def __call__(self, *names: str, megabytes: int = 0) -> ModelStore:
        """Return a started store with the default model and others."""
        store = ModelStore(self.shelf.load, self.shelf.estimate, budget_bytes=megabytes * MEGABYTE)
        self.made.append(store)
        store.start([None, *map(Path, names)])
        return store


@pytest.fixture
def stores(shelf: StubShelf) -> Iterator[Stores]:
    made = Stores(shelf)
    yield made
    for gate in shelf.gates.values():
        gate.set()
    for store in made.made:
        store.close()


def entry(store: ModelStore, name: str) -> ModelEntry:
    [found] = [each for each in store.entries if each.name == name]
    return found


def lease(store: ModelStore, *names: str) -> Lease:
    return store.lease([entry(store, name) for name in names])


def states(store: ModelStore) -> dict[str, str]:
    return {each.name: each.state for each in store.entries}


def use(store: ModelStore, *names: str) -> None:
    """Have models for a moment."""
    one = lease(store, *names)
    one.future.result(SECONDS)
    one.release()


# Sizes


def test_the_memory_of_a_model_is_told_from_its_headers() -> None:
    with safe_open(PRETRAINED / DEFAULT_MODEL / "weights.safetensors", "numpy") as file:
        names = list(file.keys())
        sizes = {name: math.prod(file.get_slice(name).get_shape()) for name in names}
    weights = sum(size for name, size in sizes.items() if not name.endswith(("_scale", ".scale", "scales")))
    plain = estimate_memory(Settings(decoder="plain"), None)
    assert plain == 4 * weights
    assert estimate_memory(Settings(dtype="float32"), None) == 8 * weights
    assert 5 * weights < estimate_memory(Settings(), None) < 5.1 * weights  # int8 with its scales and vectors
    with pytest.raises(CheckpointError):
        estimate_memory(Settings(), Path(__file__).parent)


# Start


def test_all_models_are_loaded_at_the_start_and_closed_at_the_end(shelf: StubShelf, stores: Stores) -> None:
    store = stores("a", "b")
    assert states(store) == {"default": "loaded", "a": "loaded", "b": "loaded"}
    assert [each.calls for each in shelf.loaded] == [["warm_up"]] * 3
    store.close()
    assert [each.calls for each in shelf.loaded] == [["warm_up", "close"]] * 3


def test_what_the_budget_does_not_hold_is_known_and_leaves_again(stores: Stores) -> None:
    store = stores("a", "b", megabytes=2)
    assert states(store) == {"default": "loaded", "a": "unloaded", "b": "loaded"}
    assert entry(store, "a").target_languages == ("de",)
    assert store.memory_bytes == 2 * MEGABYTE


def test_a_start_that_cannot_be(shelf: StubShelf, stores: Stores) -> None:
    with pytest.raises(ConfigurationError, match=r"must be more \(it needs about 50.0 MB, what must stay has 1.0 MB"):
        stores("huge", megabytes=40)
    with pytest.raises(ConfigurationError, match="must have different names"):
        stores("a", "a")
    shelf.broken.add("b")
    with pytest.raises(CheckpointError):
        stores("b")


# Loading on demand


def test_the_least_recently_used_makes_room_and_the_default_never(shelf: StubShelf, stores: Stores) -> None:
    store = stores("a", "b", megabytes=3)
    use(store, "a")
    store.add(Path("c")).result(SECONDS)
    assert states(store) == {"default": "loaded", "a": "loaded", "b": "unloaded", "c": "loaded"}
    use(store, "c")
    use(store, "b")
    assert states(store) == {"default": "loaded", "a": "unloaded", "b": "loaded", "c": "loaded"}
    assert shelf.counts == {"default": 1, "a": 1, "b": 2, "c": 1}
    assert store.memory_bytes == 3 * MEGABYTE
    [first, again] = [each for each in shelf.loaded if each.name == "b"]
    assert (first.calls, again.calls) == (["warm_up", "close"], ["warm_up"])


def test_all_who_wait_share_one_load(shelf: StubShelf, stores: Stores) -> None:
    store = stores("a", "b", megabytes=2)
    shelf.gates["a"] = threading.Event()
    waiting = [lease(store, "a") for _ in range(5)]
    assert not any(each.future.done() for each in waiting)
    shelf.gates["a"].set()
    found = {id(each.future.result(SECONDS)[0]) for each in waiting}
    assert len(found) == 1
    assert shelf.counts["a"] == 2
    assert entry(store, "a").users == 5
    for each in waiting:
        each.release()
        each.release()  # harmless
    assert entry(store, "a").users == 0


def test_a_model_that_loads_holds_up_no_other(shelf: StubShelf, stores: Stores) -> None:
    store = stores("a", "b", megabytes=2)
    shelf.gates["a"] = threading.Event()
    held = lease(store, "a")
    for _ in range(len(shelf.loaded) + 1):
        assert shelf.begun.acquire(timeout=SECONDS)  # it is being loaded
    assert states(store)["a"] == "loading"
    other = lease(store, "default")
    assert other.future.done()
    other.release()
    shelf.gates["a"].set()
    held.future.result(SECONDS)
    held.release()


def test_a_model_in_use_stays_until_it_is_given_back(shelf: StubShelf, stores: Stores) -> None:
    store = stores("a", "b", megabytes=2)
    user = lease(store, "b")
    [translator] = user.future.result(SECONDS)
    waiting = lease(store, "a")
    with store._changed:
        assert store._changed.wait_for(lambda: states(store)["b"] == "unloading", SECONDS)
    late = lease(store, "b")
    translator.submit("x", "en", "es")  # not closed
    user.release()
    waiting.future.result(SECONDS)
    assert shelf.loaded[2].calls == ["warm_up", "close"]
    waiting.release()
    [again] = late.future.result(SECONDS)  # who came after is served by the next load
    again.submit("x", "en", "es")
    late.release()


def test_who_gives_up_makes_nothing_load(shelf: StubShelf, stores: Stores) -> None:
    store = stores("a", "b", megabytes=2)
    user = lease(store, "b")
    waiting = lease(store, "a")
    waiting.cancel()
    with pytest.raises(RequestCancelledError):
        waiting.future.result(SECONDS)
    again = lease(store, "default", "b")  # and what was to make room for it may stay
    assert [each.name for each in again.future.result(SECONDS)] == ["default", "b"]
    again.release()
    user.release()
    assert shelf.counts["a"] == 1
    assert states(store)["b"] == "loaded"


def test_pairs_of_models_get_both_or_none(stores: Stores) -> None:
    store = stores("a", "b", "c", "d", megabytes=3)  # the default one and two more
    pairs = [("a", "b"), ("c", "d"), ("b", "c"), ("d", "a")] * 5

    def work(pair: Sequence[str]) -> bool:
        one = lease(store, *pair)
        names = [each.name for each in one.future.result(SECONDS)]
        for translator in one.future.result():
            translator.submit("x", "en", translator.target_languages[0])
        one.release()
        return names == list(pair)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, pairs))
    assert store.memory_bytes <= 3 * MEGABYTE


def test_a_load_that_fails_is_tried_again_by_the_next(shelf: StubShelf, stores: Stores) -> None:
    store = stores("a", "b", megabytes=2)
    shelf.broken.add("a")
    with pytest.raises(EngineClosedError, match="the model a cannot be loaded now"):
        lease(store, "a").future.result(SECONDS)
    assert states(store)["a"] == "unloaded"
    shelf.broken.clear()
    use(store, "a")


# Adding, swapping, removing


def test_a_model_that_never_fits_is_refused_with_the_numbers(stores: Stores) -> None:
    store = stores("a", megabytes=40)
    with pytest.raises(NoRoomError, match=r"about 50\.0 MB, what must stay has 1\.0 MB, and 40\.0 MB are allowed"):
        store.add(Path("huge")).result(SECONDS)
    with pytest.raises(CheckpointError):
        store.add(Path("nothing")).result(SECONDS)
    assert states(store) == {"default": "loaded", "a": "loaded"}


def test_a_swap_closes_the_old_one_when_the_last_has_given_it_back(shelf: StubShelf, stores: Stores) -> None:
    store = stores("a")
    before, user = entry(store, "a"), lease(store, "a")
    [old] = user.future.result(SECONDS)
    after, swapped = store.add(Path("b"), "a").result(SECONDS)
    assert swapped
    assert [each.name for each in store.entries] == ["default", "a"]
    assert entry(store, "a") is after
    assert after.target_languages == ("es",)
    assert shelf.loaded[-1].calls == ["warm_up"]
    with pytest.raises(LookupError):
        store.lease([before])
    old.submit("x", "en", "de")
    user.release()
    store.close()
    assert shelf.loaded[1].calls == ["warm_up", "close"]


def test_the_default_model_is_swapped_in_its_place_and_never_removed(stores: Stores) -> None:
    store = stores("a")
    with pytest.raises(ConfigurationError, match="must not be the default model"):
        store.remove("default")
    _, swapped = store.add(Path("b"), "default").result(SECONDS)
    assert swapped
    assert [each.name for each in store.entries] == ["default", "a"]
    assert store.remove("nothing") is None


def test_who_waits_for_a_model_that_is_removed_is_told_so(stores: Stores) -> None:
    store = stores("a", "b", megabytes=2)
    user = lease(store, "b")
    waiting = lease(store, "a")
    store.remove("a")
    with pytest.raises(LookupError):
        waiting.future.result(SECONDS)
    user.release()
    assert states(store) == {"default": "loaded", "b": "loaded"}


def test_a_closed_store_lends_nothing(shelf: StubShelf, stores: Stores) -> None:
    store = stores("a", "b", megabytes=2)
    user = lease(store, "b")
    waiting = lease(store, "a")
    store.close()
    with pytest.raises(EngineClosedError):
        waiting.future.result(SECONDS)
    with pytest.raises(EngineClosedError):
        lease(store, "default")
    user.release()
    assert shelf.counts["a"] == 1


def test_swapping_under_many_requests_loses_none(shelf: StubShelf, stores: Stores) -> None:
    store = stores("a")
    registry = TranslatorRegistry(store)
    registry.ready = True
    done = threading.Event()
    answered: list[int] = []

    def request() -> int:
        """Translate until told to stop; a lost request raises."""
        count = 0
        while not done.is_set():
            choice, *_ = registry.select("en", "de")
            try:
                one = store.lease(choice.entries)
                [translator] = one.future.result(SECONDS)
            except LookupError:
                continue  # as the registry does: it was swapped, and is chosen anew
            for _ in range(3):
                translator.submit("x", "en", "de").future.result(SECONDS)
            one.release()
            count += 1
        return count

    with ThreadPoolExecutor(6) as pool:
        running = [pool.submit(request) for _ in range(6)]
        for _ in range(30):
            store.add(Path("a")).result(SECONDS)
        done.set()
        answered += [each.result(SECONDS) for each in running]
    assert all(answered)
    store.close()
    assert len(shelf.loaded) == 32
    assert {tuple(each.calls) for each in shelf.loaded} == {("warm_up", "close")}
