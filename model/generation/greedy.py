"""Greedy search: one row, always the most probable token; beam search with one beam gives the same, slower."""

from __future__ import annotations

from collections.abc import Sequence

from model.config import GenerationConfig
from model.generation.hypothesis import Hypothesis, PartialHypothesis


class GreedySearch:
    """Implements ``Search`` for ``beam_size`` 1; ``patience`` has no meaning here."""

    num_rows = 1
    num_candidates = 1

    def __init__(self, config: GenerationConfig, limit: int, eos_id: int) -> None:
        self.finished = False
        self.parents: list[int] = []
        self.next_tokens: list[int] = []
        self._config = config
        self._limit = limit
        self._eos_id = eos_id
        self._partial = PartialHypothesis()

    @property
    def forced_token(self) -> int | None:
        """The next token of the target prefix."""
        position, prefix = len(self._partial.token_ids), self._config.target_prefix
        return prefix[position] if position < len(prefix) else None

    def history(self) -> list[tuple[int, ...]]:
        """Return the tokens generated so far, as the one row's."""
        return [self._partial.token_ids]

    def advance(self, token_ids: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]]) -> None:
        """Append the best candidate of the one row."""
        token_id = token_ids[0][0]
        self._partial = self._partial.extend(token_id, log_probs[0][0])
        self.finished = token_id == self._eos_id or len(self._partial.token_ids) == self._limit
        self.parents = [] if self.finished else [0]
        self.next_tokens = [] if self.finished else [token_id]

    def hypotheses(self) -> list[Hypothesis]:
        """Return the one hypothesis."""
        ended = self._partial.token_ids[-1] == self._eos_id
        return [self._partial.finish("end" if ended else "length", self._config.length_penalty)]
