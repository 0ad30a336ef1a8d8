"""Codes and names against known facts; the shipped detector on our own phrases; a detector trained in a second."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import model.text
from model.errors import CheckpointError, CorpusError, InvalidRequestError, UnsupportedLanguageError
from model.text.languages import (
    SAMPLE_LENGTH,
    LanguageDetector,
    calibration_scale,
    language,
    languages,
    resolve,
    sample_words,
    word_spans,
)
from model.training.language_detector import expected_calibration_error, train_detector

BOTH = ("en", "fr")


@pytest.fixture(scope="module")
def detector() -> LanguageDetector:
    return LanguageDetector()


# Codes and names


def test_the_table_is_consistent() -> None:
    table = languages()
    assert len(table) >= 204  # all of FLORES-200
    assert len({known.code for known in table}) == len(table)
    assert len({known.flores for known in table}) == len(table)
    assert len({known.name for known in table}) == len(table)
    for known in table:
        assert language(known.code) is known
        assert language(known.flores) is known
        assert language(known.name.upper()) is known
        assert len(known.flores) == 8
        assert known.flores[3] == "_"


@pytest.mark.parametrize(
    ("spelling", "code"),
    [
        *(
            (spelling, "fr")
            for spelling in ("fr", "FR", " fr-FR", "fr_CA", "fra", "fre", "fra_Latn", "French", "FRANÇAIS")
        ),
        *((spelling, "en") for spelling in ("en", "eng", "eng_Latn", "en-GB", "en_US.UTF-8", "English")),
        *(
            ("francais", "fr"),
            ("français-", "fr"),
            ("de", "de"),
            ("ger", "de"),
            ("deu_Latn", "de"),
            ("Deutsch", "de"),
            ("pt-BR", "pt"),
        ),
        *(("no", "nb"), ("nn", "nn"), ("iw", "he"), ("in", "id"), ("fil", "tl"), ("sqi", "sq"), ("srp_Cyrl", "sr")),
        *(("zh", "zh"), ("zh-CN", "zh"), ("zh-TW", "zh-Hant"), ("zho_Hant", "zh-Hant"), ("yue", "yue"), ("cmn", "zh")),
        *(("ace_Arab", "ace-Arab"), ("ace", "ace"), ("arb_Latn", "ar-Latn"), ("ara", "ar"), ("日本語", "ja")),
    ],
)
def test_spellings(spelling: str, code: str) -> None:
    assert language(spelling).code == code


@pytest.mark.parametrize("spelling", ["", "xx", "qqq", "auto", "fr\x00", "e", "-fr", "\ud800", "x" * 10_000])
def test_unknown_languages(spelling: str) -> None:
    with pytest.raises(UnsupportedLanguageError) as caught:
        language(spelling)
    assert caught.value.name == "language"
    assert len(str(caught.value)) < 300
    assert isinstance(caught.value, InvalidRequestError)


def test_resolve() -> None:
    assert resolve("FRA", BOTH) == "fr"
    assert resolve("en-GB", BOTH) == "en"
    assert resolve("fr", ["eng_Latn", "fra_Latn"]) == "fra_Latn"
    assert resolve("zh-TW", ["zh", "zh-Hant"]) == "zh-Hant"
    assert resolve("zh-TW", ["zh"]) == "zh"
    assert resolve("PT-br", ["pt", "pt-BR"]) == "pt-BR"
    assert resolve("X-Elvish", ["en", "x-elvish"]) == "x-elvish"
    for code, installed in (("de", BOTH), ("auto", BOTH), ("fr", ("en",)), ("fr", ())):
        with pytest.raises(UnsupportedLanguageError) as caught:
            resolve(code, installed, name="target")
        assert caught.value.name == "target"
        assert all(item in caught.value.rule for item in installed)


# Detection


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(
            (text, "fr")
            for text in ("Annuler", "Je t'aime", "Bonjour", "merci", "Enregistrer sous", "Où ?", "chat noir")
        ),
        *(
            (text, "fr")
            for text in ("JE SUIS FATIGUÉ", "francais", "LE GARCON", "ca va ?", "C\u2019est tout", "e\u0301te\u0301")
        ),
        *(
            (text, "fr")
            for text in ("L'apprentissage automatique", "Il a 3 chiens.", "oui", "« Paramètres »", "à demain")
        ),
        *(
            (text, "en")
            for text in ("Cancel", "I love you", "hello handsome", "thanks", "Save as", "Where?", "black cat")
        ),
        *(
            (text, "en")
            for text in ("I AM TIRED", "Settings", "DON\u2019T", "it's late", "machine learning", "yes", "the")
        ),
        *(
            (text, "en")
            for text in ("He has 3 dogs.", "What a beautiful morning!", "see you tomorrow", "Search results")
        ),
    ],
)
def test_short_phrases(detector: LanguageDetector, text: str, expected: str) -> None:
    found = detector.detect(text, BOTH)
    assert found[0].language == expected
    assert found[0].confidence > 0.7


@pytest.mark.parametrize("text", ["OK", "Paris", "Tom", "a", "Menu", "Москва", "日本", "xqzjk", "café"])
def test_what_could_be_either_is_not_certain(detector: LanguageDetector, text: str) -> None:
    assert detector.detect(text, BOTH)[0].confidence < 0.97


@pytest.mark.parametrize("text", ["", " \n", "123", "3,14 €", "?!", "😀👍🏽", "—", "\x00", "²"])
def test_no_letters(detector: LanguageDetector, text: str) -> None:
    assert detector.detect(text, BOTH) == []


@pytest.mark.parametrize("text", ["Москва", "日本", "καλημέρα"])
def test_letters_that_no_trained_language_has_say_nothing(detector: LanguageDetector, text: str) -> None:
    assert [found.confidence for found in detector.detect(text, BOTH)] == [0.5, 0.5]
    assert detector.detect(f"{text} bonjour", BOTH)[0].language == "fr"


def test_installed_languages(detector: LanguageDetector) -> None:
    assert detector.detect("bonjour", []) == []
    assert [(found.language, found.confidence) for found in detector.detect("bonjour", ["en"])] == [("en", 1.0)]
    found = detector.detect("Bonjour tout le monde", ["eng_Latn", "fra_Latn"])
    assert [detection.language for detection in found] == ["fra_Latn", "eng_Latn"]
    for text, expected in (("Bonjour tout le monde", "fr"), ("Good morning, everybody", "en")):
        assert detector.detect(text, ["de", "en", "fr", "x-unknown"])[0].language == expected
    # Languages without weights are told apart by their script, and neutral otherwise.
    many = ["en", "fr", "ru", "zh", "ja", "el", "x-unknown"]
    assert detector.detect("Привет, мир", many)[0].language in ("ru", "x-unknown")
    for text, expected in (("Привет, мир", "ru"), ("こんにちは", "ja"), ("καλημέρα", "el"), ("good morning", "en")):
        assert detector.detect(text, many[:-1])[0].language == expected
    chinese = {found.language: found.confidence for found in detector.detect("你好", many[:-1])}
    assert chinese["zh"] == chinese["ja"] > 0.49


@given(st.text(max_size=60), st.lists(st.sampled_from(["en", "fr", "de", "ru", "x-y"]), unique=True))
@settings(deadline=None)
def test_confidences_sum_to_one(text: str, installed: list[str]) -> None:
    found = LOADED.detect(text, installed)
    if found:
        assert math.isclose(sum(detection.confidence for detection in found), 1.0)
        assert sorted(detection.language for detection in found) == sorted(installed)
        assert found == sorted(found, key=lambda detection: -detection.confidence)
    else:
        assert not installed or not sample_words(text)


LOADED = LanguageDetector()


def test_long_texts_are_sampled(detector: LanguageDetector) -> None:
    french = "Il fait beau et les enfants jouent dans le jardin. " * 4000
    assert detector.detect(french, BOTH)[0].language == "fr"
    assert sum(map(len, sample_words("a" * 300_000))) <= SAMPLE_LENGTH
    assert sum(map(len, sample_words(french))) <= SAMPLE_LENGTH
    # Letters in the middle or outside of the sample are found all the same.
    assert detector.detect("1 " * 50_000 + french + "1 " * 50_000, BOTH)[0].language == "fr"
    hidden = "1 " * 5_000 + " Où est la gare ? " + "1 " * 50_000
    assert detector.detect(hidden, BOTH)[0].language == "fr"


def test_words() -> None:
    assert sample_words("L\u2019ÉTÉ, 3 e\u0301te\u0301s_42 d'ici!") == ["l'été", "étés", "d'ici"]


def test_word_spans() -> None:
    padded = " abcde "
    ngrams = [padded[start:end] for start, end in word_spans(len(padded))]
    expected = {padded[i : i + n] for n in range(1, 6) for i in range(8 - n)} | {padded}
    assert set(ngrams) == expected
    assert len(ngrams) == 1 + sum(8 - n for n in range(1, 6))  # each place once; the space is there twice
    assert len(word_spans(10_000)) == len(word_spans(40))


def test_shipped_weights_are_small_and_plain() -> None:
    file = Path(model.text.__file__).parent / "data" / "language_detector.npz"
    assert file.stat().st_size < 1_000_000
    with np.load(file, allow_pickle=False) as arrays:
        assert arrays["weights"].dtype == np.int8
        assert set(map(str, arrays["languages"])) == {"en", "fr"}


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"\x93NUMPY nothing", b"plain text"])
def test_damaged_weights(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "damaged.npz"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged\.npz"):
        LanguageDetector(file)
    with pytest.raises(CheckpointError, match=r"missing\.npz"):
        LanguageDetector(tmp_path / "missing.npz")


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    file = tmp_path / "short.npz"
    np.savez(
        file,
        languages=np.array(["en", "fr"]),
        ngrams=np.frombuffer(b"a\nb\nc", dtype=np.uint8),
        weights=np.zeros((2, 2), dtype=np.int8),
        scales=np.ones(2, dtype=np.float32),
        calibration=np.zeros(2),
    )
    with pytest.raises(CheckpointError, match="3 n-grams"):
        LanguageDetector(file)


# Training


def write_corpus(path: Path) -> Path:
    """Two made-up languages: one of consonant-vowel syllables, the other of vowel-consonant ones; names are shared."""
    random = np.random.default_rng(5)

    def word(pattern: str) -> str:
        letters = {"c": "bdgklmnpt", "v": "aeiou"}
        return "".join(letters[kind][int(random.integers(len(letters[kind])))] for kind in pattern)

    def line(pattern: str) -> str:
        return " ".join(word(pattern * int(random.integers(1, 4))) for _ in range(int(random.integers(1, 9))))

    rows = [f"Zorro {line('cv')}\tZorro {line('vc')}" for _ in range(600)]
    path.write_text("\n".join([*rows, "same\tsame", "12\t34"]) + "\n", encoding="utf-8")
    return path


def test_training_two_made_up_languages(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.tsv")
    out = tmp_path / "deeper" / "detector.npz"
    report = train_detector([corpus], out, seed=3, languages=("de", "sv"), max_ngrams=500, num_steps=30)
    assert report.num_lines == 600
    assert report.num_ngrams <= 500
    assert report.num_bytes == out.stat().st_size
    assert report.accuracy[0] > 0.99
    assert report.accuracy[2] > 0.95
    trained = LanguageDetector(out)
    assert trained.languages == ("de", "sv")
    assert trained.detect("kadobi nu", ["de", "sv"])[0].language == "de"
    assert trained.detect("akodib un", ["de", "sv"])[0].language == "sv"
    assert trained.detect("Zorro", ["de", "sv"])[0].confidence < 0.75
    again = tmp_path / "again.npz"
    assert (
        train_detector([corpus], again, seed=3, languages=("de", "sv"), max_ngrams=500, num_steps=30).accuracy
        == report.accuracy
    )
    assert again.read_bytes() == out.read_bytes()


def test_training_refuses_too_little(tmp_path: Path) -> None:
    corpus = tmp_path / "tiny.tsv"
    corpus.write_text("un\tone\n", encoding="utf-8")
    with pytest.raises(CorpusError, match="too few"):
        train_detector([corpus], tmp_path / "out.npz")


def test_calibration_error() -> None:
    ones = np.ones(4)
    confident = np.array([0.9, 0.9, 0.9, 0.9])
    assert expected_calibration_error(confident, np.array([1.0, 1.0, 1.0, 0.0]), ones) == pytest.approx(0.15)
    # Two bins: |0.5 - 1| of half the weight and |1 - 1| of the other half.
    assert expected_calibration_error(np.array([0.5, 1.0]), np.array([1.0, 1.0]), np.ones(2)) == pytest.approx(0.25)
    assert expected_calibration_error(
        np.array([0.5, 1.0]), np.array([1.0, 1.0]), np.array([3.0, 1.0])
    ) == pytest.approx(0.375)


def test_calibration_scale() -> None:
    assert calibration_scale(10, 0.0, 0.0) == 1.0
    assert calibration_scale(4, math.log(3.0), 0.5) == pytest.approx(6.0)
