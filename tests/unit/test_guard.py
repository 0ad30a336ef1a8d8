"""The guard on segments: silent on good translations, loud on damaged ones; and the numbers of both notations."""
# ruff: noqa: RUF001 (typographic spaces and apostrophes are what is tested)

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.text.guard import Finding, check_segment, severity
from model.text.languages import LanguageDetector
from model.text.numbers import lost_and_invented

DETECTOR = LanguageDetector()
EN = "The committee met yesterday evening to discuss the new budget, but nobody could agree on the final numbers."
FR = (
    "Le comité s'est réuni hier soir pour discuter du nouveau budget, mais personne n'a pu s'accorder sur les chiffres."
)

GOOD = [
    (EN, FR),
    ("Yes.", "Oui."),
    ("Help!", "Au secours !"),
    ("You're welcome.", "Je vous en prie."),
    ("Paris", "Paris"),
    ("Restaurant", "Restaurant"),
    ("film noir", "film noir"),
    ("table d'hôte", "table d'hôte"),
    ("Microsoft Windows 11", "Microsoft Windows 11"),
    ("Anna Maria Schmidt, New York", "Anna Maria Schmidt, New York"),
    ("No, no, no, no!", "Non, non, non, non !"),
    ("It was very, very good.", "C'était très, très bon."),
    ("Ha ha ha ha ha!", "Ha ha ha ha ha !"),
    ("Left, right, left, right, left, right.", "Gauche, droite, gauche, droite, gauche, droite."),
    ("…", "…"),
    ("12:30", "12:30"),
    ("Important information on transport.", "Information importante sur le transport."),
    ("He works at the Centre national de la recherche.", "Il travaille au Centre national de la recherche."),
]


def codes(source: str, target: str, pair: tuple[str, str] = ("en", "fr"), **options: object) -> list[str]:
    findings = check_segment(source, target, *pair, detector=DETECTOR, **options)  # type: ignore[arg-type]
    assert all(0.0 < finding.severity <= 1.0 and finding.message for finding in findings)
    assert [finding.severity for finding in findings] == sorted((f.severity for f in findings), reverse=True)
    return [finding.code for finding in findings]


@pytest.mark.parametrize(("english", "french"), GOOD)
def test_good_translations_have_no_finding_in_either_direction(english: str, french: str) -> None:
    assert codes(english, french) == []
    assert codes(french, english, ("fr", "en")) == []


def test_nothing_is_not_a_translation() -> None:
    assert codes("Yes.", "") == ["empty"]
    assert codes("Yes.", " \n") == ["empty"]
    assert codes("?!", "") == []
    assert codes("", "") == []


def test_a_copy_is_noticed() -> None:
    assert "copied" in codes(EN, EN)
    assert "copied" in codes(FR, FR, ("fr", "en"))
    assert "copied" in codes("we have no idea about that", "We have no idea about that!")
    assert codes("Good morning everybody!", "Good morning everybody !") == ["copied"]
    assert codes("we have no idea about that", "we have no idea about that", ("en", "en-GB")) == []


def test_the_wrong_language_is_noticed_also_in_one_half() -> None:
    other = "Nobody knew what the people in the village had been waiting for during the long winter."
    assert codes(FR, FR.replace("comité", "groupe"), ("fr", "en"))[0] in ("copied", "language")
    assert "language" in codes(FR, other.replace("Nobody", "Personne"), ("en", "fr")) or "language" in codes(EN, other)
    half = "Le comité s'est réuni hier soir pour discuter but nobody could agree on the final numbers of it."
    assert codes(EN, half) == ["language"]


def test_a_short_text_is_never_accused_of_its_language() -> None:
    assert codes("Bon week-end !", "Nice weekend!", ("fr", "en")) == []
    assert codes("Bonne chance.", "Good luck.", ("en", "fr")) == []


@pytest.mark.parametrize(
    "target",
    [
        FR + " sur les chiffres" * 3,
        FR + " chiffres" * 5,
        FR + " " + FR,
        "Le " + "ha" * 40,
        "Le comité s'est réuni, le comité s'est réuni, le comité s'est réuni pour discuter du budget.",
    ],
)
def test_a_loop_is_noticed(target: str) -> None:
    assert "looped" in codes(EN, target)


def test_a_group_of_words_that_begins_alike_inside_is_a_loop_too() -> None:
    assert "looped" in codes(EN, "un un deux deux " * 4 + FR)


def test_what_the_source_repeats_may_be_repeated() -> None:
    assert "looped" not in codes("Row, row, row, row, row your boat.", "Rame, rame, rame, rame, rame ton bateau.")
    assert "looped" not in codes(f"{EN} {EN}", f"{FR} {FR}")


def test_omissions_and_additions_are_noticed() -> None:
    assert "short" in codes(EN, "Le comité s'est réuni hier.")
    assert "long" in codes("The committee met yesterday.", FR)
    assert "short" in codes(EN, "...")


def test_a_worse_omission_is_more_severe() -> None:
    some = check_segment(EN, "Le comité s'est réuni hier soir pour discuter.", "en", "fr", detector=DETECTOR)
    most = check_segment(EN, "Le comité.", "en", "fr", detector=DETECTOR)
    assert [finding.code for finding in some] == [finding.code for finding in most] == ["short"]
    assert severity(some) < severity(most)


def test_protected_pieces_are_not_looked_at() -> None:
    address = "https://a.example/one/two/three/four/12345/a-very-long-address-that-nobody-translates"
    assert codes(f"See {address}", f"Voir {address}", protected=[address]) == []
    assert codes("{0} of {1} {2} {3}", "{0} sur {1} {2} {3}", protected=["{0}", "{1}", "{2}", "{3}"]) == []
    assert codes("Call {12} now", "Appelez maintenant", protected=["{12}"]) == ["numbers"]
    assert codes("Windows 11 is here.", "Windows onze est là.", protected=["Windows onze"]) == []


def test_a_changed_number_is_noticed_with_its_digits() -> None:
    (finding,) = check_segment("It costs 45 euros.", "Cela coûte 54 euros.", "en", "fr", detector=DETECTOR)
    assert (finding.code, finding.message) == ("numbers", "numbers differ: lost 45; new 54")


def test_severity_joins_findings() -> None:
    assert severity([]) == 0.0
    assert severity([Finding("short", "", 0.5)]) == 0.5
    assert severity([Finding("short", "", 0.5), Finding("numbers", "", 0.5)]) == 0.75
    assert severity([Finding("empty", "", 1.0), Finding("numbers", "", 0.5)]) == 1.0


@pytest.mark.parametrize(
    ("english", "french"),
    [
        ("1,000.5 litres", "1 000,5 litres"),
        ("1,000,000 people", "1\u202f000\u202f000 personnes"),
        ("12,345 and 3.14", "12\u00a0345 et 3,14"),
        ("$1.5 million", "1,5 million de dollars"),
        ("1.5 million", "1 500 000"),
        ("2 billion", "2 milliards"),
        ("2 billion", "2 000 000 000"),
        ("15 thousand", "15 000"),
        ("two cats and 3 dogs", "2 chats et trois chiens"),
        ("12 months", "douze mois"),
        ("twenty-one", "21"),
        ("95", "quatre-vingt-quinze"),
        ("85 and 70", "quatre-vingt-cinq et soixante-dix"),
        ("250 pages", "deux cent cinquante pages"),
        ("three hundred and fifty", "350"),
        ("at 2:30 pm", "à 14h30"),
        ("at 2.30 p.m.", "à 14 h 30"),
        ("at 5 pm", "à 17 heures"),
        ("at 17:05", "à 17h05"),
        ("at noon", "à 12h"),
        ("at 12 o'clock", "à midi"),
        ("at 12 am", "à minuit"),
        ("50%", "50 %"),
        ("the 1st of May", "le 1er mai"),
        ("the 2nd", "le 2e"),
        ("the 3rd one", "le troisième"),
        ("in the 21st century", "au XXIe siècle"),
        ("Louis XIV", "Louis 14"),
        ("in the 1960s", "dans les années 60"),
        ("in the '60s", "dans les années 1960"),
        ("05/12/2024", "12.05.2024"),
        ("2008-2009", "2008–2009"),
        ("a year and 1 day", "un an et un jour"),
        ("no number", "aucun nombre"),
    ],
)
def test_the_same_numbers_in_both_languages(english: str, french: str) -> None:
    assert lost_and_invented(english, french, "en", "fr") == ([], [])
    assert lost_and_invented(french, english, "fr", "en") == ([], [])


@pytest.mark.parametrize(
    ("english", "french", "lost", "invented"),
    [
        ("45 cats", "54 chats", ["45"], ["54"]),
        ("1,000 cats", "des chats", ["1,000"], []),
        ("cats", "7 chats", [], ["7"]),
        ("1.5 million", "1,6 million", ["1.5"], ["1,6"]),
        ("2 billion", "2 000 000", [], ["2 000 000"]),
        ("at 2:30 pm", "à 15h30", ["2:30 pm"], ["15h30"]),
        ("at 2:30 am", "à 14h30", ["2:30 am"], ["14h30"]),
        ("in 1962, then 1963", "en 1963", ["1962"], []),
        ("21", "vingt-deux", ["21"], []),
        ("95", "quatre-vingt-cinq", ["95"], []),
        ("13, 13 and 13", "douze", ["13"], []),
    ],
)
def test_numbers_that_differ(english: str, french: str, lost: list[str], invented: list[str]) -> None:
    assert lost_and_invented(english, french, "en", "fr") == (lost, invented)


def test_small_numbers_may_be_words_in_other_languages() -> None:
    assert lost_and_invented("2 cats in 1984", "zwei Katzen 1984", "en", "de") == ([], [])
    assert lost_and_invented("2 cats in 1984", "zwei Katzen", "en", "de") == (["1984"], [])


PIECES = [
    "12",
    "1 000",
    ",",
    ".",
    " ",
    "h",
    ":",
    "30",
    "pm",
    "un",
    "two",
    "XIV",
    "ha",
    "é",
    "'",
    "million",
    "-",
    "{x}",
    "²",
    "٣",
]
TEXTS = st.one_of(st.text(max_size=50), st.lists(st.sampled_from(PIECES), max_size=30).map("".join))


@given(text=TEXTS)
def test_a_text_has_its_own_numbers(text: str) -> None:
    for language in ("en", "fr", "de"):
        assert lost_and_invented(text, text, language, language) == ([], [])


@given(source=TEXTS, target=TEXTS)
def test_any_pair_is_judged_and_lost_and_invented_mirror_each_other(source: str, target: str) -> None:
    codes(source, target, protected=["{x}"])
    lost, invented = lost_and_invented(source, target, "en", "fr")
    assert lost_and_invented(target, source, "fr", "en") == (invented, lost)


@given(text=TEXTS)
def test_a_text_in_its_own_language_is_only_looked_at_for_damage(text: str) -> None:
    assert codes(text, text, ("fr", "fr")) == []
