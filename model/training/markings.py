"""Placeholders and term annotations put into sentence pairs by word alignment, as marked text; it encodes nothing."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from model.text.tokenizer import NUM_PLACEHOLDERS, PLACEHOLDERS, TERM_AS, TERM_BEGIN, TERM_END
from model.text.variations import Pair
from model.training.word_lexicon import Link, Word, WordLexicon, words_of

_ANY_NUMBERS_SHARE = 0.3
"""How often placeholders get any numbers, in order, instead of 0, 1, ...: so that all of them are learned."""
_LONGER_TERM_SHARE = 0.4
"""How often a term goes on with its next word, where that one is translated beside it."""
_MAX_TERM_WORDS = 4
_LOWER_TERM_SHARE = 0.5
"""How often an annotation is in lower case although its words begin the target, as in a glossary."""
_FINAL = re.compile(r"\s*[.!?…:;»\"”)]*\s*$")
_JOINING = re.compile(r"[ '’-]")  # noqa: RUF001
_QUOTES = {"fr": ("« ", " »"), "en": ('"', '"')}


@dataclass(frozen=True)
class _Edit:
    """A span of one side that gets another text; both sides of a placeholder have the same ``number``."""

    start: int
    end: int
    before: str
    after: str
    number: int = -1

    def text(self, placeholders: dict[int, str]) -> str:
        return self.before + placeholders.get(self.number, "") + self.after


class _Aligned:
    """A pair with its words, and what has been changed in it so far."""

    def __init__(self, pair: Pair, lexicon: WordLexicon, source_index: int, draw: random.Random) -> None:
        self.pair, self.draw = pair, draw
        self.source, self.target = words_of(pair.source), words_of(pair.target)
        self.links = lexicon.links(self.source, self.target, source_index)
        self.frequent = lexicon.frequent[source_index], lexicon.frequent[1 - source_index]
        self.edits: tuple[list[_Edit], list[_Edit]] = [], []

    def content_links(self) -> list[Link]:
        """Return the links that no edit touches and that join two words of content."""
        return [link for link in self.links if self._has_content(link) and self._is_free(link)]

    def words(self, link: Link) -> tuple[Word, Word]:
        return self.source[link.source], self.target[link.target]

    def add(self, source: _Edit | None, target: _Edit | None) -> bool:
        """Take over the edits of the two sides, if neither touches one that is there already."""
        new = (source, target)
        if any(edit is not None and not _fits(edit, self.edits[side]) for side, edit in enumerate(new)):
            return False
        for side, edit in enumerate(new):
            if edit is not None:
                self.edits[side].append(edit)
        return True

    def _has_content(self, link: Link) -> bool:
        source, target = self.words(link)
        if len(source.key) == 1 and not source.key.isdigit():
            return False
        return source.key not in self.frequent[0] and target.key not in self.frequent[1]

    def _is_free(self, link: Link) -> bool:
        return all(
            edit.end <= word.start or word.end <= edit.start
            for word, edits in zip(self.words(link), self.edits, strict=True)
            for edit in edits
        )


def mark(
    pair: Pair, lexicon: WordLexicon, source_index: int, num_placeholders: int, num_terms: int, draw: random.Random
) -> Pair:
    """Return the pair as marked text with up to so many placeholders on both sides and term annotations in the source.

    Placeholders stand in the place of words that are linked, beside them, at the beginning, at the end, or behind the
    same comma, and are numbered in the order of the source. Terms are single words or a few that stand together on both
    sides, annotated with the words of this very target; the rarer a translation, the likelier it is chosen, since what
    a model would write anyway teaches it nothing.

    Args:
        pair: plain text; private-use characters that are markers must not be in it.
        lexicon: says which words are linked.
        source_index: which of its languages the source is in.
        num_placeholders: how many placeholders, at most NUM_PLACEHOLDERS.
        num_terms: how many terms.
        draw: decides everything.
    """
    aligned = _Aligned(pair, lexicon, source_index, draw)
    if num_terms:
        _add_terms(aligned, num_terms)
    if num_placeholders:
        _add_placeholders(aligned, num_placeholders)
    numbers = [edit.number for edit in sorted(aligned.edits[0], key=_place) if edit.number >= 0]
    if draw.random() < _ANY_NUMBERS_SHARE:
        names = sorted(draw.sample(range(NUM_PLACEHOLDERS), len(numbers)))
    else:
        names = list(range(len(numbers)))
    placeholders = {number: PLACEHOLDERS[name] for number, name in zip(numbers, names, strict=True)}
    return Pair(
        _applied(pair.source, aligned.edits[0], placeholders),
        _applied(pair.target, aligned.edits[1], placeholders),
        pair.source_language,
        pair.target_language,
    )


def _add_terms(aligned: _Aligned, count: int) -> None:
    draw, pair = aligned.draw, aligned.pair
    # Weighted sampling without replacement (Efraimidis and Spirakis 2006).
    words = [link for link in aligned.content_links() if not aligned.source[link.source].key[0].isdigit()]
    weighted = [(draw.random() ** (1 / (1.15 - link.score)), link) for link in words]
    for _, link in sorted(weighted, key=lambda entry: -entry[0]):
        if count == 0:
            break
        first, last, begin, end = _term_span(aligned, link)
        start, stop = aligned.source[first].start, aligned.source[last].end
        wanted = pair.target[aligned.target[begin].start : aligned.target[end].end]
        named = wanted == pair.source[start:stop]
        if begin == 0 and not named and wanted[1:] == wanted[1:].lower() and draw.random() < _LOWER_TERM_SHARE:
            wanted = wanted[0].lower() + wanted[1:]
        edit = _Edit(start, stop, f"{TERM_BEGIN}{pair.source[start:stop]}{TERM_AS}{wanted}{TERM_END}", "")
        count -= aligned.add(edit, None)


def _term_span(aligned: _Aligned, link: Link) -> tuple[int, int, int, int]:
    """Return the first and last word, on both sides, of a term that begins with a link's source word.

    The next word of content joins if its translation stands beside those so far, and nothing but a space, hyphen or
    apostrophe is in between on either side; one word without a translation may stand before it.
    """
    linked = {each.source: each.target for each in aligned.links}
    content = {each.source for each in aligned.content_links()}
    first = last = link.source
    begin = end = link.target
    while aligned.draw.random() < _LONGER_TERM_SHARE:
        after = last + 1 if last + 1 in linked else last + 2
        target = linked.get(after)
        if target is None or after not in content or after - first >= _MAX_TERM_WORDS:
            break
        if target not in (begin - 1, end + 1):
            break
        if not _stand_together(aligned.pair.source, aligned.source[last : after + 1]):
            break
        if not _stand_together(aligned.pair.target, aligned.target[min(begin, target) : max(end, target) + 1]):
            break
        last, begin, end = after, min(begin, target), max(end, target)
    return first, last, begin, end


def _stand_together(text: str, words: Sequence[Word]) -> bool:
    gaps = (text[left.end : right.start] for left, right in pairwise(words))
    return all(len(gap) == 1 and _JOINING.match(gap) for gap in gaps)


def _add_placeholders(aligned: _Aligned, count: int) -> None:
    ways: tuple[tuple[Callable[[_Aligned, int], bool], float], ...] = (
        (_replace_words, 0.45),
        (_insert_beside_words, 0.2),
        (_insert_at_end, 0.17),
        (_insert_at_beginning, 0.08),
        (_insert_behind_comma, 0.1),
    )
    number = 0
    for _ in range(2 * count):  # a way may find no place
        (way,) = aligned.draw.choices([way for way, _ in ways], [weight for _, weight in ways])
        number += way(aligned, number)
        if number == count:
            return


def _replace_words(aligned: _Aligned, number: int) -> bool:
    links = aligned.content_links()
    if not links:
        return False
    # Names and numbers are what placeholders mostly stand for.
    (link,) = aligned.draw.choices(links, [4.0 if link.score == 1.0 else 1.0 for link in links])
    source, target = aligned.words(link)
    return aligned.add(_Edit(source.start, source.end, "", "", number), _Edit(target.start, target.end, "", "", number))


def _insert_beside_words(aligned: _Aligned, number: int) -> bool:
    links = aligned.content_links()
    if not links:
        return False
    source, target = aligned.words(aligned.draw.choice(links))
    before, after = _decorated(aligned)
    glued = aligned.draw.random() < 0.25  # as an empty element of markup
    space = "" if glued else " "
    if aligned.draw.random() < 0.5:
        return aligned.add(
            *(
                _Edit(word.start, word.start, opening, closing + space, number)
                for word, opening, closing in zip((source, target), before, after, strict=True)
            )
        )
    return aligned.add(
        *(
            _Edit(word.end, word.end, space + opening, closing, number)
            for word, opening, closing in zip((source, target), before, after, strict=True)
        )
    )


def _insert_at_end(aligned: _Aligned, number: int) -> bool:
    """Before or behind the punctuation at the end of both sides."""
    texts = (aligned.pair.source, aligned.pair.target)
    inside = aligned.draw.random() < 0.7
    ends = [match.start() if inside and (match := _FINAL.search(text)) else len(text) for text in texts]
    before, after = _decorated(aligned)
    return aligned.add(
        *(
            _Edit(end, end, " " + opening, closing, number)
            for end, opening, closing in zip(ends, before, after, strict=True)
        )
    )


def _insert_at_beginning(aligned: _Aligned, number: int) -> bool:
    before, after = _decorated(aligned)
    space = aligned.draw.choice((" ", " ", ": "))
    return aligned.add(
        *(_Edit(0, 0, opening, closing + space, number) for opening, closing in zip(before, after, strict=True))
    )


def _insert_behind_comma(aligned: _Aligned, number: int) -> bool:
    """Behind the same comma of both sides, if they have the same number of commas."""
    places = [[m.end() for m in re.finditer(", ", text)] for text in (aligned.pair.source, aligned.pair.target)]
    if len(places[0]) != len(places[1]) or not places[0]:
        return False
    comma = aligned.draw.randrange(len(places[0]))
    return aligned.add(*(_Edit(side[comma], side[comma], "", " ", number) for side in places))


def _decorated(aligned: _Aligned) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return what stands before and behind an added placeholder, in source and target."""
    kind = aligned.draw.random()
    if kind < 0.8:
        return ("", ""), ("", "")
    if kind < 0.9:
        return ("(", "("), (")", ")")
    pair = aligned.pair
    quotes = [_QUOTES.get(code, _QUOTES["en"]) for code in (pair.source_language, pair.target_language)]
    return (quotes[0][0], quotes[1][0]), (quotes[0][1], quotes[1][1])


def _fits(edit: _Edit, others: Iterable[_Edit]) -> bool:
    """Say whether an edit shares no character with another one, is inside none, and is at no other's very place."""
    return all(
        (edit.end <= other.start or other.end <= edit.start) and (edit.start, edit.end) != (other.start, other.end)
        for other in others
    )


def _place(edit: _Edit) -> tuple[int, int]:
    return edit.start, edit.end


def _applied(text: str, edits: Sequence[_Edit], placeholders: dict[int, str]) -> str:
    parts, position = [], 0
    for edit in sorted(edits, key=_place):
        parts += [text[position : edit.start], edit.text(placeholders)]
        position = edit.end
    return "".join([*parts, text[position:]])
