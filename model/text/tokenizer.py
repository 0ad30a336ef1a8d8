"""Text to token ids and back: sentencepiece, the special tokens, and target-language tokens; it knows no tensors."""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import sentencepiece

from model.errors import CheckpointError, ConfigurationError, InvalidTextError, UnsupportedLanguageError
from model.text.offsets import Span, origins, piece_spans
from model.text.tokenizing import Side

TOKENIZER_FILE = "tokenizer.model"
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

PLACEHOLDERS = tuple(chr(0xE000 + index) for index in range(NUM_PLACEHOLDERS))
"""In marked text, the private-use characters that stand for ``<x0>`` and so on, as one character each."""
TERM_BEGIN, TERM_AS, TERM_END = "\ue010", "\ue011", "\ue012"
"""In marked text, ``TERM_BEGIN source words TERM_AS wanted target words TERM_END`` in the place of the source words."""
MARKERS = dict(
    zip((*PLACEHOLDERS, TERM_BEGIN, TERM_AS, TERM_END), (*CONTROL_TOKENS[4:], *CONTROL_TOKENS[1:4]), strict=True)
)
"""The characters of marked text that stand for control tokens, and which."""
_MARKER = re.compile(f"[{PLACEHOLDERS[0]}-{TERM_END}]")

# French sets no-break spaces before ? ! : ; and inside quotes, and most text does not: one token for all of them.
# U+2581 is how sentencepiece itself writes a space, so a text's own could not be told from one.
_SPACES = dict.fromkeys([ord("\u2581"), *(code for code in range(0x3001) if chr(code).isspace())], " ")


def language_token(code: str) -> str:
    """Return the special token that asks for a target language, such as ``<2en>``."""
    return f"<2{code}>"


def normalize(text: str) -> str:
    """Return ``text`` in Unicode NFC with every white-space character, and U+2581, a plain space."""
    return unicodedata.normalize("NFC", text).translate(_SPACES)


def space_terms(marked: str) -> str:
    """Return marked text with its spaces as the encoder wants them: the words of an annotation begin with a space.

    So they are the same pieces as in text without annotations: the space before an annotation goes into it, and the
    wanted translation gets one.
    """
    return re.sub(f"{TERM_AS} *", f"{TERM_AS} ", re.sub(f"(?:^| +){TERM_BEGIN} *", f"{TERM_BEGIN} ", marked))


class Tokenizer:
    """A sentencepiece model with our special tokens.

    Attributes:
        languages: target languages that have a token, in the order of their ids; sources may be in the same ones.
        source_languages, target_languages: the same.
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
        self.languages = self.source_languages = self.target_languages = tuple(self._language_ids)
        if not self.languages:
            raise CheckpointError("the tokeniser has no target-language token such as <2en>")
        self._special = frozenset(i for i in range(self.vocab_size) if self._processor.IsControl(i)) | {UNK_ID}
        self._marker_bytes = self._find_markers()
        self._marker_ids = {i: (character, pieces) for pieces, (character, i) in self._marker_bytes.items()}

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

    def save(self, folder: Path) -> None:
        """Write the sentencepiece model into a checkpoint's folder."""
        (folder / TOKENIZER_FILE).write_bytes(self.serialized)

    def encode_source(self, text: str, target: str, source: str | None = None) -> list[int]:
        """Return ``[language token, pieces ..., end token]`` of a source text that is to become ``target``."""
        return self.frame_source(self.encode_target(text), target, source)

    def frame_source(self, pieces: Sequence[int], target: str, source: str | None = None) -> list[int]:  # noqa: ARG002
        """Put language and end token around the pieces of a source; its own language has no token."""
        return [self.language_id(target), *pieces, EOS_ID]

    def num_leading(self, target: str, source: str | None = None) -> int:  # noqa: ARG002 - the same for all
        """Return 1: the target's language token."""
        return 1

    def decoder_prefix(self, target: str) -> tuple[int, ...]:  # noqa: ARG002 - the same for all
        """Return nothing: the source says what language is wanted."""
        return ()

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

    def encode_source_marked(self, marked: str, target: str) -> list[int]:
        """Return what :meth:`encode_source` does of a text in which :data:`MARKERS` stand for control tokens."""
        return self.frame_source(self.encode_target_marked(marked), target)

    def encode_target_marked(self, marked: str) -> list[int]:
        """Return the pieces of a text in which :data:`MARKERS` stand for control tokens; see :func:`space_terms`.

        Only for callers that have taken these characters out of the user's own text.

        Raises:
            InvalidTextError: the text has lone surrogates.
            CheckpointError: the vocabulary lacks a control token, or has these characters in its pieces.
        """
        ids = self.encode_target(space_terms(marked) if TERM_BEGIN in marked else marked)
        wanted = len(_MARKER.findall(marked))
        if not wanted:
            return ids
        encoded: list[int] = []
        index = found = 0
        while index < len(ids):
            marker = self._marker_bytes.get(tuple(ids[index : index + 3]))
            encoded.append(ids[index] if marker is None else marker[1])
            found += marker is not None
            index += 1 if marker is None else 3
        if found != wanted:
            raise CheckpointError(f"the tokeniser has no control tokens for {wanted - found} of {wanted} markers")
        return encoded

    def decode_marked(self, ids: Sequence[int]) -> str:
        """Return the text of token ids with :data:`MARKERS` for their control tokens, spaced as the tokens say.

        The same characters spelt by bytes, which are no control tokens, become U+FFFD.
        """
        plain: list[int] = []
        for i in self._without_spelt_markers(ids):
            if i in self._marker_ids:
                plain += self._marker_ids[i][1]
            elif i not in self._special:
                plain.append(i)
        text: str = self._processor.DecodeIds(plain)
        return text

    def encode_with_spans(
        self,
        text: str,
        *,
        marked: bool = False,
        side: Side = "target",  # noqa: ARG002 - one vocabulary for both
    ) -> tuple[list[int], list[Span]]:
        """Return what :meth:`encode_target` does, and the span of the text, in characters, of each piece.

        Spans do not include the space before a word. A character that is several pieces is the span of each of them.
        With ``marked``, it is :meth:`encode_target_marked`, and a control token has the span of its marker.
        """
        ids = self.encode_target_marked(text) if marked else self.encode_target(text)
        normalized, origin = origins(text, normalize)
        spans = []
        for start, end in piece_spans(self._surfaces(ids), normalized):
            before = origin[start][0] if start < len(origin) else len(text)
            spans.append((before, origin[end - 1][1] if end > start else before))
        return ids, spans

    def decode_with_spans(self, ids: Sequence[int], *, marked: bool = False) -> tuple[str, list[Span]]:
        """Return what :meth:`decode` (or :meth:`decode_marked`) does, and the span of that text of each id."""
        text = self.decode_marked(ids) if marked else self.decode(ids)
        silent = self._special - self._marker_ids.keys() if marked else self._special
        shown = [i for i in ids if i not in silent]
        spans = iter(piece_spans(self._surfaces(self._without_spelt_markers(shown) if marked else shown), text))
        found: list[Span] = []
        for i in ids:
            end = found[-1][1] if found else 0
            found.append((end, end) if i in silent else next(spans))
        return text, found

    @cached_property
    def begins_word(self) -> tuple[bool, ...]:
        """For each id, whether a text's word never goes on with it: behind a space, a punctuation mark, or no text."""
        return tuple(
            i in self._special
            or (not self._processor.IsByte(i) and (piece.startswith("\u2581") or not any(map(str.isalnum, piece))))
            for i, piece in enumerate(self.pieces(range(self.vocab_size)))
        )

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return the vocabulary entry of each id, as it is to be shown to people."""
        return [self._processor.IdToPiece(i) for i in ids]

    def _surfaces(self, ids: Sequence[int]) -> list[str | int]:
        """Return what each id contributes to a text: characters, one byte of a character, or nothing."""
        surfaces: list[str | int] = []
        for i in ids:
            piece = "" if i in self._special else self._processor.IdToPiece(i)
            if i in self._marker_ids:
                piece = self._marker_ids[i][0]
            surfaces.append(int(piece[3:5], 16) if self._processor.IsByte(i) else piece)
        return surfaces

    def _without_spelt_markers(self, ids: Sequence[int]) -> list[int]:
        """Return ids in which bytes that spell a marker spell U+FFFD, so that none passes for a control token."""
        safe = list(ids)
        for index in range(len(safe) - 2):
            if tuple(safe[index : index + 3]) in self._marker_bytes:
                safe[index : index + 3] = self._byte_ids("\ufffd")
        return safe

    def _byte_ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._processor.PieceToId(f"<0x{byte:02X}>") for byte in text.encode())

    def _find_markers(self) -> dict[tuple[int, ...], tuple[str, int]]:
        """Return marker and id of each control token that the vocabulary has, by the byte pieces of its marker."""
        controls = {character: self._processor.PieceToId(token) for character, token in MARKERS.items()}
        return {self._byte_ids(c): (c, i) for c, i in controls.items() if self._processor.IsControl(i)}

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
