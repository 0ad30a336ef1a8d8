"""Tokenisers of other code bases' checkpoints: sentencepiece with another order of ids, and languages told by tokens.

What a family does differently is data here: the vocabulary as a list, and where which special tokens stand. Reading the
families' own files is not done here, but in model/importing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import sentencepiece

from model.errors import CheckpointError, InvalidTextError, UnsupportedLanguageError
from model.text.languages import language
from model.text.offsets import Span, piece_spans
from model.text.tokenizer import MARKERS
from model.text.tokenizing import Side

FOLDER = "tokenizer"
DESCRIPTION_FILE, SOURCE_FILE, TARGET_FILE = "tokenizer.json", "source.model", "target.model"
FORMAT_VERSION = 1
MAX_VOCABULARY = 4_000_000
"""Most entries of a vocabulary; public models have up to 260,000."""
_SPACE = "\u2581"


@dataclass(frozen=True)
class Framing:
    """Where the special tokens of a family stand; ``{source}`` and ``{target}`` are the languages' own tokens."""

    source_languages: Mapping[str, str]
    """Our code of each language that texts may be in, and its token; "" for a model that has no such tokens."""
    target_languages: Mapping[str, str]
    """The same for what they may become."""
    source_begin: tuple[str, ...] = ()
    """Tokens before a source's pieces."""
    source_end: tuple[str, ...] = ("</s>",)
    """Tokens behind them."""
    target_begin: tuple[str, ...] = ()
    """Tokens that every target begins with, after the start token."""
    text_prefix: str = ""
    """Text before every source; ``{source_name}`` and ``{target_name}`` are the languages' English names."""


@dataclass(frozen=True)
class Specials:
    """The special tokens of a vocabulary, by their entries."""

    pad: str
    unk: str
    bos: str
    eos: str
    others: tuple[str, ...] = field(default=())
    """More entries that stand for no text."""


class ForeignTokenizer:
    """One or two sentencepiece models whose pieces have other ids than their own.

    Attributes:
        vocab_size: number of ids.
        source_languages, target_languages, languages: see :class:`~model.text.tokenizing.TextTokenizer`.
    """

    def __init__(
        self,
        source_model: bytes,
        target_model: bytes | None,
        vocabulary: Sequence[str],
        specials: Specials,
        framing: Framing,
    ) -> None:
        """Put a tokeniser together.

        Args:
            source_model: serialised sentencepiece model of source texts.
            target_model: of target texts; None if it is the same.
            vocabulary: entry of each id; entries that no model makes, and that are not special, are harmless.
            specials: which entries stand for no text.
            framing: where special tokens stand.

        Raises:
            CheckpointError: a part is damaged, or they do not fit together.
        """
        self._models = (source_model, target_model)
        self._source = load_processor(source_model, "source tokeniser")
        self._target = self._source if target_model is None else load_processor(target_model, "target tokeniser")
        self._vocabulary = tuple(vocabulary)
        self._specials = specials
        self.framing = framing
        self._frames: dict[tuple[str, str | None], tuple[list[int], list[int]]] = {}
        self.vocab_size = len(self._vocabulary)
        self._ids = {piece: number for number, piece in enumerate(self._vocabulary)}
        if len(self._ids) != self.vocab_size:
            raise CheckpointError("the vocabulary has an entry twice")
        self.pad_id, self.unk_id, self.bos_id, self.eos_id = (
            self._id(piece) for piece in (specials.pad, specials.unk, specials.bos, specials.eos)
        )
        tokens = {*framing.source_languages.values(), *framing.target_languages.values()} - {""}
        silent = {*specials.others, *tokens, specials.pad, specials.bos, specials.eos, specials.unk}
        self._special = frozenset(self._id(piece) for piece in silent)
        for piece in (*framing.source_begin, *framing.source_end, *framing.target_begin):
            if piece not in ("{source}", "{target}"):
                self._id(piece)
        self.source_languages = tuple(framing.source_languages)
        self.target_languages = tuple(framing.target_languages)
        self.languages = tuple(dict.fromkeys((*self.source_languages, *self.target_languages)))
        if not (self.source_languages and self.target_languages):
            raise CheckpointError("the tokeniser must have a source language and a target language")

    @classmethod
    def load(cls, checkpoint: Path) -> ForeignTokenizer:
        """Read the files of a checkpoint's folder.

        Raises:
            CheckpointError: a file is missing, damaged, or says something that it must not.
        """
        folder = checkpoint / FOLDER
        try:
            description = json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
            source = (folder / SOURCE_FILE).read_bytes()
            target = (folder / TARGET_FILE).read_bytes() if (folder / TARGET_FILE).exists() else None
        except OSError as error:
            raise CheckpointError(f"cannot read the tokeniser {folder}: {error.strerror}") from error
        except ValueError as error:
            raise CheckpointError(f"{folder / DESCRIPTION_FILE} is not JSON: {error}") from error
        try:
            vocabulary, specials, framing = _parsed(description)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{folder / DESCRIPTION_FILE} does not describe a tokeniser: {error}") from error
        return cls(source, target, vocabulary, specials, framing)

    def save(self, folder: Path) -> None:
        """Write its files into a checkpoint's folder."""
        own = folder / FOLDER
        own.mkdir(parents=True, exist_ok=True)
        (own / DESCRIPTION_FILE).write_text(self._description(), encoding="utf-8")
        source, target = self._models
        (own / SOURCE_FILE).write_bytes(source)
        (own / TARGET_FILE).unlink(missing_ok=True)
        if target is not None:
            (own / TARGET_FILE).write_bytes(target)

    @cached_property
    def serialized(self) -> bytes:
        """Its description and digests of its sentencepiece models."""
        digests = (hashlib.blake2b(model).digest() for model in self._models if model is not None)
        return b"".join((self._description().encode(), *digests))

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that stand for no text, and the unknown token's."""
        return self._special

    @cached_property
    def begins_word(self) -> tuple[bool, ...]:
        """For each id, whether a text's word never goes on with it: behind a space, a punctuation mark, or no text."""
        return tuple(
            number in self._special
            or (_byte(piece) is None and (piece.startswith(_SPACE) or not any(map(str.isalnum, piece))))
            for number, piece in enumerate(self._vocabulary)
        )

    def encode_source(self, text: str, target: str, source: str | None = None) -> list[int]:
        """Return the tokens of a source text, special tokens included.

        Raises:
            InvalidTextError: the text has lone surrogates.
            UnsupportedLanguageError: the model does not have a language, or needs to know the source's.
        """
        return self.frame_source(self._encode(text, self._source), target, source)

    def frame_source(self, pieces: Sequence[int], target: str, source: str | None = None) -> list[int]:
        """Put special tokens, and the family's text before every source, around the pieces of a source."""
        begin, end = self._frame(target, source)
        return [*begin, *pieces, *end]

    def num_leading(self, target: str, source: str | None = None) -> int:
        """Return how many tokens of a source stand before its first piece."""
        return len(self._frame(target, source)[0])

    def decoder_prefix(self, target: str) -> tuple[int, ...]:
        """Return the tokens that every target of a language begins with, after the start token."""
        token = self._language_token("target", target, self.framing.target_languages)
        return tuple(self._id(token if piece == "{target}" else piece) for piece in self.framing.target_begin)

    def encode_target(self, text: str) -> list[int]:
        """Return the pieces of a target text, without special tokens."""
        return self._encode(text, self._target)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of target tokens; special tokens stand for no text."""
        text: str = self._target.DecodePieces([self._vocabulary[i] for i in ids if i not in self._special])
        return text

    def encode_source_marked(self, marked: str, target: str) -> list[int]:
        """Return what :meth:`encode_source` does; the text must have no markers, which these models do not know."""
        _refuse_markers(marked)
        return self.encode_source(marked, target)

    def encode_target_marked(self, marked: str) -> list[int]:
        """Return what :meth:`encode_target` does; the text must have no markers."""
        _refuse_markers(marked)
        return self.encode_target(marked)

    def decode_marked(self, ids: Sequence[int]) -> str:
        """Return what :meth:`decode` does: no token is a marker."""
        return self.decode(ids)

    def encode_with_spans(
        self, text: str, *, marked: bool = False, side: Side = "target"
    ) -> tuple[list[int], list[Span]]:
        """Return the pieces of a text, and the span of each in it, in characters, without the space before it."""
        if marked:
            _refuse_markers(text)
        _require_unicode(text)
        processor = self._source if side == "source" else self._target
        found: Any = processor.encode(text, out_type="offset_mapping")
        spans: list[Span] = []
        for start, end in found["offsets"]:
            while start < end and text[start].isspace():
                start += 1
            spans.append((start, end))
        for place in range(len(spans) - 1, 0, -1):  # the last byte of a character has its span: give it to the others
            if _byte(found["pieces"][place - 1]) is not None and spans[place - 1][0] == spans[place - 1][1]:
                spans[place - 1] = spans[place]
        return [self._ids.get(piece, self.unk_id) for piece in found["pieces"]], spans

    def decode_with_spans(self, ids: Sequence[int], *, marked: bool = False) -> tuple[str, list[Span]]:  # noqa: ARG002
        """Return the text of target tokens, and the span of that text of each id."""
        text = self.decode(ids)
        shown = [i for i in ids if i not in self._special]
        surfaces = [piece if (byte := _byte(piece)) is None else byte for piece in self.pieces(shown)]
        spans = iter(piece_spans(surfaces, text))
        found: list[Span] = []
        for i in ids:
            end = found[-1][1] if found else 0
            found.append((end, end) if i in self._special else next(spans))
        return text, found

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return the vocabulary entry of each id."""
        return [self._vocabulary[i] for i in ids]

    def _encode(self, text: str, processor: sentencepiece.SentencePieceProcessor) -> list[int]:
        _require_unicode(text)
        pieces: list[str] = processor.EncodeAsPieces(text)
        return [self._ids.get(piece, self.unk_id) for piece in pieces]

    def _frame(self, target: str, source: str | None) -> tuple[list[int], list[int]]:
        """Return the tokens before and behind a source's pieces; they are the same for every text of two languages."""
        key = target, source
        if key not in self._frames:
            self._frames[key] = self._make_frame(target, source)
        return self._frames[key]

    def _make_frame(self, target: str, source: str | None) -> tuple[list[int], list[int]]:
        framing = self.framing
        tokens = {"{target}": self._language_token("target", target, framing.target_languages)}
        if source is None and len(framing.source_languages) == 1:
            [source] = framing.source_languages
        templates = (*framing.source_begin, *framing.source_end, framing.text_prefix)
        if any("{source" in piece for piece in templates):
            tokens["{source}"] = self._language_token("source", source, framing.source_languages)
        before = [self._id(tokens.get(piece, piece)) for piece in framing.source_begin]
        if framing.text_prefix:
            names = {"target_name": language(target).name, "source_name": language(source).name if source else ""}
            before += self._encode(framing.text_prefix.format(**names), self._source)
        return before, [self._id(tokens.get(piece, piece)) for piece in framing.source_end]

    def _language_token(self, name: str, code: str | None, tokens: Mapping[str, str]) -> str:
        if code is None or code not in tokens:
            raise UnsupportedLanguageError(name, f"must be one of {', '.join(tokens)}", code)
        return tokens[code]

    def _id(self, piece: str) -> int:
        number = self._ids.get(piece)
        if number is None:
            raise CheckpointError(f"the vocabulary lacks the special token {piece!r}")
        return number

    def _description(self) -> str:
        described = {
            "format_version": FORMAT_VERSION,
            "specials": asdict(self._specials),
            "framing": {
                **asdict(self.framing),
                "source_languages": dict(self.framing.source_languages),
                "target_languages": dict(self.framing.target_languages),
            },
            "vocabulary": self._vocabulary,
        }
        return json.dumps(described, ensure_ascii=False)


def _parsed(description: Any) -> tuple[list[str], Specials, Framing]:
    """Check the types of a description; the tokeniser itself checks that its parts fit together."""
    if description["format_version"] != FORMAT_VERSION:
        raise ValueError(f"format_version must be {FORMAT_VERSION}")
    vocabulary = _strings(description["vocabulary"], "vocabulary")
    if len(vocabulary) > MAX_VOCABULARY:
        raise ValueError(f"vocabulary must have at most {MAX_VOCABULARY} entries")
    specials, framing = dict(description["specials"]), dict(description["framing"])
    others = tuple(_strings(specials.pop("others"), "others"))
    named = {name: _strings([specials[name]], name)[0] for name in ("pad", "unk", "bos", "eos")}
    read = Framing(
        _table(framing.pop("source_languages"), "source_languages"),
        _table(framing.pop("target_languages"), "target_languages"),
        source_begin=tuple(_strings(framing.pop("source_begin"), "source_begin")),
        source_end=tuple(_strings(framing.pop("source_end"), "source_end")),
        target_begin=tuple(_strings(framing.pop("target_begin"), "target_begin")),
        text_prefix=_strings([framing.pop("text_prefix")], "text_prefix")[0],
    )
    if framing:
        raise ValueError(f"framing has the unknown {', '.join(framing)}")
    return vocabulary, Specials(**named, others=others), read


def _table(values: Any, name: str) -> dict[str, str]:
    table = dict(values)
    _strings([*table, *table.values()], name)
    return table


def _strings(values: Any, name: str) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"{name} must be strings")
    return values


def sentencepiece_entries(model: bytes) -> list[str]:
    """Return the entries of a serialised sentencepiece model, in the order of its own ids.

    Raises:
        CheckpointError: it is none.
    """
    processor = load_processor(model)
    return [processor.IdToPiece(number) for number in range(processor.GetPieceSize())]


def load_processor(model: bytes, name: str = "tokeniser") -> sentencepiece.SentencePieceProcessor:
    """Read a serialised sentencepiece model.

    Raises:
        CheckpointError: it is none; ``name`` says what it was to be.
    """
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except Exception as error:  # sentencepiece raises RuntimeError, or its own types, depending on the damage
        raise CheckpointError(f"the {name} is not a sentencepiece model: {error}") from error
    return processor


def _byte(piece: str) -> int | None:
    """Return the value of a piece such as ``<0x0A>``."""
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        try:
            return int(piece[3:5], 16)
        except ValueError:
            return None
    return None


def _require_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidTextError("text", "must be valid Unicode without lone surrogates", text) from error


def _refuse_markers(text: str) -> None:
    if any(marker in text for marker in MARKERS):
        raise CheckpointError("this tokeniser has no control tokens for markers")
