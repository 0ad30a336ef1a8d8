"""Marked text: placeholders and term annotations become control tokens and come back, and no user's text does."""

from __future__ import annotations

import io

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import CheckpointError, InvalidTextError
from model.text.tokenizer import (
    MARKERS,
    NUM_PLACEHOLDERS,
    PLACEHOLDERS,
    TERM_AS,
    TERM_BEGIN,
    TERM_END,
    Tokenizer,
    language_token,
    normalize,
    space_terms,
)
from tests.unit.tiny_tokenizer import sentences, tiny_tokenizer

X, Y, Z = PLACEHOLDERS[:3]
BYTES_OF_X = ("<0xEE>", "<0x80>", "<0x80>")
marked_text = st.lists(
    st.one_of(st.sampled_from([*PLACEHOLDERS, " ", "'", "(", "."]), st.text(st.characters(exclude_categories=["Cs"]))),
    max_size=12,
).map("".join)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return tiny_tokenizer()


def controls_of(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    return [tokenizer.pieces([i])[0] for i in ids if i in tokenizer.special_ids]


@pytest.mark.parametrize(
    ("marked", "controls"),
    [
        (f"l'{X}", ["<x0>"]),
        (f"{X}{Y}", ["<x0>", "<x1>"]),
        (f"({X})", ["<x0>"]),
        (f"{X}.", ["<x0>"]),
        (X, ["<x0>"]),
        (f"{X} est {Y} !", ["<x0>", "<x1>"]),
        (f"Le voisin regarde {Z}{X}, et l'{Y}-là ; « {PLACEHOLDERS[15]} »", ["<x2>", "<x0>", "<x1>", "<x15>"]),
        (f"a{X}b", ["<x0>"]),
        (f"{X} {X}", ["<x0>", "<x0>"]),
        (f"🙂{X}机{Y}", ["<x0>", "<x1>"]),
        ("Le voisin dessine.", []),
        ("", []),
    ],
)
def test_placeholders_come_back_exactly(tokenizer: Tokenizer, marked: str, controls: list[str]) -> None:
    ids = tokenizer.encode_target_marked(marked)
    assert controls_of(tokenizer, ids) == controls
    assert tokenizer.decode_marked(ids) == marked
    source = tokenizer.encode_source_marked(marked, "en")
    assert source == [tokenizer.language_id("en"), *ids, tokenizer.eos_id]
    assert tokenizer.decode_marked(source) == marked
    # Without the markers, the same tokens say the rest of the text.
    bare = "".join(character for character in marked if character not in MARKERS)
    assert tokenizer.decode(ids).replace(" ", "") == bare.replace(" ", "")


@settings(max_examples=200, deadline=None)
@given(marked_text)
def test_any_marked_text_comes_back(marked: str) -> None:
    tokenizer = tiny_tokenizer()
    # Markers of terms space themselves; they are tested below.
    marked = "".join(character for character in marked if character not in (TERM_BEGIN, TERM_AS, TERM_END))
    ids = tokenizer.encode_target_marked(marked)
    assert tokenizer.decode_marked(ids) == " ".join(normalize(marked).split())
    assert controls_of(tokenizer, ids) == [MARKERS[c] for c in marked if c in MARKERS]


def test_every_placeholder_has_its_token(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_target_marked("".join(PLACEHOLDERS))
    assert controls_of(tokenizer, ids) == [f"<x{number}>" for number in range(NUM_PLACEHOLDERS)]
    assert [ord(character) for character in PLACEHOLDERS] == list(range(0xE000, 0xE010))


def test_a_term_is_the_same_pieces_as_in_plain_text(tokenizer: Tokenizer) -> None:
    marked = f"Le voisin regarde le {TERM_BEGIN}château{TERM_AS}castle{TERM_END} ."
    ids = tokenizer.encode_source_marked(marked, "en")
    pieces = tokenizer.pieces(ids)
    begin, middle, end = (pieces.index(token) for token in ("<term>", "<as>", "</term>"))
    assert ids[begin + 1 : middle] == tokenizer.encode_target("château")
    assert ids[middle + 1 : end] == tokenizer.encode_target("castle")
    before, after = tokenizer.encode_target("Le voisin regarde le"), tokenizer.encode_target(".")
    assert ids[1:begin] == before
    assert ids[end + 1 : -1] == after


def test_a_term_behind_an_apostrophe_stays_there(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_target_marked(f"l'{TERM_BEGIN}été{TERM_AS}summer{TERM_END}")
    begin = tokenizer.pieces(ids).index("<term>")
    assert tokenizer.decode(ids[:begin]) == "l'"
    assert not tokenizer.pieces(ids)[begin + 1].startswith("▁")
    assert tokenizer.decode_marked(ids) == f"l'{TERM_BEGIN}été{TERM_AS} summer{TERM_END}"


@pytest.mark.parametrize(
    ("marked", "spaced"),
    [
        (f"le {TERM_BEGIN}a b{TERM_AS}c d{TERM_END} e", f"le{TERM_BEGIN} a b{TERM_AS} c d{TERM_END} e"),
        (f"{TERM_BEGIN}a{TERM_AS}c{TERM_END}", f"{TERM_BEGIN} a{TERM_AS} c{TERM_END}"),
        (f"({TERM_BEGIN}a{TERM_AS}c{TERM_END})", f"({TERM_BEGIN}a{TERM_AS} c{TERM_END})"),
        (f"le{TERM_BEGIN} a{TERM_AS} c{TERM_END}", f"le{TERM_BEGIN} a{TERM_AS} c{TERM_END}"),
    ],
)
def test_spaces_go_into_the_annotation(marked: str, spaced: str) -> None:
    assert space_terms(marked) == spaced
    assert space_terms(spaced) == spaced


@pytest.mark.parametrize("character", MARKERS)
def test_private_use_characters_of_a_text_are_text(tokenizer: Tokenizer, character: str) -> None:
    text = f"Ma sœur {character} dessine"
    for ids in (tokenizer.encode_target(text), tokenizer.encode_source(text, "en")[1:-1]):
        assert not tokenizer.special_ids & set(ids)
        assert tokenizer.decode(ids) == text


def test_bytes_that_spell_a_marker_are_no_marker(tokenizer: Tokenizer) -> None:
    """A model may write the bytes of U+E000 one by one; a caller must not take that for <x0>."""
    ids = tokenizer.encode_target(f"ici {X}, {Y}")
    assert all(piece in tokenizer.pieces(ids) for piece in BYTES_OF_X)
    assert tokenizer.decode_marked(ids) == "ici \ufffd, \ufffd"
    both = [*ids, *tokenizer.encode_target_marked(X)]
    assert tokenizer.decode_marked(both) == f"ici \ufffd, \ufffd {X}"


def test_half_a_character_before_a_placeholder_does_not_take_it_along(tokenizer: Tokenizer) -> None:
    first_byte = next(i for i in range(tokenizer.vocab_size) if tokenizer.pieces([i]) == ["<0xF0>"])
    placeholder = next(i for i in range(tokenizer.vocab_size) if tokenizer.pieces([i]) == ["<x0>"])
    assert tokenizer.decode_marked([*tokenizer.encode_target("ab"), first_byte, placeholder]) == f"ab\ufffd{X}"


def test_decode_leaves_markers_out(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_target_marked(f"l'{X} dessine")
    assert tokenizer.decode(ids) == "l' dessine"


def test_spans_of_marked_text(tokenizer: Tokenizer) -> None:
    marked = f"Le {X} regarde le {TERM_BEGIN}château{TERM_AS}castle{TERM_END}."
    ids, spans = tokenizer.encode_with_spans(marked, marked=True)
    assert ids == tokenizer.encode_target_marked(marked)
    for token, span in zip(tokenizer.pieces(ids), spans, strict=True):
        # The independent reference is the text itself: what stands in the span is what the piece says.
        expected = {name: character for character, name in MARKERS.items()}.get(token, token.replace("▁", ""))
        assert expected.startswith("<0x") or marked[slice(*span)] == expected
    text, spans = tokenizer.decode_with_spans(ids, marked=True)
    assert text == tokenizer.decode_marked(ids)
    assert [text[slice(*span)] for span, i in zip(spans, ids, strict=True) if i in tokenizer.special_ids] == [
        X,
        TERM_BEGIN,
        TERM_AS,
        TERM_END,
    ]


def test_spans_without_marks_are_as_before(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_target_marked(f"Le {X} regarde")
    text, spans = tokenizer.decode_with_spans(ids)
    assert text == tokenizer.decode(ids)
    assert [end - start for (start, end), i in zip(spans, ids, strict=True) if i in tokenizer.special_ids] == [0]


def test_lone_surrogates_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidTextError, match="surrogates"):
        tokenizer.encode_target_marked(f"{X}\ud800")


def test_a_vocabulary_without_control_tokens_cannot_encode_markers() -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(sentences()[::20]),
        model_writer=model,
        vocab_size=500,
        byte_fallback=True,
        control_symbols=[language_token("en")],
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        minloglevel=2,
    )
    foreign = Tokenizer(model.getvalue())
    assert foreign.encode_target_marked("Ma sœur") == foreign.encode_target("Ma sœur")
    with pytest.raises(CheckpointError, match="no control tokens for 2 of 2 markers"):
        foreign.encode_target_marked(f"{X} et {Y}")
