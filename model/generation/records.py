"""What the fast searches write down of their steps, and hypotheses put together from it; nothing is searched here.

A search that runs without Python keeps no hypotheses. It records one row of numbers for each step and beam, and when a
request is finished, its hypotheses are read from these records backwards.
"""

from __future__ import annotations

from collections.abc import Sequence

from model.config import GenerationConfig
from model.generation.hypothesis import Hypothesis, PartialHypothesis, best_first

TOKEN, PARENT, ENDED_PARENT = 0, 1, 2
"""What is recorded as integers of each step and beam: the token, the beam it grew from, and the beam of the hypothesis
that ended with this rank. NONE where there is no such beam, or nothing ended."""
TOKEN_LOG_PROB, END_LOG_PROB = 0, 1
"""What is recorded as numbers: the log-probabilities of the token, and of the end token of what ended."""
NONE = -1

Records = Sequence[Sequence[Sequence[int]]]
"""(length, K, 3)."""
LogProbs = Sequence[Sequence[Sequence[float]]]
"""(length, K, 2)."""


def is_common(config: GenerationConfig) -> bool:
    """Whether the fast searches do all that is asked for: greedy or beam search, and nothing that changes logits."""
    rare = (
        config.sampling,
        config.repetition_penalty != 1.0,
        config.no_repeat_ngram_size,
        config.min_new_tokens,
        config.target_prefix,
        config.banned_tokens,
        config.required_phrases,
    )
    return not any(rare)


def num_wanted(config: GenerationConfig) -> int:
    """Return with how many ended hypotheses a beam search is over, see ``model.generation.beam_search``."""
    return max(int(config.beam_size * config.patience + 0.5), config.num_hypotheses)


def read_hypotheses(records: Records, log_probs: LogProbs, config: GenerationConfig, eos_id: int) -> list[Hypothesis]:
    """Return a finished request's hypotheses, as its search in ``model.generation`` would return them.

    Args:
        records: of all steps of the request, in order, with K = ``config.beam_size``.
        log_probs: likewise.
        config: the request's options, which are common ones.
        eos_id: the end token.
    """
    if config.beam_size == 1:
        tokens = [row[0][TOKEN] for row in records]
        grown = _partial(tokens, [row[0][TOKEN_LOG_PROB] for row in log_probs])
        return [grown.finish("end" if tokens[-1] == eos_id else "length", config.length_penalty)]
    ended = [
        _backtrack(records, log_probs, step, ranked[ENDED_PARENT], [eos_id], [numbers[END_LOG_PROB]])
        for step, row in enumerate(records)
        for ranked, numbers in zip(row, log_probs[step], strict=True)
        if ranked[ENDED_PARENT] != NONE
    ]
    chosen = best_first(partial.finish("end", config.length_penalty) for partial in ended)
    if len(chosen) < config.num_hypotheses:
        live = [beam for beam, row in enumerate(records[-1]) if row[TOKEN] != NONE]
        cut = [_backtrack(records, log_probs, len(records), beam, [], []) for beam in live]
        chosen += best_first(partial.finish("length", config.length_penalty) for partial in cut)
    return chosen[: config.num_hypotheses]


def _backtrack(
    records: Records, log_probs: LogProbs, length: int, beam: int, tokens: list[int], values: list[float]
) -> PartialHypothesis:
    """Return what a beam had after ``length`` steps, with the given tokens (0 or 1) and log-probabilities behind it."""
    for step in range(length - 1, -1, -1):
        tokens.append(records[step][beam][TOKEN])
        values.append(log_probs[step][beam][TOKEN_LOG_PROB])
        beam = records[step][beam][PARENT]
    return _partial(tokens[::-1], values[::-1])


def _partial(tokens: Sequence[int], values: Sequence[float]) -> PartialHypothesis:
    """Add from the left, as a search that grows token by token does, so that rounding is the same."""
    total = 0.0
    for value in values:
        total += value
    return PartialHypothesis(tuple(tokens), tuple(values), total)
