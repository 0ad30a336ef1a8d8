"""Given translations scored and continued: against one position at a time, and with placeholders that a model knows."""

from __future__ import annotations

import math

import pytest
import torch

from model.analysis import (
    ScoredTranslation,
    WordAlternatives,
    find_alternatives,
    require_two_languages,
    score_translation,
)
from model.config import ModelConfig
from model.errors import InvalidOptionError, InvalidTextError
from model.generation import score_target
from model.generation.quality import Calibration
from model.pipeline.reading import PLACEHOLDERS, Reader
from model.text.languages import LanguageDetector
from model.transformer import Transformer
from tests.unit.tiny_tokenizer import VOCAB_SIZE, tiny_tokenizer

SOURCE, TARGET = "Ma sœur a vu l'été.", "My  sister has seen summer."


def build(markers: frozenset[str] = frozenset(), max_source_length: int = 256, max_target_length: int = 384) -> Reader:
    torch.manual_seed(5)
    config = ModelConfig(
        vocab_size=VOCAB_SIZE,
        d_model=16,
        d_ff=32,
        num_heads=2,
        num_encoder_layers=1,
        num_decoder_layers=1,
        tie_output=False,
        output_scale=3.0,
        max_source_length=max_source_length,
        max_target_length=max_target_length,
    )
    return Reader(
        Transformer(config).eval(), tiny_tokenizer(), LanguageDetector(), "fr", "en", markers, Calibration(0.5, 0.1)
    )


def score(reader: Reader, text: str = SOURCE, translation: str = TARGET) -> ScoredTranslation:
    return score_translation(reader, text, translation, None, alignment=True, quality=True)


def continued(reader: Reader, text: str, prefix: str, count: int = 8) -> WordAlternatives:
    banned = sorted(reader.tokenizer.special_ids - {reader.network.config.eos_id})
    return find_alternatives(reader, text, prefix, None, count=count, banned=banned)


def test_scores_are_those_of_one_position_at_a_time() -> None:
    reader = build()
    scored = score(reader)
    source_ids = reader.encode_source(SOURCE)
    ids = [token.id for token in scored.tokens]
    assert ids == [*reader.encode_target(TARGET), reader.network.config.eos_id]
    expected = score_target(reader.network, source_ids, ids)
    assert [token.log_prob for token in scored.tokens] == pytest.approx(expected, abs=1e-5)  # float32, other sums
    assert scored.log_prob == pytest.approx(math.fsum(expected), abs=1e-4)
    assert scored.score == pytest.approx(math.fsum(expected) / len(ids), abs=1e-5)
    assert scored.num_source_tokens == len(source_ids)


def test_tokens_and_words_are_where_the_translation_has_them() -> None:
    scored = score(build())
    *tokens, end = scored.tokens
    assert (end.start, end.end) == (len(TARGET), len(TARGET))
    spelt = "".join(TARGET[token.start : token.end] for token in tokens)
    assert spelt == TARGET.replace(" ", "")
    words = ["My", "sister", "has", "seen", "summer", "."]
    assert [TARGET[word.start : word.end] for word in scored.words] == words
    assert scored.alignment is not None
    assert [TARGET[start:end] for start, end in scored.alignment.target_words] == words
    assert scored.quality == pytest.approx(sum(word.quality for word in scored.words) / len(words), abs=1e-4)


def test_an_empty_translation_has_its_end() -> None:
    scored = score(build(), SOURCE, "")
    assert len(scored.tokens) == 1
    assert scored.words == ()
    assert scored.quality is None
    assert scored.alignment is not None
    assert scored.alignment.links == ()


def test_what_does_not_fit_is_named() -> None:
    reader = build(max_source_length=16, max_target_length=16)
    with pytest.raises(InvalidTextError, match="text must have at most 16 tokens"):
        score(reader, "a b c " * 10, "a")
    with pytest.raises(InvalidTextError, match="translation must have at most 16 tokens"):
        score(reader, "a", "a b c " * 10)
    with pytest.raises(InvalidTextError, match="text must have at most 16 tokens"):
        continued(reader, "a b c " * 10, "")
    with pytest.raises(InvalidTextError, match="must have words"):
        continued(reader, " \n ", "")
    with pytest.raises(InvalidOptionError, match="another language"):
        require_two_languages("fr", "fr")


@pytest.mark.parametrize("prefix", ["", "My", "My sister ", "My si"])
def test_words_go_on_from_the_prefix(prefix: str) -> None:
    reader = build()
    found = continued(reader, SOURCE, prefix).alternatives
    assert found
    assert [each.probability for each in found] == sorted((each.probability for each in found), reverse=True)
    assert len({each.word for each in found}) == len(found)
    for each in found:
        assert each.prefix.startswith(prefix.rstrip())
        assert each.prefix.removeprefix(prefix.rstrip()).strip() == each.word


def test_a_placeholder_is_the_word_that_it_stands_for() -> None:
    reader = build(frozenset({PLACEHOLDERS}))
    phrase = reader.placeholder_phrase(0)
    banned = [i for i in range(VOCAB_SIZE) if i not in (*phrase, reader.network.config.eos_id)]
    found = find_alternatives(reader, "Bonjour {name} !", "Hello", None, count=2, banned=banned)
    assert {each.word for each in found.alternatives} >= {"{name}"}
    [named] = [each for each in found.alternatives if each.word == "{name}"]
    assert named.prefix.startswith("Hello")
    assert named.prefix.endswith("{name}")
