"""The network against `NaiveTransformer`, and the promises that hold for any weights: masks, padding, batches."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from model.config import ModelConfig
from model.transformer import Transformer
from tests.unit.naive_transformer import NaiveTransformer
from tests.unit.network_variations import VARIATIONS, VOCAB_SIZE, assert_close, build, padded_batch

every_variation = pytest.mark.parametrize("variation", VARIATIONS)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # networks this small only lose by more


def run(model: Transformer, source_ids: Tensor, target_input_ids: Tensor) -> Tensor:
    """Return the logits without gradients, which takes the fused attention."""
    with torch.no_grad():
        logits: Tensor = model(source_ids, target_input_ids)
    return logits


@every_variation
def test_padded_batch_equals_the_naive_network_row_by_row(variation: str) -> None:
    model = build(variation)
    batch = padded_batch(model.config)
    naive = NaiveTransformer(model)
    fused = run(model, batch.source_ids, batch.target_input_ids)
    plain = model(batch.source_ids, batch.target_input_ids).detach()  # with gradients: the plain path
    for row, (source, target) in enumerate(zip(batch.sources, batch.targets, strict=True)):
        expected = torch.from_numpy(naive.logits(source, target)).float()
        assert expected.std() > 0.1
        assert_close(fused[row, : len(target)], expected)
        assert_close(plain[row, : len(target)], expected)


@every_variation
def test_attention_weights_are_those_of_the_naive_network(variation: str) -> None:
    model = build(variation)
    batch = padded_batch(model.config)
    found = model.attention_weights(batch.source_ids, batch.target_input_ids)
    kinds = {
        "encoder.layers.{}.self_attention": found.encoder,
        "decoder.layers.{}.self_attention": found.decoder,
        "decoder.layers.{}.cross_attention": found.cross,
    }
    naive = NaiveTransformer(model)
    for row, (source, target) in enumerate(zip(batch.sources, batch.targets, strict=True)):
        naive.logits(source, target)
        for name, layers in kinds.items():
            assert len(layers) == 2
            for index, weights in enumerate(layers):
                expected = torch.from_numpy(naive.attention[name.format(index)]).float()  # (H, queries, keys)
                _, num_queries, num_keys = expected.shape
                assert_close(weights[row, :, :num_queries, :num_keys], expected)


@every_variation
def test_attention_rows_sum_to_one_and_masked_positions_are_exactly_zero(variation: str) -> None:
    model = build(variation)
    batch = padded_batch(model.config)
    found = model.attention_weights(batch.source_ids, batch.target_input_ids)
    padding = batch.source_ids == model.config.pad_id  # (B, S)
    assert padding.any()
    future = torch.ones(found.decoder[0].shape[-2:]).triu(1).bool()  # (T, T)
    for weights in (*found.encoder, *found.decoder, *found.cross):
        assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
        assert (weights >= 0).all()
    for weights in (*found.encoder, *found.cross):
        assert (weights.masked_select(padding[:, None, None, :]) == 0).all()
    for weights in found.decoder:
        assert (weights.masked_select(future) == 0).all()


def test_recording_attention_does_not_change_the_encoder_output() -> None:
    model = build("default")
    batch = padded_batch(model.config)
    mask = batch.source_ids != model.config.pad_id
    record: list[Tensor] = []
    with torch.no_grad():
        recorded = model.encode(batch.source_ids, mask, record)
        fused = model.encode(batch.source_ids, mask)
    assert len(record) == model.config.num_encoder_layers
    assert_close(recorded[mask], fused[mask])


@every_variation
def test_a_target_position_sees_nothing_behind_it(variation: str) -> None:
    model = build(variation)
    batch = padded_batch(model.config, ((5, 9), (3, 9)))
    before = run(model, batch.source_ids, batch.target_input_ids)
    changed = batch.target_input_ids.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % VOCAB_SIZE
    after = run(model, batch.source_ids, changed)
    assert torch.equal(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6:], after[:, 6:])


@every_variation
def test_every_source_token_reaches_every_target_position(variation: str) -> None:
    model = build(variation)
    batch = padded_batch(model.config, ((6, 4),))
    before = run(model, batch.source_ids, batch.target_input_ids)
    for position in range(6):
        changed = batch.source_ids.clone()
        changed[0, position] = (changed[0, position] + 5) % VOCAB_SIZE
        if changed[0, position] == model.config.pad_id:
            changed[0, position] += 1 if model.config.pad_id == 0 else -1
        difference = (run(model, changed, batch.target_input_ids) - before).abs().amax(-1)  # (1, T)
        assert (difference > 1e-4).all()


def test_source_mask_overrules_the_padding_id() -> None:
    model = build("default")
    batch = padded_batch(model.config, ((6, 4),))
    mask = torch.tensor([[True, True, True, True, False, False]])
    with torch.no_grad():
        masked = model(batch.source_ids, batch.target_input_ids, mask)
    assert_close(masked, run(model, batch.source_ids[:, :4], batch.target_input_ids))


@pytest.mark.parametrize("variation", ["default", "t5", "bart"])
def test_gradients_of_padding_are_zero_and_all_parameters_learn(variation: str) -> None:
    model = build(variation, tie_source_target=False, tie_output=False)
    batch = padded_batch(model.config)
    real = batch.target_input_ids != model.config.pad_id
    if model.config.decoder_start_id == model.config.pad_id:
        real[:, 0] = True
    logits: Tensor = model(batch.source_ids, batch.target_input_ids)
    logits.log_softmax(-1)[real].pow(2).sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if not name.endswith("k_proj.bias"):  # adds the same to every key's score, which the softmax takes out again
            assert parameter.grad.abs().max() > 0, name
    assert model.source_embedding.weight.grad is not None
    assert (model.source_embedding.weight.grad[model.config.pad_id] == 0).all()


def test_dropout_is_active_in_training_only() -> None:
    model = build("default", dropout=0.4, attention_dropout=0.4)
    batch = padded_batch(model.config)
    arguments = (batch.source_ids, batch.target_input_ids)
    assert torch.equal(run(model, *arguments), run(model, *arguments))
    model.train()
    torch.manual_seed(1)
    first, second = run(model, *arguments), run(model, *arguments)
    assert not torch.allclose(first, second)
    torch.manual_seed(1)
    assert torch.equal(first, run(model, *arguments))


def test_attention_dropout_keeps_the_expectation() -> None:
    model = build("default", dropout=0.0, attention_dropout=0.5, num_encoder_layers=1)
    attention = model.encoder.layers[0].self_attention
    assert isinstance(attention, torch.nn.Module)
    attention.train()
    generator = torch.Generator().manual_seed(5)
    queries, keys, values = torch.randn(3, 1, 4, 6, 4, generator=generator)
    torch.manual_seed(2)
    draws = torch.stack([attention.attend(queries, keys, values).detach() for _ in range(1500)])  # type: ignore[operator]
    with torch.no_grad():
        expected = attention.eval().attend(queries, keys, values)  # type: ignore[operator]
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - expected).abs() < 6 * error).all()


@every_variation
def test_initial_weights(variation: str) -> None:
    config = dataclasses.replace(build(variation).config, d_model=64, d_ff=96, head_dim=None, num_heads=4)
    torch.manual_seed(0)
    for name, values in Transformer(config).named_parameters():
        parameter = values.detach()
        spread = float(parameter.std()) if parameter.numel() > 1 else 0.0
        if name.endswith("norm.weight"):
            assert (parameter == 1).all(), name
        elif name.endswith("bias") or "relative_bias" in name:
            assert (parameter == 0).all(), name
        elif "embedding" in name or name == "output_weight":
            assert spread == pytest.approx(64**-0.5, rel=0.1), name
        else:
            bound = (6 / sum(parameter.shape)) ** 0.5  # Glorot and Bengio 2010, equation 16
            assert float(parameter.abs().max()) <= bound
            assert spread == pytest.approx(bound / 3**0.5, rel=0.1), name


def test_parameters_of_the_default_network() -> None:
    """Count them by hand: a checkpoint depends on this inventory."""
    config = ModelConfig(vocab_size=1000, d_model=64, d_ff=256, num_heads=4, num_encoder_layers=3, num_decoder_layers=2)
    attention, norm = 4 * (64 * 64 + 64), 2 * 64
    feed_forward = 64 * 256 + 256 + 256 * 64 + 64
    encoder_layer, decoder_layer = attention + feed_forward + 2 * norm, 2 * attention + feed_forward + 3 * norm
    expected = 1000 * 64 + 3 * encoder_layer + 2 * decoder_layer + 2 * norm
    assert sum(parameter.numel() for parameter in Transformer(config).parameters()) == expected


def test_bfloat16_stays_close() -> None:
    model = build("default")
    batch = padded_batch(model.config)
    expected = run(model, batch.source_ids, batch.target_input_ids)
    found = run(build("default").to(torch.bfloat16), batch.source_ids, batch.target_input_ids)
    assert found.dtype == torch.bfloat16
    real = batch.target_input_ids != model.config.pad_id
    # bfloat16 keeps 8 bits, 0.4% an operation; some ten operations stand between ids and logits
    assert (found.float() - expected)[real].abs().max() < 0.04 * expected[real].abs().max()
