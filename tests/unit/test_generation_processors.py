"""Every logits processor against its definition in plain Python, token by token."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import GenerationConfig
from model.generation.logits_processors import (
    BANNED,
    BannedTokens,
    MinNewTokens,
    NoRepeatNgram,
    RepetitionPenalty,
    banning_processors,
    completing_tokens,
    shaping_processors,
)

VOCAB_SIZE = 7
EOS = 3


@st.composite
def histories(draw: st.DrawFn) -> list[list[int]]:
    length = draw(st.integers(0, 9))
    row = st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=length, max_size=length)
    return draw(st.lists(row, min_size=1, max_size=4))


def random_logits(history: list[list[int]]) -> torch.Tensor:
    return torch.randn(len(history), VOCAB_SIZE, generator=torch.Generator().manual_seed(len(history[0])))


@settings(deadline=None, derandomize=True, database=None)
@given(history=histories(), penalty=st.sampled_from([0.5, 1.1, 1.3, 5.0]))
def test_repetition_penalty(history: list[list[int]], penalty: float) -> None:
    logits = random_logits(history)
    expected = logits.tolist()
    for row, tokens in zip(expected, history, strict=True):
        for token in set(tokens):
            row[token] = row[token] / penalty if row[token] > 0 else row[token] * penalty
    RepetitionPenalty(penalty)(logits, history)
    assert logits.flatten().tolist() == pytest.approx([value for row in expected for value in row], rel=1e-6)


@settings(deadline=None, derandomize=True, database=None)
@given(history=histories(), size=st.integers(1, 5))
def test_no_repeat_ngram_bans_exactly_what_would_repeat_one(history: list[list[int]], size: int) -> None:
    logits = random_logits(history)
    before = logits.clone()
    NoRepeatNgram(size)(logits, [tuple(tokens) for tokens in history])
    for row, tokens in enumerate(history):
        ngrams = {tuple(tokens[start : start + size]) for start in range(len(tokens) - size + 1)}
        for token in range(VOCAB_SIZE):
            grown = [*tokens, token]
            repeats = len(grown) >= size and tuple(grown[-size:]) in ngrams
            assert logits[row, token] == (BANNED if repeats else before[row, token])


def test_completing_tokens_of_a_known_case() -> None:
    assert completing_tokens([1, 2, 3, 1, 2, 4, 1, 2], 3) == [3, 4]
    assert completing_tokens([1, 2], 3) == []
    assert completing_tokens([1, 2], 1) == [1, 2]


def test_the_end_token_is_banned_until_the_minimum_is_reached() -> None:
    for length in range(6):
        logits = torch.zeros(2, VOCAB_SIZE)
        MinNewTokens(4, EOS)(logits, [[5] * length] * 2)
        banned = [index for index, value in enumerate(logits[1].tolist()) if value == BANNED]
        assert banned == ([EOS] if length < 4 else [])
        assert torch.equal(logits[0], logits[1])


def test_banned_tokens_are_banned_in_every_row_and_nothing_else_is() -> None:
    logits = torch.arange(3 * VOCAB_SIZE).reshape(3, VOCAB_SIZE).float()
    BannedTokens([2, 6, 2])(logits, [[]] * 3)
    for row in range(3):
        for token in range(VOCAB_SIZE):
            assert logits[row, token] == (-math.inf if token in (2, 6) else row * VOCAB_SIZE + token)


def test_a_request_that_asks_for_nothing_has_no_processors() -> None:
    assert shaping_processors(GenerationConfig()) == []
    assert banning_processors(GenerationConfig(), EOS) == []


def test_a_request_gets_the_processors_that_it_asks_for() -> None:
    config = GenerationConfig(repetition_penalty=1.5, no_repeat_ngram_size=2, min_new_tokens=2, banned_tokens=(5,))
    logits = torch.ones(1, VOCAB_SIZE)
    for process in shaping_processors(config):
        process(logits, [[4]])
    assert logits.tolist()[0] == pytest.approx([1, 1, 1, 1, 1 / 1.5, 1, 1])
    for process in banning_processors(config, EOS):
        process(logits, [[4]])
    assert [token for token in range(VOCAB_SIZE) if logits[0, token] == BANNED] == [EOS, 5]
    for process in banning_processors(config, EOS):
        process(logits, [[6, 4, 6]])
    assert [token for token in range(VOCAB_SIZE) if logits[0, token] == BANNED] == [EOS, 4, 5]
