"""Segments against hand-made expectations, and the promise that nothing of a document is ever lost."""
# ruff: noqa: RUF001 (typographic punctuation is what is tested)

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.text.segmentation import Segment, is_translatable, join_segments, split_long, split_segments

PIECES = [
    *(
        "Bonjour",
        "M. Dupont",
        "hello",
        "e.g.",
        "3.14",
        "…",
        "...",
        "« ",
        " »",
        "«\u00a0Oui.\u00a0»",
        "?!",
        "!",
        ".",
        ". ",
    ),
    *("\n", "\r\n", "\t", "\u00a0", "\u202f", "  ", "     ", "\u2028", "\x00", "\ufeff", "\u200b", "- ", "1. ", "(a) "),
    *(
        "😀",
        "👨\u200d👩\u200d👧",
        "e\u0301",
        "\ud800",
        "\udc00",
        "。",
        "日本",
        '"',
        "’",
        "https://a.example/b?c=d.",
        "U.S.",
    ),
    *("I", ". ", "https://a.example/b?c=d.", "Cie. ", "etc. ", "Le", ")", "[1]", "—", "A. "),
]
documents = st.one_of(st.text(max_size=80), st.lists(st.sampled_from(PIECES), max_size=30).map("".join))


def texts(document: str, language: str | None = None) -> list[str]:
    return [segment.text for segment in split_segments(document, language)]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        # Plain sentences of both languages.
        ("Il pleut. Je reste.", ["Il pleut.", "Je reste."]),
        ("Really? Yes! Good.", ["Really?", "Yes!", "Good."]),
        ("Vraiment ?! Oui ! Bien.", ["Vraiment ?!", "Oui !", "Bien."]),
        ("Quoi\u00a0? Non\u202f! Si.", ["Quoi\u00a0?", "Non\u202f!", "Si."]),
        ("Élan. Été. À demain.", ["Élan.", "Été.", "À demain."]),
        ("no capitals here. none at all.", ["no capitals here. none at all."]),
        ("Fin. 3 chats dorment.", ["Fin.", "3 chats dorment."]),
        # Titles and initials.
        ("M. Dupont est là. Il mange.", ["M. Dupont est là.", "Il mange."]),
        ("MM. Petit et Grand, Mme. Roy et Mlle. Roy.", ["MM. Petit et Grand, Mme. Roy et Mlle. Roy."]),
        ("M.\u00a0Dupont dort. Oui.", ["M.\u00a0Dupont dort.", "Oui."]),
        ("J'ai vu M. Le Goff. Il va bien.", ["J'ai vu M. Le Goff.", "Il va bien."]),
        ("Mr. and Mrs. Hill met Dr. Wu. They spoke.", ["Mr. and Mrs. Hill met Dr. Wu.", "They spoke."]),
        ("J. K. Rowling writes. J.-P. Martin lit.", ["J. K. Rowling writes.", "J.-P. Martin lit."]),
        ("He took vitamin C. The next day he ran.", ["He took vitamin C.", "The next day he ran."]),
        ("A. The first option", ["A. The first option"]),
        # Abbreviations inside a sentence and at its end.
        ("See e.g. Smith, i.e. John. He left.", ["See e.g. Smith, i.e. John.", "He left."]),
        ("Voir p. ex. Paris, c.-à-d. Lutèce. Fin.", ["Voir p. ex. Paris, c.-à-d. Lutèce.", "Fin."]),
        ("Selon l'art. 5 et p. 12. Puis.", ["Selon l'art. 5 et p. 12.", "Puis."]),
        ("Code, art. L. 123-4. Fin.", ["Code, art. L. 123-4.", "Fin."]),
        ("C'est de l'art. Nous aimons.", ["C'est de l'art.", "Nous aimons."]),
        ("He said no. Then No. 5 came.", ["He said no.", "Then No. 5 came."]),
        ("Lire vol. II et fig. 3. Fin.", ["Lire vol. II et fig. 3.", "Fin."]),
        ("Durand & Cie. La suite.", ["Durand & Cie.", "La suite."]),
        ("Durand & Cie. Paris en parle.", ["Durand & Cie. Paris en parle."]),
        ("Acme Inc. The firm. Acme Inc. President Bob.", ["Acme Inc.", "The firm.", "Acme Inc. President Bob."]),
        ("The U.S. Army won. In the U.S. They won.", ["The U.S. Army won.", "In the U.S.", "They won."]),
        ("Des poires, etc. Il part.", ["Des poires, etc.", "Il part."]),
        ("At 5 p.m. Eastern. At 5 p.m. The end.", ["At 5 p.m. Eastern.", "At 5 p.m.", "The end."]),
        ("En 52 av. J.-C. Les Romains. Fin.", ["En 52 av. J.-C.", "Les Romains.", "Fin."]),
        ("Vas-y. Paul arrive. Il y en a. Marie part.", ["Vas-y.", "Paul arrive.", "Il y en a.", "Marie part."]),
        # Numbers, versions, addresses, file names.
        ("Pi is 3.14. Version 1.2.3 works. Good.", ["Pi is 3.14.", "Version 1.2.3 works.", "Good."]),
        ("See www.a.example/b?c=1.2. Then README.md. Ok.", ["See www.a.example/b?c=1.2.", "Then README.md.", "Ok."]),
        ("Il est né le 5. Puis rien.", ["Il est né le 5.", "Puis rien."]),
        # Ellipses.
        ("Je… euh... non. Rien... Voilà… Fin.", ["Je… euh... non.", "Rien...", "Voilà…", "Fin."]),
        ("Well . . . no. Fine.", ["Well . . . no.", "Fine."]),
        # Quotes and brackets.
        ("« Oui. » dit-il. « Viens. Reste ! » Il part.", ["« Oui. » dit-il.", "« Viens.", "Reste ! »", "Il part."]),
        ("«\u00a0Quoi\u202f?!\u00a0» cria-t-elle. Rien.", ["«\u00a0Quoi\u202f?!\u00a0» cria-t-elle.", "Rien."]),
        ("« Non ! » — dit-elle.", ["« Non ! » — dit-elle."]),
        ('"Go." "Why?" she asked. “Now.” Fine.', ['"Go."', '"Why?" she asked.', "“Now.”", "Fine."]),
        ("(See p. 3.) Next. End.[1] Last.", ["(See p. 3.)", "Next.", "End.[1]", "Last."]),
        # Unclear cases stay whole.
        ("Bonjour.Comment ça va?Bien", ["Bonjour.Comment ça va?Bien"]),
        # Lines, lists, headings, tables.
        ("Titre\n\nUn texte.\nAutre ligne", ["Titre", "Un texte.", "Autre ligne"]),
        ("1. Item. Two.\r\n2) Other\n- Bread\n• Milk\n# Top", ["Item.", "Two.", "Other", "Bread", "Milk", "Top"]),
        ("IV. Résultats\n1.2.3. Détails\n(a) Un\nb) Deux", ["Résultats", "Détails", "Un", "Deux"]),
        ("— Bonjour. — Bonsoir.", ["Bonjour.", "Bonsoir."]),
        ("Nom\tPrénom\nÂge     Ville", ["Nom", "Prénom", "Âge", "Ville"]),
        ("00:01 --> 00:02\nHello.\nHow are you?", ["Hello.", "How are you?"]),
        # Nothing to translate stays in the gaps.
        ("Wow!!! 😀😀 Cool. 42 !!! 3.14", ["Wow!!!", "😀😀 Cool."]),
        ("https://a.example/b\nme@a.example\n---\n", []),
        ("", []),
        (" \n\t\u00a0", []),
        # Scripts whose full stop needs no space.
        ("今日は。元気？はい", ["今日は。", "元気？", "はい"]),
        ("क्या? हाँ। ठीक।", ["क्या?", "हाँ।", "ठीक।"]),
    ],
)  # fmt: skip
def test_sentences(document: str, expected: list[str]) -> None:
    assert texts(document) == expected


def test_language_picks_the_abbreviations() -> None:
    assert texts("It is for Me. John knows.", "en") == ["It is for Me.", "John knows."]
    assert texts("Voici Me. Jean Valois.", "fr") == ["Voici Me. Jean Valois."]
    assert texts("Voici Mme. Jeanne Valois.", "de") == ["Voici Mme. Jeanne Valois."]


@given(documents)
@settings(max_examples=400, deadline=None)
def test_nothing_is_lost(document: str) -> None:
    segments = split_segments(document)
    assert join_segments(document, segments, [segment.text for segment in segments]) == document
    position = 0
    for segment in segments:
        assert position <= segment.start < segment.end
        assert document[segment.start : segment.end] == segment.text == segment.text.strip()
        assert any(map(str.isalpha, segment.text))
        assert not re.search(r"[\r\n\t\u2028]", segment.text)
        position = segment.end
    # What stays in the gaps has no letter, list markers and addresses aside.
    rest = join_segments(document, segments, [" "] * len(segments))
    rest = re.sub(r"https://\S*|[(]?\b(?:[a-z]|[ivx]+)\)|\b[IVX]+[.)]|\S+@\S+", "", rest)
    assert not any(map(str.isalpha, rest))


@given(documents)
@settings(deadline=None)
def test_splitting_a_segment_again_changes_nothing_but_its_marker(document: str) -> None:
    for segment in split_segments(document):
        again = split_segments(segment.text)
        assert len(again) <= 1 or segment.text.endswith(again[-1].text)


def test_translations_take_the_place_of_segments() -> None:
    source = "\ufeff  1.  Bonjour.\u00a0 Ça va ?\r\n\r\n\t- Oui !  \n"
    segments = split_segments(source, "fr")
    assert join_segments(source, segments, ["Hello.", "How are you?", "Yes!"]) == (
        "\ufeff  1.  Hello.\u00a0 How are you?\r\n\r\n\t- Yes!  \n"
    )
    with pytest.raises(ValueError, match="shorter"):
        join_segments(source, segments, ["Hello."])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a", True), ("Été !", True), ("日", True), ("", False), ("123 €", False), ("😀 …", False), ("½²", False),
     ("http://a.example/x", False), ("www.a.example", False), ("me@a.example", False), ("see www.a.example", True)],
)  # fmt: skip
def test_is_translatable(text: str, expected: bool) -> None:
    assert is_translatable(text) is expected


def cut(text: str, limit: int) -> list[str]:
    return [piece.text for piece in split_long(Segment(0, len(text), text), lambda piece: len(piece) <= limit)]


def test_a_segment_that_fits_is_not_cut() -> None:
    segment = Segment(7, 12, "a b c")
    assert split_long(segment, lambda _: True) == [segment]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one two three, four five six seven", ["one two three,", "four five six seven"]),
        ("one two; three, four five six seven", ["one two; three,", "four five six seven"]),
        ("one two three, four; five six seven", ["one two three, four;", "five six seven"]),
        ("un deux trois quatre. cinq six, sept huit", ["un deux trois quatre.", "cinq six, sept huit"]),
        ("un deux trois — quatre cinq six", ["un deux trois", "— quatre cinq six"]),
        ("one two three four five six", ["one two three", "four five six"]),
        ("Il vit que M. Dupont dormait", ["Il vit que M.", "Dupont dormait"]),
        ("path/of/some/thing/longer/stil", ["path/of/some/", "thing/longer/stil"]),
        ("abcdefghijklmnopqrstuvwxyzabcd", ["abcdefghijklmno", "pqrstuvwxyzabcd"]),
    ],
)
def test_cuts_at_the_best_place(text: str, expected: list[str]) -> None:
    assert cut(text, len(text) - 4) == expected


CLUSTERS = [
    *("a", "e\u0301", "👍🏽", "👨\u200d👩\u200d👧", "🇫🇷", "\u1100\u1161\u11a8", "\ud83d\ude00", "ก็", " ", ", "),
    "🏴\U000e0067\U000e0062\U000e007f",
]


@given(st.lists(st.sampled_from(CLUSTERS), min_size=1, max_size=60), st.integers(1, 24))
@settings(max_examples=300, deadline=None)
def test_pieces_fit_and_clusters_stay_whole(clusters: list[str], limit: int) -> None:
    text = "".join(clusters)
    ends = {0}
    for cluster in clusters:
        ends.add(max(ends) + len(cluster))
    segment = Segment(5, 5 + len(text), text)
    pieces = split_long(segment, lambda piece: len(piece) <= limit)
    shifted = "#####" + text + "##"
    assert join_segments(shifted, pieces, [piece.text for piece in pieces]) == shifted
    for piece in pieces:
        inner = text[piece.start - 5 : piece.end - 5]
        assert inner == piece.text
        assert piece.start - 5 in ends or text[piece.start - 6].isspace()
        assert piece.end - 5 in ends or text[piece.end - 5].isspace()
        assert len(piece.text) <= limit or piece.text in CLUSTERS
    kept = sum(sum(map(str.isalpha, piece.text)) for piece in pieces)
    assert pieces == [segment] or kept == sum(map(str.isalpha, text))


def test_a_hostile_cluster_is_cut_all_the_same() -> None:
    text = "a" + "\u0301" * 5000 + "b"
    pieces = cut(text, 200)
    assert pieces[0].startswith("a")
    assert pieces[-1].endswith("b")
    assert all(len(piece) <= 200 for piece in pieces)


@pytest.mark.parametrize("unit", ["a", "a ", "a, b. ", "é", "ab cd; ", "🇫🇷a"])
def test_few_short_calls(unit: str) -> None:
    text = (unit * 300_000)[:300_000].strip()
    lengths: list[int] = []

    def fits(piece: str) -> bool:
        lengths.append(len(piece))
        return len(piece) <= 250

    pieces = split_long(Segment(0, len(text), text), fits)
    assert all(len(piece.text) <= 250 for piece in pieces)
    assert len(lengths) < 3 * len(pieces)
    assert sum(lengths) < 6 * len(text)
    assert unicodedata.normalize("NFC", "".join(piece.text for piece in pieces)).count("a") == text.count("a")


HOSTILE = [
    *("a", ".", " ", '"', "M. ", "a\n", ". ", "? ", "A. ", "a. «", "! «“", "- ", "1. ", ".[1", ". »", "\u0301", "a@a."),
    *("\ufeff", "a   ", "。", "x.’", "(", "a. ((((((((((", "I. "),
]


@pytest.mark.parametrize("unit", HOSTILE)
def test_no_character_is_looked_at_often(unit: str) -> None:
    """A text of 300,000 characters; anything quadratic would take minutes, so the suite's own patience is the clock."""
    text = (unit * 300_000)[:300_000]
    segments = split_segments(text)
    assert join_segments(text, segments, [segment.text for segment in segments]) == text
