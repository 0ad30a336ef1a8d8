"""Terms found in a dev set itself: which words are paired, which lines have them, and the share that comes out."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import pytest

from model.config import GenerationConfig
from model.evaluation.evaluate_run import evaluate_sets, show, with_robustness
from model.evaluation.robustness import DevSet
from model.evaluation.terms import glossaries_of, share_present, term_set
from model.options import TextOptions
from model.translator import Translator

ANIMALS = (("cheval", "horse"), ("mouton", "sheep"), ("renard", "foxes"), ("chèvre", "goats"))
PLACES = (("jardin", "garden"), ("rivière", "river"), ("montagne", "mountain"))
FILLERS = 80
"""Lines without any of these words, so that none of them is in more than a twentieth of all."""
SOURCES = [f"Le {animal} dort près de la {place}." for animal, _ in ANIMALS for place, _ in PLACES]
REFERENCES = [f"The {animal} sleeps by the {place}." for _, animal in ANIMALS for _, place in PLACES]
DEV = DevSet(
    "tales",
    "fr",
    "en",
    (*SOURCES, *(f"x{n}" for n in range(FILLERS))),
    (*REFERENCES, *(f"y{n}" for n in range(FILLERS))),
)
TRANSLATIONS = dict(zip(DEV.sources, DEV.references, strict=True))


class Obedient:
    """Translates every line well, but says "beast" for the animal and "hill" for a mountain unless told otherwise."""

    languages = ("fr", "en")

    def translate(self, texts: Sequence[str], *_: object) -> list[SimpleNamespace]:
        return [self._answer(text, ()) for text in texts]

    def submit(self, text: str, *_: object, options: TextOptions) -> Any:
        pending = SimpleNamespace(future=Future())
        pending.future.set_result(self._answer(text, [e for g in options.glossaries for e in g.entries]))
        return pending

    def _answer(self, text: str, entries: Sequence[tuple[str, str]]) -> SimpleNamespace:
        good = TRANSLATIONS.get(text, text)
        wanted = {target for _, target in entries}
        for _, animal in ANIMALS:
            good = good if animal in wanted else good.replace(animal, "beast")
        return SimpleNamespace(text=good.replace("mountain", "hill"), warnings=())


def test_words_are_paired_that_share_their_lines() -> None:
    made = term_set(DEV)
    assert made is not None
    assert (made.name, made.source, made.target) == ("tales.terms", "fr", "en")
    assert made.sources == tuple(SOURCES)
    assert made.references == tuple(REFERENCES)
    expected = [
        tuple(sorted([animal, place])) for animal in ANIMALS for place in PLACES
    ]  # in the order of the source words
    assert list(made.terms) == expected


def test_a_set_without_sure_pairs_has_no_terms() -> None:
    # The same words in every line: nothing tells which is which.
    same = DevSet("news", "fr", "en", ("Le voisin regarde la gare.",) * 10, ("A neighbour looks at stations.",) * 10)
    assert term_set(same) is None
    assert term_set(DevSet("short", "fr", "en", ("Le cheval",), ("The horse",))) is None


def test_words_that_stay_the_same_are_no_terms() -> None:
    lines = tuple(f"Napoléon dort, dit {n} fois Ney." for n in range(4))
    others = tuple(f"z{n}" for n in range(80))
    made = term_set(DevSet("names", "fr", "en", (*lines, *others), (*lines, *others)))
    assert made is None


def test_every_line_has_its_own_glossary() -> None:
    made = term_set(DEV)
    assert made is not None
    glossaries = glossaries_of(made)
    assert [glossary.entries for glossary in glossaries] == list(made.terms)
    assert {(glossary.source_language, glossary.target_language) for glossary in glossaries} == {("fr", "en")}


def test_share_counts_every_term() -> None:
    made = term_set(DEV)
    assert made is not None
    assert share_present(made, REFERENCES) == 1
    assert share_present(made, [line.replace("horse", "beast") for line in REFERENCES]) == 21 / 24
    assert share_present(made, [""] * len(REFERENCES)) == 0


def test_a_report_tells_the_share_with_and_without(capsys: pytest.CaptureFixture[str]) -> None:
    reports = evaluate_sets(cast(Translator, Obedient()), with_robustness(iter([DEV])), GenerationConfig())
    found = {report.dev.name: report for report in reports}
    terms = found["tales.terms"].terms
    assert terms is not None
    assert (terms.count, terms.kept, terms.without) == (24, 20 / 24, 8 / 24)
    assert all(report.terms is None for name, report in found.items() if name != "tales.terms")
    show(found["tales.terms"], as_json=False)
    assert "83.33% of 24 terms came out, 33.33% without the glossary" in capsys.readouterr().out
    assert found["tales.terms"].as_mapping()["terms"] == {"count": 24, "kept": 20 / 24, "without": 8 / 24}
    assert "terms" not in found["tales"].as_mapping()
