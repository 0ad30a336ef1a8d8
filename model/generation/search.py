"""What every way of searching has in common, and the choice among them; the searches themselves are next door."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from model.config import GenerationConfig
from model.generation.beam_search import BeamSearch
from model.generation.constrained import ConstrainedSearch
from model.generation.greedy import GreedySearch
from model.generation.hypothesis import Hypothesis
from model.generation.sampling import SamplingSearch


class Search(Protocol):
    """The state of one request's decoding: plain Python, so that it cannot depend on the rest of the batch.

    A search owns one or more live rows of the batch, the first step has one. Each step it is told candidates for the
    next token of each row; it then says which rows go on, grown from which row, and with which token.
    """

    finished: bool
    """No row goes on, and ``hypotheses()`` may be called."""
    parents: list[int]
    """After ``advance``: for each live row, the index of the previous live row from which it grew."""
    next_tokens: list[int]
    """After ``advance``: for each live row, its newest token."""

    @property
    def num_rows(self) -> int:
        """Live rows, at least 1 until finished."""

    @property
    def num_candidates(self) -> int:
        """How many best tokens of each row ``advance`` needs; 0 for sampling, which draws from whole rows."""

    @property
    def forced_token(self) -> int | None:
        """The next token of every row while inside the target prefix; the only candidate that ``advance`` then gets."""

    def history(self) -> list[tuple[int, ...]]:
        """Return the tokens generated so far for each live row, all of the same length."""

    def advance(self, token_ids: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]]) -> None:
        """Take one step.

        Args:
            token_ids: for each live row its candidates, best first; at least one each.
            log_probs: their log-probabilities, given the row's history.
        """

    def hypotheses(self) -> list[Hypothesis]:
        """Return the finished hypotheses, best first; 1 to ``config.num_hypotheses`` of them."""


def create_search(
    config: GenerationConfig, limit: int, eos_id: int
) -> GreedySearch | BeamSearch | SamplingSearch | ConstrainedSearch:
    """Return the search that ``config`` asks for.

    Args:
        config: the request's options.
        limit: most tokens of a hypothesis, prefix and end token included; more than the prefix has.
        eos_id: the end token.
    """
    if config.sampling:
        return SamplingSearch(config, limit, eos_id)
    if config.required_phrases:
        return ConstrainedSearch(config, limit, eos_id)
    if config.beam_size == 1:
        return GreedySearch(config, limit, eos_id)
    return BeamSearch(config, limit, eos_id)
