"""What must survive a translation: found where it stands, never in ordinary prose, and counted afterwards."""
# ruff: noqa: RUF001 (typographic punctuation is what is tested)

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import InvalidOptionError
from model.text.protection import MAX_LITERALS, MAX_PATTERNS, PRESETS, Protection, check_protected, find_protected

FAMILY = "👨\u200d👩\u200d👧"
HASH = "e83c5163316f89bfbde7d9ab23ca2e25604af290"
UUID = "123e4567-e89b-12d3-a456-426614174000"

FOUND = [
    (
        "placeholders",
        "Bonjour {name}, {{ user.x }} et {0}, {0:.2f}, {}!",
        ["{name}", "{{ user.x }}", "{0}", "{0:.2f}", "{}"],
    ),
    ("placeholders", "{a.b} {a[0]!r} {% if x %}", ["{a.b}", "{a[0]!r}", "{% if x %}"]),
    ("placeholders", "{n, number} le {d,date,short}", ["{n, number}", "{d,date,short}"]),
    ("printf", "%s a %d, %1$d et %(name)s: %05.2f %%.", ["%s", "%d", "%1$d", "%(name)s", "%05.2f", "%%"]),
    ("printf", "%@ %-10s %lu 100%% '%s' %ds ago", ["%@", "%-10s", "%lu", "%%", "%s", "%d"]),
    ("printf", "%s's file and %name%", ["%s", "%name%"]),
    ("variables", "${x} in $HOME or $USER_ID or ${x:-d}", ["${x}", "$HOME", "$USER_ID", "${x:-d}"]),
    ("tags", 'a <x id="1"/> <b>c</b> <!-- d --> <br />', ['<x id="1"/>', "<b>", "</b>", "<!-- d -->", "<br />"]),
    ("entities", "A&nbsp;B &amp; &#39; &#x27;", ["&nbsp;", "&amp;", "&#39;", "&#x27;"]),
    ("urls", "Voir https://a.example/b?c=d.", ["https://a.example/b?c=d"]),
    ("urls", "(http://a.example/Chat_(animal)), www.b.example!", ["http://a.example/Chat_(animal)", "www.b.example"]),
    ("urls", "«ftp://a.example/x» mailto:a@b.example.", ["ftp://a.example/x", "mailto:a@b.example"]),
    ("emails", "À a.b+c@ex-ample.org, d'anna@x.example.", ["a.b+c@ex-ample.org", "anna@x.example"]),
    ("paths", "Dans /usr/local/bin, ./run.sh ou ../a/b.", ["/usr/local/bin", "./run.sh", "../a/b"]),
    ("paths", r"C:\Users\Max\f.txt et \\serveur\part", [r"C:\Users\Max\f.txt", r"\\serveur\part"]),
    ("paths", "lib/app.py:12, README.md, photo.JPG.", ["lib/app.py:12", "README.md", "photo.JPG"]),
    (
        "paths",
        "localhost:8080 192.168.0.1:80 fr.a.example.com/x",
        ["localhost:8080", "192.168.0.1:80", "fr.a.example.com/x"],
    ),
    ("versions", "v1.2, 1.2.3 et v2.0.1-beta.", ["v1.2", "1.2.3", "v2.0.1-beta"]),
    ("versions", f"{HASH} deadbeef12 {UUID}", [HASH, "deadbeef12", UUID]),
    ("code", "Tapez `ls -l` ou ``a`b``.", ["`ls -l`", "``a`b``"]),
    ("mentions", "@user, @a.b et @bob@social.example.", ["@user", "@a.b", "@bob@social.example"]),
    ("hashtags", "#tag #été #ff0000!", ["#tag", "#été", "#ff0000"]),
    ("emoji", f"Oui 😀😀 {FAMILY} 🇫🇷 1️⃣ 👍🏽 ❤️ ☺", ["😀😀", FAMILY, "🇫🇷", "1️⃣", "👍🏽", "❤️", "☺"]),
]

ORDINARY = [
    "C'est 50 % moins cher, soit 50 %de remise ou 50%d'avance.",
    "Save 50% on everything, 20 % discount and 5% interest.",
    "Si a < b et b > c, alors x<y and y>z.",
    "Rendez-vous à 10:30, ou à 14h30; we meet at 10:30 a.m.",
    "E.g. x@ home, i.e. 3 @ 5 €, chez moi @ Paris.",
    "L'un/l'autre, et/ou, and/or, he/she, km/h, 24/7, 3/4.",
    "Il a dit oui.Elle a dit non. The end.It was late.",
    "Le n° 1, #1, #1er, C# et la page 12.",
    "Le total est de 1.000.000 €, soit 1 000 000,50 €, le 12.05.2024.",
    "Appelez le 01.23.45.67.89 avant 10.30.15.",
    "R&D; AT&T; Marks & Spencer, « bonjour », “hello”, ‘hi’.",
    "Ce prix: 20 $US, $US 20, $CAN 50, $5 million, US$3.",
    "Le mot <<bonjour>> est écrit (ainsi) [sic] {voir la note}.",
    "Microsoft® Windows™ © 2024 — l’été, c’est fini… → non.",
    "J'ai 1 chat, 2 chiens; I've 3 o'clock tea... or not?!",
    "M. Dupont, Dr. Smith, U.S.A., etc. - p. ex. aujourd'hui.",
    "Was it him?Yes: it was; no doubt -- a well-known fact.",
    "Il fait -5 °C, +3 demain; 2 + 2 = 4, 5 * 3 = 15, 10^2.",
    "Tél. : 0123456789, code 75001, décembre 1990, 1789-1799.",
    "A `quote is open, and 5' 10\" tall; l'an '90.",
    "Réf. 1234567, la façade décadée, dead beef, cafe.",
    "Vincent (12 ans) note 15/20; version 3, chapitre 4.2.",
]


def pieces(text: str, protection: Protection) -> list[str]:
    return [text[start:end] for start, end in find_protected(text, protection)]


@pytest.mark.parametrize(("preset", "text", "expected"), FOUND)
def test_each_preset_finds_its_own(preset: str, text: str, expected: list[str]) -> None:
    assert pieces(text, Protection(presets=(preset,))) == expected


def test_the_table_has_every_preset() -> None:
    assert {preset for preset, _, _ in FOUND} == set(PRESETS)


@pytest.mark.parametrize(("preset", "text", "expected"), FOUND)
def test_with_all_presets_nothing_of_one_is_cut(preset: str, text: str, expected: list[str]) -> None:
    spans = find_protected(text, Protection())
    for start, end in find_protected(text, Protection(presets=(preset,))):
        assert any(first <= start and end <= last for first, last in spans), expected


@pytest.mark.parametrize("sentence", ORDINARY)
def test_ordinary_prose_is_not_touched(sentence: str) -> None:
    assert pieces(sentence, Protection()) == []


def test_a_preset_that_is_not_asked_for_finds_nothing() -> None:
    assert pieces("{name} et https://a.example", Protection(presets=("urls",))) == ["https://a.example"]
    assert pieces("{name}", Protection(presets=())) == []


def test_messages_with_nested_texts_stay_translatable() -> None:
    assert pieces("{n, plural, one {un chat} other {des chats}}", Protection()) == []


def test_literals_are_whole_words_in_their_case() -> None:
    own = Protection(presets=(), literals=("art", "C++", "Oréal"))
    assert pieces("L'art: Oréal et C++; partie, Art, arts, d'Oréal", own) == ["art", "Oréal", "C++", "Oréal"]


def test_patterns_of_the_caller() -> None:
    own = Protection(presets=(), patterns=(r"[A-Z]{2}-\d+", r"\bfoo\b"))
    assert pieces("AB-12 puis foo, food, CD-3", own) == ["AB-12", "foo", "CD-3"]


def test_overlapping_finds_become_one_and_touching_ones_stay_apart() -> None:
    own = Protection(literals=("a.example et",))
    assert pieces("https://a.example et {x}{y}", own) == ["https://a.example et", "{x}", "{y}"]


def test_only_the_parts_outside_taken_spans_are_returned() -> None:
    text = "vu: abcdefgh"
    own = Protection(presets=(), literals=("abcdefgh",))
    assert find_protected(text, own, [(9, 10), (6, 8)]) == [(4, 6), (8, 9), (10, 12)]
    assert find_protected(text, own, [(0, 12)]) == []


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"presets": ("urls", "nonsense")}, "presets"),
        ({"patterns": ("a", "(")}, "patterns[1]"),
        ({"patterns": ("a*",)}, "patterns[0]"),
        ({"patterns": ("a" * 2000,)}, "patterns[0]"),
        ({"patterns": ("a",) * (MAX_PATTERNS + 1)}, "patterns"),
        ({"literals": ("",)}, "literals[0]"),
        ({"literals": ("a", " \t")}, "literals[1]"),
        ({"literals": ("a",) * (MAX_LITERALS + 1)}, "literals"),
    ],
)
def test_bad_options_are_refused_by_name(arguments: dict[str, tuple[str, ...]], name: str) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        Protection(**arguments)
    assert caught.value.name == name


def test_a_pattern_that_takes_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.text.protection.PATTERN_SECONDS", 0.05)
    own = Protection(presets=(), patterns=(r"(?:a|b|ab)*c(?:a|b|ab)*(?:a|b|ab)*d",))
    with pytest.raises(InvalidOptionError, match="must need less than") as caught:
        find_protected("c" + "ab" * 4000, own)
    assert caught.value.name == "patterns[0]"


PIECES = [
    "{a}",
    "{{a}}",
    "%s",
    " ",
    "a",
    "<b>",
    "`",
    "``",
    "https://a.example/(b",
    ")",
    ".",
    "@u",
    "#t",
    "😀",
    "&amp;",
    "\u200d",
]
TEXTS = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
SPANS = st.lists(st.tuples(st.integers(0, 70), st.integers(0, 70)).map(lambda pair: (min(pair), max(pair))), max_size=4)


@given(text=TEXTS, taken=SPANS)
def test_spans_are_ordered_inside_the_text_and_outside_the_taken(text: str, taken: list[tuple[int, int]]) -> None:
    own = Protection(patterns=("a.",), literals=("u",))
    spans = find_protected(text, own, taken)
    last = 0
    for start, end in spans:
        assert last <= start < end <= len(text)
        assert not any(start < there and here < end for here, there in taken if here < there)
        last = end
    covered = {position for start, end in find_protected(text, own) for position in range(start, end)}
    kept = {position for start, end in taken for position in range(start, end)}
    assert {position for start, end in spans for position in range(start, end)} == covered - kept


@given(text=TEXTS, data=st.data())
def test_a_target_made_of_the_pieces_has_them_all_and_one_less_is_noticed(text: str, data: st.DataObject) -> None:
    found = pieces(text, Protection())
    assert check_protected(found, " mot ".join(found)) == []
    if found:
        left_out = data.draw(st.integers(0, len(found) - 1))
        rest = " mot ".join(found[:left_out] + found[left_out + 1 :])
        assert found[left_out] in check_protected(found, rest)


def test_pieces_that_came_through_are_not_reported() -> None:
    assert check_protected(["{a}", "%s", "{a}"], "%s puis {a} et {a}") == []


def test_pieces_lost_doubled_or_changed_are_reported_once_in_order() -> None:
    assert check_protected(["{a}", "%s", "{b}", "{a}", "{c}"], "{ b } {a} %s%s {c}") == ["{a}", "%s", "{b}"]


def test_a_piece_inside_a_longer_one_does_not_count() -> None:
    assert check_protected(["{{a}}", "{a}"], "{{a}}") == ["{a}"]
    assert check_protected(["{{a}}", "{a}"], "{a} {{a}}") == []
    assert check_protected(["", "x"], "x") == []


@pytest.mark.parametrize(
    "unit", ["{", "<a ", "<a b=", "http://", "a@", "`", "``` ` ", "😀\u200d", "a.", "$a_", "%(a", "/a", "&a"]
)
def test_patterns_have_no_repetition_that_backtracks(unit: str) -> None:
    """Hostile text of 200,000 characters passes; quadratic patterns would need minutes here and be noticed."""
    text = unit * (200_000 // len(unit))
    assert all(start < end for start, end in find_protected(text, Protection()))
