"""Words that stand for each other, and the placeholders and term annotations that are put where they are."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path

import pytest

from model.text.tokenizer import PLACEHOLDERS, TERM_AS, TERM_BEGIN, TERM_END
from model.text.variations import Pair
from model.training import word_lexicon
from model.training.corpus import Corpus, load_corpus
from model.training.markings import mark
from model.training.word_lexicon import Link, WordLexicon, estimate_word_lexicon, load_word_lexicon, words_of
from model.training_config import DataConfig, SourceConfig
from tests.unit.tiny_training import sentence_pairs, tokenizer, write_pairs

LEXICON = WordLexicon(
    (
        {"chat": {"cat": 0.9}, "noir": {"black": 0.8}, "dort": {"sleeps": 0.6, "rests": 0.2}, "bureau": {"desk": 0.5}},
        {"cat": {"chat": 0.9}, "black": {"noir": 0.8}, "sleeps": {"dort": 0.6}, "desk": {"bureau": 0.5}},
    ),
    (frozenset({"le", "sur", "un"}), frozenset({"the", "on", "a"})),
)
BLACK_CAT = Pair(
    "Le chat noir dort sur l'étagère de Tom, le 14.", "The black cat sleeps on Tom's shelf, the 14.", "fr", "en"
)


@pytest.fixture(autouse=True)
def _every_word_is_content(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small corpora of these tests have fewer words than a language has function words."""
    monkeypatch.setattr(word_lexicon, "_NUM_FREQUENT", 0)


def french(source: str, target: str) -> Pair:
    return Pair(source, target, "fr", "en")


def sides(pair: Pair) -> tuple[str, str]:
    return pair.source, pair.target


def tiny_corpus(folder: Path) -> Corpus:
    write_pairs(folder / "corpus" / "pairs.tsv", sentence_pairs())
    data = DataConfig(str(folder / "corpus"), (SourceConfig("pairs.tsv"),), max_tokens=64)
    return load_corpus(data, tokenizer())[0]


# Words that stand for each other


def test_words_and_numbers_of_a_text() -> None:
    text = "L'arc-en-ciel coûte 3,50 € à 14:30, n'est-ce pas ?"
    words = words_of(text)
    assert [text[word.start : word.end].lower() for word in words] == [word.key for word in words]
    assert [word.key for word in words] == ["l", "arc-en-ciel", "coûte", "3,50", "à", "14:30", "n", "est-ce", "pas"]


def test_links_by_hand() -> None:
    source, target = words_of(BLACK_CAT.source), words_of(BLACK_CAT.target)
    found = {
        (source[link.source].key, target[link.target].key, link.score) for link in LEXICON.links(source, target, 0)
    }
    assert found == {
        ("chat", "cat", 0.9),
        ("noir", "black", 0.8),
        ("dort", "sleeps", 0.6),
        ("tom", "tom", 1.0),
        ("14", "14", 1.0),
    }
    assert {(link.target, link.source) for link in LEXICON.links(target, source, 1)} == {
        (link.source, link.target) for link in LEXICON.links(source, target, 0)
    }


def test_links_take_the_best_and_leave_out_what_is_there_twice() -> None:
    lexicon = WordLexicon(
        ({"a": {"x": 0.5, "y": 0.4}, "b": {"x": 0.6}, "c": {"z": 0.9}}, {}), (frozenset(), frozenset())
    )
    # "a" is best with "x", but "x" is best with "b": only that pair is mutual.
    assert lexicon.links(words_of("a b c c"), words_of("x y z"), 0) == [Link(1, 0, 0.6)]


def test_the_lexicon_finds_translations_and_comes_back_from_its_file(tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path)
    lexicon = load_word_lexicon(corpus, tokenizer(), tmp_path / "cache" / "words.npz")
    best = {word: max(row, key=row.__getitem__) for word, row in lexicon.translations[0].items()}
    assert {word: best[word] for word in ("chat", "maison", "train", "voit")} == {
        "chat": "cat", "maison": "house", "train": "train", "voit": "sees",
    }  # fmt: skip
    assert lexicon.translations[1]["cat"]["chat"] == lexicon.translations[0]["chat"]["cat"]
    assert load_word_lexicon(corpus, tokenizer(), tmp_path / "cache" / "words.npz") == lexicon
    assert estimate_word_lexicon(corpus, tokenizer()) == lexicon
    (tmp_path / "cache" / "words.npz").write_bytes(b"damaged")
    assert load_word_lexicon(corpus, tokenizer(), tmp_path / "cache" / "words.npz") == lexicon


def test_the_most_frequent_words_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_lexicon, "_NUM_FREQUENT", 2)
    lexicon = estimate_word_lexicon(tiny_corpus(tmp_path), tokenizer())
    counts = [Counter(re.findall(r"\w+", " ".join(pair[i] for pair in sentence_pairs()).lower())) for i in (0, 1)]
    for language in (0, 1):
        assert lexicon.frequent[language] == {word for word, _ in counts[language].most_common(2)}


# Markers


def test_placeholders_stand_on_both_sides_once_and_are_numbered_in_source_order() -> None:
    numbers: Counter[bool] = Counter()
    for seed in range(300):
        marked = mark(BLACK_CAT, LEXICON, 0, 1 + seed % 5, 0, random.Random(seed))
        found = [character for character in marked.source if character in PLACEHOLDERS]
        assert found == sorted(found)
        assert len(set(found)) == len(found) <= 1 + seed % 5
        assert sorted(character for character in marked.target if character in PLACEHOLDERS) == found
        numbers[found == list(PLACEHOLDERS[: len(found)])] += 1
    # Seven in ten count from 0, and some of the others by chance: five standard deviations of 300 draws are 0.13.
    assert 0.57 < numbers[True] / 300 < 0.9


def test_what_a_placeholder_replaces_are_words_that_stand_for_each_other() -> None:
    links = {("chat", "cat"), ("noir", "black"), ("dort", "sleeps"), ("Tom", "Tom"), ("14", "14")}
    replaced = set()
    for seed in range(300):
        marked = mark(BLACK_CAT, LEXICON, 0, 1, 0, random.Random(seed))
        gone = [
            [word for word in re.findall(r"\w+", before) if word not in re.findall(r"\w+", after)]
            for before, after in zip(sides(BLACK_CAT), sides(marked), strict=True)
        ]
        assert [len(words) for words in gone] in ([0, 0], [1, 1])
        replaced |= set(zip(*gone, strict=True))
        if not gone[0]:  # added: without it, and what decorates it, the text is as it was
            for before, after in zip(sides(BLACK_CAT), sides(marked), strict=True):
                assert re.findall(r"\w+|[,.]", after) == re.findall(r"\w+|[,.]", before)
    assert replaced == links


def test_terms_are_annotated_with_words_of_the_target_and_leave_it_as_it_is() -> None:
    annotations = set()
    for seed in range(200):
        marked = mark(BLACK_CAT, LEXICON, 0, 0, 1 + seed % 3, random.Random(seed))
        assert marked.target == BLACK_CAT.target
        found = re.findall(f"{TERM_BEGIN}(.*?){TERM_AS}(.*?){TERM_END}", marked.source)
        assert 1 <= len(found) <= 1 + seed % 3
        assert re.sub(f"{TERM_BEGIN}(.*?){TERM_AS}.*?{TERM_END}", r"\1", marked.source) == BLACK_CAT.source
        annotations |= set(found)
    single = {("chat", "cat"), ("noir", "black"), ("dort", "sleeps"), ("Tom", "Tom")}
    # Neighbours on both sides, whatever their order; the number is no term.
    assert annotations == single | {("chat noir", "black cat"), ("chat noir dort", "black cat sleeps")}


def test_a_term_may_be_in_lower_case_where_its_words_begin_the_target() -> None:
    pair = french("Un chat dort.", "Cat asleep.")
    found = {mark(pair, LEXICON, 0, 0, 1, random.Random(seed)).source for seed in range(40)}
    assert found == {f"Un {TERM_BEGIN}chat{TERM_AS}{word}{TERM_END} dort." for word in ("cat", "Cat")}
    name = french("Tom dort.", "Tom rests.")
    found = {mark(name, LEXICON, 0, 0, 1, random.Random(seed)).source for seed in range(40)}
    assert f"{TERM_BEGIN}Tom{TERM_AS}tom{TERM_END} dort." not in found


def test_terms_and_placeholders_do_not_touch_each_other() -> None:
    for seed in range(200):
        marked = mark(BLACK_CAT, LEXICON, 0, 4, 2, random.Random(seed))
        inside = re.findall(f"{TERM_BEGIN}(.*?){TERM_END}", marked.source)
        assert inside
        assert not any(placeholder in text for text in inside for placeholder in PLACEHOLDERS)


def test_a_pair_without_linked_words_gets_no_term_and_placeholders_at_its_ends_alone() -> None:
    pair = french("Eh bien !", "Well!")
    assert mark(pair, LEXICON, 0, 0, 2, random.Random(1)) == pair
    for seed in range(40):
        marked = mark(pair, LEXICON, 0, 1, 0, random.Random(seed))
        assert re.search(r"Eh bien.*!", marked.source)
        assert marked.source.count(PLACEHOLDERS[0]) <= 1
