"""A checkpoint's network, whose parameters are the checkpoint's own tensors: nothing is drawn, nothing is copied."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from model.checkpoints.checkpoint import Checkpoint, require_fit
from model.config import ModelConfig
from model.errors import CheckpointError
from model.transformer import Transformer
from model.transformer.positions import AbsolutePositions


def build_network(checkpoint: Checkpoint) -> Transformer:
    """Return the network of a checkpoint in evaluation mode, on the CPU and in float32.

    The network is built without memory first and then given the weights themselves, so that weights that are mapped
    from a file stay mapped. Whoever changes its parameters changes the checkpoint's weights.

    Raises:
        CheckpointError: the weights do not fit the network; nothing of its size has been allocated then.
    """
    config, weights = checkpoint.config, checkpoint.weights
    _require_sizes(config, weights)
    with torch.device("meta"):
        network = Transformer(config)
    require_fit(dict(network.named_parameters()), weights)
    for name in [name for name, _ in network.named_parameters()]:
        owner, _, leaf = name.rpartition(".")
        setattr(network.get_submodule(owner), leaf, nn.Parameter(weights[name].detach().to("cpu", torch.float32)))
    if config.position_type == "sinusoidal":
        for side, length in ((network.encoder, config.max_source_length), (network.decoder, config.max_target_length)):
            side.embedding.positions = AbsolutePositions(config, length)
    return network.eval()


def _require_sizes(config: ModelConfig, weights: Mapping[str, Tensor]) -> None:
    """Refuse sizes that no weight shows, before modules are made for them: a layer has many, a width stands in one."""
    largest = max((size for weight in weights.values() for size in weight.shape), default=0)
    limits = {
        **dict.fromkeys(("num_encoder_layers", "num_decoder_layers"), len(weights)),
        **dict.fromkeys(("vocab_size", "d_model", "d_ff", "num_heads", "width_per_head"), largest),
    }
    if config.position_type == "relative":
        limits["relative_num_buckets"] = largest
    problems = [f"{name} is {getattr(config, name)}" for name, limit in limits.items() if getattr(config, name) > limit]
    if problems:
        raise CheckpointError(
            f"the weights do not fit the network: {'; '.join(problems)}, but there are {len(weights)} tensors whose "
            f"largest dimension is {largest}"
        )
