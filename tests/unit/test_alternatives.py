"""Next words against enumeration of all of them on a tiny vocabulary, and which tokens begin a word."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from model.config import ModelConfig
from model.errors import InvalidOptionError, InvalidRequestError
from model.generation import score_target
from model.generation.alternatives import MAX_WORD_TOKENS, next_words
from model.transformer import Transformer
from tests.unit.tiny_tokenizer import tiny_tokenizer

EOS, BANNED = 3, (0, 1, 2)
BEGINS = np.array([True, True, True, True, True, True, False, False])
"""Of eight tokens 4 and 5 begin a word; 6 and 7 go on with one."""
SOURCE = [4, 6, 5, EOS]


def build(seed: int, max_target_length: int = 30, tendency: float = 0.0) -> Transformer:
    torch.manual_seed(seed)
    model = Transformer(
        ModelConfig(
            vocab_size=8,
            d_model=16,
            d_ff=16,
            num_heads=2,
            num_encoder_layers=1,
            num_decoder_layers=1,
            tie_output=False,
            output_scale=3.0,
            output_bias=True,
            max_target_length=max_target_length,
        )
    ).eval()
    assert model.output_bias is not None
    with torch.no_grad():
        model.output_bias[6:] = tendency
    return model


def word_log_prob(model: Transformer, prefix: list[int], word: tuple[int, ...]) -> float:
    """Return the log-probability that a word comes next, by one call of another function for each ending."""
    ends = [EOS, 4, 5] if word else [EOS]
    totals = [sum(score_target(model, SOURCE, [*prefix, *word, end])[len(prefix) :]) for end in ends]
    return math.log(math.fsum(map(math.exp, totals)))


@pytest.mark.parametrize("prefix", [[], [4], [5, 6, 4, 7]])
@pytest.mark.parametrize("seed", range(5))
def test_the_best_words_are_those_of_enumeration(seed: int, prefix: list[int]) -> None:
    model = build(seed, tendency=-3.0)
    words: list[tuple[int, ...]] = [()]
    for length in range(4):  # longer ones are too improbable to be among the best
        rests = itertools.product((6, 7), repeat=length)
        words += [(first, *rest) for rest in rests for first in (4, 5, 6, 7)]
    expected = sorted(((word_log_prob(model, prefix, word), word) for word in words), reverse=True)[:6]
    found = next_words(model, SOURCE, prefix, BEGINS, count=6, banned=BANNED)
    assert [each.token_ids for each in found] == [word for _, word in expected]
    assert [each.log_prob for each in found] == pytest.approx([total for total, _ in expected], abs=1e-4)


def test_a_word_that_never_ends_is_returned_as_far_as_it_goes() -> None:
    found = next_words(build(1, tendency=30.0), SOURCE, [4], BEGINS, count=2, banned=BANNED)
    assert max(len(each.token_ids) for each in found) >= MAX_WORD_TOKENS
    short = next_words(build(1, max_target_length=6, tendency=30.0), SOURCE, [4], BEGINS, count=2, banned=BANNED)
    assert all(len(each.token_ids) <= 6 for each in short)


def test_banned_tokens_do_not_come_next() -> None:
    found = next_words(build(2), SOURCE, [], BEGINS, count=32, banned=(*BANNED, 5, 6))
    assert {token for each in found for token in each.token_ids} == {4, 7}


def test_bounds() -> None:
    model = build(3, max_target_length=5)
    for count in (0, 33):
        with pytest.raises(InvalidOptionError):
            next_words(model, SOURCE, [], BEGINS, count=count)
    assert next_words(model, SOURCE, [4] * 4, BEGINS, count=2, banned=BANNED)
    with pytest.raises(InvalidRequestError):
        next_words(model, SOURCE, [4] * 5, BEGINS, count=2)


def test_which_tokens_begin_a_word() -> None:
    tokenizer = tiny_tokenizer()
    begins = dict(zip(tokenizer.pieces(range(tokenizer.vocab_size)), tokenizer.begins_word, strict=True))
    assert len(tokenizer.begins_word) == tokenizer.vocab_size
    assert all(begins[piece] for piece in begins if piece.startswith("\u2581"))
    assert begins["."]
    assert begins["</s>"]
    assert not begins["s"]
    assert not begins["<0x41>"]
