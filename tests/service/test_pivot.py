"""Pairs that no model has, by way of another language: what is translated, what is reported, and when it stops."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from app.pivot import PivotTranslator
from model import (
    DeadlineExceededError,
    GenerationConfig,
    Glossary,
    GlossaryHit,
    OverloadedError,
    Protection,
    RequestCancelledError,
    SegmentTranslation,
    TextOptions,
    Translation,
    TranslationWarning,
    UnsupportedLanguageError,
    WordAlignment,
    WordQuality,
)
from tests.service.conftest import StubTranslator, StubWork
from tests.service.stub_models import leg

SOURCE, VIA, TARGET = "fr", "en", "de"


def words(text: str) -> tuple[tuple[int, int], ...]:
    """Return the spans of the words between blanks."""
    spans, position = [], 0
    for word in text.split(" "):
        spans.append((position, position + len(word)))
        position += len(word) + 1
    return tuple(spans)


@dataclass
class SentenceWork(StubWork):
    """Takes what stands between full stops for sentences, and turns the order of their words round."""

    def finish(self) -> None:
        """Give all segments, then the whole."""
        segments, position, grown = [], 0, 0
        parts = [self.text] if self.options is not None and self.options.splitting == "none" else self.text.split("|")
        for number, part in enumerate(parts):
            text = f"{self.target}({part})"
            spans = words(part), words(text)
            count = len(spans[0])
            segments.append(
                SegmentTranslation(
                    start=position,
                    end=position + len(part),
                    source=part,
                    text=text,
                    score=-0.5,
                    token_ids=(number,),
                    log_prob=-0.5 * count,
                    num_tokens=count,
                    num_source_tokens=count + 1,
                    target_start=position + grown,
                    target_end=position + grown + len(text),
                    alignment=WordAlignment(*spans, tuple((i, i) for i in range(count)), (0.5,) * count),
                    quality=0.5,
                    words=tuple(WordQuality(*span, 0.5) for span in spans[1]),
                )
            )
            position += len(part) + 1
            grown += len(text) - len(part)
        for number, segment in enumerate(segments):
            if self.on_segment is not None:
                self.on_segment(number, replace(segment, target_start=0, target_end=0))
        count = sum(segment.num_tokens for segment in segments)
        self.future.set_result(
            Translation(
                text="|".join(segment.text for segment in segments),
                source=self.source or "?",
                target=self.target,
                detected=None,
                segments=tuple(segments),
                alternatives=(),
                score=-0.5,
                finish_reason="end",
                warnings=(TranslationWarning("cut", "it was long", 0, 1),),
                source_tokens=count + len(segments),
                target_tokens=count,
                quality=0.5,
            )
        )


@dataclass
class Sentences(StubTranslator):
    """A stub whose texts have several segments."""

    works: list[SentenceWork] = field(default_factory=list)

    def submit(self, text: str, source: str | None, target: str, *args: Any, **values: Any) -> SentenceWork:
        """Take a text."""
        if self.capacity is not None and sum(not work.future.done() for work in self.works) >= self.capacity:
            raise OverloadedError("the queue is full", 1.0)
        config = args[0] if args else values.get("config") or GenerationConfig()
        work = SentenceWork(
            text,
            source,
            target,
            config,
            values.get("deadline_seconds"),
            values.get("target_prefix"),
            values.get("caller"),
            values.get("options"),
            values.get("on_segment"),
        )
        self.works.append(work)
        if not self.holds:
            work.finish()
        return work


def pivot(first: StubTranslator | None = None, second: StubTranslator | None = None) -> PivotTranslator:
    return PivotTranslator(first or Sentences("a"), second or Sentences("b"), SOURCE, VIA, TARGET)


def translated(text: str, options: TextOptions | None = None, **values: Any) -> Translation:
    return pivot().submit(text, SOURCE, TARGET, options=options, **values).future.result(timeout=5)


# Segments


def test_each_segment_goes_through_both_legs_and_the_text_between_them_stays() -> None:
    found = translated("un chat|deux chiens")
    assert found.text == "de(en(un chat))|de(en(deux chiens))"
    assert (found.source, found.target) == (SOURCE, TARGET)
    text = "un chat|deux chiens"
    for segment in found.segments:
        assert text[segment.start : segment.end] == segment.source
        assert found.text[segment.target_start : segment.target_end] == segment.text


def test_numbers_of_both_legs_are_put_together() -> None:
    found = translated("un chat|deux chiens|trois")
    # two words a segment in each leg, one in the last; each source has one token more
    assert found.target_tokens == 10
    assert found.source_tokens == 16
    assert found.score == pytest.approx(-0.5)
    assert found.segments[0].log_prob == pytest.approx(-2.0)
    assert found.segments[0].num_tokens == 4


def test_quality_is_the_product() -> None:
    found = translated("un chat")
    assert found.quality == pytest.approx(0.25)
    assert found.segments[0].quality == pytest.approx(0.25)
    assert [word.quality for word in found.segments[0].words] == [0.25, 0.25]


def test_alignments_are_composed() -> None:
    found = translated("un chat|deux chiens noirs")
    for segment in found.segments:
        alignment = segment.alignment
        assert alignment is not None
        count = len(segment.source.split(" "))
        assert alignment.links == tuple((i, i) for i in range(count))
        assert set(alignment.weights) == {0.25}
        assert [segment.text[slice(*span)] for span in alignment.target_words] == segment.text.split(" ")
        assert [segment.source[slice(*span)] for span in alignment.source_words] == segment.source.split(" ")


def test_warnings_say_in_which_leg_they_arose() -> None:
    found = translated("un chat|deux")
    assert [(each.message, each.start, each.end) for each in found.warnings] == [
        ("fr to en: it was long", 0, 1),
        ("en to de: it was long", 0, 7),
        ("en to de: it was long", 8, 12),
    ]


def test_segments_with_nothing_to_translate_stay() -> None:
    first, second = leg("fr", "en", holds=True), Sentences("b")
    pending = pivot(first, second).submit("— 1", SOURCE, TARGET)
    parts = (SegmentTranslation(0, 1, "—", "—", 0.0), SegmentTranslation(2, 3, "1", "1", 0.0))
    first.submitted[0].future.set_result(Translation("— 1", "fr", "en", None, parts, (), 0.0, "end", (), 0, 0))
    found = pending.future.result(timeout=5)
    assert [work.text for work in second.works] == ["1"]
    assert found.text == "— de(1)"
    assert [each.text for each in found.segments] == ["—", "de(1)"]


def test_the_observer_hears_of_each_segment_while_others_are_on_their_way() -> None:
    heard: list[tuple[int, str]] = []
    first, second = Sentences("a"), Sentences("b", holds=True)
    work = pivot(first, second).submit(
        "un|deux", SOURCE, TARGET, on_segment=lambda number, segment: heard.append((number, segment.text))
    )
    assert [each.text for each in second.works] == ["en(un)", "en(deux)"]
    second.works[1].finish()
    assert heard == [(1, "de(en(deux))")]
    assert not work.future.done()
    second.works[0].finish()
    assert heard == [(1, "de(en(deux))"), (0, "de(en(un))")]
    assert work.future.result(timeout=5).text == "de(en(un))|de(en(deux))"


def test_many_segments_that_are_done_at_once_need_no_deep_stack() -> None:
    text = "|".join(map(str, range(5000)))
    assert translated(text).text == "|".join(f"de(en({number}))" for number in range(5000))


def test_a_full_second_engine_gets_the_segments_one_by_one() -> None:
    second = Sentences("b", holds=True, capacity=1)
    work = pivot(Sentences("a"), second).submit("un|deux|trois", SOURCE, TARGET)
    for number in range(3):
        assert len(second.works) == number + 1
        second.works[number].finish()
    assert work.future.result(timeout=5).text == "de(en(un))|de(en(deux))|de(en(trois))"


def test_a_second_engine_that_is_full_of_others_is_overloaded() -> None:
    work = pivot(Sentences("a"), Sentences("b", capacity=0)).submit("un", SOURCE, TARGET)
    with pytest.raises(OverloadedError):
        work.future.result(timeout=5)


# Options


def test_what_each_leg_is_asked_for() -> None:
    first, second = Sentences("a"), Sentences("b")
    config = GenerationConfig(num_hypotheses=3, beam_size=5, banned_tokens=(3,), return_token_scores=True)
    work = pivot(first, second).submit(
        "1|un|deux", SOURCE, TARGET, config, target_prefix="Ein", caller="me", deadline_seconds=60
    )
    work.future.result(timeout=5)
    [before] = first.works
    assert before.config == GenerationConfig(beam_size=5)
    assert (before.source, before.target, before.target_prefix, before.caller) == (SOURCE, VIA, None, "me")
    assert {each.config for each in second.works} == {config}
    assert [each.target_prefix for each in second.works] == ["Ein", None, None]
    assert {(each.source, each.target, each.caller) for each in second.works} == {(VIA, TARGET, "me")}
    limits = [each.deadline_seconds for each in (before, *second.works)]
    assert all(limit is not None and 0 < limit <= 60 for limit in limits)


def test_what_the_first_leg_protected_the_second_does_too() -> None:
    first, second = leg("fr", "en", holds=True), Sentences("b")
    pending = pivot(first, second).submit(
        "voir XY", SOURCE, TARGET, options=TextOptions(protection=Protection((), (), ("a",)))
    )
    part = SegmentTranslation(0, 7, "voir XY", "see XY", -0.1, protected=((4, 6, 0),))
    [work] = first.submitted
    work.future.set_result(Translation("see XY", "fr", "en", None, (part,), (), -0.1, "end", (), 1, 1))
    pending.future.result(timeout=5)
    [later] = second.works
    assert later.options is not None
    assert later.options.protection.literals == ("a", "XY")
    assert later.options.splitting == "none"


def test_glossaries_of_a_leg_are_applied_there_and_those_of_the_pair_are_skipped() -> None:
    first, second = Sentences("a"), Sentences("b")
    whole = Glossary("1", "whole", SOURCE, TARGET, (("chat", "Katze"),))
    terms = Glossary("", "terms", VIA, TARGET, (("chat", "Plausch"),))
    own = Glossary("", "terms", SOURCE, TARGET, (("chien", "Hund"),))
    late = Glossary("2", "late", VIA, TARGET, (("dog", "Hund"),))
    options = TextOptions(glossaries=(own, terms, whole, late))
    found = pivot(first, second).submit("x|un chat", SOURCE, TARGET, options=options).future.result(timeout=5)
    for work in (*first.works, *second.works):
        assert work.options is not None
        assert work.options.glossaries == (whole, late)  # each leg takes those of its pair
    assert [(hit.source, hit.start, hit.end, hit.status) for hit in found.glossary_hits] == [("chat", 5, 9, "skipped")]
    assert "by way of en" in found.glossary_hits[0].reason


def test_a_hit_of_the_second_leg_has_the_span_of_its_sentence() -> None:
    second = leg("en", "de", holds=True)
    pending = pivot(Sentences("a"), second).submit("un|chien", SOURCE, TARGET)
    for work in list(second.submitted):
        hits = (GlossaryHit("dog", "Hund", 3, 5, "used", "", "7"),) if "chien" in work.text else ()
        part = SegmentTranslation(0, len(work.text), work.text, "x", -0.1, glossary_hits=hits)
        work.future.set_result(Translation("x", "en", "de", None, (part,), (), -0.1, "end", (), 1, 1, hits))
    [hit] = pending.future.result(timeout=5).glossary_hits
    assert (hit.start, hit.end, hit.status, hit.reason) == (3, 8, "used", "applied between en and de")


# Markup


def test_markup_goes_through_as_a_whole_and_segments_that_belong_together_become_one() -> None:
    first, second = leg("fr", "en", holds=True), leg("en", "de", holds=True)
    heard: list[int] = []
    options = TextOptions(format="html", alignment=True)
    pending = pivot(first, second).submit(
        "<p>a. bc. d.</p><p>e</p>", SOURCE, TARGET, options=options, on_segment=lambda number, _: heard.append(number)
    )

    def part(unit: int, start: int, source: str, target_start: int, text: str) -> SegmentTranslation:
        end, target_end = start + len(source), target_start + len(text)
        place = {"unit": unit, "target_start": target_start, "target_end": target_end}
        return SegmentTranslation(start, end, source, text, -0.1, num_tokens=1, log_prob=-0.1, **place)  # type: ignore[arg-type]

    [before] = first.submitted
    assert before.text == "<p>a. bc. d.</p><p>e</p>"
    parts = (part(0, 0, "a.", 0, "A."), part(0, 3, "bc.", 3, "BC."), part(0, 7, "d.", 7, "D."), part(1, 0, "e", 0, "E"))
    before.future.set_result(
        Translation("<p>A. BC. D.</p><p>E</p>", "fr", "en", None, parts, (), -0.1, "end", (), 4, 4)
    )
    [after] = second.submitted
    assert after.text == "<p>A. BC. D.</p><p>E</p>"
    later = (part(0, 0, "A. BC.", 0, "xx yy"), part(0, 7, "D.", 6, "z"), part(1, 0, "E", 0, "w"))
    warning = TranslationWarning("cut", "long", 7, 9)
    after.future.set_result(
        Translation("<p>xx yy z</p><p>w</p>", "en", "de", None, later, (), -0.1, "end", (warning,), 3, 3)
    )
    found = pending.future.result(timeout=5)
    assert found.text == "<p>xx yy z</p><p>w</p>"
    assert [(each.unit, each.start, each.end, each.source, each.text) for each in found.segments] == [
        (0, 0, 6, "a. bc.", "xx yy"),
        (0, 7, 9, "d.", "z"),
        (1, 0, 1, "e", "w"),
    ]
    assert [(each.target_start, each.target_end) for each in found.segments] == [(0, 5), (6, 7), (0, 1)]
    assert [(each.start, each.end, each.message) for each in found.warnings] == [(7, 9, "en to de: long")]
    assert (found.source_tokens, found.target_tokens) == (7, 7)
    assert heard == [0, 1, 2]


# Ends


def test_cancelling_reaches_the_leg_that_works() -> None:
    first, second = Sentences("a", holds=True), Sentences("b", holds=True)
    pending = pivot(first, second).submit("un", SOURCE, TARGET)
    pending.cancel()
    assert first.works[0].cancelled.is_set()
    with pytest.raises(RequestCancelledError):
        pending.future.result(timeout=5)
    pending = pivot(Sentences("a"), second).submit("un|deux", SOURCE, TARGET)
    assert len(second.works) == 2
    pending.future.cancel()  # as asyncio does with a future that nobody awaits any more
    assert all(work.cancelled.is_set() for work in second.works)


def test_a_failure_of_one_segment_ends_all() -> None:
    second = Sentences("b", holds=True)
    pending = pivot(Sentences("a"), second).submit("un|deux", SOURCE, TARGET)
    second.works[0].future.set_exception(DeadlineExceededError("too late"))
    with pytest.raises(DeadlineExceededError):
        pending.future.result(timeout=5)
    assert second.works[1].cancelled.is_set()


def test_a_pivot_has_one_pair_and_cannot_be_looked_into() -> None:
    one = pivot()
    with pytest.raises(UnsupportedLanguageError):
        one.submit("x", TARGET, SOURCE)
    with pytest.raises(UnsupportedLanguageError):
        one.score("x", "y", SOURCE, TARGET)
    with pytest.raises(UnsupportedLanguageError):
        one.alternatives("x", "", SOURCE, TARGET)
    with pytest.raises(UnsupportedLanguageError):
        one.explain("x", None, SOURCE, TARGET)
    other = PivotTranslator(Sentences("a"), Sentences("b", fingerprint="others"), SOURCE, VIA, TARGET)
    assert one.fingerprint != other.fingerprint
