"""Tokenisers with other vocabularies: ids against sentencepiece itself and the families' published order of ids."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from model.errors import CheckpointError, InvalidTextError, UnsupportedLanguageError
from model.importing.tokenizers import Wanted, read_tokenizer
from model.text.foreign_tokenizer import FOLDER, ForeignTokenizer, Framing, Specials
from model.text.loading import load_tokenizer
from model.text.tokenizer import PLACEHOLDERS

SENTENCES = [
    f"{subject} {verb} {place}{end}"
    for subject in ("Le voisin", "Ma sœur", "The old lady", "Nobody", "L'élève")
    for verb in ("regarde", "voit", "looks at", "draws", "préfère")
    for place in ("la gare", "le château", "the station", "an island")
    for end in (".", " ?", "!", " 1998.")
]
TEXTS = [
    "Le voisin regarde la gare.",
    "",
    "  deux  espaces ",
    "漢字 и 😀",
    "the island, 1998!",
    "a\tb\nc",
    "<s> </s> <pad>",
    "été",
]
LANGUAGES = ["en_XX", "fr_XX", "de_DE"]


def train(vocab_size: int = 120, **options: Any) -> tuple[bytes, sentencepiece.SentencePieceProcessor]:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=model,
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return model.getvalue(), sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


@pytest.fixture(scope="module")
def fairseq() -> tuple[bytes, sentencepiece.SentencePieceProcessor]:
    """A model as mBART and NLLB have it: <unk>, <s>, </s> first."""
    return train()


def folder_of(tmp_path: Path, model: bytes, name: str, **files: Any) -> Path:
    (tmp_path / name).write_bytes(model)
    for file, value in files.items():
        (tmp_path / f"{file}.json").write_text(json.dumps(value), encoding="utf-8")
    return tmp_path


@pytest.fixture
def mbart(tmp_path: Path, fairseq: tuple[bytes, sentencepiece.SentencePieceProcessor]) -> ForeignTokenizer:
    model, processor = fairseq
    settings = {"additional_special_tokens": LANGUAGES, "tokenizer_class": "MBart50Tokenizer"}
    folder = folder_of(tmp_path, model, "sentencepiece.bpe.model", tokenizer_config=settings)
    size = processor.GetPieceSize() + 1 + len(LANGUAGES) + 1
    return read_tokenizer(folder, {"model_type": "mbart"}, size, Wanted())


def fairseq_ids(processor: sentencepiece.SentencePieceProcessor, text: str) -> list[int]:
    """Return what fairseq makes of sentencepiece's ids: one more, and 3 for what is unknown."""
    return [number + 1 if number else 3 for number in processor.EncodeAsIds(text)]


@pytest.mark.parametrize("text", TEXTS)
def test_mbart_50_has_its_languages_around_the_text(
    mbart: ForeignTokenizer, fairseq: tuple[bytes, sentencepiece.SentencePieceProcessor], text: str
) -> None:
    _, processor = fairseq
    first_language = processor.GetPieceSize() + 1
    assert mbart.encode_source(text, "en", "fr") == [first_language + 1, *fairseq_ids(processor, text), 2]
    assert mbart.decoder_prefix("en") == (first_language,)
    assert mbart.num_leading("en", "fr") == 1
    assert (mbart.pad_id, mbart.unk_id, mbart.bos_id, mbart.eos_id) == (1, 3, 0, 2)
    assert mbart.source_languages == mbart.target_languages == ("en", "fr", "de")
    known = [number for number in processor.EncodeAsIds(text) if number]
    ids = [first_language, *(number + 1 for number in known), 2]
    assert mbart.decode(ids) == processor.DecodeIds(known)


def test_nllb_languages_are_called_by_our_codes(
    tmp_path: Path, fairseq: tuple[bytes, sentencepiece.SentencePieceProcessor]
) -> None:
    model, processor = fairseq
    tokens = ["fra_Latn", "eng_Latn", "zho_Hant"]
    folder = folder_of(
        tmp_path, model, "sentencepiece.bpe.model", special_tokens_map={"additional_special_tokens": tokens}
    )
    size = processor.GetPieceSize() + 1 + len(tokens) + 1
    nllb = read_tokenizer(folder, {"model_type": "m2m_100"}, size + 3, Wanted())
    assert nllb.languages == ("fr", "en", "zh-Hant")
    assert nllb.encode_source("gare", "zh-Hant", "en")[0] == processor.GetPieceSize() + 2
    assert nllb.vocab_size == size + 3
    assert {size, size + 1, size + 2} <= nllb.special_ids  # what fills the vocabulary up is never written


def test_t5_is_told_its_languages_in_words(tmp_path: Path) -> None:
    model, processor = train(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    folder = folder_of(tmp_path, model, "spiece.model")
    size = processor.GetPieceSize()
    t5 = read_tokenizer(folder, {"model_type": "t5", "vocab_size": size + 105}, size + 105, Wanted())
    whole = processor.EncodeAsIds("translate French to English: Le voisin")
    assert t5.encode_source("Le voisin", "en", "fr") == [*whole, 1]
    assert t5.num_leading("en", "fr") == len(processor.EncodeAsIds("translate French to English:"))
    assert t5.decoder_prefix("en") == ()
    assert t5.pieces([size, size + 99, size + 100]) == ["<extra_id_99>", "<extra_id_0>", f"<unused_{size + 100}>"]
    with pytest.raises(UnsupportedLanguageError, match="source must be one of"):
        t5.encode_source("Le voisin", "en")


def test_madlad_is_told_the_target_by_a_token(tmp_path: Path) -> None:
    model, processor = train(pad_id=0, eos_id=1, unk_id=2, bos_id=-1, user_defined_symbols=["<2fr>", "<2en>"])
    folder = folder_of(tmp_path, model, "spiece.model")
    madlad = read_tokenizer(folder, {"model_type": "t5"}, processor.GetPieceSize(), Wanted())
    assert madlad.target_languages == ("fr", "en")
    assert madlad.encode_source("gare", "en") == [processor.PieceToId("<2en>"), *processor.EncodeAsIds("gare"), 1]


@pytest.fixture
def marian(tmp_path: Path) -> ForeignTokenizer:
    (source, first), (target, second) = train(), train(model_type="char")
    pieces = dict.fromkeys(
        [
            "</s>",
            "<unk>",
            ">>fra<<",
            ">>deu<<",
            *(p.IdToPiece(i) for p in (first, second) for i in range(3, p.GetPieceSize())),
        ]
    )
    vocabulary = {piece: number for number, piece in enumerate([*pieces, "<pad>"])}
    (tmp_path / "target.spm").write_bytes(target)
    settings = {"source_lang": "eng", "target_lang": "fra+deu"}
    folder = folder_of(tmp_path, source, "source.spm", vocab=vocabulary, tokenizer_config=settings)
    return read_tokenizer(folder, {"model_type": "marian"}, len(vocabulary), Wanted())


def test_marian_has_a_model_for_each_side(marian: ForeignTokenizer) -> None:
    assert (marian.source_languages, marian.target_languages) == (("en",), ("fr", "de"))
    ids = marian.encode_source("the station", "de")
    assert marian.pieces(ids[:1]) == [">>deu<<"]
    assert ids[-1] == marian.eos_id == 0
    assert "".join(marian.pieces(ids[1:-1])) == "\u2581the\u2581station"
    letters = marian.encode_target("la gare")
    assert marian.pieces(letters) == ["\u2581", *"la", "\u2581", *"gare"]
    assert marian.decode(letters) == "la gare"
    with pytest.raises(UnsupportedLanguageError, match="target must be one of fr, de"):
        marian.encode_source("the station", "en")


def test_saving_and_loading_gives_the_same(marian: ForeignTokenizer, tmp_path: Path) -> None:
    marian.save(tmp_path / "saved")
    loaded = load_tokenizer(tmp_path / "saved")
    assert isinstance(loaded, ForeignTokenizer)
    assert loaded.framing == marian.framing
    assert loaded.serialized == marian.serialized
    assert loaded.special_ids == marian.special_ids
    assert loaded.encode_source("the station", "de") == marian.encode_source("the station", "de")


@given(st.text(max_size=30))
def test_spans_are_where_the_pieces_are(text: str) -> None:
    model, _ = _cached_byte_model()
    tokenizer = _plain(model)
    try:
        ids, spans = tokenizer.encode_with_spans(text, side="source")
    except InvalidTextError:
        assert any(0xD800 <= ord(character) < 0xE000 for character in text)
        return
    assert ids == tokenizer.encode_target(text)
    assert all(0 <= start <= end <= len(text) for start, end in spans)
    assert spans == sorted(spans)
    for number, (start, end) in zip(ids, spans, strict=True):
        piece = tokenizer.pieces([number])[0].replace("\u2581", "")
        if text[start:end].isascii() and piece and not piece.startswith("<0x"):
            assert text[start:end].replace(" ", "") == piece


def _plain(model: bytes) -> ForeignTokenizer:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    vocabulary = [processor.IdToPiece(number) for number in range(processor.GetPieceSize())]
    specials = Specials("<s>", "<unk>", "<s>", "</s>")
    return ForeignTokenizer(model, None, vocabulary, specials, Framing({"fr": ""}, {"en": ""}))


_byte_models: list[tuple[bytes, sentencepiece.SentencePieceProcessor]] = []


def _cached_byte_model() -> tuple[bytes, sentencepiece.SentencePieceProcessor]:
    if not _byte_models:
        _byte_models.append(train(380, byte_fallback=True, normalization_rule_name="identity"))
    return _byte_models[0]


def test_a_character_of_several_bytes_is_the_span_of_each() -> None:
    tokenizer = _plain(_cached_byte_model()[0])
    ids, spans = tokenizer.encode_with_spans("a 😀")
    assert tokenizer.pieces(ids)[-4:] == ["<0xF0>", "<0x9F>", "<0x98>", "<0x80>"]
    assert spans[-4:] == [(2, 3)] * 4
    text, back = tokenizer.decode_with_spans(ids)
    assert text == "a 😀"
    assert back[-4:] == [(2, 3)] * 4


def test_markers_are_refused(mbart: ForeignTokenizer) -> None:
    for encode in (mbart.encode_target_marked, lambda text: mbart.encode_source_marked(text, "en")):
        with pytest.raises(CheckpointError, match="no control tokens"):
            encode(f"Bonjour {PLACEHOLDERS[0]}")
    assert mbart.encode_target_marked("gare") == mbart.encode_target("gare")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocabulary": "abc"}, "vocabulary must be strings"),
        ({"vocabulary": ["a", 1]}, "vocabulary must be strings"),
        ({"vocabulary": ["a", "a"]}, "an entry twice"),
        ({"vocabulary": ["a"]}, "lacks the special token"),
        ({"format_version": 2}, "format_version must be 1"),
        ({"specials": {"pad": "<pad>"}}, "others"),
        ({"framing": {}}, "source_languages"),
    ],
)
def test_a_description_that_is_damaged_is_refused(
    marian: ForeignTokenizer, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    marian.save(tmp_path)
    file = tmp_path / FOLDER / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), **change}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(tmp_path)


def test_files_that_are_damaged_or_missing_are_refused(marian: ForeignTokenizer, tmp_path: Path) -> None:
    marian.save(tmp_path)
    (tmp_path / FOLDER / "source.model").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match="source tokeniser is not a sentencepiece model"):
        load_tokenizer(tmp_path)
    (tmp_path / FOLDER / "source.model").unlink()
    with pytest.raises(CheckpointError, match="cannot read the tokeniser"):
        load_tokenizer(tmp_path)
    (tmp_path / FOLDER / "tokenizer.json").write_text("[", encoding="utf-8")
    with pytest.raises(CheckpointError):
        load_tokenizer(tmp_path)
