"""The running batch: one step of the network for all rows, then every request's own search; requests join and leave.

It knows tensors and token ids. Which requests may join is the engine's decision, which tokens win is the searches'.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from model.config import ModelConfig
from model.errors import DecodingError
from model.generation.candidates import best_tokens, in_order
from model.generation.constrained import ConstrainedSearch
from model.generation.generation_input import GenerationInput
from model.generation.hypothesis import Hypothesis
from model.generation.logits_processors import BANNED, LogitsProcessor, banning_processors, shaping_processors
from model.generation.rows import NetworkRows, Rows
from model.generation.sampling import SamplingSearch
from model.generation.search import Search, create_search
from model.transformer import Transformer

Key = TypeVar("Key", bound=Hashable)
Candidates = tuple[list[list[int]], list[list[float]]]
"""What ``Search.advance`` takes: tokens and log-probabilities for each row of one request."""


class NonFiniteLogitsError(DecodingError):
    """The network computed NaN or infinity: damaged weights, or a number format that is too narrow for them.

    Attributes:
        keys: the requests concerned.
    """

    def __init__(self, keys: Sequence[Hashable]) -> None:
        self.keys = tuple(keys)
        super().__init__(f"the network's logits are not finite for {len(self.keys)} request(s) of the batch")


@dataclass(eq=False)
class _Running(Generic[Key]):
    """One request of the running batch."""

    key: Key
    item: GenerationInput
    limit: int
    search: Search
    shaping: list[LogitsProcessor]
    banning: list[LogitsProcessor]
    rows: slice
    """Its rows of the batch."""


class DecodingBatch(Generic[Key]):
    """Many requests, each with its own options; ``step`` grows all of them by one token.

    A request's rows lie next to each other, requests in the order of joining. Nothing of a request's result depends on
    the other requests, except rounding inside the network.
    """

    def __init__(self, config: ModelConfig, rows: Rows, always_banned: Sequence[int] = ()) -> None:
        """Start empty.

        Args:
            config: the network's shape.
            rows: computes the logits; empty.
            always_banned: tokens that are never generated, such as padding, begin and language tokens; only a target
                prefix can contain them.
        """
        assert all(0 <= token_id < config.vocab_size for token_id in always_banned), "no such token to ban"
        self._config = config
        self._rows = rows
        self._device = rows.device
        self._always_banned = torch.tensor(sorted(set(always_banned)), dtype=torch.long, device=self._device)
        self._running: list[_Running[Key]] = []
        self._next_tokens: list[int] = []
        self._undelivered: list[tuple[Key, list[Hypothesis]]] = []
        self._num_steps = 0

    @property
    def num_requests(self) -> int:
        """Requests whose result has not been returned yet."""
        return len(self._running) + len(self._undelivered)

    @property
    def num_rows(self) -> int:
        """Rows that the next step computes."""
        return len(self._next_tokens)

    @property
    def num_steps(self) -> int:
        """Steps of the network since the batch was made."""
        return self._num_steps

    @property
    def max_rows(self) -> int:
        """Rows if every request took all that it may: beams fan out after their first token."""
        return sum(running.item.max_rows for running in self._running)

    @property
    def num_positions(self) -> int:
        """What counts against ``max_batch_tokens``: over those rows, the padded source and the most target tokens."""
        longest = max((len(running.item.source_ids) for running in self._running), default=0)
        return sum(running.item.max_rows * (longest + running.limit) for running in self._running)

    def add(self, items: Sequence[tuple[Key, GenerationInput]]) -> None:
        """Encode new requests, padded to the longest of them, and let them join.

        Raises:
            InvalidRequestError: an input does not fit the model; then none of them has joined.
        """
        config = self._config
        for _, item in items:
            item.validate(config)
        keys = [running.key for running in self._running] + [key for key, _ in (*self._undelivered, *items)]
        assert len(set(keys)) == len(keys), "every request of a batch needs a key of its own"
        if not items:
            return
        self._rows.append([item.source_ids for _, item in items])
        for key, item in items:
            limit, row = item.token_limit(config), len(self._next_tokens)
            search = create_search(item.config, limit, config.eos_id)
            shaping, banning = shaping_processors(item.config), banning_processors(item.config, config.eos_id)
            self._running.append(_Running(key, item, limit, search, shaping, banning, slice(row, row + 1)))
            self._next_tokens.append(config.decoder_start_id)

    def remove(self, key: Key) -> None:
        """Let a request leave without a result; one that is not here has already left."""
        self._undelivered = [result for result in self._undelivered if result[0] != key]
        staying = [running for running in self._running if running.key != key]
        if len(staying) < len(self._running):
            rows = [range(running.rows.start, running.rows.stop) for running in staying]
            tokens = [self._next_tokens[running.rows] for running in staying]
            with torch.inference_mode():
                self._keep(staying, rows, tokens)

    def step(self) -> list[tuple[Key, list[Hypothesis]]]:
        """Grow every request by one token, and return those that finished; their rows have left.

        Raises:
            NonFiniteLogitsError: for some requests, which have left. The others go on; what finished in this step is
                returned by the next. After any other exception, such as a lack of memory, the batch is of no more use.
        """
        finished, self._undelivered = self._undelivered, []
        if not self._running:
            return finished
        self._num_steps += 1
        failed: list[Key] = []
        staying: list[_Running[Key]] = []
        with torch.inference_mode():
            for running, candidates in zip(self._running, self._all_candidates(), strict=True):
                if candidates is None:
                    failed.append(running.key)
                    continue
                running.search.advance(*candidates)
                if running.search.finished:
                    finished.append((running.key, running.search.hypotheses()))
                else:
                    staying.append(running)
            parents = [[running.rows.start + parent for parent in running.search.parents] for running in staying]
            self._keep(staying, parents, [running.search.next_tokens for running in staying])
        if failed:
            self._undelivered = finished
            raise NonFiniteLogitsError(failed)
        return finished

    def interrupt(self) -> None:
        """Ask a step that is under way to return before its next token; a step here has only one, so it does anyway."""

    def _all_candidates(self) -> list[Candidates | None]:
        """Run one step of the network; return each request's candidates, None where they are not finite."""
        logits = self._rows.step(self._next_tokens)  # (R, V)
        free = [running for running in self._running if running.search.forced_token is None]
        for running in free:
            for process in running.shaping:
                process(logits[running.rows], running.search.history())
        log_probs = logits.log_softmax(-1)
        # For each row the forced token, or what is left where everything is banned: the end token.
        last_resort = log_probs.gather(1, torch.tensor(self._last_resorts(), device=self._device)[:, None])  # (R, 1)
        required = {running.key: _required(running, log_probs) for running in free}  # before anything is banned
        if len(self._always_banned):
            log_probs.index_fill_(1, self._always_banned, BANNED)
        for running in free:
            for process in running.banning:
                process(log_probs[running.rows], running.search.history())
        count = max((running.search.num_candidates for running in free), default=0)
        count = min(count + 1, log_probs.shape[1]) if count else 0  # one more shows whether a tie was cut
        values, token_ids = best_tokens(log_probs, count)
        # One transfer for all of it; float64 holds token ids exactly.
        host = torch.cat([last_resort.double(), values.double(), token_ids.double()], dim=1).cpu().tolist()
        return [
            self._candidates(running, host[running.rows], log_probs, required.get(running.key))
            for running in self._running
        ]

    def _last_resorts(self) -> list[int]:
        tokens: list[int] = []
        for running in self._running:
            forced = running.search.forced_token
            tokens += [self._config.eos_id if forced is None else forced] * running.search.num_rows
        return tokens

    def _candidates(
        self, running: _Running[Key], host: list[list[float]], log_probs: Tensor, required: Candidates | None
    ) -> Candidates | None:
        """Return one request's candidates.

        Args:
            running: the request.
            host: for each of its rows the last resort's log-probability, then the best log-probabilities, then the
                tokens that these belong to.
            log_probs: (R, V) of the whole batch, still on the device.
            required: more candidates for each of its rows, where its search asks for them.
        """
        if any(math.isnan(row[0]) for row in host):
            return None
        search = running.search
        if search.forced_token is not None:
            is_unscored = len(search.history()[0]) < running.item.config.num_unscored
            return [[search.forced_token]] * len(host), [[0.0 if is_unscored else row[0]] for row in host]
        if isinstance(search, SamplingSearch):
            return self._drawn(search, host, log_probs[running.rows].cpu())
        all_tokens: list[list[int]] = []
        all_log_probs: list[list[float]] = []
        for row, (last_resort, *best) in enumerate(host, start=running.rows.start):
            count = len(best) // 2
            token_ids = [int(token_id) for token_id in best[count:]]
            tokens, values = in_order(best[:count], token_ids, search.num_candidates, log_probs[row])
            all_tokens.append(tokens or [self._config.eos_id])
            all_log_probs.append(values or [last_resort])
        if required is not None:
            _add_missing(all_tokens, all_log_probs, required)
        return all_tokens, all_log_probs

    def _drawn(self, search: SamplingSearch, host: list[list[float]], log_probs: Tensor) -> Candidates:
        """Draw the tokens of one request's rows, from log-probabilities (rows, V) on the CPU."""
        all_tokens: list[list[int]] = []
        all_log_probs: list[list[float]] = []
        for row, values in enumerate(log_probs):
            if values.max() == BANNED:
                samples = search.num_samples(row)
                all_tokens.append([self._config.eos_id] * samples)
                all_log_probs.append([host[row][0]] * samples)
            else:
                all_tokens.append(search.draw(row, values))
                all_log_probs.append(values[all_tokens[-1]].tolist())
        return all_tokens, all_log_probs

    def _keep(
        self, staying: list[_Running[Key]], parents: Sequence[Sequence[int]], next_tokens: Sequence[Sequence[int]]
    ) -> None:
        """Rearrange the rows: each staying request goes on with rows grown from ``parents``, its old batch rows."""
        start = 0
        for running, own in zip(staying, parents, strict=True):
            running.rows = slice(start, start + len(own))
            start += len(own)
        self._running = staying
        self._next_tokens = [token for own in next_tokens for token in own]
        self._rows.select([parent for own in parents for parent in own])


def _required(running: _Running[Key], log_probs: Tensor) -> Candidates | None:
    """Return the tokens that a constrained search needs for each of its rows, whatever else is more probable."""
    if not isinstance(running.search, ConstrainedSearch):
        return None
    tokens = running.search.required_tokens()
    width = max(map(len, tokens))
    if not width:
        return None
    indices = torch.tensor([[*row, *[0] * (width - len(row))] for row in tokens], device=log_probs.device)
    values: list[list[float]] = log_probs[running.rows].gather(1, indices).tolist()
    return tokens, [own[: len(row)] for row, own in zip(tokens, values, strict=True)]


def _add_missing(all_tokens: list[list[int]], all_log_probs: list[list[float]], more: Candidates) -> None:
    """Append to the candidates of each row those that it lacks."""
    for tokens, log_probs, *own in zip(all_tokens, all_log_probs, *more, strict=True):
        for token_id, log_prob in zip(*own, strict=True):
            if token_id not in tokens:
                tokens.append(token_id)
                log_probs.append(log_prob)


def plain_batch(model: Transformer, always_banned: Sequence[int] = ()) -> DecodingBatch[Key]:
    """Return an empty batch over the network itself, the reference for faster ones."""
    return DecodingBatch(model.config, NetworkRows(model), always_banned)
