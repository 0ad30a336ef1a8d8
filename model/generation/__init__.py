"""From the network's logits to hypotheses: greedy, beam search and sampling; it knows token ids, not text."""

from __future__ import annotations

from model.generation.decoding_batch import DecodingBatch, NonFiniteLogitsError, plain_batch
from model.generation.generate import generate, score_target
from model.generation.generation_input import GenerationInput
from model.generation.hypothesis import FinishReason, Hypothesis

__all__ = [
    "DecodingBatch",
    "FinishReason",
    "GenerationInput",
    "Hypothesis",
    "NonFiniteLogitsError",
    "generate",
    "plain_batch",
    "score_target",
]
