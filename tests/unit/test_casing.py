"""Capitals to a sentence and back: what counts as capitals, what is kept, and that no length changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.text.casing import capitals, sentence_case


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("ATTENTION AU CHIEN !", "fr", "Attention au chien !"),
        ("L'ÉTÉ EST FINI.", "fr", "L'été est fini."),
        ("« NE PAS OUVRIR »", "fr", "« Ne pas ouvrir »"),
        ("CAN I SMOKE IN HERE?", "en", "Can I smoke in here?"),
        ("I'M HERE, AND SO AM I.", "en", "I'm here, and so am I."),
        ("CHAPITRE I : LE DÉPART", "fr", "Chapitre i : le départ"),
        ("URGENT", "fr", "Urgent"),
        ("3 PERSONNES", "fr", "3 Personnes"),
    ],
)
def test_capitals_become_a_sentence(text: str, language: str, expected: str) -> None:
    assert sentence_case(text, language) == expected


@pytest.mark.parametrize(
    "text", ["", "1984", "NATO", "EU, UN, WHO", "Le chat dort.", "Nous aimons la SNCF.", "日本語の文章です"]
)
def test_other_text_is_left_alone(text: str) -> None:
    assert sentence_case(text, "fr") is None


def test_kept_spans_neither_count_nor_change() -> None:
    text = "BONJOUR {name}, VOIR https://Example.org/A"
    kept = [(8, 14), (21, len(text))]
    small = sentence_case(text, "fr", kept)
    assert small == "Bonjour {name}, voir https://Example.org/A"
    assert capitals(small, kept) == text
    assert sentence_case("{NAME} {OTHER}", "fr", [(0, 6), (7, 14)]) is None


@given(st.text(max_size=40), st.sampled_from(["fr", "en"]))
def test_lengths_stay_and_capitals_come_back(text: str, language: str) -> None:
    loud = capitals(text)
    assert len(loud) == len(text)
    small = sentence_case(loud, language)
    if small is not None:
        assert len(small) == len(loud)
        assert small.casefold() == loud.casefold() or "\u0130" in loud  # whose small letter is two
        assert sentence_case(small, language) is None
