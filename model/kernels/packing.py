"""A network's weights, packed for compiled code; which numbers they are computed with is network.py's."""

from __future__ import annotations

from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.config import Activation
from model.kernels.arithmetic import GELU, GELU_TANH, RELU, SILU
from model.kernels.compilation import keep_machine_code
from model.kernels.linear import PackedLinear, WeightKind
from model.kernels.machine import LANES
from model.kernels.tiles import QUAD
from model.transformer.attention import MultiHeadAttention
from model.transformer.decoder import DecoderLayer
from model.transformer.embedding import Embedding
from model.transformer.encoder import EncoderLayer
from model.transformer.feed_forward import FeedForward
from model.transformer.normalization import RMSNorm
from model.transformer.positions import RelativeBias
from model.transformer.transformer import Transformer

_ACTIVATIONS: dict[Activation, int] = {"relu": RELU, "gelu": GELU, "gelu_tanh": GELU_TANH, "silu": SILU}
ENCODER_LINEARS, DECODER_LINEARS = 4, 6
"""Linear layers of an encoder layer (queries with keys and values, attention's output, feed-forward in and out) and of
a decoder layer (the same, with cross-attention's queries and output before the feed-forward)."""
ENCODER_NORMS, DECODER_NORMS = 2, 3

NETWORK = np.dtype(
    [
        (name, np.int64)
        for name in (
            *("d_model", "attention_width", "num_heads", "head_dim", "d_ff", "vocab_size"),
            *("num_encoder_layers", "num_decoder_layers", "pre_norm", "rms", "final_norm", "embedding_norm"),
            *("activation", "gated", "half_tables", "positioned", "relative"),
            *("source_table", "target_table", "source_positions", "target_positions"),  # addresses
            *("encoder_bias", "decoder_bias", "num_distances"),  # two addresses, and distances on each side
        )
    ]
    + [(name, np.float32) for name in ("epsilon", "token_scale", "output_scale")]
)
"""A network's shape, and where its tables are, as compiled code sees them."""


class Weights(NamedTuple):
    """What compiled code needs of a network; all tensors are read only."""

    network: NDArray[np.void]
    """(1,) NETWORK."""
    linears: NDArray[np.void]
    """(layers,) LINEAR: the encoder's layers, the decoder's, cross-attention's keys and values of all decoder layers
    together, and the output projection."""
    norms: NDArray[np.float32]
    """(norms, 2, D) weights and biases: of the encoder's layers, the decoder's, the final two, the embeddings' two."""


class PackedNetwork:
    """A network for compiled code, and the memory that it points to.

    Attributes:
        config: the network's shape.
        kind: number format of the weights.
        weights: what compiled code takes.
        num_bytes: memory of the packed weights.
        output: the output projection.
    """

    def __init__(self, model: Transformer, kind: WeightKind) -> None:
        """Pack a float32 network, which stays as it is."""
        keep_machine_code()
        self.config, self.kind = model.config, kind
        self._half_tables = kind != "float32"
        self._kept: list[NDArray[np.generic]] = []
        encoder = [cast(EncoderLayer, layer) for layer in model.encoder.layers]
        decoder = [cast(DecoderLayer, layer) for layer in model.decoder.layers]
        linears = [part for layer in encoder for part in self._encoder_layer(layer)]
        linears += [part for layer in decoder for part in self._decoder_layer(layer)]
        cross = [projection for layer in decoder for projection in _keys_values(layer.cross_attention)]
        linears.append(_pack(cross, kind))
        output_bias = None if model.output_bias is None else _array(model.output_bias)
        linears.append(PackedLinear.pack(_array(model.projection), output_bias, kind))
        self._linears, self.output = linears, linears[-1]
        modules: list[nn.Module | None] = [
            norm for layer in encoder for norm in (layer.self_attention_residual.norm, layer.feed_forward_residual.norm)
        ]
        for each in decoder:
            modules += [each.self_attention_residual.norm, each.cross_attention_residual.norm]
            modules.append(each.feed_forward_residual.norm)
        modules += [model.encoder.norm, model.decoder.norm]
        modules += [model.encoder.embedding.norm, model.decoder.embedding.norm]
        norms = np.stack([self._norm(module) for module in modules])
        self.weights = Weights(self._network(model), np.array([linear.record for linear in linears]), norms)
        self.num_bytes = sum(linear.num_bytes for linear in linears) + sum(each.nbytes for each in self._kept)

    def _network(self, model: Transformer) -> NDArray[np.void]:
        config = model.config
        record = np.zeros(1, NETWORK)
        values: dict[str, float] = {
            "d_model": config.d_model,
            "attention_width": config.num_heads * config.width_per_head,
            "num_heads": config.num_heads,
            "head_dim": config.width_per_head,
            "d_ff": config.d_ff,
            "vocab_size": config.vocab_size,
            "num_encoder_layers": config.num_encoder_layers,
            "num_decoder_layers": config.num_decoder_layers,
            "pre_norm": config.norm_position == "pre",
            "rms": config.norm_type == "rms",
            "final_norm": config.final_norm,
            "embedding_norm": config.embedding_norm,
            "activation": _ACTIVATIONS[config.activation],
            "gated": config.gated,
            "half_tables": self._half_tables,
            "positioned": config.position_type != "relative",
            "relative": config.position_type == "relative",
            "epsilon": config.norm_epsilon,
            "token_scale": config.token_scale,
            "output_scale": config.output_scale,
        }
        values["source_table"] = values["target_table"] = self._table(model.source_embedding.weight)
        if not config.tie_source_target:
            values["target_table"] = self._table(model.target_embedding.weight)
        if config.position_type == "relative":
            distances = max(config.max_source_length, config.max_target_length)
            values["num_distances"] = distances
            values["encoder_bias"] = self._relative(model.encoder.relative_bias, distances)
            values["decoder_bias"] = self._relative(model.decoder.relative_bias, distances)
        else:
            values["source_positions"] = self._positions(model.encoder.embedding)
            values["target_positions"] = self._positions(model.decoder.embedding)
        for name, value in values.items():
            record[name] = value
        return record

    def _encoder_layer(self, layer: EncoderLayer) -> list[PackedLinear]:
        return [*self._self_attention(layer.self_attention), *self._feed_forward(layer.feed_forward)]

    def _decoder_layer(self, layer: DecoderLayer) -> list[PackedLinear]:
        cross = layer.cross_attention
        attention = [_pack([_queries(cross)], self.kind), _pack([_parts(cross.out_proj)], self.kind)]
        return [*self._self_attention(layer.self_attention), *attention, *self._feed_forward(layer.feed_forward)]

    def _self_attention(self, attention: MultiHeadAttention) -> list[PackedLinear]:
        joined = [_queries(attention), *_keys_values(attention)]
        return [_pack(joined, self.kind), _pack([_parts(attention.out_proj)], self.kind)]

    def _feed_forward(self, layer: FeedForward) -> list[PackedLinear]:
        joined = [_parts(layer.in_proj)] + ([] if layer.gate_proj is None else [_parts(layer.gate_proj)])
        return [_pack(joined, self.kind), _pack([_parts(layer.out_proj)], self.kind)]

    def _norm(self, module: nn.Module | None) -> NDArray[np.float32]:
        """Return (2, D); a norm that the network does not have is never looked at."""
        result = np.zeros((2, self.config.d_model), np.float32)
        if module is not None:
            result[0] = _array(cast(Tensor, module.weight))
            if not isinstance(module, RMSNorm):
                result[1] = _array(cast(Tensor, module.bias))
        return result

    def _table(self, table: Tensor) -> int:
        """Return the address of an embedding table whose rows are filled up to whole vectors."""
        rows, width = table.shape
        padded = np.zeros((rows, padded_width(width)), np.float16 if self._half_tables else np.float32)
        limit = np.finfo(padded.dtype).max
        padded[:, :width] = _array(table).clip(-limit, limit)
        return self._keep(padded)

    def _positions(self, embedding: Embedding) -> int:
        assert embedding.positions is not None
        positions = cast(Tensor, embedding.positions.weight)
        return self._keep(_array(positions)[embedding.positions.offset :])

    def _relative(self, bias: RelativeBias | None, distances: int) -> int:
        """Return the address of (H, 2 * distances - 1): the bias for a key so many positions behind the query.

        The entry in the middle is distance zero; entries in front of it are for keys before the query.
        """
        assert bias is not None
        with torch.inference_mode():
            keys = torch.arange(1 - distances, distances)
            return self._keep(_array(bias(torch.zeros(1, 1, dtype=torch.long), keys[None])[0, :, 0]))

    def _keep(self, array: NDArray[np.generic]) -> int:
        array = np.ascontiguousarray(array)
        self._kept.append(array)
        return array.ctypes.data


def padded_width(width: int) -> int:
    """Return ``width`` filled up to whole vectors, which also are whole quads."""
    assert LANES % QUAD == 0
    return -(-width // LANES) * LANES


_Parts = tuple[NDArray[np.float32], NDArray[np.float32] | None]
"""A weight and a bias."""


def _array(tensor: Tensor) -> NDArray[np.float32]:
    result: NDArray[np.float32] = tensor.detach().float().cpu().numpy()
    return result


def _parts(linear: nn.Linear) -> _Parts:
    return _array(linear.weight), None if linear.bias is None else _array(linear.bias)


def _queries(attention: MultiHeadAttention) -> _Parts:
    """Return the queries' projection with the factor on the products inside."""
    weight, bias = _parts(attention.q_proj)
    factor = np.float32(attention.scale)
    return weight * factor, None if bias is None else bias * factor


def _keys_values(attention: MultiHeadAttention) -> list[_Parts]:
    return [_parts(attention.k_proj), _parts(attention.v_proj)]


def _pack(parts: list[_Parts], kind: WeightKind) -> PackedLinear:
    """Join projections that read the same input."""
    biases = [bias for _, bias in parts if bias is not None]
    return PackedLinear.pack(
        np.concatenate([weight for weight, _ in parts]), np.concatenate(biases) if biases else None, kind
    )
