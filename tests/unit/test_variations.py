"""Letter case, titles, final punctuation and typing errors: what each does to the two sides of a pair."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from model.text.variations import (
    Pair,
    lower_case,
    no_final_punctuation,
    title_case,
    typing_errors,
    upper_case,
    without_accents,
)


def french(source: str, target: str) -> Pair:
    return Pair(source, target, "fr", "en")


def english(source: str, target: str) -> Pair:
    return Pair(source, target, "en", "fr")


def sides(pair: Pair) -> tuple[str, str]:
    return pair.source, pair.target


def test_upper_case_is_on_both_sides_and_french_capitals_may_lose_accents() -> None:
    pair = french("L'été à Nîmes.", "Summer in Nîmes.")
    found = {upper_case(pair, random.Random(seed)).source for seed in range(40)}
    assert found == {"L'ÉTÉ À NÎMES.", "L'ETE A NIMES."}
    assert all(upper_case(pair, random.Random(seed)).target == "SUMMER IN NÎMES." for seed in range(40))
    back = english("Summer in Nîmes.", "L'été à Nîmes.")
    assert {sides(upper_case(back, random.Random(seed))) for seed in range(40)} == {
        ("SUMMER IN NÎMES.", "L'ÉTÉ À NÎMES.")
    }


@pytest.mark.parametrize(
    ("pair", "source", "target"),
    [
        (english("the end of the world", "la fin du monde"), "The End of the World", "La fin du monde"),
        (english("What's it for", "C'est pour quoi"), "What's It For", "C'est pour quoi"),
        (french("l'ami de mes amis", "my friends' friend"), "L'Ami De Mes Amis", "My Friends' Friend"),
        (french("la NASA et l'iPhone", "NASA and the iPhone"), "La NASA Et L'IPhone", "NASA and the IPhone"),
        (english("42", "42"), "42", "42"),
    ],
)
def test_titles_are_written_as_in_their_language(pair: Pair, source: str, target: str) -> None:
    assert sides(title_case(pair)) == (source, target)


@pytest.mark.parametrize(
    ("pair", "sources", "target"),
    [
        (french("Le Chat dort.", "The Cat sleeps."), {"le chat dort.", "le Chat dort."}, "the Cat sleeps."),
        (french("Paris est loin.", "Paris is far."), {"paris est loin."}, "Paris is far."),
        (french("Je dors.", "I sleep."), {"je dors."}, "I sleep."),
        (french("« Oui »", "“Yes”"), {"« oui »"}, "“yes”"),
        (french("L'OTAN part.", "NATO leaves."), {"l'otan part.", "l'OTAN part."}, "NATO leaves."),
        (english("I sleep.", "Je dors."), {"i sleep."}, "je dors."),
        (english("42", "42"), {"42"}, "42"),
    ],
)
def test_a_lower_case_source_begins_its_target_in_lower_case(pair: Pair, sources: set[str], target: str) -> None:
    found = [lower_case(pair, random.Random(seed)) for seed in range(40)]
    assert {each.source for each in found} == sources
    assert {each.target for each in found} == {target}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("Où est-il ?", "Where is he?"), ("Où est-il", "Where is he")),
        (("Eh bien...", "Well…"), ("Eh bien", "Well")),
        (("Oui !!! ", "Yes."), ("Oui", "Yes")),
        (("Oui.", "Yes"), ("Oui.", "Yes")),
        (("...", "..."), ("...", "...")),
        (("3.5 fois", "3.5 times"), ("3.5 fois", "3.5 times")),
    ],
)
def test_final_punctuation_goes_from_both_sides_or_stays_on_both(
    before: tuple[str, str], after: tuple[str, str]
) -> None:
    assert sides(no_final_punctuation(french(*before))) == after


def edits(left: str, right: str) -> int:
    """Return the number of letters inserted, dropped, replaced, or swapped with the next (Damerau 1964)."""
    rows = [list(range(len(right) + 1))]
    for i, a in enumerate(left, start=1):
        row = [i]
        for j, b in enumerate(right, start=1):
            best = min(rows[i - 1][j] + 1, row[j - 1] + 1, rows[i - 1][j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                best = min(best, rows[i - 2][j - 2] + 1)
            row.append(best)
        rows.append(row)
    return rows[-1][-1]


def test_a_typing_error_is_one_edit_in_one_word() -> None:
    pair = english("My neighbour sings loudly every morning.", "Mon voisin chante fort chaque matin.")
    kinds: Counter[int] = Counter()
    for seed in range(300):
        changed = typing_errors(pair, random.Random(seed))
        assert changed.target == pair.target
        assert edits(pair.source, changed.source) <= 1
        assert len(changed.source.split()) == 6
        kinds[len(changed.source) - len(pair.source)] += 1
    assert set(kinds) == {-1, 0, 1}  # dropped; swapped or mistyped; doubled
    assert min(kinds.values()) > 30


def test_long_sentences_have_more_errors_and_names_none() -> None:
    words = [f"word{'abcdefghij'[i]}{'abcdefghij'[j]}ish" for i in range(6) for j in range(5)]
    pair = english(" ".join([*words, "Katharina"]), "Katharina dort.")
    for seed in range(50):
        changed = typing_errors(pair, random.Random(seed)).source.split()
        assert changed[-1] == "Katharina"
        # 31 words: 1 + 3 are chosen; swapping equal letters changes none.
        assert 1 <= sum(a != b for a, b in zip(words, changed, strict=False)) <= 4
    same = english("Katharina Katharina", "Katharina")
    assert typing_errors(same, random.Random(1)) == same


def test_french_loses_accents() -> None:
    pair = french("Ça a été très gênant, même là.", "That was very awkward, even there.")
    found = {typing_errors(pair, random.Random(seed)).source for seed in range(60)}
    assert "Ca a ete tres genant, meme la." in found
    assert any(text.startswith("Ça") and "tres" in text for text in found)
    assert without_accents("œuf ß Ünø") == "œuf ß Unø"
