"""Tokeniser files for Hugging Face's transformers, as far as one of its classes can express a tokeniser."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.text.foreign_tokenizer import FOLDER, SOURCE_FILE, TARGET_FILE, ForeignTokenizer, sentencepiece_entries
from model.text.tokenizer import Tokenizer, language_token
from model.text.tokenizing import TextTokenizer

_MARIAN = (
    "`AutoTokenizer` makes a `MarianTokenizer` of its files (package `sentencepiece`), which adds the end token itself."
)
_NORMAL = " Bring the text into Unicode NFC with plain spaces before, as the model was trained on such text."
_OTHERS = (
    "`AutoTokenizer` makes a `{kind}` of its files. It gives the same ids if the languages are those of the public "
    "checkpoints, whose list is part of that class. {frame}"
)
_FAIRSEQ_BEGIN = ("<s>", "<pad>", "</s>", "<unk>")
_MASK = "<mask>"
_FLAGS = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
_FILLING = "<unused_"
"""How entries begin that only fill a vocabulary up to the network's."""


@dataclass(frozen=True)
class TokenizerFiles:
    """What an exported folder says of its tokeniser.

    Attributes:
        files: names and contents.
        framing: sentences for people: how a source is written, and what a target begins with.
    """

    files: dict[str, bytes]
    framing: str


def tokenizer_files(tokenizer: TextTokenizer, max_length: int, layout: str) -> TokenizerFiles:
    """Return a tokeniser as files of the class ``MarianTokenizer`` where that can express it, else as its family's.

    That class takes sentencepiece models as they are, ids from a table, and the target language as ``>>en<<`` before
    the text; of our own tokenisers this is the name of the token ``<2en>`` there.

    Args:
        tokenizer: ours, or an imported one.
        max_length: longest source of the network.
        layout: name of the network's.
    """
    vocabulary = {piece: index for index, piece in enumerate(tokenizer.pieces(range(tokenizer.vocab_size)))}
    if isinstance(tokenizer, Tokenizer):
        codes = [f">>{code}<<" for code in tokenizer.languages]
        for code, token in zip(tokenizer.languages, codes, strict=True):
            vocabulary[token] = vocabulary.pop(language_token(code))
        models = {"source.spm": tokenizer.serialized, "target.spm": tokenizer.serialized}
        return _marian(tokenizer, vocabulary, models, max_length, _language_note(codes) + _NORMAL)
    assert isinstance(tokenizer, ForeignTokenizer), type(tokenizer)
    if _is_marian(tokenizer):
        tokens = sorted({*tokenizer.framing.target_languages.values()} - {""})
        note = _language_note(tokens) if tokenizer.framing.source_begin else ""
        return _marian(tokenizer, vocabulary, _sentencepiece_models(tokenizer), max_length, note)
    kind, files = _family_files(tokenizer, [*vocabulary], layout)
    return TokenizerFiles(files, _OTHERS.format(kind=kind, frame=_frame_note(tokenizer)))


def _marian(
    tokenizer: TextTokenizer, vocabulary: dict[str, int], models: dict[str, bytes], max_length: int, note: str
) -> TokenizerFiles:
    pad, unknown, end = tokenizer.pieces([tokenizer.pad_id, tokenizer.unk_id, tokenizer.eos_id])
    named = any(f">>{code}<<" in vocabulary for code in tokenizer.target_languages) or _has_tokens(tokenizer)
    settings = {
        "tokenizer_class": "MarianTokenizer",
        "source_lang": ",".join(tokenizer.source_languages),
        **({} if named else {"target_lang": ",".join(tokenizer.target_languages)}),
        "pad_token": pad,
        "unk_token": unknown,
        "eos_token": end,
        "model_max_length": max_length,
        "separate_vocabs": False,
        "sp_model_kwargs": {},
    }
    files = {
        **models,
        "vocab.json": _vocabulary_bytes(vocabulary),
        "tokenizer_config.json": json_bytes(settings),
    }
    return TokenizerFiles(files, _MARIAN + note)


def _family_files(tokenizer: ForeignTokenizer, vocabulary: list[str], layout: str) -> tuple[str, dict[str, bytes]]:
    """Return the class and the files of T5's family, of NLLB-200 and mBART-50, or of M2M-100.

    How a vocabulary is put together tells which: sentencepiece's entries as they are, the same behind fairseq's first
    ones, or a list of its own; languages come behind them.
    """
    model = _sentencepiece_models(tokenizer)["source.spm"]
    entries = sentencepiece_entries(model)
    while vocabulary[-1].startswith(_FILLING):
        vocabulary = vocabulary[:-1]
    settings: dict[str, Any]
    if vocabulary[: len(entries)] == entries:
        settings = {"tokenizer_class": "T5Tokenizer"}
        files = {"spiece.model": model}
    elif vocabulary[: len(entries) + 1] == [*_FAIRSEQ_BEGIN, *entries[3:]] and vocabulary[-1] == _MASK:
        own = len(entries) + 1
        kind = "MBart50Tokenizer" if layout == "mbart" else "NllbTokenizer"
        settings = {"tokenizer_class": kind, "additional_special_tokens": vocabulary[own:-1]}
        if kind == "NllbTokenizer":  # which would put the mask before the languages
            settings["added_tokens_decoder"] = {
                str(own + index): {"content": entry, "special": True, **_FLAGS}
                for index, entry in enumerate(vocabulary[own:])
            }
        files = {"sentencepiece.bpe.model": model}
    else:
        languages = {*tokenizer.framing.source_languages.values(), *tokenizer.framing.target_languages.values()}
        own = next((index for index, entry in enumerate(vocabulary) if entry in languages), len(vocabulary))
        settings = {"tokenizer_class": "M2M100Tokenizer", "additional_special_tokens": vocabulary[own:]}
        table = {entry: index for index, entry in enumerate(vocabulary[:own])}
        files = {"sentencepiece.bpe.model": model, "vocab.json": json_bytes(table)}
    return settings["tokenizer_class"], {**files, "tokenizer_config.json": json_bytes(settings)}


def _has_tokens(tokenizer: TextTokenizer) -> bool:
    """Whether the target is asked for by a token."""
    return isinstance(tokenizer, ForeignTokenizer) and any(tokenizer.framing.target_languages.values())


def _is_marian(tokenizer: ForeignTokenizer) -> bool:
    """Whether sources are the pieces with an end token behind them, and perhaps ``>>target<<`` before them."""
    framing = tokenizer.framing
    [end] = tokenizer.pieces([tokenizer.eos_id])
    if framing.source_end != (end,) or framing.target_begin or framing.text_prefix:
        return False
    if framing.source_begin == ("{target}",):
        return all(token.startswith(">>") and token.endswith("<<") for token in framing.target_languages.values())
    return framing.source_begin == ()


def _sentencepiece_models(tokenizer: ForeignTokenizer) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        own = Path(folder) / FOLDER
        source = (own / SOURCE_FILE).read_bytes()
        target = (own / TARGET_FILE).read_bytes() if (own / TARGET_FILE).exists() else source
    return {"source.spm": source, "target.spm": target}


def _language_note(tokens: list[str]) -> str:
    shown = ", ".join(f"`{token}`" for token in tokens)
    return f" Write the target language before the text, as in `{tokens[0]} text`: one of {shown}."


def _frame_note(tokenizer: ForeignTokenizer) -> str:
    """Describe the tokens around a source and before a target, as they are for one pair of languages."""
    framing = tokenizer.framing
    languages = ", ".join(f"{code} is `{token}`" for code, token in framing.target_languages.items() if token)
    parts = [
        f"A source is [{', '.join((*framing.source_begin, 'pieces', *framing.source_end))}].",
        f"Every target begins with [{', '.join(framing.target_begin)}]." if framing.target_begin else "",
        f"The text {framing.text_prefix!r} stands before every source." if framing.text_prefix else "",
        f"{{source}} and {{target}} are the languages' tokens: {languages}." if languages else "",
    ]
    return " ".join(filter(None, parts))


def _vocabulary_bytes(vocabulary: dict[str, int]) -> bytes:
    return json_bytes(dict(sorted(vocabulary.items(), key=lambda item: item[1])))


def json_bytes(value: Any) -> bytes:
    """Return a value as a JSON file for people and programs."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
