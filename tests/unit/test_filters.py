"""Which pairs each further rule drops, that rules are off without a configuration, and that training uses them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from model.training.corpus import Fitness, file_hash, fingerprint, load_corpus
from model.training.filters import (
    STRICT,
    PairFilter,
    different_addresses,
    different_numbers,
    family_key,
    letter_share,
    near_duplicate_key,
    repeats,
)
from model.training_config import DataConfig, FilterConfig, SourceConfig
from tests.unit.tiny_training import tokenizer, write_pairs

LANGUAGES = ("fr", "en")
OFF = FilterConfig()
FIT = ("Le chat dort sur la chaise de la cuisine.", "The cat is asleep on the kitchen chair.")


@pytest.mark.parametrize(
    ("pair", "rule", "reason"),
    [
        (("3 + 4 = 7 (a)", "3 + 4 = 7 (a)"), {"min_letters": 0.4}, "few letters"),
        (("Nonnnnnn, jamais de la vie", "No, never ever"), {"repeats": True}, "repeated characters or words"),
        (("Il a 12 ans et demi", "He is thirteen and a half"), {"numbers": True}, "different numbers"),
        (("Voir https://a.org/fr", "See https://a.org/en"), {"urls": True}, "different addresses"),
        (
            ("The cat is asleep on the kitchen chair.", "The cat sleeps on the kitchen chair."),
            {"language_confidence": 0.9},
            "wrong language",
        ),
        (
            ("Le chat dort sur la chaise.", "Le chat dort bien sur cette chaise."),
            {"language_confidence": 0.9},
            "wrong language",
        ),
    ],
)
def test_each_rule_drops_its_pairs_and_is_off_by_default(
    pair: tuple[str, str], rule: dict[str, object], reason: str
) -> None:
    assert PairFilter(FilterConfig(**rule), LANGUAGES).rejection(*pair) == reason  # type: ignore[arg-type]
    assert PairFilter(STRICT, LANGUAGES).rejection(*pair) == reason
    assert PairFilter(OFF, LANGUAGES).rejection(*pair) is None
    assert PairFilter(STRICT, LANGUAGES).rejection(*FIT) is None


def test_languages_are_those_of_the_columns() -> None:
    swapped = PairFilter(FilterConfig(language_confidence=0.9), ("en", "fr"))
    assert swapped.rejection(FIT[1], FIT[0]) is None
    assert swapped.rejection(*FIT) == "wrong language"
    # Too short for anyone to tell.
    assert swapped.rejection("Le chat", "The cat") is None


@pytest.mark.parametrize(("text", "share"), [("", 0.0), ("ab 1!", 0.5), ("été", 1.0), ("...", 0.0), (" a ", 1.0)])
def test_letter_share(text: str, share: float) -> None:
    assert letter_share(text) == share


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ouiiiii", True),
        ("ouiiii", False),
        ("quoi ??????", True),
        ("quoi ?????", False),
        ("Introduction ........................ 7", False),
        ("----------------", False),
        ("1000000000", False),
        ("no no no no", True),
        ("no, no, no!", False),
        ("the cat the cat the cat the cat", True),
        ("go on and on go on and on go on and on GO ON AND ON", True),
        ("a b c d e a b c d e a b c d e a b c d e", False),
        ("the cat and the dog and the bird and the fish", False),
        ("", False),
    ],
)
def test_repeats(text: str, found: bool) -> None:
    assert repeats(text) is found


@pytest.mark.parametrize(
    ("pair", "different"),
    [
        (("1 000,5 euros", "1,000.5 euros"), False),
        (("trois chats", "3 cats"), False),
        (("14 h 30", "2:30 pm"), False),
        (("en 1998", "in 1989"), True),
        (("12 chats", "some cats"), True),
        (("des chats", "cats"), False),
    ],
)
def test_numbers(pair: tuple[str, str], different: bool) -> None:
    assert different_numbers(*pair, LANGUAGES) is different


@pytest.mark.parametrize(
    ("pair", "different"),
    [
        (("Voir https://a.org.", "See https://a.org!"), False),
        (("Écrire à moi@a.fr", "Write to me@a.fr"), True),
        (("https://a.org https://a.org", "https://a.org"), True),
        (("https://a.org https://b.org", "https://b.org https://a.org"), False),
        (("rien", "nothing"), False),
    ],
)
def test_addresses(pair: tuple[str, str], different: bool) -> None:
    assert different_addresses(*pair) is different


def test_near_duplicates_differ_in_case_digits_and_punctuation_only() -> None:
    key = near_duplicate_key("Chapitre 3 : l'été", "Chapter 3: summer")
    assert near_duplicate_key("CHAPITRE 14, l’été !", "chapter 14 – Summer") == key  # noqa: RUF001
    assert near_duplicate_key("Chapitre 3 : l'hiver", "Chapter 3: summer") != key
    assert near_duplicate_key("Chapitre 3 : l'été", "Chapter 3: winter") != key
    # Letters do not move from one side to the other.
    assert near_duplicate_key("ab", "c") != near_duplicate_key("a", "bc")
    rules = PairFilter(FilterConfig(near_duplicates=True), LANGUAGES)
    assert rules.rejection("Chapitre 3", "Chapter 3") is None
    assert rules.rejection("chapitre 4.", "chapter 4.") == "near duplicate"


@pytest.mark.parametrize(
    "pair",
    [
        ("Bibliothèque partagée pour libbar2 (1.0)", "Shared library for libbar2"),
        ('Bibliothèque partagée pour "deux mots"', 'Shared library for "two words"'),
        ("Bibliothèque partagée pour /usr/lib", "Shared library for /usr/lib"),
        ("Bibliothèque partagée pour Emacs", "Shared library for Emacs"),
        ("Bibliothèque partagée pour Emacs Lisp", "Shared library for Emacs Lisp"),
    ],
)
def test_pairs_of_one_template_are_a_family(pair: tuple[str, str]) -> None:
    assert family_key(*pair) == family_key("Bibliothèque partagée pour libfoo-3", "Shared library for libfoo-3")
    assert family_key(*pair) != family_key("Bibliothèque statique pour libfoo-3", "Static library for libfoo-3")


@pytest.mark.parametrize("pair", [("Firefox", "Firefox"), ('"Bonjour à tous"', '"Hello all"'), ("Fichier 3", "File 3")])
def test_what_has_hardly_any_words_is_no_template(pair: tuple[str, str]) -> None:
    assert family_key(*pair) is None


def test_a_family_is_capped() -> None:
    rules = PairFilter(FilterConfig(max_family=2), LANGUAGES)
    found = [rules.rejection(f"La version {n} est sortie", f"Version {n} is out") for n in range(5)]
    assert found == [None, None, *["template family"] * 3]
    assert rules.rejection("La suite est sortie", "The sequel is out") is None


def test_a_dropped_pair_does_not_stand_for_a_good_one() -> None:
    rules = PairFilter(FilterConfig(numbers=True, near_duplicates=True, max_family=1), LANGUAGES)
    assert rules.rejection("La version 3 est sortie", "Version 4 is out") == "different numbers"
    assert rules.rejection("La version 3 est sortie", "Version 3 is out") is None


# In the corpus


PAIRS = [
    FIT,
    FIT,
    ("La version 3 est sortie", "Version 3 is out"),
    ("La version 4 est sortie", "Version 4 is out"),
    ("", "empty"),
]


def data_config(folder: Path, filters: FilterConfig | None) -> DataConfig:
    write_pairs(folder / "pairs.tsv", PAIRS)
    return DataConfig(str(folder), (SourceConfig("pairs.tsv"),), max_tokens=120, filters=filters)


def test_training_drops_what_the_rules_say(tmp_path: Path) -> None:
    corpus, (report,) = load_corpus(data_config(tmp_path, None), tokenizer())
    assert (report.kept, report.rejected) == (3, {"duplicate": 1, "empty side": 1})
    corpus, (report,) = load_corpus(data_config(tmp_path, STRICT), tokenizer())
    assert len(corpus) == report.kept == 2
    assert report.rejected == {"duplicate": 1, "empty side": 1, "near duplicate": 1}


def test_an_empty_table_of_rules_changes_nothing(tmp_path: Path) -> None:
    without, _ = load_corpus(data_config(tmp_path, None), tokenizer())
    empty, _ = load_corpus(data_config(tmp_path, OFF), tokenizer())
    assert without.ids[0].tolist() == empty.ids[0].tolist()


def test_each_set_of_rules_has_a_cache_of_its_own(tmp_path: Path) -> None:
    configs = [data_config(tmp_path, filters) for filters in (None, STRICT, dataclasses.replace(STRICT, max_family=3))]
    assert len({fingerprint(config, tokenizer()) for config in configs}) == 3


def test_fitness_counts_reasons_over_all_files(tmp_path: Path) -> None:
    fitness, rejected = Fitness(data_config(tmp_path, STRICT)), Counter[str]()
    assert [fitness.passes(*pair, rejected) for pair in PAIRS] == [True, False, True, False, False]
    assert rejected == {"duplicate": 1, "near duplicate": 1, "empty side": 1}


def test_file_hash(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    # BLAKE2b of "abc" with a digest of 16 bytes, by b2sum -l 128.
    assert file_hash(tmp_path / "a") == "cf4ab791c62b8d2b2109c90275287816"
