"""The network against torch.nn's own encoder and decoder layers, with the weights copied over."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.transformer import Transformer
from model.transformer.attention import MultiHeadAttention
from tests.unit.network_variations import build, padded_batch

D_MODEL, NUM_HEADS, D_FF, NUM_LAYERS = 16, 4, 24, 2


def copy_attention(ours: MultiHeadAttention, theirs: nn.MultiheadAttention) -> None:
    weights: list[Tensor] = [projection.weight for projection in (ours.q_proj, ours.k_proj, ours.v_proj)]
    biases: list[Tensor] = [projection.bias for projection in (ours.q_proj, ours.k_proj, ours.v_proj)]
    assert theirs.in_proj_weight is not None
    theirs.in_proj_weight.copy_(torch.cat(weights))
    theirs.in_proj_bias.copy_(torch.cat(biases))
    theirs.out_proj.load_state_dict(ours.out_proj.state_dict())


def copy_layer(ours: nn.Module, theirs: nn.Module) -> None:
    """Copy one layer's parameters; torch numbers the norms in the order of the sub-layers."""
    pairs = [("feed_forward.in_proj", "linear1"), ("feed_forward.out_proj", "linear2")]
    names = ["self_attention_residual", "cross_attention_residual", "feed_forward_residual"]
    present = [name for name in names if hasattr(ours, name)]
    pairs += [(f"{name}.norm", f"norm{index}") for index, name in enumerate(present, start=1)]
    for our_name, their_name in pairs:
        theirs.get_submodule(their_name).load_state_dict(ours.get_submodule(our_name).state_dict())
    for our_name, their_name in (("self_attention", "self_attn"), ("cross_attention", "multihead_attn")):
        if hasattr(ours, our_name):
            our_attention, their_attention = ours.get_submodule(our_name), theirs.get_submodule(their_name)
            assert isinstance(our_attention, MultiHeadAttention)
            assert isinstance(their_attention, nn.MultiheadAttention)
            copy_attention(our_attention, their_attention)


class Reference(nn.Module):
    """torch.nn's encoder and decoder between our embeddings and our output projection."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        config: ModelConfig = model.config
        self.model = model
        shape: dict[str, Any] = {
            "d_model": config.d_model,
            "nhead": config.num_heads,
            "dim_feedforward": config.d_ff,
            "activation": config.activation,
            "norm_first": config.norm_position == "pre",
            "batch_first": True,
            "dropout": 0.0,
        }

        def final() -> nn.LayerNorm | None:
            return nn.LayerNorm(config.d_model) if config.final_norm else None

        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(**shape), config.num_encoder_layers, final(), enable_nested_tensor=False
        )
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(**shape), config.num_decoder_layers, final())
        with torch.no_grad():
            for ours, theirs in ((model.encoder, self.encoder), (model.decoder, self.decoder)):
                for our_layer, their_layer in zip(ours.layers, theirs.layers, strict=True):
                    copy_layer(our_layer, their_layer)
                if ours.norm is not None and theirs.norm is not None:
                    theirs.norm.load_state_dict(ours.norm.state_dict())
        self.eval()

    def forward(self, source_ids: Tensor, target_input_ids: Tensor) -> Tensor:
        model = self.model
        padding = source_ids == model.config.pad_id
        encoder_output = self.encoder(self._embed(model.encoder.embedding, source_ids), src_key_padding_mask=padding)
        length = target_input_ids.shape[1]
        states: Tensor = self.decoder(
            self._embed(model.decoder.embedding, target_input_ids),
            encoder_output,
            tgt_mask=torch.ones(length, length).triu(1).bool(),
            memory_key_padding_mask=padding,
        )
        return states @ model.source_embedding.weight.T

    def _embed(self, embedding: nn.Module, ids: Tensor) -> Tensor:
        vectors: Tensor = embedding(self.model.source_embedding(ids), torch.arange(ids.shape[1]))
        return vectors


@pytest.mark.parametrize(
    ("norm_position", "final_norm", "activation"),
    [*itertools.product(["pre", "post"], [True, False], ["relu"]), ("pre", True, "gelu"), ("post", False, "gelu")],
)
def test_logits_equal_those_of_torch_nn(norm_position: str, final_norm: bool, activation: str) -> None:
    torch.set_num_threads(1)
    model = build("default", norm_position=norm_position, final_norm=final_norm, activation=activation)
    batch = padded_batch(model.config)
    reference = Reference(model)
    with torch.no_grad():
        found = model(batch.source_ids, batch.target_input_ids)
        expected = reference(batch.source_ids, batch.target_input_ids)
    real = batch.target_input_ids != model.config.pad_id
    torch.testing.assert_close(found[real], expected[real], atol=1e-5, rtol=1e-5)


def test_gradients_equal_those_of_torch_nn() -> None:
    torch.set_num_threads(1)
    model = build("default")
    batch = padded_batch(model.config)
    reference = Reference(model)
    real = batch.target_input_ids != model.config.pad_id

    def gradient(network: nn.Module) -> Tensor:
        model.source_embedding.weight.grad = None
        network(batch.source_ids, batch.target_input_ids).log_softmax(-1)[real][:, 5].sum().backward()
        assert model.source_embedding.weight.grad is not None
        return model.source_embedding.weight.grad.clone()

    torch.testing.assert_close(gradient(model), gradient(reference), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mask_kind", ["none", "padding", "causal"])
def test_one_attention_equals_torch_nn_with_its_weights(mask_kind: str) -> None:
    torch.set_num_threads(1)
    attention = build("default").decoder.layers[0].get_submodule("self_attention")
    assert isinstance(attention, MultiHeadAttention)
    reference = nn.MultiheadAttention(D_MODEL, NUM_HEADS, batch_first=True)
    with torch.no_grad():
        copy_attention(attention, reference)
    states = torch.randn(3, 7, D_MODEL, generator=torch.Generator().manual_seed(8))
    padding = torch.arange(7)[None] >= torch.tensor([7, 3, 1])[:, None]
    future = torch.ones(7, 7).triu(1).bool()
    allowed = {"none": None, "padding": ~padding[:, None, None, :], "causal": ~future}[mask_kind]
    record: list[Tensor] = []
    keys, values = attention.keys_values(states)
    output = attention.attend(attention.queries(states), keys, values, allowed, record=record)
    expected, weights = reference(
        states,
        states,
        states,
        key_padding_mask=padding if mask_kind == "padding" else None,
        attn_mask=future if mask_kind == "causal" else None,
        average_attn_weights=False,
    )
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(record[0], weights, atol=1e-5, rtol=1e-5)
