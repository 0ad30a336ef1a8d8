"""Glossaries read and written, and their terms found in texts: forms, cases, boundaries, precedence."""
# ruff: noqa: RUF001 (typographic apostrophes are what is tested)

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import InvalidRequestError
from model.text.glossary import MAX_ENTRIES, Glossary, GlossaryHit, TermMatch, match_terms, term_present


def french(*entries: tuple[str, str], id: str = "g") -> Glossary:
    return Glossary(id, "Test", "fr", "en", entries)


def english(*entries: tuple[str, str]) -> Glossary:
    return Glossary("g", "Test", "en", "fr", entries)


def found(text: str, glossary: Glossary) -> list[tuple[str, str, bool]]:
    """Surface, target and whether inflected, of each match."""
    matches, _ = match_terms(text, [glossary], glossary.source_language)
    return [(text[match.start : match.end], match.target, match.inflected) for match in matches]


def read_tsv(text: str) -> Glossary:
    return Glossary.from_tsv(text, id="g", name="n", source_language="en", target_language="fr")


def read_csv(text: str) -> Glossary:
    return Glossary.from_csv(text, id="g", name="n", source_language="en", target_language="fr")


# Files


def test_tsv_is_not_quoted_and_passes_over_empty_lines() -> None:
    text = '\ufeffcat\tchat\r\n\r\n "dog"\tchien, "gros" \nA=%&\t😀'
    assert read_tsv(text).entries == (("cat", "chat"), ('"dog"', 'chien, "gros"'), ("A=%&", "😀"))


def test_csv_is_quoted_and_may_repeat_the_languages() -> None:
    text = 'cat,chat\r\n"a, b","dit ""non"""\r\n\r\ndog,chien,EN,fr-FR\r\n'
    assert read_csv(text).entries == (("cat", "chat"), ("a, b", 'dit "non"'), ("dog", "chien"))


@pytest.mark.parametrize(
    ("text", "name", "rule"),
    [
        ("cat\tchat\ndog", "entries line 2", "exactly one tab"),
        ("cat\tchat\tx", "entries line 1", "exactly one tab"),
        ("cat\tchat\n\n\tchien", "entries line 3", "source that is not empty"),
        ("cat\t ", "entries line 1", "target that is not empty"),
        ("cat\tchat\ndog\tchien\ncat\tminou", "entries line 3", "repeat the source of line 1"),
        ("cat\tch\x07at", "entries line 1", "control character"),
        ("cat\tch\u2028at", "entries line 1", "control character"),
        ("cat\t" + "é" * 513, "entries line 1", "at most 1024 bytes"),
        (" \n", "entries", "must have 1 to"),
    ],
)
def test_bad_tsv_is_refused_with_the_line(text: str, name: str, rule: str) -> None:
    with pytest.raises(InvalidRequestError, match=rule) as caught:
        read_tsv(text)
    assert caught.value.name == name


@pytest.mark.parametrize(
    ("text", "name", "rule"),
    [
        ("cat\n", "entries line 1", "two columns"),
        ("cat,chat\na,b,c\n", "entries line 2", "two columns"),
        ("cat,chat,de,fr\n", "entries line 1", "languages en and fr"),
        ('cat,chat\n"dog,chien\n', "entries line 2", "must be CSV"),
        ('"a\nb",chat\n', "entries line 2", "control character"),
    ],
)
def test_bad_csv_is_refused_with_the_line(text: str, name: str, rule: str) -> None:
    with pytest.raises(InvalidRequestError, match=rule) as caught:
        read_csv(text)
    assert caught.value.name == name


@pytest.mark.parametrize(
    ("name", "entries", "field"),
    [
        ("", (("a", "b"),), "name"),
        ("n" * 1025, (("a", "b"),), "name"),
        ("n", (), "entries"),
        ("n", (("a ", "b"),), "entries entry 1"),
        ("n", tuple((str(i), "b") for i in range(MAX_ENTRIES + 1)), "entries"),
    ],
)
def test_a_glossary_checks_itself(name: str, entries: tuple[tuple[str, str], ...], field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        Glossary("g", name, "en", "fr", entries)
    assert caught.value.name == field


TERMS = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=20).filter(
    lambda term: term == term.strip() and not term.startswith("\ufeff")
)


@given(st.dictionaries(TERMS, TERMS, min_size=1, max_size=8))
def test_entries_are_read_back_as_written(entries: dict[str, str]) -> None:
    glossary = english(*entries.items())
    assert read_tsv(glossary.to_tsv()).entries == glossary.entries
    assert read_csv(glossary.to_csv()).entries == glossary.entries


# Matching


@pytest.mark.parametrize("text", ["L'ordinateur.", "l’ordinateur", "d'ordinateur", "(ordinateur)", "Cet ordinateur-ci"])
def test_a_term_is_a_word_also_after_an_elision(text: str) -> None:
    assert found(text, french(("ordinateur", "computer"))) == [("ordinateur", "computer", False)]


def test_forms_of_a_term_are_flagged() -> None:
    glossary = french(("ordinateur", "computer"), ("cheval", "horse"), ("pomme de terre", "potato"))
    assert found("Des ordinateurs, un cheval, des chevaux et des pommes de terre.", glossary) == [
        ("ordinateurs", "computer", True),
        ("cheval", "horse", False),
        ("chevaux", "horse", True),
        ("pommes de terre", "potato", True),
    ]
    assert found("boxes and policies, planned planning", english(("box", "boîte"), ("policy", "police"))) == [
        ("boxes", "boîte", True),
        ("policies", "police", True),
    ]


@pytest.mark.parametrize(
    ("text", "glossary"),
    [
        ("une porte ouverte", french(("port", "harbour"))),
        ("the university", english(("universe", "univers"))),
        ("l'organisation", french(("organiser", "organise"))),
        ("partie", french(("art", "art"))),
        ("le mini-bus", french(("bus", "bus"))),
        ("un porte-avions", french(("porte", "door"))),
        ("aujourd'hui", french(("hui", "x"))),
        ("I don't", english(("t", "x"), ("don", "x"))),
        ("written in C++", english(("C", "C"))),
        ("pomme, terre", french(("pomme terre", "x"))),
    ],
)
def test_what_is_no_term(text: str, glossary: Glossary) -> None:
    assert found(text, glossary) == []


def test_signs_and_other_scripts_are_terms_as_well() -> None:
    glossary = english(("C++", "C++"), (".NET", ".NET"), ("R&D", "R&D"), ("日本", "Japon"))
    assert [surface for surface, _, _ in found("C++, .NET and R&D in 日本", glossary)] == ["C++", ".NET", "R&D", "日本"]


def test_composed_and_decomposed_letters_are_the_same() -> None:
    assert found("l'e\u0301te\u0301", french(("été", "summer"))) == [("e\u0301te\u0301", "summer", False)]


def test_case_counts_only_for_entries_in_capitals_or_with_inner_ones() -> None:
    glossary = english(("WHO", "OMS"), ("iPhone", "iPhone"), ("cloud", "nuage"))
    assert found("The WHO knows who bought an iphone, an iPhone, two iPhones, a Cloud.", glossary) == [
        ("WHO", "OMS", False),
        ("iPhone", "iPhone", False),
        ("iPhones", "iPhone", True),
        ("Cloud", "Nuage", False),
    ]


def test_the_target_takes_the_case_of_the_text() -> None:
    matches, _ = match_terms("Chat. CHAT. chat.", [french(("chat", "cat"))], "fr")
    assert [match.target for match in matches] == ["Cat", "CAT", "cat"]
    assert {match.target_as_entered for match in matches} == {"cat"}
    assert found("Vive l'OTAN, PARIS et Paris", french(("OTAN", "NATO"), ("Paris", "Paris"))) == [
        ("OTAN", "NATO", False),
        ("PARIS", "PARIS", False),
        ("Paris", "Paris", False),
    ]


def test_exact_entries_win_over_inflected_ones() -> None:
    glossary = french(("donnée", "datum"), ("données", "data"))
    assert found("la donnée et les données", glossary) == [("donnée", "datum", False), ("données", "data", False)]


def test_the_longest_term_wins_and_the_other_is_reported() -> None:
    glossary = french(("pomme", "apple"), ("pomme de terre", "potato"), ("terre cuite", "terracotta"))
    text = "une pomme de terre cuite"
    matches, skipped = match_terms(text, [glossary], "fr")
    assert matches == [TermMatch(4, 18, "pomme de terre", "potato", "g", False, "potato")]
    assert skipped == [
        GlossaryHit("pomme", "apple", 4, 9, "skipped", "overlaps another term", "g"),
        GlossaryHit("terre cuite", "terracotta", 13, 24, "skipped", "overlaps another term", "g"),
    ]


def test_an_earlier_glossary_wins() -> None:
    matches, skipped = match_terms(
        "le chat", [french(("chat", "tomcat"), id="a"), french(("chat", "cat"), id="b")], "fr"
    )
    assert [(match.target, match.glossary_id) for match in matches] == [("tomcat", "a")]
    assert [(hit.target, hit.glossary_id) for hit in skipped] == [("cat", "b")]


def test_protected_spans_and_parts_of_words_are_skipped_with_the_reason() -> None:
    matches, skipped = match_terms("chat chat micro-chat", [french(("chat", "cat"))], "fr", [(0, 3), (90, 99)])
    assert [(match.start, match.end) for match in matches] == [(5, 9)]
    assert [(hit.start, hit.reason) for hit in skipped] == [
        (0, "in a protected span"),
        (16, "part of a word with a hyphen"),
    ]


def test_a_glossary_for_another_language_is_refused() -> None:
    assert match_terms("x", [], "fr") == ([], [])
    assert match_terms("le chat", [french(("chat", "cat"))], "fra_Latn")[0]
    with pytest.raises(InvalidRequestError, match="source language en"):
        match_terms("x", [french(("chat", "cat"))], "en")


def test_languages_without_stems_match_as_written() -> None:
    glossary = Glossary("g", "n", "ja", "en", (("猫", "cat"),))
    assert [match.target for match in match_terms("a 猫 b", [glossary], "ja")[0]] == ["cat"]


def test_a_match_tells_what_became_of_it() -> None:
    match = TermMatch(2, 5, "chat", "cat", "g", True, "cat").moved(10)
    assert match.hit("inflected") == GlossaryHit("chat", "cat", 12, 15, "inflected", "", "g")
    assert match.skipped("why").status == "skipped"


def test_many_entries_with_the_same_beginning() -> None:
    glossary = english(*((f"the term{number} of x", f"y{number}") for number in range(1000)))
    text = "".join(f"the term{number} of x, the dog, " for number in range(0, 1000, 20))
    assert [target for _, target, _ in found(text, glossary)] == [f"y{number}" for number in range(0, 1000, 20)]


def test_threads_may_share_a_glossary() -> None:
    words = ["ordinateur", "maison", "voiture", "cheval", "travail", "nation", "chanteur", "acteur"]
    glossary = french(*((word, word.upper()) for word in words))
    text = " ".join(f"{word}s {word}" for word in words)
    results: list[list[tuple[str, str, bool]]] = []
    threads = [threading.Thread(target=lambda: results.append(found(text, glossary))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [found(text, glossary)] * 8


PLAIN = str.maketrans("’ʼ‐‑", "''--")
ENTRIES = st.lists(
    st.sampled_from(["a", "b a", "a b", "chat", "chats b", "c++", "l'a", "b-a"]), min_size=1, unique=True
)
TEXTS = st.one_of(
    st.text(max_size=40),
    st.lists(st.sampled_from(["a", "b", " ", "chat", "s", "-", "'", "l", "+", "A"]), max_size=25).map("".join),
)


@given(text=TEXTS, entries=ENTRIES)
def test_matches_never_overlap_and_every_hit_is_in_the_text(text: str, entries: list[str]) -> None:
    matches, skipped = match_terms(text, [french(*((entry, "x") for entry in entries))], "fr", [(3, 5)])
    last = 0
    for match in matches:
        assert last <= match.start < match.end <= len(text)
        assert not (match.start < 5 and match.end > 3)
        assert match.source in entries
        surface = " ".join(text[match.start : match.end].translate(PLAIN).casefold().split())
        assert match.inflected == (surface != match.source)
        last = match.end
    assert all(hit.reason and 0 <= hit.start < hit.end <= len(text) for hit in skipped)


# In the target


@pytest.mark.parametrize(
    ("text", "term", "expected"),
    [
        ("Les ordinateurs portables.", "ordinateur portable", True),
        ("L'Ordinateur", "ordinateur", True),
        ("l’ordinateur", "ordinateur", True),
        ("Les ordinateurs", "ordinateur portable", False),
        ("La porte", "port", False),
        ("Le port", "port", True),
        ("", "port", False),
        ("anything", " ", True),
        ("C + +", "C++", False),
        ("En C++.", "C++", True),
    ],
)
def test_a_term_is_present_in_any_form(text: str, term: str, expected: bool) -> None:
    assert term_present(text, term, "fr") is expected
