"""What one request asks of generation, and whether a model of a given shape can do it; it decodes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from model.config import GenerationConfig, ModelConfig
from model.errors import InvalidOptionError, InvalidRequestError


@dataclass(frozen=True)
class GenerationInput:
    """One source and how to decode it."""

    source_ids: Sequence[int]
    """The source's tokens, special tokens included."""
    config: GenerationConfig = field(default_factory=GenerationConfig)
    """The options."""

    @property
    def max_rows(self) -> int:
        """The most rows that it takes in a batch."""
        return self.config.max_rows

    def token_limit(self, model: ModelConfig) -> int:
        """Return the most tokens that a hypothesis may have, prefix and end token included.

        It is ``GenerationConfig.token_limit``, but without a stated ``max_new_tokens`` never so low that a prefix
        has no room.
        """
        limit = self.config.token_limit(len(self.source_ids), model.max_target_length)
        if self.config.max_new_tokens is None:
            limit = max(limit, min(len(self.config.target_prefix) + 1, model.max_target_length))
        return limit

    def validate(self, model: ModelConfig) -> None:
        """Check what only a model's shape can decide.

        Raises:
            InvalidRequestError: the source is empty, longer than the model can take, or no token ids.
            InvalidOptionError: prefix, phrases or banned tokens are no token ids or have the end token, a phrase is
                banned, or the prefix leaves no room for a token.
        """
        length, prefix = len(self.source_ids), self.config.target_prefix
        if not 1 <= length <= model.max_source_length:
            raise InvalidRequestError("source_ids", f"must have 1 to {model.max_source_length} tokens", length)
        rule = f"must be token ids from 0 to {model.vocab_size - 1}"
        if not _are_ids(self.source_ids, model.vocab_size):
            raise InvalidRequestError("source_ids", rule, list(self.source_ids))
        banned = self.config.banned_tokens
        required = tuple(token_id for phrase in self.config.required_phrases for token_id in phrase)
        for name, token_ids in (("target_prefix", prefix), ("banned_tokens", banned), ("required_phrases", required)):
            if not _are_ids(token_ids, model.vocab_size):
                raise InvalidOptionError(name, rule, token_ids)
            if name != "banned_tokens" and model.eos_id in token_ids:
                raise InvalidOptionError(name, f"must not contain the end token {model.eos_id}", token_ids)
        if not set(banned).isdisjoint(required):
            raise InvalidOptionError("required_phrases", "must not contain banned_tokens", required)
        limit = self.token_limit(model)
        if len(prefix) >= limit:
            raise InvalidOptionError("target_prefix", f"must have fewer than {limit} tokens", len(prefix))


def _are_ids(token_ids: Sequence[int], vocab_size: int) -> bool:
    return all(0 <= token_id < vocab_size for token_id in token_ids)
