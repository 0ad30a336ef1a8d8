"""Which tokeniser a checkpoint's folder has, and its reading; the tokenisers themselves are in files of their own."""

from __future__ import annotations

from pathlib import Path

from model.text.foreign_tokenizer import FOLDER, ForeignTokenizer
from model.text.tokenizer import TOKENIZER_FILE, Tokenizer
from model.text.tokenizing import TextTokenizer


def load_tokenizer(checkpoint: Path) -> TextTokenizer:
    """Read the tokeniser of a checkpoint's folder: our own, or one that was imported.

    Raises:
        CheckpointError: its files are missing or damaged.
    """
    if (checkpoint / FOLDER).is_dir():
        return ForeignTokenizer.load(checkpoint)
    return Tokenizer.load(checkpoint / TOKENIZER_FILE)
