"""The best tokens of a row against a plain sort, with ties, bans and vocabularies that no block divides."""

from __future__ import annotations

import pytest
import torch

from model.generation.candidates import best_tokens, in_order


@pytest.mark.parametrize("vocab_size", [5, 127, 1024, 5000, 16000])
@pytest.mark.parametrize("num_rows", [1, 4, 9])
@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_the_best_tokens_are_those_of_a_sort(vocab_size: int, num_rows: int, count: int) -> None:
    count = min(count, vocab_size)
    log_probs = torch.randn(num_rows, vocab_size, generator=torch.Generator().manual_seed(vocab_size + num_rows))
    log_probs[:, -1] = 9.0  # in the incomplete block
    log_probs[-1, ::3] = float("-inf")
    values, token_ids = best_tokens(log_probs, count)
    expected = log_probs.sort(dim=1, descending=True)
    assert torch.equal(values, expected.values[:, :count])
    assert torch.equal(token_ids, expected.indices[:, :count])


@pytest.mark.parametrize("levels", [1, 2, 3, 40])
@pytest.mark.parametrize("num_rows", [1, 6])
@pytest.mark.parametrize("vocab_size", [30, 7000])
def test_the_order_is_strict_and_does_not_depend_on_how_much_was_fetched(
    levels: int, num_rows: int, vocab_size: int
) -> None:
    generator = torch.Generator().manual_seed(levels)
    log_probs = torch.randint(-levels, 0, (num_rows, vocab_size), generator=generator).float()
    log_probs[0, 5:] = float("-inf")
    for count in (1, 3, 5):
        for fetched in (count + 1, count + 2, 12):
            values, token_ids = best_tokens(log_probs, fetched)
            for row in range(num_rows):
                whole = enumerate(log_probs[row].tolist())
                ranked = sorted((-value, token) for token, value in whole if value > float("-inf"))[:count]
                found = in_order(values[row].tolist(), token_ids[row].tolist(), count, log_probs[row])
                assert found == ([token for _, token in ranked], [-value for value, _ in ranked])


def test_all_values_may_be_fetched() -> None:
    row = torch.tensor([-1.0, -2.0, -1.0])
    assert in_order([-1.0, -1.0, -2.0], [2, 0, 1], 3, row) == ([0, 2, 1], [-1.0, -1.0, -2.0])
    assert in_order([-1.0, -1.0, -2.0], [2, 0, 1], 7, row) == ([0, 2, 1], [-1.0, -1.0, -2.0])


def test_nothing_is_left_where_everything_is_banned() -> None:
    row = torch.full((3,), float("-inf"))
    assert in_order(row.tolist(), [0, 1, 2], 2, row) == ([], [])
