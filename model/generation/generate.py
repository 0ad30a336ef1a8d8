"""Decoding a fixed list of sources, and scoring given targets; the engine uses ``DecodingBatch`` instead."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from model.generation.decoding_batch import DecodingBatch, NonFiniteLogitsError, plain_batch
from model.generation.generation_input import GenerationInput
from model.generation.hypothesis import Hypothesis
from model.transformer import Transformer

__all__ = ["DecodingBatch", "GenerationInput", "NonFiniteLogitsError", "generate", "score_target"]


def generate(
    model: Transformer,
    inputs: Sequence[GenerationInput],
    always_banned: Sequence[int] = (),
    max_batch_rows: int = 128,
) -> list[list[Hypothesis]]:
    """Decode all inputs and return each one's hypotheses, best first, in the order of the inputs.

    Args:
        model: in evaluation mode.
        inputs: sources and options, which may differ.
        always_banned: tokens that are never generated, see :class:`DecodingBatch`.
        max_batch_rows: rows decoded together; the rest waits. A request that alone takes more runs alone.

    Raises:
        InvalidRequestError: an input does not fit the model.
        NonFiniteLogitsError: the network computed NaN or infinity.
    """
    for item in inputs:
        item.validate(model.config)
    batch: DecodingBatch[int] = plain_batch(model, always_banned)
    results: list[list[Hypothesis]] = [[] for _ in inputs]
    # From the end, so the longest first and together with those of similar length.
    waiting = sorted(range(len(inputs)), key=lambda index: len(inputs[index].source_ids))
    while waiting or batch.num_requests:
        if batch.max_rows <= max_batch_rows // 2:  # half at a time: encoding a few sources wastes most of a call
            joining: list[tuple[int, GenerationInput]] = []
            rows = batch.max_rows
            while waiting and (rows == 0 or rows + inputs[waiting[-1]].max_rows <= max_batch_rows):
                index = waiting.pop()
                joining.append((index, inputs[index]))
                rows += inputs[index].max_rows
            batch.add(joining)
        for index, hypotheses in batch.step():
            results[index] = hypotheses
    return results


def score_target(model: Transformer, source_ids: Sequence[int], target_ids: Sequence[int]) -> list[float]:
    """Return the log-probability that the model gives to each token of a given target (forced decoding).

    Computed from all positions at once and without cache, so it is an independent check of a search's scores.

    Args:
        model: in evaluation mode.
        source_ids: the source's tokens.
        target_ids: the target's tokens without start token; with the end token if that is to be scored.
    """
    assert not model.training, "scoring needs model.eval(), otherwise dropout is active"
    if not target_ids:
        return []
    device = next(model.parameters()).device
    source = torch.tensor([list(source_ids)], dtype=torch.long, device=device)
    target = torch.tensor([list(target_ids)], dtype=torch.long, device=device)
    start = torch.full((1, 1), model.config.decoder_start_id, dtype=torch.long, device=device)
    with torch.inference_mode():
        logits = model(source, torch.cat([start, target[:, :-1]], dim=1), torch.ones_like(source, dtype=torch.bool))
        log_probs = logits.float().log_softmax(-1).gather(2, target[:, :, None])  # (1, T, 1)
    scores: list[float] = log_probs[0, :, 0].tolist()
    return scores
