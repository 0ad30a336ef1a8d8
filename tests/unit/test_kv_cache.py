"""Decoding step by step with the cache against `forward` from scratch, however rows come, go, move and grow."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.transformer import KVCache, Transformer
from tests.unit.network_variations import VARIATIONS, assert_close, build, pad, padded_batch

every_variation = pytest.mark.parametrize("variation", VARIATIONS)
both_kinds = pytest.mark.parametrize("variation", ["default", "t5"])


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # networks this small only lose by more


def start(model: Transformer, sources: list[list[int]], capacity: int = 32) -> KVCache:
    source_ids = pad(sources, model.config.pad_id)
    mask = source_ids != model.config.pad_id
    return model.start_cache(model.encode(source_ids, mask), mask, capacity)


def alone(model: Transformer, source: list[int], target: list[int]) -> Tensor:
    """Return the logits after the last token of a target, (V,), without cache, padding or neighbours."""
    logits: Tensor = model(torch.tensor([source]), torch.tensor([target]))[0, -1]
    return logits


class Rows:
    """A cache next to a plain record of what each of its rows stands for."""

    def __init__(self, model: Transformer, sources: list[list[int]], capacity: int = 32) -> None:
        self.model = model
        self.sources = list(sources)
        self.targets: list[list[int]] = [[] for _ in sources]
        self.cache = start(model, sources, capacity)
        self._generator = torch.Generator().manual_seed(len(sources))

    def steps(self, count: int) -> None:
        """Feed ``count`` random tokens to every row, and check every row's logits each time."""
        config = self.model.config
        for _ in range(count):
            drawn = torch.randint(config.vocab_size, (len(self.sources),), generator=self._generator).tolist()
            for target, token in zip(self.targets, drawn, strict=True):
                target.append(token if target else config.decoder_start_id)
            logits = self.model.decode_step(torch.tensor([target[-1] for target in self.targets]), self.cache)
            expected = [alone(self.model, *pair) for pair in zip(self.sources, self.targets, strict=True)]
            assert_close(logits, torch.stack(expected))
            assert self.cache.lengths.tolist() == [len(target) for target in self.targets]
            assert self.cache.longest == max(map(len, self.targets))
            assert self.cache.num_rows == len(self.targets)

    def select(self, rows: list[int], *, beams: bool = False) -> None:
        (self.cache.select_beams if beams else self.cache.select_rows)(torch.tensor(rows, dtype=torch.long))
        self.sources = [list(self.sources[row]) for row in rows]
        self.targets = [list(self.targets[row]) for row in rows]

    def extend(self, other: Rows) -> None:
        self.cache.extend(other.cache)
        self.sources += other.sources
        self.targets += other.targets


@every_variation
@torch.no_grad()
def test_cached_equals_uncached_at_every_position_of_a_padded_batch(variation: str) -> None:
    model = build(variation)
    batch = padded_batch(model.config, ((7, 12), (1, 12), (13, 12)))
    expected = model(batch.source_ids, batch.target_input_ids)  # (B, T, V)
    cache = start(model, batch.sources, capacity=5)
    found = torch.stack([model.decode_step(tokens, cache) for tokens in batch.target_input_ids.T], dim=1)
    assert_close(found, expected)


@every_variation
@torch.no_grad()
def test_rows_join_move_and_leave(variation: str) -> None:
    model = build(variation)
    sources = padded_batch(model.config, ((3, 1), (9, 1), (5, 1), (12, 1), (2, 1))).sources
    rows = Rows(model, sources[:2], capacity=2)
    rows.steps(3)
    rows.extend(Rows(model, sources[2:4], capacity=3))  # longer sources, no targets yet
    rows.steps(2)
    rows.select([3, 0, 0, 2])  # one leaves, one is doubled, the order changes
    rows.steps(2)
    rows.extend(Rows(model, sources[4:], capacity=16))  # shorter source, more space
    rows.steps(1)
    rows.select([4])  # only the newest and shortest stays
    rows.steps(4)


@both_kinds
@torch.no_grad()
def test_beams_move_within_their_requests(variation: str) -> None:
    model = build(variation)
    sources = padded_batch(model.config, ((4, 1), (8, 1))).sources
    rows = Rows(model, sources)
    rows.steps(1)
    rows.select([0, 0, 0, 1, 1])
    rows.steps(3)
    cross = rows.cache.cross_keys
    rows.select([2, 2, 0, 4, 3], beams=True)
    assert rows.cache.cross_keys is cross
    rows.steps(3)


@pytest.mark.parametrize("mine", [1, 3, 20, 32, 48])
@pytest.mark.parametrize("other", [1, 3, 20, 32, 48])
@torch.no_grad()
def test_any_two_capacities_can_join(mine: int, other: int) -> None:
    model = build("default", num_encoder_layers=1, num_decoder_layers=1)
    sources = padded_batch(model.config, ((4, 1), (6, 1))).sources
    rows = Rows(model, sources[:1], capacity=mine)
    rows.steps(2)
    joined = Rows(model, sources[1:], capacity=other)
    joined.steps(1)
    rows.extend(joined)
    assert rows.cache.capacity >= max(mine, other)
    rows.steps(2)


@torch.no_grad()
def test_space_doubles_and_is_written_in_place_between_two_growths() -> None:
    model = build("default")
    rows = Rows(model, padded_batch(model.config, ((4, 1), (6, 1))).sources, capacity=4)
    seen: list[tuple[int, int]] = []
    for _ in range(17):
        rows.steps(1)
        seen.append((rows.cache.capacity, rows.cache.self_keys.data_ptr()))
    assert [capacity for capacity, _ in seen] == [4] * 4 + [8] * 4 + [16] * 8 + [32]
    for capacity in (4, 8, 16):
        assert len({pointer for each, pointer in seen if each == capacity}) == 1


@torch.no_grad()
def test_reserve_makes_room_at_once_and_never_shrinks() -> None:
    model = build("default")
    rows = Rows(model, padded_batch(model.config, ((4, 1), (6, 1))).sources, capacity=4)
    rows.steps(3)
    rows.cache.reserve(30)
    assert rows.cache.capacity == 30
    rows.cache.reserve(2)
    assert rows.cache.capacity == 30
    rows.steps(3)


@torch.no_grad()
def test_a_cache_without_rows_takes_new_ones() -> None:
    model = build("default")
    sources = padded_batch(model.config, ((4, 1), (6, 1))).sources
    rows = Rows(model, sources[:1])
    rows.steps(3)
    rows.select([])
    assert rows.cache.num_rows == 0
    assert rows.cache.longest == 0
    rows.extend(Rows(model, sources[1:]))
    rows.steps(3)


@torch.no_grad()
def test_what_a_row_left_behind_is_never_seen_again() -> None:
    """A row that replaces a longer one stands in front of stale keys; with garbage there, it still ignores them."""
    model = build("t5")
    sources = padded_batch(model.config, ((4, 1), (6, 1))).sources
    rows = Rows(model, sources[:1])
    rows.steps(9)
    rows.extend(Rows(model, sources[1:]))
    for row, length in enumerate(rows.cache.lengths.tolist()):
        rows.cache.self_keys[:, row, :, length:] = 1e4
        rows.cache.self_values[:, row, :, length:] = -1e4
    rows.steps(4)


@torch.no_grad()
def test_cross_attention_is_computed_once() -> None:
    model = build("default")
    rows = Rows(model, padded_batch(model.config, ((4, 1), (6, 1))).sources)
    keys, values = rows.cache.cross_keys.clone(), rows.cache.cross_values.clone()
    calls: list[tuple[int, ...]] = []
    for layer in model.decoder.layers:
        projection = layer.get_submodule("cross_attention.k_proj")
        projection.register_forward_hook(lambda _module, _inputs, output: calls.append(tuple(output.shape)))
    for token in (2, 5, 6):
        model.decode_step(torch.tensor([token, token]), rows.cache)
    assert calls == []
    assert torch.equal(rows.cache.cross_keys, keys)
    assert torch.equal(rows.cache.cross_values, values)
