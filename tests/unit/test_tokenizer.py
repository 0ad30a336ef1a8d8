"""The tokeniser: any text there and back, no special token out of a user's text, and clear errors."""

from __future__ import annotations

import io
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import CheckpointError, ConfigurationError, InvalidTextError, UnsupportedLanguageError
from model.text.tokenizer import CONTROL_TOKENS, Tokenizer, normalize, train_tokenizer
from tests.unit.tiny_tokenizer import VOCAB_SIZE, sentences, tiny_tokenizer

SPECIAL_TEXTS = ["<2en>", "<2fr>", "</s>", "<s>", "<pad>", "<unk>", *CONTROL_TOKENS]

any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
"""Every code point except surrogates, control characters and unassigned ones included."""
spaces = st.text(" \t\n\u00a0\u202f\u2028\u2581\u3000ab", max_size=12)
near_special = st.lists(st.sampled_from([*SPECIAL_TEXTS, " ", "<", ">", "a", "<0x41>", "\u2581"]), max_size=8).map(
    "".join
)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return tiny_tokenizer()


def expected_after_round_trip(text: str) -> str:
    """Return what is left of a text: NFC, words one space apart; U+2581, sentencepiece's own space, counts as one."""
    return " ".join(unicodedata.normalize("NFC", text.replace("\u2581", " ")).split())


@settings(max_examples=300, deadline=None)
@given(st.one_of(any_text, spaces, near_special))
def test_any_text_comes_back(text: str) -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode_target(text)
    assert tokenizer.decode(ids) == expected_after_round_trip(text)
    assert not tokenizer.special_ids & set(ids)
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    assert tokenizer.encode_batch([text, text]) == [ids, ids]
    assert tokenizer.encode_target(tokenizer.decode(ids)) == ids


@settings(max_examples=100, deadline=None)
@given(st.one_of(any_text, spaces))
def test_normalization_is_idempotent_and_leaves_one_kind_of_space(text: str) -> None:
    once = normalize(text)
    assert normalize(once) == once
    assert len(once) <= 3 * len(text)  # the growth of NFC is bounded (Unicode Standard Annex 15)
    assert {character for character in once if character.isspace()} <= {" "}


def test_ordinary_sentences_come_back_and_use_words(tokenizer: Tokenizer) -> None:
    for sentence in sentences()[::97]:
        ids = tokenizer.encode_target(sentence)
        assert tokenizer.decode(ids) == sentence
        assert len(ids) < len(sentence)


@pytest.mark.parametrize("text", ["🙂", "机器翻译", "ℵ₀ ≠ ∞", "a\x00b", "\ufffd", "\ufeffx", "👨‍👩‍👧‍👦 ok"])
def test_what_the_vocabulary_lacks_becomes_its_utf8_bytes(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode_target(text)
    found = bytes(int(piece[3:5], 16) for piece in tokenizer.pieces(ids) if piece.startswith("<0x"))
    missing = [character for character in text if character not in "abkox "]
    assert found == "".join(missing).encode()
    assert tokenizer.decode(ids) == text
    assert tokenizer.unk_id not in ids


@pytest.mark.parametrize("text", SPECIAL_TEXTS)
def test_text_that_looks_like_a_special_token_is_text(tokenizer: Tokenizer, text: str) -> None:
    for around in (text, f"Dites {text} !", f"{text}{text}", f"x{text}"):
        ids = tokenizer.encode_target(around)
        assert not tokenizer.special_ids & set(ids)
        assert tokenizer.decode(ids) == around
        source = tokenizer.encode_source(around, "en")
        assert [i for i in source if i in tokenizer.special_ids] == [tokenizer.language_id("en"), tokenizer.eos_id]


def test_text_that_looks_like_a_byte_is_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_target("<0x41>")
    assert "<0x41>" not in tokenizer.pieces(ids)
    assert tokenizer.decode(ids) == "<0x41>"


def test_source_is_language_pieces_end(tokenizer: Tokenizer) -> None:
    text = "Ma sœur dessine le château."
    english, french = tokenizer.encode_source(text, "en"), tokenizer.encode_source(text, "fr")
    assert english[1:-1] == french[1:-1] == tokenizer.encode_target(text)
    assert english[-1] == french[-1] == tokenizer.eos_id == 3
    assert tokenizer.pieces([english[0], french[0]]) == ["<2en>", "<2fr>"]
    assert tokenizer.encode_source("", "fr") == [tokenizer.language_id("fr"), tokenizer.eos_id]


def test_special_tokens_stand_for_no_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_target("deux pommes")
    dressed = [tokenizer.bos_id, *tokenizer.encode_source("deux pommes", "en"), tokenizer.unk_id, tokenizer.pad_id]
    assert tokenizer.decode(dressed) == tokenizer.decode(ids) == "deux pommes"
    assert tokenizer.decode(sorted(tokenizer.special_ids)) == ""
    assert tokenizer.decode([]) == ""


def test_special_ids_are_exactly_the_ones_without_text(tokenizer: Tokenizer) -> None:
    names = {"<pad>", "<unk>", "<s>", "</s>", "<2en>", "<2fr>", *CONTROL_TOKENS}
    assert set(tokenizer.pieces(sorted(tokenizer.special_ids))) == names
    assert len(tokenizer.special_ids) == len(names)
    assert tokenizer.pieces([0, 1, 2, 3]) == ["<pad>", "<unk>", "<s>", "</s>"]


def test_digits_stand_alone(tokenizer: Tokenizer) -> None:
    pieces = tokenizer.pieces(tokenizer.encode_target("In 1998, 2024 and 31415"))
    assert all(sum(character.isdigit() for character in piece) <= 1 for piece in pieces if not piece.startswith("<0x"))


def test_incomplete_bytes_decode_to_replacement_characters(tokenizer: Tokenizer) -> None:
    """A model may generate half a character; decoding must neither fail nor take the neighbours with it."""
    ids = [i for i in range(tokenizer.vocab_size) if tokenizer.pieces([i]) == ["<0xF0>"]]
    assert tokenizer.decode([*tokenizer.encode_target("ab"), *ids]) == "ab\ufffd"


def test_languages(tokenizer: Tokenizer) -> None:
    assert tokenizer.languages == ("en", "fr")
    assert tokenizer.vocab_size == VOCAB_SIZE
    for code in ("de", "EN", "", "en>"):
        with pytest.raises(UnsupportedLanguageError) as caught:
            tokenizer.language_id(code)
        assert caught.value.name == "target"
        assert "en, fr" in caught.value.rule
        with pytest.raises(UnsupportedLanguageError):
            tokenizer.encode_source("x", code)


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\udc80 ok"])
def test_lone_surrogates_are_refused(tokenizer: Tokenizer, text: str) -> None:
    with pytest.raises(InvalidTextError, match="surrogates") as caught:
        tokenizer.encode_target(text)
    str(caught.value).encode()  # the message itself must be printable
    with pytest.raises(InvalidTextError):
        tokenizer.encode_source(text, "en")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read the tokeniser .*nowhere"):
        Tokenizer.load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="cannot read the tokeniser"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("cut", [0, 1, 100, 5000, -50, -1])
def test_a_damaged_model_is_told(tokenizer: Tokenizer, tmp_path: Path, cut: int) -> None:
    file = tmp_path / "tokenizer.model"
    file.write_bytes(tokenizer.serialized[:cut])
    with pytest.raises(CheckpointError, match="not a sentencepiece model"):
        Tokenizer.load(file)


def test_a_saved_tokenizer_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.model"
    file.write_bytes(tokenizer.serialized)
    loaded = Tokenizer.load(file)
    assert loaded.languages == tokenizer.languages
    for sentence in sentences()[::501]:
        assert loaded.encode_source(sentence, "fr") == tokenizer.encode_source(sentence, "fr")


def test_a_foreign_model_is_refused() -> None:
    def train(**options: Any) -> bytes:
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(sentences()[::20]), model_writer=model, vocab_size=200, minloglevel=2, **options
        )
        return model.getvalue()

    with pytest.raises(CheckpointError, match="pad, unk, bos, eos ids must be 0, 1, 2, 3"):
        Tokenizer(train())
    with pytest.raises(CheckpointError, match="no target-language token"):
        Tokenizer(train(pad_id=0, unk_id=1, bos_id=2, eos_id=3))
    with pytest.raises(CheckpointError, match="no target-language token"):  # a word that looks like one is none
        Tokenizer(train(pad_id=0, unk_id=1, bos_id=2, eos_id=3, user_defined_symbols=["<2en>"]))


def test_training_writes_the_file_and_depends_on_its_arguments_alone(tmp_path: Path) -> None:
    first = train_tokenizer(sentences()[::8], tmp_path / "deep" / "a.model", vocab_size=600, num_threads=1)
    second = train_tokenizer(iter(sentences()[::8]), tmp_path / "b.model", vocab_size=600, num_threads=1)
    assert first.serialized == second.serialized == (tmp_path / "deep" / "a.model").read_bytes()
    assert first.vocab_size == 600


def test_more_languages_get_more_tokens(tmp_path: Path) -> None:
    codes = ("en", "fr", "de", "zh_Hans")
    trained = train_tokenizer(sentences()[::8], tmp_path / "a.model", vocab_size=600, languages=codes, num_threads=1)
    assert trained.languages == codes
    assert trained.pieces([trained.language_id(code) for code in codes]) == ["<2en>", "<2fr>", "<2de>", "<2zh_Hans>"]


@pytest.mark.parametrize("vocab_size", [1, 281, 50_000])
def test_a_vocabulary_that_does_not_fit_is_told(tmp_path: Path, vocab_size: int) -> None:
    with pytest.raises(ConfigurationError) as caught:
        train_tokenizer(sentences()[::20], tmp_path / "a.model", vocab_size=vocab_size, num_threads=1)
    assert caught.value.name == "vocab_size"
    assert caught.value.value == str(vocab_size)
    assert not (tmp_path / "a.model").exists()


def test_training_without_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        train_tokenizer([], tmp_path / "a.model", vocab_size=VOCAB_SIZE, num_threads=1)
