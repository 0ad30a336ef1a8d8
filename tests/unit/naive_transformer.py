"""The network once more, in float64 numpy and plain loops, one row at a time: no batch, no mask, no padding, no cache.

It reads the parameters of a `Transformer` by name and shares no other code with it, so that a mistake would have to be
made twice to go unseen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from model.transformer import Transformer

Array = NDArray[np.float64]


def sinusoid(position: int, d_model: int, layout: str) -> list[float]:
    """Return one position vector (Vaswani et al. 2017, section 3.5), entry by entry."""
    half = d_model // 2
    vector = [0.0] * d_model
    for index in range(half):
        exponent = index / (half - 1) if layout == "halves_fairseq" else 2 * index / d_model
        angle = position / 10_000.0**exponent
        sine, cosine = (2 * index, 2 * index + 1) if layout == "interleaved" else (index, half + index)
        vector[sine], vector[cosine] = math.sin(angle), math.cos(angle)
    return vector


def relative_bucket(distance: int, *, bidirectional: bool, num_buckets: int, max_distance: int) -> int:
    """Return the bucket of ``key - query`` (Raffel et al. 2020, section 2.1), in exact arithmetic.

    With two directions each has half of the buckets. Half of a direction's buckets hold one distance each; the k-th of
    the others begins at ``exact * (max_distance / exact) ** (k / others)``, and the last one never ends.
    """
    if bidirectional:
        num_buckets //= 2
        first = num_buckets if distance > 0 else 0
        far = abs(distance)
    else:
        first = 0
        far = max(-distance, 0)  # keys behind the query are masked; they share bucket 0
    exact = num_buckets // 2
    if far < exact:
        return first + far
    others = num_buckets - exact
    step = 0
    while step + 1 < others and Fraction(far, exact) ** others >= Fraction(max_distance, exact) ** (step + 1):
        step += 1
    return first + exact + step


def softmax(scores: Sequence[float]) -> list[float]:
    highest = max(scores)
    powers = [math.exp(score - highest) for score in scores]
    return [power / math.fsum(powers) for power in powers]


ACTIVATIONS: dict[str, Callable[[float], float]] = {
    "relu": lambda x: max(x, 0.0),
    "gelu": lambda x: x * 0.5 * (1.0 + math.erf(x / math.sqrt(2.0))),
    "gelu_tanh": lambda x: x * 0.5 * (1.0 + math.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1.0 + math.exp(-x)),
}


class NaiveTransformer:
    """Computes logits and attention weights of one source and one target.

    Attributes:
        attention: weights (H, queries, keys) of the last call, by names such as ``"decoder.layers.1.cross_attention"``.
    """

    def __init__(self, model: Transformer) -> None:
        self.config = model.config
        self.weights: dict[str, Array] = {
            name: parameter.detach().double().numpy() for name, parameter in model.named_parameters()
        }
        self.attention: dict[str, Array] = {}

    def logits(self, source_ids: Sequence[int], target_input_ids: Sequence[int]) -> Array:
        """Return (T, V)."""
        table = self.weights["source_embedding.weight"]
        target_table = self.weights.get("target_embedding.weight", table)
        source = self._stack("encoder", table[list(source_ids)], None)
        target = self._stack("decoder", target_table[list(target_input_ids)], source)
        projection = self.weights.get("output_weight", target_table)
        return (target * self.config.output_scale) @ projection.T + self.weights.get("output_bias", 0.0)

    def _stack(self, name: str, vectors: Array, encoder_output: Array | None) -> Array:
        """Return the states after all layers of the encoder or the decoder, (T, D)."""
        config = self.config
        scale = math.sqrt(config.d_model) if config.embedding_scale is None else config.embedding_scale
        states = vectors * scale + self._positions(name, len(vectors))
        if config.embedding_norm:
            states = self._norm(f"{name}.embedding.norm", states)
        for index in range(config.num_encoder_layers if encoder_output is None else config.num_decoder_layers):
            states = self._layer(f"{name}.layers.{index}", states, encoder_output)
        return self._norm(f"{name}.norm", states) if config.final_norm else states

    def _layer(self, name: str, states: Array, encoder_output: Array | None) -> Array:
        causal = encoder_output is not None
        bias = self._relative_bias("decoder" if causal else "encoder", len(states))
        states = self._residual(
            f"{name}.self_attention_residual",
            states,
            lambda x: self._attend(f"{name}.self_attention", x, x, bias, causal=causal),
        )
        if encoder_output is not None:
            states = self._residual(
                f"{name}.cross_attention_residual",
                states,
                lambda x: self._attend(f"{name}.cross_attention", x, encoder_output, None, causal=False),
            )
        return self._residual(
            f"{name}.feed_forward_residual", states, lambda x: self._feed_forward(f"{name}.feed_forward", x)
        )

    def _residual(self, name: str, states: Array, sublayer: Callable[[Array], Array]) -> Array:
        if self.config.norm_position == "pre":
            return states + sublayer(self._norm(f"{name}.norm", states))
        return self._norm(f"{name}.norm", states + sublayer(states))

    def _attend(self, name: str, states: Array, keys_from: Array, bias: Array | None, *, causal: bool) -> Array:
        """Return the attention's output (T, D), one query of one head after the other."""
        config = self.config
        width = config.d_model // config.num_heads if config.head_dim is None else config.head_dim
        scale = 1 / math.sqrt(width) if config.attention_scale is None else config.attention_scale
        queries = self._linear(f"{name}.q_proj", states)
        keys, values = self._linear(f"{name}.k_proj", keys_from), self._linear(f"{name}.v_proj", keys_from)
        mixed = np.zeros_like(queries)
        weights = np.zeros((config.num_heads, len(queries), len(keys)))
        for head in range(config.num_heads):
            part = slice(head * width, (head + 1) * width)
            for query in range(len(queries)):
                visible = range(query + 1) if causal else range(len(keys))
                scores = [float(queries[query, part] @ keys[key, part]) * scale for key in visible]
                if bias is not None:
                    scores = [score + float(bias[head, query, key]) for key, score in zip(visible, scores, strict=True)]
                weights[head, query, : len(scores)] = softmax(scores)
                for key in visible:
                    mixed[query, part] += weights[head, query, key] * values[key, part]
        self.attention[name] = weights
        return self._linear(f"{name}.out_proj", mixed)

    def _feed_forward(self, name: str, states: Array) -> Array:
        inner = np.vectorize(ACTIVATIONS[self.config.activation])(self._linear(f"{name}.in_proj", states))
        if self.config.gated:
            inner = inner * self._linear(f"{name}.gate_proj", states)
        return self._linear(f"{name}.out_proj", inner)

    def _linear(self, name: str, states: Array) -> Array:
        return states @ self.weights[f"{name}.weight"].T + self.weights.get(f"{name}.bias", 0.0)

    def _norm(self, name: str, states: Array) -> Array:
        rows = []
        for row in states:
            centred = row - row.mean() if self.config.norm_type == "layer" else row
            rows.append(centred / math.sqrt(float((centred**2).mean()) + self.config.norm_epsilon))
        return np.stack(rows) * self.weights[f"{name}.weight"] + self.weights.get(f"{name}.bias", 0.0)

    def _positions(self, name: str, length: int) -> Array:
        config, offset = self.config, self.config.position_offset
        if config.position_type == "relative":
            return np.zeros((length, config.d_model))
        if config.position_type == "learned":
            return self.weights[f"{name}.embedding.positions.weight"][offset : offset + length]
        return np.array([sinusoid(p + offset, config.d_model, config.sinusoid_layout) for p in range(length)])

    def _relative_bias(self, name: str, length: int) -> Array | None:
        if self.config.position_type != "relative":
            return None
        table = self.weights[f"{name}.relative_bias.weight"]
        bias = np.zeros((self.config.num_heads, length, length))
        for query in range(length):
            for key in range(length):
                bucket = relative_bucket(
                    key - query,
                    bidirectional=name == "encoder",
                    num_buckets=self.config.relative_num_buckets,
                    max_distance=self.config.relative_max_distance,
                )
                bias[:, query, key] = table[bucket]
        return bias
