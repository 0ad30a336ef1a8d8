"""Segments' results put into their documents, and the preparation that cut them: spans, terms, alternatives, sums."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.options import TextOptions
from model.pipeline.assembly import Assembly
from model.pipeline.preparation import PreparedText, prepare, read_document
from model.text.alignment import WordAlignment, find_words
from model.text.glossary import Glossary
from model.text.protection import Protection
from model.text.tokenizer import NUM_PLACEHOLDERS
from model.translation import SegmentTranslation, Translation, TranslationWarning, WordQuality


def prepared(text: str, **options: object) -> PreparedText:
    chosen = TextOptions(**options)  # type: ignore[arg-type]
    return prepare(read_document(text, chosen), "fr", "en", chosen, lambda part: len(part) <= 60)


def results(ready: PreparedText) -> list[SegmentTranslation]:
    """Return for each segment its own text in capitals outside what is protected, aligned word by word."""
    found = []
    for segment in ready.segments:
        spans = [(span.start, span.end) for span in segment.protected]
        letters = list(segment.text)
        for place, letter in enumerate(letters):
            if not any(start <= place < end for start, end in spans) and len(letter.upper()) == 1:
                letters[place] = letter.upper()
        text = "".join(letters) if segment.translatable else segment.text
        words = find_words(segment.text)
        found.append(
            SegmentTranslation(
                segment.start,
                segment.end,
                segment.text,
                text,
                score=-0.5,
                unit=segment.unit,
                log_prob=-2.0,
                num_tokens=4,
                num_source_tokens=5,
                protected=tuple((start, end, number) for number, (start, end) in enumerate(spans)),
                alignment=WordAlignment(words, words, tuple((i, i) for i in range(len(words)))),
            )
        )
    return found


def assemble(ready: PreparedText, found: list[SegmentTranslation]) -> Translation:
    return Assembly(ready, "fr", "en", None).assemble(found)


def test_every_segment_is_where_its_source_was() -> None:
    text = "  Le chat dort.\n\nIl rêve ?  \n12\n"
    ready = prepared(text)
    whole = assemble(ready, results(ready))
    assert whole.text == text.upper()
    for segment in whole.segments:
        assert text[segment.start : segment.end] == segment.source
        assert whole.text[segment.target_start : segment.target_end] == segment.text


def test_places_in_the_translation_follow_longer_and_shorter_segments() -> None:
    ready = prepared("Un. Deux. Trois.")
    texts = ["A longer first.", "B", "The third."]
    whole = assemble(ready, [replace(each, text=text) for each, text in zip(results(ready), texts, strict=True)])
    assert whole.text == "A longer first. B The third."
    assert [whole.text[each.target_start : each.target_end] for each in whole.segments] == texts


def test_sums_and_worst_cases() -> None:
    ready = prepared("Un. Deux.")
    first, second = results(ready)
    warning = TranslationWarning("length", "cut off", second.start, second.end)
    first = replace(first, words=(WordQuality(0, 3, 0.5),))
    second = replace(
        second, log_prob=-7.0, finish_reason="length", warnings=(warning,), words=(WordQuality(0, 5, 1.0),)
    )
    whole = assemble(ready, [first, second])
    assert (whole.score, whole.source_tokens, whole.target_tokens) == ((-2.0 - 7.0) / 8, 10, 8)
    assert (whole.finish_reason, whole.warnings, whole.quality) == ("length", (warning,), 0.75)


def test_alternatives_take_each_segments_next_best() -> None:
    ready = prepared("Un. Deux.")
    first, second = results(ready)
    whole = assemble(ready, [replace(first, alternatives=("A.", "B.")), replace(second, alternatives=("C.",))])
    assert whole.alternatives == ("A. C.", "B. DEUX.")


def test_tags_of_an_alternative_follow_its_own_alignment() -> None:
    ready = prepared("<p>Le <b>chat</b> noir dort</p>", format="html")
    [only] = results(ready)
    words = find_words(only.source)
    other = "chat the sleeps black"
    crossed = WordAlignment(words, find_words(other), ((0, 1), (1, 0), (2, 3), (3, 2)))
    whole = assemble(ready, [replace(only, alternatives=(other,), alternative_alignments=(crossed,))])
    assert whole.text == "<p>LE <b>CHAT</b> NOIR DORT</p>"
    assert whole.alternatives == ("<p><b>chat</b> the sleeps black</p>",)


def test_protected_spans_are_whole_and_in_no_term() -> None:
    glossary = Glossary("g", "terms", "fr", "en", (("chat", "cat"), ("nom", "name")))
    protection = Protection(literals=("Le grand chat",))
    text = "Le grand chat voit {nom}. Un chat part."
    first, second = prepared(text, glossaries=(glossary,), protection=protection).segments
    assert first.pieces() == ["Le grand chat", "{nom}"]
    assert first.terms == ()
    assert [(term.source, second.text[term.start : term.end]) for term in second.terms] == [("chat", "chat")]


def test_a_term_across_two_sentences_is_reported() -> None:
    glossary = Glossary("g", "terms", "fr", "en", (("dort. Il", "x"),))
    ready = prepared("Le chat dort. Il rêve.", glossaries=(glossary,))
    assert [(hit.status, hit.reason) for hit in ready.skipped_terms] == [("skipped", "it lies across two sentences")]


def test_glossaries_of_other_languages_do_not_count() -> None:
    glossary = Glossary("g", "terms", "en", "fr", (("chat", "x"),))
    [only] = prepared("Le chat dort.", glossaries=(glossary,)).segments
    assert only.terms == ()


def test_a_sentence_that_does_not_fit_is_cut_and_reported() -> None:
    text = "Le chat dort, " * 12 + "enfin."
    ready = prepared(text)
    assert all(len(segment.text) <= 60 for segment in ready.segments)
    assert "".join(segment.text for segment in ready.segments).replace(" ", "") == text.replace(" ", "")
    assert [warning.code for warning in ready.warnings] == ["cut"]


def test_more_protected_spans_than_placeholders_make_a_cut() -> None:
    pieces = [f"{{x{number}}}" for number in range(NUM_PLACEHOLDERS + 3)]
    options = TextOptions(splitting="none")
    ready = prepare(read_document("Voir " + " ".join(pieces), options), "fr", "en", options, lambda _: True)
    assert [len(segment.protected) for segment in ready.segments] == [NUM_PLACEHOLDERS, 3]
    assert [piece for segment in ready.segments for piece in segment.pieces()] == pieces


@pytest.mark.parametrize(
    ("splitting", "expected"),
    [
        ("sentences", ["Un. ".strip(), "Deux.", "Trois."]),
        ("lines", ["Un. Deux.", "Trois."]),
        ("none", ["Un. Deux.\nTrois."]),
    ],
)
def test_where_a_text_is_cut(splitting: str, expected: list[str]) -> None:
    assert [segment.text for segment in prepared("Un. Deux.\nTrois.\n", splitting=splitting).segments] == expected


ATOMS = st.sampled_from(
    [
        "chat",
        "Le chien",
        "dort.",
        "{name}",
        "%s",
        "https://example.org/a?b=1",
        "x@y.org",
        "\n",
        "  ",
        "42",
        "`code`",
        '<x id="1"/>',
        "😀",
        "?",
        "«",
    ]
)


@given(st.lists(ATOMS, max_size=14).map(" ".join))
def test_protected_pieces_come_out_as_often_as_they_went_in(text: str) -> None:
    ready = prepared(text)
    whole = assemble(ready, results(ready))
    for piece in ("{name}", "%s", "https://example.org/a?b=1", "x@y.org", '<x id="1"/>', "`code`", "😀"):
        assert whole.text.count(piece) == text.count(piece)
    for segment in whole.segments:
        assert text[segment.start : segment.end] == segment.source


INLINE = st.recursive(
    st.sampled_from(
        ["chat", "Le chien dort.", "{name}", "&amp;", "&lt;b&gt;", "<br/>", "<img src='a'>", "<code>x y</code>"]
    ),
    lambda inner: st.builds(
        lambda tag, parts: f"<{tag}>{' '.join(parts)}</{tag}>",
        st.sampled_from(["b", "i", "a", "span"]),
        st.lists(inner, max_size=3),
    ),
    max_leaves=8,
)


@given(st.lists(INLINE, max_size=5).map(lambda parts: f"<div><p>{' '.join(parts)}</p><p>Fin.</p></div>"))
def test_tags_and_entities_come_out_as_they_went_in(text: str) -> None:
    import re

    ready = prepared(text, format="html")
    whole = assemble(ready, results(ready)).text
    pattern = re.compile(r"</?[a-z]+[^>]*>|&\w+;|\{name\}")
    assert sorted(pattern.findall(whole)) == sorted(pattern.findall(text))
    stack: list[str] = []
    for closing, tag, alone in re.findall(r"<(/?)([a-z]+)[^>]*?(/?)>", whole):
        if closing:
            assert stack.pop() == tag
        elif not alone and tag not in ("br", "img"):
            stack.append(tag)
    assert stack == []
