"""Names on the Hugging Face hub, fetched where huggingface_hub is installed and there is a network."""

from __future__ import annotations

import re
from pathlib import Path

from model.errors import CheckpointError, ConfigurationError

_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_PATTERNS = ("*.json", "*.spm", "*.model", "model*.safetensors")
_PICKLED = "pytorch_model*.bin"


def find_source(source: str) -> Path:
    """Return the folder of a checkpoint: a path as it is, a name of the hub after fetching it.

    Raises:
        ConfigurationError: it is neither.
        CheckpointError: it cannot be fetched.
    """
    path = Path(source)
    if path.is_dir():
        return path
    if not _NAME.fullmatch(source) or path.exists():
        raise ConfigurationError("source", "must be a folder, or a name such as Helsinki-NLP/opus-mt-fr-en", source)
    try:
        import huggingface_hub
    except ImportError:
        rule = "is a name of the hub: install huggingface_hub to fetch it, or give a folder"
        raise ConfigurationError("source", rule, source) from None
    try:
        fetched = huggingface_hub.snapshot_download(source, allow_patterns=list(_PATTERNS))
        if not any(Path(fetched).glob("model*.safetensors")):
            fetched = huggingface_hub.snapshot_download(source, allow_patterns=[*_PATTERNS, _PICKLED])
    except Exception as error:  # its own errors, and those of the network below it
        raise CheckpointError(
            f"cannot fetch {source}: {type(error).__name__}. Is there a network? Else fetch the repository's files on "
            "another machine, and give their folder"
        ) from error
    return Path(fetched)
