"""How many token positions fit into a device's memory; plain arithmetic, the device is asked elsewhere."""

from __future__ import annotations

from model.config import ModelConfig

UNMEASURED_BATCH_TOKENS = 2048
"""Budget where memory is not measured: on the CPU larger batches gain nothing, and delay each other."""
USABLE_PART = 0.8
"""Part of the free memory that is planned with; the rest is for the encoder's activations and fragmentation."""
CACHE_COPIES = 8
"""Slots are allocated in powers of two and for the longest limit among them, and growing writes a second copy of keys
and values before the first is freed."""
LOGIT_COPIES = 4
"""Arrays as large as the logits, in float32, that a step holds at once: logits, log-probabilities, their sorting."""
ROW_POSITIONS = 12
"""Positions of the shortest row: one source token, and what GenerationConfig.token_limit reserves for it at least.

Requests with a smaller ``max_new_tokens`` have shorter rows; a batch of nothing else may lack memory, and is halved.
"""


def bytes_per_position(config: ModelConfig, bytes_per_number: int) -> int:
    """Return the memory that one position of ``max_batch_tokens`` may need, in bytes, rounded up.

    A source position has a key and a value in the cross-attention of every decoder layer, a target position in their
    self-attention. A row's logits are spread over the positions of the shortest row.

    Args:
        config: the network's shape.
        bytes_per_number: of keys and values.
    """
    cached = 2 * config.num_decoder_layers * config.num_heads * config.width_per_head * bytes_per_number * CACHE_COPIES
    logits = config.vocab_size * 4 * LOGIT_COPIES
    return cached - (-logits // ROW_POSITIONS)


def measured_budget(free_bytes: int, position_bytes: int, longest_request: int) -> int:
    """Return ``max_batch_tokens`` for a device.

    Args:
        free_bytes: memory that is free after the weights were loaded.
        position_bytes: what one position needs, from :func:`bytes_per_position`.
        longest_request: positions of the longest row that the model can decode; the budget is never below, because
            such a request runs in any case.
    """
    return max(longest_request, int(free_bytes * USABLE_PART) // position_bytes)
