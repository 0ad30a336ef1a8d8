"""The device that decodes: which one, its number format, workers and memory; it knows no requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from model.config import EngineConfig, ModelConfig, WeightDtype
from model.engine.cores import usable_cores
from model.engine.memory import UNMEASURED_BATCH_TOKENS, bytes_per_position, measured_budget
from model.errors import ConfigurationError

if TYPE_CHECKING:
    from model.transformer import Transformer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Number formats in which the network computes."""
NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")
"""What errors say that have no type of their own: the CPU's, and those that were wrapped in another on their way."""


def select_device(name: str) -> torch.device:
    """Return the device of an :class:`~model.config.EngineConfig`: ``"auto"`` is CUDA where there is one, else the CPU.

    Raises:
        ConfigurationError: no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigurationError("device", "must be auto, cpu, cuda or cuda:N", name) from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigurationError("device", "must be auto, cpu, cuda or cuda:N", name)
    num_devices = torch.cuda.device_count() if device.type == "cuda" else 1
    if num_devices == 0 or (device.index or 0) >= num_devices:
        raise ConfigurationError("device", f"must be there; this machine has {num_devices} CUDA devices", name)
    return device


def float_dtype(name: WeightDtype, device: torch.device) -> torch.dtype:
    """Return the number format of the plain network: ``"auto"`` is float16 on CUDA, and float32 on the CPU.

    Raises:
        ConfigurationError: it is no float format.
    """
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise ConfigurationError("dtype", f"must be auto, {', '.join(DTYPES)} on this device", name)
    return DTYPES[name]


def place(model: Transformer, config: EngineConfig) -> Transformer:
    """Move a model, in place, to the device and number format of ``config``, ready for decoding.

    Raises:
        ConfigurationError: the device does not exist, or the number format is no float format.
    """
    device = select_device(config.device)
    return model.to(device=device, dtype=float_dtype(config.dtype, device)).eval()


def count_workers(config: EngineConfig, device: torch.device) -> int:
    """Return how many workers decode; where ``config`` leaves it open, so many that they fill the cores, 1 on CUDA."""
    if config.num_workers:
        return config.num_workers
    return 1 if device.type == "cuda" else max(1, usable_cores() // config.num_threads)


def token_budget(
    config: EngineConfig,
    device: torch.device,
    model: ModelConfig,
    free_bytes: Callable[[torch.device], int] = lambda device: torch.cuda.mem_get_info(device)[0],
) -> int:
    """Return the budget of each worker's batch; on CUDA, where ``config`` has 0, as much as fits into the memory.

    Args:
        config: a ``max_batch_tokens`` above 0 is taken as it is.
        device: with the weights already on it.
        model: the network's shape.
        free_bytes: asks a CUDA device for its free memory.
    """
    if config.max_batch_tokens:
        return config.max_batch_tokens
    if device.type != "cuda":
        return UNMEASURED_BATCH_TOKENS
    bytes_per_number = DTYPES.get(config.dtype, torch.float16).itemsize
    free_for_each = free_bytes(device) // count_workers(config, device)
    longest_request = model.max_source_length + model.max_target_length
    return measured_budget(free_for_each, bytes_per_position(model, bytes_per_number), longest_request)


def memory_releaser(device: torch.device) -> Callable[[], None]:
    """Return what gives a device's unused memory back to it, so that fragments become whole again."""
    return torch.cuda.empty_cache if device.type == "cuda" else lambda: None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device had too little memory; it works on with a smaller batch."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


def is_fatal(error: BaseException) -> bool:
    """Whether the device is lost with this error: a CUDA context is unusable after any but an out-of-memory error."""
    return isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error)
