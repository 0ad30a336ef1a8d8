"""One segment's flow with hypotheses that are written out here: second attempts, pieces, terms, capitals, reports."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from model.config import GenerationConfig, ModelConfig
from model.errors import OverloadedError
from model.generation.generate import GenerationInput
from model.generation.hypothesis import Hypothesis
from model.generation.quality import Calibration
from model.options import TextOptions
from model.pipeline.flow import SegmentFlow
from model.pipeline.preparation import PlainText, PreparedSegment, prepare
from model.pipeline.reading import PLACEHOLDERS, TERMS, Reader
from model.text.glossary import Glossary
from model.text.languages import LanguageDetector
from model.text.tokenizer import PLACEHOLDERS as MARKS
from model.text.tokenizer import TERM_AS, TERM_BEGIN, TERM_END
from model.transformer import Transformer
from model.translation import SegmentTranslation
from tests.unit.tiny_tokenizer import VOCAB_SIZE, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
NO_ROOM = "no room"
Answers = Sequence[Sequence[str]]
"""For each input of one step the texts of its hypotheses, best first."""


@pytest.fixture(scope="module")
def network() -> Transformer:
    torch.manual_seed(4)
    config = ModelConfig(VOCAB_SIZE, d_model=16, d_ff=32, num_heads=2, num_encoder_layers=1, num_decoder_layers=1)
    return Transformer(config).eval()


def reader(network: Transformer, *markers: str) -> Reader:
    return Reader(network, TOKENIZER, LanguageDetector(), "fr", "en", frozenset(markers), Calibration())


def segment(text: str, *terms: tuple[str, str]) -> PreparedSegment:
    glossaries = (Glossary("g", "terms", "fr", "en", terms),) if terms else ()
    options = TextOptions(splitting="none", glossaries=glossaries)
    [found] = prepare(PlainText(text), "fr", "en", options, lambda _: True).segments
    return found


def hypothesis(text: str, score: float) -> Hypothesis:
    ids = tuple(TOKENIZER.encode_target_marked(text))
    return Hypothesis(ids, score, score * (len(ids) + 1), (score,) * (len(ids) + 1), "end")


class Played:
    """A flow that was run with answers, and what it asked for."""

    def __init__(self, flow: SegmentFlow, *steps: Answers | str) -> None:
        self.asked: list[list[GenerationInput]] = []
        running = flow.run()
        try:
            self.asked.append(next(running))
            for step in steps:
                if isinstance(step, str):
                    self.asked.append(running.throw(OverloadedError("the queue is full", 1.0)))
                    continue
                answer = [[hypothesis(text, -0.1 * (n + 1)) for n, text in enumerate(texts)] for texts in step]
                self.asked.append(running.send(answer))
        except StopIteration as end:
            self.result: SegmentTranslation = end.value
        else:
            raise AssertionError("the flow wants more")
        assert len(self.asked) == len(steps), "every answer was asked for"

    def config(self, step: int) -> GenerationConfig:
        return self.asked[step][0].config

    @property
    def codes(self) -> list[str]:
        return [warning.code for warning in self.result.warnings]


def play(
    view: Reader,
    prepared: PreparedSegment,
    *steps: Answers | str,
    config: GenerationConfig | None = None,
    guard: bool = True,
) -> Played:
    flow = SegmentFlow(prepared, view, config or GenerationConfig(), guard=guard, align=False, quality=False)
    return Played(flow, *steps)


def test_a_good_translation_needs_one_attempt(network: Transformer) -> None:
    played = play(
        reader(network), segment("Le chat dort."), [["The cat sleeps.", "The cat is asleep.", "The cat sleeps."]]
    )
    assert played.asked[0][0].source_ids == TOKENIZER.encode_source("Le chat dort.", "en")
    result = played.result
    assert (result.text, result.alternatives, result.warnings) == ("The cat sleeps.", ("The cat is asleep.",), ())
    assert result.num_tokens == len(TOKENIZER.encode_target("The cat sleeps.")) + 1
    assert result.num_source_tokens == len(played.asked[0][0].source_ids)


def test_a_copy_is_decoded_again_and_the_better_one_kept(network: Transformer) -> None:
    source = "Le voisin regarde le château depuis la gare."
    good = "The neighbour looks at the castle from the station."
    played = play(reader(network), segment(source), [[source]], [[source, good]])
    assert played.result.text == good
    assert played.codes == ["decoded_again"]
    assert played.config(1).beam_size > played.config(0).beam_size


def test_the_first_one_stays_where_the_second_is_no_better(network: Transformer) -> None:
    source = "Le voisin regarde le château depuis la gare."
    played = play(reader(network), segment(source), [[source]], [[source]])
    assert played.result.text == source
    assert "decoded_again" not in played.codes
    assert "copied" in played.codes


def test_without_room_for_a_second_attempt_the_first_has_to_do(network: Transformer) -> None:
    source = "Le voisin regarde le château depuis la gare."
    played = play(reader(network), segment(source), [[source]], NO_ROOM)
    assert played.result.text == source
    assert "copied" in played.codes


def test_the_guard_can_be_switched_off(network: Transformer) -> None:
    source = "Le voisin regarde le château depuis la gare."
    played = play(reader(network), segment(source), [[source]], guard=False)
    assert "copied" in played.codes


def test_sampling_is_never_decoded_again(network: Transformer) -> None:
    source = "Le voisin regarde le château depuis la gare."
    config = GenerationConfig(beam_size=1, sampling=True)
    assert play(reader(network), segment(source), [[source]], config=config).result.text == source


def test_loops_are_decoded_again_without_repetition(network: Transformer) -> None:
    looped = "The cat sleeps sleeps sleeps sleeps sleeps sleeps sleeps."
    played = play(reader(network), segment("Le chat dort."), [[looped]], [["The cat sleeps."]])
    assert played.config(1).no_repeat_ngram_size == 3
    assert played.result.text == "The cat sleeps."


def test_placeholders_go_through_a_model_that_knows_them(network: Transformer) -> None:
    view = reader(network, PLACEHOLDERS)
    played = play(view, segment("Bonjour {name} !"), [[f"Hello {MARKS[0]}!"]])
    assert played.asked[0][0].source_ids == TOKENIZER.encode_source_marked(f"Bonjour {MARKS[0]} !", "en")
    assert (played.result.text, played.result.protected) == ("Hello {name}!", ((6, 12, 0),))


def test_a_lost_placeholder_is_demanded(network: Transformer) -> None:
    view = reader(network, PLACEHOLDERS)
    played = play(view, segment("Bonjour {name} !"), [["Hello!"]], [["Hello!", f"Hello {MARKS[0]}!"]])
    assert played.config(1).required_phrases == (view.placeholder_phrase(0),)
    assert played.result.text == "Hello {name}!"
    assert played.codes == ["decoded_again"]


@pytest.mark.parametrize("written", ["Hello!", "{name} {name} hello!"])
def test_what_is_lost_twice_is_translated_piece_by_piece(network: Transformer, written: str) -> None:
    prepared = segment("Bonjour {name}, tu as %d messages.")
    played = play(reader(network), prepared, [[written]], [[written]], [["Hello"], ["You have"], ["Messages."]])
    sources = [TOKENIZER.decode(item.source_ids) for item in played.asked[2]]
    assert sources == ["Bonjour", "tu as", "messages."]
    result = played.result
    assert result.text == "Hello {name}, you have %d messages."
    assert [result.text[start:end] for start, end, _ in result.protected] == ["{name}", "%d"]
    assert played.codes == ["pieces"]


def test_pieces_stay_as_they_are_where_there_is_no_room(network: Transformer) -> None:
    played = play(reader(network), segment("Bonjour {name} !"), [["Hello!"]], [["Hello!"]], NO_ROOM)
    assert played.result.text == "Bonjour {name} !"


def test_terms_are_demanded_of_a_model_that_knows_no_annotations(network: Transformer) -> None:
    played = play(reader(network), segment("Le chat dort.", ("chat", "feline")), [["The feline sleeps."]])
    assert played.config(0).required_phrases == (tuple(TOKENIZER.encode_target("feline")),)
    [hit] = played.result.glossary_hits
    assert (hit.source, hit.target, hit.status, hit.start, hit.end) == ("chat", "feline", "used", 3, 7)


def test_terms_are_annotated_for_a_model_that_knows_them(network: Transformer) -> None:
    view = reader(network, TERMS)
    prepared = segment("Le chat dort.", ("chat", "feline"))
    played = play(view, prepared, [["The cat sleeps."]], [["The cat sleeps.", "The feline sleeps."]])
    annotated = f"Le {TERM_BEGIN}chat{TERM_AS}feline{TERM_END} dort."
    assert played.asked[0][0].source_ids == TOKENIZER.encode_source_marked(annotated, "en")
    assert played.config(0).required_phrases == ()
    assert played.config(1).required_phrases == (tuple(TOKENIZER.encode_target("feline")),)
    assert played.result.text == "The feline sleeps."
    assert [hit.status for hit in played.result.glossary_hits] == ["used"]


def test_a_term_in_another_form_and_one_that_is_not_used(network: Transformer) -> None:
    prepared = segment("Les chats dorment ici.", ("chat", "feline"))
    assert prepared.terms[0].inflected
    used = play(reader(network), prepared, [["The felines sleep here."]])
    assert [hit.status for hit in used.result.glossary_hits] == ["inflected"]
    unused = play(reader(network), prepared, [["The cats sleep here."]])
    assert [(hit.status, hit.reason) for hit in unused.result.glossary_hits] == [
        ("skipped", "the model did not use it")
    ]


def test_a_beginning_is_kept_for_both_attempts(network: Transformer) -> None:
    prefix = tuple(TOKENIZER.encode_target("My"))
    config = GenerationConfig(target_prefix=prefix)
    source = "Le voisin regarde le château depuis la gare."
    played = play(reader(network), segment(source), [[source]], [[source]], config=config)
    assert [played.config(step).target_prefix for step in range(2)] == [prefix, prefix]


def test_digits_and_placeholders_need_no_attempt(network: Transformer) -> None:
    flow = SegmentFlow(segment("{a} 12 %s"), reader(network), GenerationConfig(), guard=True, align=True, quality=True)
    with pytest.raises(StopIteration) as end:
        next(flow.run())
    assert end.value.value.text == "{a} 12 %s"
    assert [span[:2] for span in end.value.value.protected] == [(0, 3), (7, 9)]


def test_capitals_are_translated_as_a_sentence(network: Transformer) -> None:
    source = "ATTENTION AU CHIEN DE {name} !"
    played = play(reader(network), segment(source), [["Beware of {name}'s dog!", "Watch out for {name}'s dog!"]])
    assert played.asked[0][0].source_ids == TOKENIZER.encode_source("Attention au chien de {name} !", "en")
    result = played.result
    assert (result.source, result.text) == (source, "BEWARE OF {name}'S DOG!")
    assert result.alternatives == ("WATCH OUT FOR {name}'S DOG!",)
    assert [result.text[start:end] for start, end, _ in result.protected] == ["{name}"]


def test_capitals_with_a_beginning_stay_capitals(network: Transformer) -> None:
    config = GenerationConfig(target_prefix=tuple(TOKENIZER.encode_target("BEWARE")))
    played = play(reader(network), segment("ATTENTION AU CHIEN"), [["BEWARE OF THE DOG"]], config=config)
    assert played.asked[0][0].source_ids == TOKENIZER.encode_source("ATTENTION AU CHIEN", "en")
    assert played.result.text == "BEWARE OF THE DOG"


def test_a_result_is_aligned_and_rated_where_that_is_wanted(network: Transformer) -> None:
    flow = SegmentFlow(
        segment("Le chat dort."), reader(network), GenerationConfig(), guard=True, align=True, quality=True
    )
    result = Played(flow, [["The cat sleeps."]]).result
    assert result.alignment is not None
    assert [result.text[start:end] for start, end in result.alignment.target_words] == ["The", "cat", "sleeps", "."]
    assert [result.text[word.start : word.end] for word in result.words] == ["The", "cat", "sleeps", "."]
    assert result.quality == pytest.approx(sum(word.quality for word in result.words) / 4, abs=1e-4)  # four digits
