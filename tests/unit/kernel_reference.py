"""What the tests of the compiled loops share: small networks, their twins in plain torch, and ways to run them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.config import ModelConfig
from model.generation import GenerationInput, Hypothesis, generate
from model.kernels.batch import KernelBatch
from model.kernels.linear import ADD, ROWS, STORE, PackedLinear, WeightKind, multiply
from model.kernels.packing import PackedNetwork
from model.transformer import Transformer
from model.transformer.attention import MultiHeadAttention
from tests.unit.network_variations import build
from tests.unit.table_model import BOS, EOS, SPECIAL

Floats = NDArray[np.float32]
KINDS: tuple[WeightKind, ...] = ("float32", "float16", "int8")
VOCAB_SIZE = 50


def small_network(seed: int = 5, **fields: Any) -> Transformer:
    """Return a network whose hypotheses have many lengths and many different tokens.

    Random weights alone would make every token about as probable as any other.
    """
    options: dict[str, Any] = {"vocab_size": VOCAB_SIZE, "max_source_length": 32, "output_bias": True}
    options |= {"tie_output": False, "output_scale": 1.5, "num_heads": 2}
    model = build("default", **(options | fields))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
        assert model.output_bias is not None
        model.output_bias[EOS] += 1.5
    return model


def padded(width: int) -> int:
    """Fill up to whole vectors of 8."""
    return -(-width // 8) * 8


def run_linear(packed: PackedLinear, inputs: Floats, target: Floats | None = None) -> Floats:
    """Return the compiled product (R, O) of rows (R, I), added to ``target`` (R, O) where there is one."""
    num_rows, num_inputs = inputs.shape
    num_outputs = int(packed.record["num_outputs"])
    result = np.full((num_rows, padded(num_outputs)), np.float32(1e9))
    if target is not None:
        result[:, :num_outputs] = target
    bytes_ = np.full((ROWS, padded(num_inputs)), 77, np.uint8)  # what is left of other products must not matter
    mode = STORE if target is None else ADD
    multiply(packed.record[()], inputs, num_rows, result, bytes_, np.empty(ROWS, np.float32), mode)
    return result[:, :num_outputs].copy()


def quantized_inputs(inputs: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Return integers from -127 to 127 for each row (R, I), and the scale (R, 1) that turns them back."""
    largest = np.maximum(np.abs(inputs).max(1, keepdims=True), np.float32(1e-30))
    levels = np.floor(inputs * (np.float32(127) / largest) + np.float32(128.5)).astype(np.int64) - 128
    return levels, largest / np.float32(127)


def quantized_weight(weight: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Return integers from -127 to 127 for each output (O, I), and the scale (O,) that turns them back.

    The largest sum of two neighbours' magnitudes becomes 127, so after rounding such a sum is 128 at most.
    """
    magnitudes = np.abs(weight)
    pairs = magnitudes[:, ::2].copy()
    pairs[:, : weight.shape[1] // 2] += magnitudes[:, 1::2]
    scale = np.maximum(pairs.max(1), np.float32(1e-30)) / np.float32(127)
    return np.rint(weight / scale[:, None]).astype(np.int64), scale


def int8_product(weight: Floats, inputs: Floats) -> NDArray[np.float64]:
    """Return what the int8 product is meant to be: exact sums of integers, and the scales in float64."""
    levels, row_scale = quantized_inputs(inputs)
    integers, scale = quantized_weight(weight)
    sums = (levels @ integers.T).astype(np.float64)
    return sums * row_scale * scale


def twin(model: Transformer, kind: WeightKind) -> Transformer:
    """Return a plain network that computes what compiled loops with weights of this kind are meant to compute."""
    if kind == "float32":
        return model
    result = Transformer(model.config).eval()
    result.load_state_dict(model.state_dict())
    with torch.no_grad():
        _round(result.source_embedding.weight)
        if not model.config.tie_source_target:
            _round(result.target_embedding.weight)
        for module in [each for each in result.modules() if isinstance(each, MultiHeadAttention)]:
            module.q_proj.weight.mul_(module.scale)  # the factor is inside the packed weight
            if module.q_proj.bias is not None:
                module.q_proj.bias.mul_(module.scale)
            module.scale = 1.0
        for linear in [each for each in result.modules() if isinstance(each, nn.Linear)]:
            if kind == "float16":
                _round(linear.weight)
            else:
                linear.forward = _int8_forward(linear)  # type: ignore[method-assign, assignment]
        if kind == "float16" and result.output_weight is not None:
            _round(result.output_weight)
    if kind == "int8":
        weight = model.projection.detach().numpy()

        def logits(states: Tensor) -> Tensor:
            scaled = states * model.config.output_scale
            product = torch.from_numpy(int8_product(weight, scaled.numpy())).float()
            return product if model.output_bias is None else product + model.output_bias

        result.logits = logits  # type: ignore[method-assign]
    return result


def _round(parameter: Tensor) -> None:
    parameter.copy_(parameter.half().float())


def _int8_forward(linear: nn.Linear) -> Callable[[Tensor], Tensor]:
    """Return what computes a linear layer as :func:`int8_product` does."""
    weight = linear.weight.detach().numpy()

    def forward(states: Tensor) -> Tensor:
        rows = states.reshape(-1, states.shape[-1]).numpy()
        product = torch.from_numpy(int8_product(weight, rows)).float().view(*states.shape[:-1], -1)
        return product if linear.bias is None else product + linear.bias

    return forward


def run(batch: KernelBatch[Any]) -> dict[Any, list[Hypothesis]]:
    """Step until nothing is left, and return the results."""
    results: dict[Any, list[Hypothesis]] = {}
    while batch.num_requests:
        results |= dict(batch.step())
    return results


def compiled_alone(
    network: PackedNetwork, item: GenerationInput, always_banned: Sequence[int] = SPECIAL
) -> list[Hypothesis]:
    """Decode one input in a batch of its own."""
    batch: KernelBatch[int] = KernelBatch(network, always_banned)
    batch.add([(0, item)])
    return run(batch)[0]


def compiled_together(
    network: PackedNetwork, items: Sequence[GenerationInput], always_banned: Sequence[int] = SPECIAL
) -> list[list[Hypothesis]]:
    """Decode inputs that all join at once."""
    batch: KernelBatch[int] = KernelBatch(network, always_banned)
    batch.add(list(enumerate(items)))
    results = run(batch)
    return [results[index] for index in range(len(items))]


def plain(model: Transformer, items: Sequence[GenerationInput]) -> list[list[Hypothesis]]:
    """Decode each input alone with the reference path."""
    return [generate(model, [item], SPECIAL)[0] for item in items]


def assert_same(item: GenerationInput, found: list[Hypothesis], expected: list[Hypothesis]) -> None:
    """Compare hypotheses of the compiled and of the plain path."""
    assert [(each.token_ids, each.finish_reason) for each in found] == [
        (each.token_ids, each.finish_reason) for each in expected
    ]
    for left, right in zip(found, expected, strict=True):
        # Each logit owes about 1e-5, as sums run in another order; a hypothesis of up to 50 tokens owes their sum.
        assert left.token_log_probs == pytest.approx(right.token_log_probs, abs=5e-5)
        assert left.log_prob == pytest.approx(right.log_prob, abs=5e-4)
        assert left.score == left.log_prob / len(left.token_log_probs) ** item.config.length_penalty


def draw_source(config: ModelConfig, length: int, seed: int) -> list[int]:
    """Return a random source without special tokens, with the end token behind it."""
    random = np.random.default_rng(seed)
    words = [token for token in range(config.vocab_size) if token not in (*SPECIAL, EOS)]
    return [*cast(list[int], random.choice(words, length - 1).tolist()), EOS]


assert ModelConfig(vocab_size=VOCAB_SIZE).decoder_start_id == BOS
