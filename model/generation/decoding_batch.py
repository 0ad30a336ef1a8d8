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

from model.errors import DecodingError
from model.generation.candidates import best_tokens, in_order
from model.generation.generation_input import GenerationInput
from model.generation.hypothesis import Hypothesis
from model.generation.logits_processors import BANNED, LogitsProcessor, banning_processors, shaping_processors
from model.generation.sampling import SamplingSearch
from model.generation.search import Search, create_search
from model.transformer import KVCache, Transformer

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

    def __init__(self, model: Transformer, always_banned: Sequence[int] = ()) -> None:
        """Start empty.

        Args:
            model: in evaluation mode, on its device.
            always_banned: tokens that are never generated, such as padding, begin and language tokens; only a target
                prefix can contain them.
        """
        assert not model.training, "decoding needs model.eval(), otherwise dropout is active"
        assert all(0 <= token_id < model.config.vocab_size for token_id in always_banned), "no such token to ban"
        self._model = model
        self._device = next(model.parameters()).device
        self._always_banned = torch.tensor(sorted(set(always_banned)), dtype=torch.long, device=self._device)
        self._running: list[_Running[Key]] = []
        self._next_tokens: list[int] = []
        self._cache: KVCache | None = None
        self._undelivered: list[tuple[Key, list[Hypothesis]]] = []

    @property
    def num_requests(self) -> int:
        """Requests whose result has not been returned yet."""
        return len(self._running) + len(self._undelivered)

    @property
    def num_rows(self) -> int:
        """Rows that the next step computes."""
        return len(self._next_tokens)

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
        config = self._model.config
        for _, item in items:
            item.validate(config)
        keys = [running.key for running in self._running] + [key for key, _ in (*self._undelivered, *items)]
        assert len(set(keys)) == len(keys), "every request of a batch needs a key of its own"
        if not items:
            return
        self._encode([item.source_ids for _, item in items])
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

    def _encode(self, sources: Sequence[Sequence[int]]) -> None:
        """Encode sources and append a row for each to the cache."""
        longest = max(map(len, sources))
        pad_id = self._model.config.pad_id
        source_ids = torch.tensor([[*ids, *[pad_id] * (longest - len(ids))] for ids in sources], device=self._device)
        lengths = torch.tensor([len(ids) for ids in sources], device=self._device)
        source_mask = torch.arange(longest, device=self._device) < lengths[:, None]  # (B, S) True = token
        with torch.inference_mode():
            cache = self._model.start_cache(self._model.encode(source_ids, source_mask), source_mask)
            if self._cache is None:
                self._cache = cache
            else:
                self._cache.extend(cache)

    def _all_candidates(self) -> list[Candidates | None]:
        """Run one step of the network; return each request's candidates, None where they are not finite."""
        assert self._cache is not None
        tokens = torch.tensor(self._next_tokens, device=self._device)
        logits = self._model.decode_step(tokens, self._cache).float()  # (R, V)
        free = [running for running in self._running if running.search.forced_token is None]
        for running in free:
            for process in running.shaping:
                process(logits[running.rows], running.search.history())
        log_probs = logits.log_softmax(-1)
        # For each row the forced token, or what is left where everything is banned: the end token.
        last_resort = log_probs.gather(1, torch.tensor(self._last_resorts(), device=self._device)[:, None])  # (R, 1)
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
        return [self._candidates(running, host[running.rows], log_probs) for running in self._running]

    def _last_resorts(self) -> list[int]:
        tokens: list[int] = []
        for running in self._running:
            forced = running.search.forced_token
            tokens += [self._model.config.eos_id if forced is None else forced] * running.search.num_rows
        return tokens

    def _candidates(self, running: _Running[Key], host: list[list[float]], log_probs: Tensor) -> Candidates | None:
        """Return one request's candidates.

        Args:
            running: the request.
            host: for each of its rows the last resort's log-probability, then the best log-probabilities, then the
                tokens that these belong to.
            log_probs: (R, V) of the whole batch, still on the device.
        """
        if any(math.isnan(row[0]) for row in host):
            return None
        search = running.search
        if search.forced_token is not None:
            return [[search.forced_token]] * len(host), [[row[0]] for row in host]
        if isinstance(search, SamplingSearch):
            return self._drawn(search, host, log_probs[running.rows].cpu())
        all_tokens: list[list[int]] = []
        all_log_probs: list[list[float]] = []
        for row, (last_resort, *best) in enumerate(host, start=running.rows.start):
            count = len(best) // 2
            token_ids = [int(token_id) for token_id in best[count:]]
            tokens, values = in_order(best[:count], token_ids, search.num_candidates, log_probs[row])
            all_tokens.append(tokens or [self._model.config.eos_id])
            all_log_probs.append(values or [last_resort])
        return all_tokens, all_log_probs

    def _drawn(self, search: SamplingSearch, host: list[list[float]], log_probs: Tensor) -> Candidates:
        """Draw the tokens of one request's rows, from log-probabilities (rows, V) on the CPU."""
        all_tokens: list[list[int]] = []
        all_log_probs: list[list[float]] = []
        for row, values in enumerate(log_probs):
            if values.max() == BANNED:
                samples = search.num_samples(row)
                all_tokens.append([self._model.config.eos_id] * samples)
                all_log_probs.append([host[row][0]] * samples)
            else:
                all_tokens.append(search.draw(row, values))
                all_log_probs.append(values[all_tokens[-1]].tolist())
        return all_tokens, all_log_probs

    def _keep(
        self, staying: list[_Running[Key]], parents: Sequence[Sequence[int]], next_tokens: Sequence[Sequence[int]]
    ) -> None:
        """Rearrange the cache: each staying request goes on with rows grown from ``parents``, its old batch rows."""
        assert self._cache is not None
        rows_before = [running.rows for running in self._running]
        start = 0
        for running, own in zip(staying, parents, strict=True):
            running.rows = slice(start, start + len(own))
            start += len(own)
        within_requests = rows_before == [running.rows for running in staying]
        self._running = staying
        self._next_tokens = [token for own in next_tokens for token in own]
        flat = [parent for own in parents for parent in own]
        if not flat:
            self._cache = None
        elif flat != list(range(self._cache.num_rows)):
            rows = torch.tensor(flat, device=self._device)
            if within_requests:
                self._cache.select_beams(rows)
            else:
                self._cache.select_rows(rows)
