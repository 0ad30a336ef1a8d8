"""Sinusoids against the formula in plain Python, and T5's buckets against the paper's rule in exact arithmetic."""

from __future__ import annotations

import pytest
import torch

from model.config import ModelConfig, SinusoidLayout
from model.transformer.positions import AbsolutePositions, RelativeBias, sinusoids
from tests.unit.naive_transformer import relative_bucket, sinusoid


@pytest.mark.parametrize("layout", ["interleaved", "halves", "halves_fairseq"])
@pytest.mark.parametrize("d_model", [4, 8, 30])  # fairseq's exponents divide by d_model / 2 - 1: not defined for 2
def test_sinusoids_follow_the_formula(layout: SinusoidLayout, d_model: int) -> None:
    table = sinusoids(700, d_model, layout)
    assert table.dtype == torch.float32
    for position in (0, 1, 2, 63, 699):
        assert table[position].tolist() == pytest.approx(sinusoid(position, d_model, layout), abs=1e-6)


def test_sinusoids_of_the_narrowest_fairseq_table_are_finite() -> None:
    assert sinusoids(9, 2, "halves_fairseq").isfinite().all()


def test_sinusoids_by_hand() -> None:
    """Three entries of the paper's table at d_model 4: wavelengths 2 pi and 200 pi."""
    table = sinusoids(4, 4, "interleaved")
    assert table[0].tolist() == [0.0, 1.0, 0.0, 1.0]
    assert table[3].tolist() == pytest.approx([0.1411200, -0.9899925, 0.0299955, 0.9995500], abs=1e-6)


@pytest.mark.parametrize("position_type", ["sinusoidal", "learned"])
def test_offset_shifts_the_table(position_type: str) -> None:
    config = ModelConfig(vocab_size=9, d_model=8, num_heads=2, position_type=position_type, position_offset=3)  # type: ignore[arg-type]
    positions = AbsolutePositions(config, 10)
    assert positions.weight.shape == (13, 8)
    assert torch.equal(positions(torch.tensor([[0, 9]]))[0], positions.weight[[3, 12]])
    assert [name for name, _ in positions.named_parameters()] == (["weight"] if position_type == "learned" else [])


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (8, 20), (32, 256), (4, 3), (64, 128), (12, 50)])
def test_buckets_follow_the_paper(bidirectional: bool, num_buckets: int, max_distance: int) -> None:
    config = ModelConfig(
        vocab_size=9,
        d_model=8,
        num_heads=2,
        position_type="relative",
        relative_num_buckets=num_buckets,
        relative_max_distance=max_distance,
    )
    bias = RelativeBias(config, bidirectional=bidirectional)
    with torch.no_grad():  # each bucket's bias is its number, in the second head its negative
        bias.weight.copy_(torch.arange(num_buckets, dtype=torch.float32)[:, None] * torch.tensor([1.0, -1.0]))
    reach = 3 * max_distance
    found = bias(torch.tensor([[reach]]), torch.arange(2 * reach + 1)[None]).detach()  # (1, H, 1, 2 * reach + 1)
    expected = [
        relative_bucket(distance, bidirectional=bidirectional, num_buckets=num_buckets, max_distance=max_distance)
        for distance in range(-reach, reach + 1)
    ]
    wrong = [
        (distance, int(got), want)
        for distance, got, want in zip(range(-reach, reach + 1), found[0, 0, 0], expected, strict=True)
        if int(got) != want
    ]
    assert wrong == []
    assert torch.equal(found[0, 1], -found[0, 0])
    behind = expected[: reach + 1] + ([] if not bidirectional else expected[reach + 1 :])
    assert set(behind) == set(range(num_buckets)) - ({num_buckets // 2} if bidirectional else set())


def test_bias_depends_on_the_distance_alone_and_positions_may_differ_by_row() -> None:
    config = ModelConfig(vocab_size=9, d_model=8, num_heads=2, position_type="relative")
    bias = RelativeBias(config, bidirectional=False)
    torch.nn.init.normal_(bias.weight, generator=torch.Generator().manual_seed(1))
    whole = bias(torch.arange(40)[None], torch.arange(40)[None])  # (1, H, T, S)
    rows = bias(torch.tensor([[5], [31]]), torch.arange(40)[None].expand(2, -1))
    assert torch.equal(rows[0, :, 0], whole[0, :, 5])
    assert torch.equal(rows[1, :, 0], whole[0, :, 31])
    assert torch.equal(whole[0, :, 7, 2], whole[0, :, 30, 25])
