"""Hypotheses from records: beams are followed backwards, what ended stands before what was cut."""

from __future__ import annotations

import pytest

from model.config import GenerationConfig
from model.generation.records import NONE, is_common, num_wanted, read_hypotheses

EOS = 3


def test_greedy_records_are_one_hypothesis() -> None:
    config = GenerationConfig(beam_size=1, length_penalty=1.0)
    log_probs = [[[-0.5, 0.0]], [[-0.25, 0.0]]]
    [ended] = read_hypotheses([[[7, 0, NONE]], [[EOS, 0, NONE]]], log_probs, config, EOS)
    assert (ended.token_ids, ended.finish_reason, ended.score) == ((7,), "end", -0.375)
    [cut] = read_hypotheses([[[7, 0, NONE]], [[8, 0, NONE]]], log_probs, config, EOS)
    assert (cut.token_ids, cut.finish_reason, cut.token_log_probs) == ((7, 8), "length", (-0.5, -0.25))


def test_beams_are_followed_to_their_parents() -> None:
    records = [
        [[7, 0, NONE], [8, 0, NONE]],
        [[9, 1, NONE], [5, 0, 0]],  # beams 8 9 and 7 5; rank 1 was an end behind beam 0: 7
        [[6, 1, 0], [NONE, 0, NONE]],  # beam 7 5 6, and none; rank 0 was an end behind beam 0: 8 9
    ]
    log_probs = [
        [[-1.0, 0.0], [-2.0, 0.0]],
        [[-0.5, 0.0], [-3.0, -4.0]],
        [[-0.25, -0.75], [0.0, 0.0]],
    ]
    config = GenerationConfig(beam_size=2, num_hypotheses=2, length_penalty=0.0)
    found = read_hypotheses(records, log_probs, config, EOS)
    assert [(h.token_ids, h.token_log_probs) for h in found] == [((8, 9), (-2.0, -0.5, -0.75)), ((7,), (-1.0, -4.0))]
    only_one_ended = [records[0], [[9, 1, NONE], [5, 0, NONE]], records[2]]
    found = read_hypotheses(only_one_ended, log_probs, config, EOS)
    assert [(h.token_ids, h.finish_reason) for h in found] == [((8, 9), "end"), ((7, 5, 6), "length")]


@pytest.mark.parametrize(
    "config",
    [
        GenerationConfig(beam_size=1, sampling=True),
        GenerationConfig(repetition_penalty=1.2),
        GenerationConfig(no_repeat_ngram_size=2),
        GenerationConfig(min_new_tokens=1),
        GenerationConfig(target_prefix=(5,)),
        GenerationConfig(banned_tokens=(5,)),
    ],
)
def test_options_that_change_logits_are_rare(config: GenerationConfig) -> None:
    assert not is_common(config)


def test_greedy_and_beam_search_are_common() -> None:
    assert is_common(GenerationConfig(beam_size=1))
    assert is_common(
        GenerationConfig(beam_size=5, num_hypotheses=3, patience=2.0, length_penalty=-1.0, max_new_tokens=7)
    )


def test_patience_is_rounded() -> None:
    assert num_wanted(GenerationConfig(beam_size=5, patience=0.5)) == 3
    assert num_wanted(GenerationConfig(beam_size=5, patience=0.1, num_hypotheses=2)) == 2
