"""Text to token ids and back: sentencepiece, the special tokens, and target-language tokens; it knows no tensors."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from model.errors import CheckpointError, ConfigurationError, InvalidTextError, UnsupportedLanguageError

PAD_ID, UNK_ID, BOS_ID, EOS_ID = 0, 1, 2, 3

NUM_PLACEHOLDERS = 16
"""Tokens <x0> ... that stand for text to be copied, such as names in braces or URLs."""
CONTROL_TOKENS = (
    "<bt>",  # the source was made by back-translation (Caswell et al. 2019)
    "<term>",  # a source term with a wanted translation begins,
    "<as>",  # its wanted translation follows,
    "</term>",  # and the annotation ends (Dinu et al. 2019)
    *(f"<x{index}>" for index in range(NUM_PLACEHOLDERS)),
)
"""Tokens that text can never contain: sentencepiece does not parse control symbols out of its input."""

# French sets no-break spaces before ? ! : ; and inside quotes, and most text does not: one token for all of them.
# U+2581 is how sentencepiece itself writes a space, so a text's own could not be told from one.
_SPACES = dict.fromkeys([ord("\u2581"), *(code for code in range(0x3001) if chr(code).isspace())], " ")


def language_token(code: str) -> str:
    """Return the special token that asks for a target language, such as ``<2en>``."""
    return f"<2{code}>"


def normalize(text: str) -> str:
    """Return ``text`` in Unicode NFC with every white-space character, and U+2581, a plain space."""
    return unicodedata.normalize("NFC", text).translate(_SPACES)


class Tokenizer:
    """A sentencepiece model with our special tokens.

    Attributes:
        languages: target languages that have a token, in the order of their ids.
        vocab_size: number of token ids.
    """

    pad_id, unk_id, bos_id, eos_id = PAD_ID, UNK_ID, BOS_ID, EOS_ID

    def __init__(self, model: bytes) -> None:
        """Read a serialised sentencepiece model.

        Raises:
            CheckpointError: the bytes are no sentencepiece model, or its special tokens are not ours.
        """
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except Exception as error:  # sentencepiece raises RuntimeError, or its own types, depending on the damage
            raise CheckpointError(f"the tokeniser is not a sentencepiece model: {error}") from error
        self.serialized = model
        self.vocab_size: int = self._processor.GetPieceSize()
        found = tuple(getattr(self._processor, name)() for name in ("pad_id", "unk_id", "bos_id", "eos_id"))
        if found != (PAD_ID, UNK_ID, BOS_ID, EOS_ID):
            raise CheckpointError(f"the tokeniser's pad, unk, bos, eos ids must be 0, 1, 2, 3, got {found}")
        self._language_ids = self._find_languages()
        self.languages = tuple(self._language_ids)
        if not self.languages:
            raise CheckpointError("the tokeniser has no target-language token such as <2en>")
        self._special = frozenset(i for i in range(self.vocab_size) if self._processor.IsControl(i)) | {UNK_ID}

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read a sentencepiece model file.

        Raises:
            CheckpointError: the file is missing or is not a model of ours.
        """
        try:
            return cls(path.read_bytes())
        except OSError as error:
            raise CheckpointError(f"cannot read the tokeniser {path}: {error.strerror}") from error

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that stand for no text: padding, unknown, begin, end, languages and control tokens."""
        return self._special

    def language_id(self, code: str) -> int:
        """Return the id of the token that asks for the target language ``code``.

        Raises:
            UnsupportedLanguageError: the model has no such target language.
        """
        if code not in self._language_ids:
            raise UnsupportedLanguageError("target", f"must be one of {', '.join(self.languages)}", code)
        return self._language_ids[code]

    def encode_source(self, text: str, target: str) -> list[int]:
        """Return ``[language token, pieces ..., end token]`` of a source text that is to become ``target``."""
        return [self.language_id(target), *self.encode_target(text), EOS_ID]

    def encode_target(self, text: str) -> list[int]:
        """Return the pieces of a text without special tokens.

        Decoding them gives :func:`normalize` of the text with its words one space apart and no outer space.

        Raises:
            InvalidTextError: the text has lone surrogates, which no UTF-8 text can hold.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidTextError("text", "must be valid Unicode without lone surrogates", text) from error
        ids: list[int] = self._processor.EncodeAsIds(normalize(text))
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the pieces of many valid texts, as :meth:`encode_target` of each would."""
        ids: list[list[int]] = self._processor.EncodeAsIds([normalize(text) for text in texts])
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids; special tokens stand for no text."""
        text: str = self._processor.DecodeIds([i for i in ids if i not in self._special])
        return text

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return the vocabulary entry of each id, as it is to be shown to people."""
        return [self._processor.IdToPiece(i) for i in ids]

    def _find_languages(self) -> dict[str, int]:
        found = {}
        for index in range(min(self.vocab_size, 4096)):
            piece = self._processor.IdToPiece(index)
            if self._processor.IsControl(index) and piece.startswith("<2") and piece.endswith(">"):
                found[piece[2:-1]] = index
        return found


def train_tokenizer(
    sentences: Iterable[str],
    out: Path,
    *,
    vocab_size: int = 16_000,
    languages: Sequence[str] = ("en", "fr"),
    num_threads: int = 2,
) -> Tokenizer:
    """Train a unigram model (Kudo 2018) with byte fallback on both languages' sentences and write it to ``out``.

    Every text can be encoded: characters outside the vocabulary become their UTF-8 bytes. Digits stand alone, so that
    numbers are copied digit by digit. The result depends only on the sentences and the arguments.

    Raises:
        ConfigurationError: the vocabulary is too small for the special tokens and bytes, or too large for the text.
    """
    controls = [*map(language_token, languages), *CONTROL_TOKENS]
    smallest = 256 + 4 + len(controls)  # bytes, and padding, unknown, begin, end
    if vocab_size < smallest:
        raise ConfigurationError("vocab_size", f"must be at least {smallest}", vocab_size)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=map(normalize, sentences),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            byte_fallback=True,
            character_coverage=0.9995,
            normalization_rule_name="identity",
            split_digits=True,
            control_symbols=controls,
            pad_id=PAD_ID,
            unk_id=UNK_ID,
            bos_id=BOS_ID,
            eos_id=EOS_ID,
            num_threads=num_threads,
            max_sentence_length=8192,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ConfigurationError("vocab_size", f"must fit the text ({error})", vocab_size) from error
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(model.getvalue())
    return Tokenizer(model.getvalue())
