"""The families' tokenisers, put together from the files of a checkpoint's folder; no text is tokenised here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.errors import CheckpointError, UnsupportedLanguageError
from model.importing.folder import read_json
from model.text.foreign_tokenizer import ForeignTokenizer, Framing, Specials, sentencepiece_entries
from model.text.languages import language

MAX_MODEL_BYTES = 64 * 2**20
"""Longest sentencepiece file that is read; public ones have up to 5 MB."""
_FAIRSEQ_BEGIN = ("<s>", "<pad>", "</s>", "<unk>")
"""The first entries of vocabularies that come from fairseq; sentencepiece's own begin with <unk>, <s>, </s>."""
_MASK = "<mask>"
_MADLAD_TOKENS = ("<2", ">")
_T5_LANGUAGES = ("en", "fr", "de", "ro")
_T5_PREFIX = "translate {source_name} to {target_name}: "
_NUM_EXTRA_IDS = 100


@dataclass(frozen=True)
class Wanted:
    """What the user says about the languages, where a checkpoint does not."""

    source_language: str | None = None
    target_language: str | None = None


@dataclass(frozen=True)
class Files:
    """The folder's files about its tokeniser."""

    folder: Path
    config: Mapping[str, Any]
    """Of config.json."""
    tokenizer_config: Mapping[str, Any] = field(default_factory=dict)
    special_tokens: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path, config: Mapping[str, Any]) -> Files:
        """Read them."""
        optional = (folder / "tokenizer_config.json", folder / "special_tokens_map.json")
        return cls(folder, config, *(read_json(file) if file.exists() else {} for file in optional))

    def model(self, *names: str) -> bytes:
        """Return the first sentencepiece file that is there."""
        for name in names:
            file = self.folder / name
            if file.is_file():
                return read_model(file)
        raise CheckpointError(f"{self.folder} must have a sentencepiece model: {' or '.join(names)}")

    def vocabulary(self) -> list[str]:
        """Return the entries of vocab.json in the order of their ids."""
        file = self.folder / "vocab.json"
        return numbered_entries(read_json(file), file)

    def language_tokens(self) -> list[str]:
        """Return the tokens of languages, in the order of their ids."""
        for where in (self.tokenizer_config, self.special_tokens):
            for name in ("additional_special_tokens", "extra_special_tokens"):
                found = where.get(name)
                if isinstance(found, list) and found:
                    return [each["content"] if isinstance(each, dict) else str(each) for each in found]
        raise CheckpointError(f"{self.folder}: tokenizer_config.json must list the tokens of the languages")


def read_tokenizer(folder: Path, config: Mapping[str, Any], vocab_size: int, wanted: Wanted) -> ForeignTokenizer:
    """Return the tokeniser of a checkpoint.

    Args:
        folder: in the Hugging Face layout.
        config: of its config.json.
        vocab_size: of the network; a smaller vocabulary is filled up with entries that are never generated.
        wanted: languages that the user names.

    Raises:
        CheckpointError: files are missing or do not fit together, or the family's tokeniser is not supported.
    """
    family = str(config.get("model_type"))
    if family not in _READERS:
        raise CheckpointError(f"the tokeniser of {family} is not supported: it is no sentencepiece model")
    source, target, vocabulary, specials, framing = _READERS[family](Files.of(folder, config), wanted)
    if len(vocabulary) > vocab_size:
        raise CheckpointError(f"the tokeniser has {len(vocabulary)} tokens, the network's vocab_size is {vocab_size}")
    filling = tuple(f"<unused_{number}>" for number in range(len(vocabulary), vocab_size))
    specials = Specials(specials.pad, specials.unk, specials.bos, specials.eos, (*specials.others, *filling))
    return ForeignTokenizer(source, target, [*vocabulary, *filling], specials, framing)


Parts = tuple[bytes, bytes | None, list[str], Specials, Framing]


def _marian(files: Files, wanted: Wanted) -> Parts:
    """Two sentencepiece models and one vocabulary; tokens such as ``>>fra<<`` where there are several targets."""
    if (files.folder / "target_vocab.json").exists() or files.tokenizer_config.get("separate_vocabs"):
        raise CheckpointError("two vocabularies of different sizes are not supported")
    vocabulary = files.vocabulary()
    tokens = [piece for piece in vocabulary if piece.startswith(">>") and piece.endswith("<<")]
    stated = (files.tokenizer_config.get("source_lang"), files.tokenizer_config.get("target_lang"))
    sources = language_codes(wanted.source_language or stated[0], "--source-language")
    if tokens:
        targets = {_code(token[2:-2]): token for token in tokens}
        begin: tuple[str, ...] = ("{target}",)
    else:
        targets = dict.fromkeys(language_codes(wanted.target_language or stated[1], "--target-language"), "")
        begin = ()
    framing = Framing(dict.fromkeys(sources, ""), targets, source_begin=begin)
    specials = Specials("<pad>", "<unk>", "</s>", "</s>", tuple(tokens))
    return files.model("source.spm"), files.model("target.spm"), vocabulary, specials, framing


def _m2m100(files: Files, wanted: Wanted) -> Parts:
    """M2M-100 has a vocabulary of its own and tokens such as ``__fr__``; NLLB-200 is built as mBART-50 is."""
    tokens = files.language_tokens()
    if not (files.folder / "vocab.json").exists():
        return _fairseq(files, wanted)
    vocabulary = files.vocabulary()
    tokens = [token for token in tokens if token not in set(vocabulary)]
    # The vocabulary is followed by the languages and, in public checkpoints, some words that are never used.
    framing = _both_ways({_code(token.strip("_")): token for token in tokens if token.startswith("__")})
    specials = Specials("<pad>", "<unk>", "<s>", "</s>", tuple(tokens))
    return files.model("sentencepiece.bpe.model", "spm.model"), None, [*vocabulary, *tokens], specials, framing


def _fairseq(files: Files, wanted: Wanted) -> Parts:
    """NLLB-200 and mBART-50: sentencepiece's entries one place later, then the languages, then the mask."""
    del wanted  # the checkpoint says it all
    model = files.model("sentencepiece.bpe.model")
    tokens = [each for each in files.language_tokens() if each != _MASK]
    vocabulary = [*_FAIRSEQ_BEGIN, *sentencepiece_entries(model)[3:], *tokens, _MASK]
    languages = {_code(token): token for token in tokens}
    specials = Specials("<pad>", "<unk>", "<s>", "</s>", (_MASK, *tokens))
    return model, None, vocabulary, specials, _both_ways(languages)


def _mbart(files: Files, wanted: Wanted) -> Parts:
    """As mBART-50; the first mBART has its languages behind the text, and decodes from the language's token."""
    if "MBart50" not in str(files.tokenizer_config.get("tokenizer_class", "MBart50")):
        raise CheckpointError("mBART-25 is not supported: its decoder has another start token for each language")
    return _fairseq(files, wanted)


def _t5(files: Files, wanted: Wanted) -> Parts:
    """Sentencepiece's entries as they are, then the extra ids backwards; languages are words of the text."""
    model = files.model("spiece.model", "spiece.vocab.model", "sentencepiece.model")
    entries = sentencepiece_entries(model)
    size = int(files.config.get("vocab_size", len(entries)))
    room = min(_NUM_EXTRA_IDS, max(0, size - len(entries)))
    extra = [f"<extra_id_{number}>" for number in reversed(range(room)) if f"<extra_id_{number}>" not in entries]
    specials = Specials("<pad>", "<unk>", "<pad>", "</s>", tuple(extra))
    before, after = _MADLAD_TOKENS
    asked = {
        entry[len(before) : -len(after)]: entry
        for entry in entries
        if entry.startswith(before) and entry[2:3].isalpha()
    }
    asked = {code: entry for code, entry in asked.items() if entry.endswith(after)}
    if len(asked) > 1:  # MADLAD-400
        targets = {_code(code): entry for code, entry in asked.items()}
        framing = Framing(dict.fromkeys(targets, ""), targets, source_begin=("{target}",))
        others = (*extra, *asked.values())
        return model, None, [*entries, *extra], Specials("<pad>", "<unk>", "<pad>", "</s>", others), framing
    sources = language_codes(wanted.source_language, "") if wanted.source_language else list(_T5_LANGUAGES)
    targets = dict.fromkeys(language_codes(wanted.target_language, "") if wanted.target_language else _T5_LANGUAGES, "")
    framing = Framing(dict.fromkeys(sources, ""), targets, text_prefix=_T5_PREFIX)
    return model, None, [*entries, *extra], specials, framing


_READERS: Mapping[str, Callable[[Files, Wanted], Parts]] = {
    "marian": _marian,
    "m2m_100": _m2m100,
    "mbart": _mbart,
    "t5": _t5,
    "mt5": _t5,
}


def _both_ways(languages: Mapping[str, str]) -> Framing:
    """Return the framing of a model that is told both languages: the source's first, the target's in the decoder."""
    return Framing(languages, languages, source_begin=("{source}",), target_begin=("{target}",))


def read_model(file: Path) -> bytes:
    """Return a sentencepiece file, or raise CheckpointError if it is too long to be one."""
    if file.stat().st_size > MAX_MODEL_BYTES:
        raise CheckpointError(f"{file} must have at most {MAX_MODEL_BYTES} bytes")
    return file.read_bytes()


def numbered_entries(table: Mapping[str, Any], file: Path) -> list[str]:
    """Return the entries of a vocabulary in the order of their ids.

    Raises:
        CheckpointError: they are not numbered from 0 without a gap.
    """
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in table.values()):
        raise CheckpointError(f"{file} must give each entry a number")
    if sorted(table.values()) != list(range(len(table))):
        raise CheckpointError(f"{file} must number its entries from 0 without a gap")
    return [str(piece) for piece in sorted(table, key=table.__getitem__)]


def language_codes(stated: Any, option: str) -> list[str]:
    """Return our codes of languages that are stated with commas or plus signs between them."""
    if not isinstance(stated, str) or not stated.strip():
        raise CheckpointError(f"the checkpoint does not say its language: give {option}")
    return list(dict.fromkeys(_code(part) for part in stated.replace("+", ",").split(",") if part.strip()))


def _code(theirs: str) -> str:
    """Return our code of a language, or theirs where we have none."""
    try:
        return language(theirs.strip()).code
    except UnsupportedLanguageError:
        return theirs.strip()
