"""The chunked loss against torch's own cross-entropy on whole logits: values and every gradient."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.training import loss as loss_module
from model.training.loss import cross_entropy, linear_cross_entropy, loss_and_gradient
from tests.unit.tiny_training import one_cpu_thread

NUM_TOKENS, WIDTH, VOCAB = 37, 12, 50


@pytest.fixture(autouse=True, scope="module")
def _on_one_cpu_thread() -> Iterator[None]:
    with one_cpu_thread():
        yield


def make_inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return states (N, D), weight (V, D), bias (V,) and targets (N,), the first three wanting gradients."""
    generator = torch.Generator().manual_seed(3)
    states = torch.randn(NUM_TOKENS, WIDTH, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(VOCAB, WIDTH, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    bias = torch.randn(VOCAB, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    targets = torch.randint(VOCAB, (NUM_TOKENS,), generator=generator)
    return states, weight, bias, targets


def gradients(loss: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    # A factor other than one: a backward pass that forgets the incoming gradient must not pass.
    return torch.autograd.grad(loss * 0.37, inputs)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_plain_loss_is_the_sum_over_the_target_distribution(smoothing: float) -> None:
    states, weight, _, targets = make_inputs(torch.float64)
    logits = states @ weight.t()
    wanted = torch.full_like(logits, smoothing / VOCAB)
    wanted[torch.arange(NUM_TOKENS), targets] += 1 - smoothing
    expected = -(wanted * logits.log_softmax(-1)).sum()
    # The reference works in float32: 37 terms of about 10, each exact to 2**-24.
    torch.testing.assert_close(cross_entropy(logits, targets, smoothing).double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("rows", [1, 5, 36, 37, 1000])
def test_chunks_equal_whole_logits(
    monkeypatch: pytest.MonkeyPatch, rows: int, smoothing: float, with_bias: bool
) -> None:
    # 1 row a chunk, an uneven last chunk of 2, a last chunk of 1, exactly one chunk, and less than one.
    monkeypatch.setattr(loss_module, "CHUNK_BYTES", rows * 4 * VOCAB)
    states, weight, bias, targets = make_inputs()
    inputs = (states, weight, bias) if with_bias else (states, weight)
    used_bias = bias if with_bias else None
    loss, likelihood = linear_cross_entropy(states, weight, targets, smoothing, used_bias)
    logits = F.linear(states, weight, used_bias)
    expected = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
    # float32: sums of at most 50 terms in another order, so a few units in the last place of numbers around 1.
    torch.testing.assert_close(loss, expected, rtol=2e-6, atol=0)
    torch.testing.assert_close(likelihood, F.cross_entropy(logits, targets, reduction="sum"), rtol=2e-6, atol=0)
    for ours, theirs in zip(gradients(loss, *inputs), gradients(expected, *inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_form_for_a_compiler_computes_the_same(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, smoothing: float
) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_BYTES", 9 * 4 * VOCAB)
    states, weight, bias, targets = make_inputs(dtype)
    results = []
    for pointwise in (None, loss_and_gradient):
        loss, likelihood = linear_cross_entropy(states, weight, targets, smoothing, bias, pointwise)
        results.append((loss, likelihood, *gradients(loss, states, weight, bias)))
    # bfloat16: this form adds the bias to logits that are rounded already, to 2**-9 of numbers around 10.
    relative, absolute = (2e-6, 2e-6) if dtype == torch.float32 else (2e-2, 5e-2)
    for plain, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, plain, rtol=relative, atol=absolute)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradients_are_the_numerical_ones(monkeypatch: pytest.MonkeyPatch, smoothing: float) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_BYTES", 3 * 4 * 7)
    generator = torch.Generator().manual_seed(5)
    states = torch.randn(8, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(7, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(7, (8,), generator=generator)

    def scalar_loss(states: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return linear_cross_entropy(states, weight, targets, smoothing, bias)[0]

    assert torch.autograd.gradcheck(scalar_loss, (states, weight, bias))


def test_large_logits_do_not_overflow() -> None:
    states, weight, _, targets = make_inputs()
    loss, likelihood = linear_cross_entropy(states * 1e3, weight, targets, 0.1)
    expected = cross_entropy((states * 1e3) @ weight.t(), targets, 0.1)
    torch.testing.assert_close(loss, expected, rtol=2e-6, atol=0)
    assert torch.isfinite(likelihood)


def test_likelihood_carries_no_gradient() -> None:
    states, weight, _, targets = make_inputs()
    _, likelihood = linear_cross_entropy(states, weight, targets, 0.1)
    assert not likelihood.requires_grad


@pytest.mark.parametrize("autocast", [False, True], ids=["bfloat16 states", "autocast"])
def test_bfloat16_stays_near_float32(monkeypatch: pytest.MonkeyPatch, autocast: bool) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_BYTES", 10 * 4 * VOCAB)
    states, weight, bias, targets = make_inputs()
    expected = F.cross_entropy(F.linear(states, weight, bias), targets, reduction="sum", label_smoothing=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        given = states if autocast else states.bfloat16()
        loss, _ = linear_cross_entropy(given, weight, targets, 0.1, bias)
    assert loss.dtype == torch.float32
    # bfloat16 keeps 8 bits: states, weights and logits are each off by up to 2**-9 of logits around 10, in random
    # directions, so a term of the sum by a few hundredths of its size and their sum by less.
    torch.testing.assert_close(loss, expected, rtol=1e-2, atol=0)
    for ours, theirs in zip(
        gradients(loss, states, weight, bias), gradients(expected, states, weight, bias), strict=True
    ):
        assert ours.dtype == theirs.dtype
        # Entry by entry cancellation can make the relative error large; as a vector it is a few times 2**-8.
        assert float((ours - theirs).norm() / theirs.norm()) < 0.02


def test_autocast_multiplies_in_bfloat16_in_both_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    products: list[torch.dtype] = []
    plain = torch.mm

    def recorded(a: Tensor, b: Tensor, *, out: Tensor) -> Tensor:
        products.append(a.dtype)
        return plain(a, b, out=out)

    monkeypatch.setattr(torch, "mm", recorded)
    states, weight, _, targets = make_inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        linear_cross_entropy(states, weight, targets, 0.1)
    assert set(products) == {torch.bfloat16}
