"""Which implementation of the running batch suits a device and a number format; it decodes nothing itself."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from model.config import EngineConfig
from model.engine.device import float_dtype, place, select_device
from model.engine.runner import Batch
from model.generation import plain_batch
from model.generation.shortlist import Shortlist

if TYPE_CHECKING:
    from model.transformer import Transformer

COMPILER = "numba"
"""The package that compiles the CPU's decode loops; without it the plain decoder works in its place."""
_logger = logging.getLogger(__name__)


def batch_factory(
    model: Transformer, config: EngineConfig, always_banned: Sequence[int], shortlist: Shortlist | None = None
) -> Callable[[], Batch]:
    """Return what makes a running batch; all batches share one copy of the weights.

    CUDA devices run recorded graphs, the CPU compiled loops; bfloat16 has none there, as few processors are fast with
    it.

    Args:
        model: float32 weights; the plain decoder moves it, in place, to the device and number format of ``config``.
        config: device, number format and decoder.
        always_banned: token ids that are never generated.
        shortlist: likely target tokens, which the compiled decoder restricts itself to where ``config`` says so.

    Raises:
        ConfigurationError: the device does not exist, or has no such number format.
    """
    device = select_device(config.device)
    if device.type == "cuda" and config.decoder == "compiled":
        from model.graphs.batch import graph_batches

        return graph_batches(model.eval(), device, float_dtype(config.dtype, device), always_banned)
    if device.type == "cpu" and config.decoder == "compiled" and config.dtype != "bfloat16":
        if compiler_is_installed():
            return _compiled_factory(model, config, always_banned, shortlist if config.shortlist else None)
        _logger.warning("%s is not installed: decoding is several times slower, in float32", COMPILER)
        config = dataclasses.replace(config, dtype="float32")
    placed = place(model, config)
    return lambda: plain_batch(placed, always_banned)


def compiler_is_installed() -> bool:
    """Whether the CPU's decode loops can be compiled."""
    return importlib.util.find_spec(COMPILER) is not None


def _compiled_factory(
    model: Transformer, config: EngineConfig, always_banned: Sequence[int], shortlist: Shortlist | None
) -> Callable[[], Batch]:
    from model.kernels.batch import KernelBatch
    from model.kernels.packing import PackedNetwork

    kind = "int8" if config.dtype == "auto" else config.dtype
    assert kind != "bfloat16", "has no compiled loops"
    network = PackedNetwork(model, kind)
    return lambda: KernelBatch(network, always_banned, shortlist)
