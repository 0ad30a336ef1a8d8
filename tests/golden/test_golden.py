"""The embedded model still translates: seven sentences of our own, to the letter, and what no good translation may do.

The expected texts are what the shipped weights gave when they were put in, after a bilingual reader accepted them, in
float32 and in int8. A change of network, search, tokeniser or segmentation that alters one of them is either a mistake
or a new model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from model import EngineConfig, GenerationConfig, Translator

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=["float32", "int8"])
def translator(request: pytest.FixtureRequest) -> Iterator[Translator]:
    """Return the embedded model on the CPU."""
    with Translator.load(engine=EngineConfig(device="cpu", dtype=request.param, num_workers=1)) as loaded:
        yield loaded


@pytest.mark.parametrize("case", GOLDEN, ids=[case["source"] for case in GOLDEN])
def test_sentence_is_translated_to_the_letter(translator: Translator, case: dict[str, str]) -> None:
    assert translator.translate(case["source"], case["from"], case["to"]).text == case["target"]


def test_there_are_seven_in_both_directions() -> None:
    assert len(GOLDEN) == 7
    assert {(case["from"], case["to"]) for case in GOLDEN} == {("fr", "en"), ("en", "fr")}
    assert "J'aime l'apprentissage automatique." in [case["source"] for case in GOLDEN]


def test_all_together_are_as_each_alone(translator: Translator) -> None:
    cases = [case for case in GOLDEN if case["from"] == "fr"]
    together = translator.translate([case["source"] for case in cases], "fr", "en")
    assert [translation.text for translation in together] == [case["target"] for case in cases]


def test_sampling_repeats_with_its_seed_and_varies_without(translator: Translator) -> None:
    source = GOLDEN[0]["source"]
    config = GenerationConfig(beam_size=1, sampling=True, temperature=1.5, seed=11)
    texts = {translator.translate(source, "fr", "en", config).text for _ in range(3)}
    assert len(texts) == 1
    others = {
        translator.translate(
            source, "fr", "en", GenerationConfig(beam_size=1, sampling=True, temperature=1.5, seed=seed)
        ).text
        for seed in range(8)
    }
    assert len(others) > 1
