"""A model's view of text: what fits, beginnings with placeholders, and alignment from both directions' attention."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from model.analysis import score_translation
from model.config import ModelConfig
from model.generation.forced import force_decode
from model.generation.quality import Calibration
from model.pipeline.markers import MarkedText, Span
from model.pipeline.reading import PLACEHOLDERS, Reader
from model.text.alignment import align_words, piece_attention
from model.text.languages import LanguageDetector
from model.text.tokenizer import MARKERS
from model.text.tokenizer import PLACEHOLDERS as MARKS
from model.transformer import Transformer
from model.translation import SegmentTranslation
from tests.unit.tiny_tokenizer import VOCAB_SIZE, tiny_tokenizer

SOURCE, TARGET = "Ma sœur a vu l'été.", "My sister saw summer."


@pytest.fixture(scope="module")
def reader() -> Reader:
    torch.manual_seed(8)
    config = ModelConfig(
        VOCAB_SIZE,
        d_model=16,
        d_ff=32,
        num_heads=2,
        num_encoder_layers=1,
        num_decoder_layers=2,
        max_source_length=40,
        max_target_length=40,
    )
    markers = frozenset({PLACEHOLDERS})
    return Reader(Transformer(config).eval(), tiny_tokenizer(), LanguageDetector(), "fr", "en", markers, Calibration())


def examined(reader: Reader, source: str = SOURCE, target: str = TARGET, quality: bool = True) -> SegmentTranslation:
    whole = SegmentTranslation(0, len(source), source, target, score=0.0)
    return reader.examine(whole, MarkedText(source, ()), MarkedText(target, ()), quality=quality)


def test_words_are_aligned_by_both_directions(reader: Reader) -> None:
    tokenizer, eos_id = reader.tokenizer, reader.network.config.eos_id
    source_ids, source_spans = tokenizer.encode_with_spans(SOURCE)
    target_ids, target_spans = tokenizer.encode_with_spans(TARGET)
    english, french = tokenizer.encode_source("", "en")[0], tokenizer.encode_source("", "fr")[0]
    forward, backward = force_decode(
        reader.network,
        [([english, *source_ids, eos_id], target_ids), ([french, *target_ids, eos_id], source_ids)],
    )
    assert forward.cross_attention is not None
    assert backward.cross_attention is not None
    # without the language token in front and the end token behind
    there = piece_attention(forward.cross_attention, len(target_ids))[:, 1:-1]
    back = piece_attention(backward.cross_attention, len(source_ids))[:, 1:-1]
    expected = align_words(SOURCE, TARGET, source_spans, target_spans, there, back)
    assert examined(reader).alignment == expected
    one_way = align_words(SOURCE, TARGET, source_spans, target_spans, there)
    assert one_way.links != expected.links, "the other direction has no say in this test"


def test_quality_is_that_of_scoring(reader: Reader) -> None:
    scored = score_translation(reader, SOURCE, TARGET, None, alignment=False, quality=True)
    found = examined(reader)
    assert [(word.start, word.end) for word in found.words] == [(word.start, word.end) for word in scored.words]
    # the same numbers from passes that are padded differently, rounded to four digits
    assert [word.quality for word in found.words] == pytest.approx([word.quality for word in scored.words], abs=2e-4)
    assert examined(reader, quality=False).words == ()


@pytest.mark.parametrize(("source", "target"), [("a b c " * 20, TARGET), (SOURCE, "a b c " * 20), (SOURCE, "")])
def test_what_the_network_cannot_take_stays_as_it_is(reader: Reader, source: str, target: str) -> None:
    found = examined(reader, source, target)
    assert found.alignment is None
    assert (found.text, found.quality) == (target, None)


def test_spans_are_those_of_the_original(reader: Reader) -> None:
    source = MarkedText(f"Bonjour {MARKS[0]} !", ())
    whole = SegmentTranslation(0, 0, "", "x", score=0.0)
    marked = dataclasses.replace(source, spans=(Span(8, 9, 8, 14),))
    target = MarkedText(f"Hello {MARKS[0]}!", (Span(6, 7, 6, 12),))
    alignment = reader.examine(whole, marked, target, quality=False).alignment
    assert alignment is not None
    assert (8, 14) in alignment.source_words
    assert alignment.target_words[-2:] == ((6, 12), (12, 13))


def test_fitting_counts_special_tokens(reader: Reader) -> None:
    limit = reader.max_source_length
    text = "a"
    while len(reader.encode_source(text + " a")) <= limit:
        text += " a"
    assert reader.fits(text)
    assert not reader.fits(text + " a")
    assert not reader.fits("a" * 100 * limit)


def test_beginnings_name_placeholders_as_the_model_does(reader: Reader) -> None:
    pieces = ["{name}", "%d"]
    marked = f"Hello {MARKS[0]}, you have {MARKS[1]}"
    expected = reader.tokenizer.encode_target_marked(marked)
    assert reader.encode_prefix("Hello {name}, you have %d", pieces) == expected
    assert reader.encode_prefix("Hello {name}", []) == reader.tokenizer.encode_target("Hello {name}")
    assert len(reader.placeholder_phrase(1)) == 1


def test_a_text_with_markers_of_its_own_is_not_marked(reader: Reader) -> None:
    assert reader.can_mark("Bonjour {name}")
    assert not any(reader.can_mark(f"Bonjour {marker}") for marker in MARKERS)
