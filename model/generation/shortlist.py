"""Which target tokens are likely given a source's tokens, so that only their logits are computed; it knows no tensors.

A source's short-list is the union of its tokens' likely translations, of the tokens themselves (names and numbers are
copied), and of the target language's most frequent tokens, the end token among them (Jean et al. 2015, section 3.2).
A token outside it cannot be generated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model.errors import CheckpointError

IdArray = npt.NDArray[np.int64]
Arrays = Mapping[str, npt.NDArray[Any]]
"""Name to one-dimensional array of integers, as ``shortlist.safetensors`` holds them; see :class:`Shortlist`."""
_PARTS = ("offsets", "targets", "frequent")


@dataclass(frozen=True)
class _Table:
    """One target language's tokens.

    Attributes:
        offsets: where each source token's entries begin in ``targets``, and at the end their number.
        targets: likely translations.
        always: (V,) True for the tokens that are in every short-list.
    """

    offsets: list[int]
    targets: npt.NDArray[Any]
    always: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class BatchShortlist:
    """The tokens whose logits a batch computes.

    Attributes:
        token_ids: (N,) the tokens, rising.
        allowed: (R, N) True = in the row's own short-list. With the other tokens ruled out, what a row's search finds
            does not depend on the other rows.
    """

    token_ids: IdArray
    allowed: npt.NDArray[np.bool_]


class Shortlist:
    """The short-lists of one model; it never changes, so threads may share it."""

    def __init__(self, arrays: Arrays, vocab_size: int, eos_id: int) -> None:
        """Take over the arrays of a model's folder.

        For each target language, named by the id of the token that sources begin with (``4`` for example):
        ``4.offsets`` has for each source token the beginning of its entries in ``4.targets``, and one more at the end;
        ``4.targets`` are likely translations; ``4.frequent`` are tokens of every short-list.

        Args:
            arrays: the arrays by name.
            vocab_size: number of token ids, V.
            eos_id: the end token, which must be in every short-list.

        Raises:
            CheckpointError: an array is missing, left over, or does not fit the vocabulary.
        """
        self._vocab_size = vocab_size
        self._tables = {
            language_id: _table(arrays, language_id, vocab_size, eos_id)
            for language_id in _language_ids(arrays, vocab_size)
        }

    def candidates(self, source_ids: Sequence[int], also: Sequence[int] = ()) -> IdArray:
        """Return the short-list of one source, rising; for a language without a table all tokens.

        Args:
            source_ids: the source, beginning with the target language's token.
            also: tokens that must be in it whatever the source, such as those of a forced prefix.
        """
        return np.flatnonzero(self._mask(source_ids, also))

    def for_batch(
        self, sources: Sequence[Sequence[int]], also: Sequence[int] = (), multiple: int = 64
    ) -> BatchShortlist:
        """Return the union of the sources' short-lists, for one matrix product.

        Args:
            sources: the rows' sources.
            also: as in :meth:`candidates`, for all rows.
            multiple: N is a multiple of it, or V. The smallest ids that no source allows fill it up.
        """
        masks = np.stack([self._mask(source_ids, also) for source_ids in sources])  # (R, V)
        needed: npt.NDArray[np.bool_] = np.logical_or.reduce(masks, axis=0)
        unused = np.flatnonzero(~needed)
        needed[unused[: -int(needed.sum()) % multiple]] = True
        token_ids = np.flatnonzero(needed)
        return BatchShortlist(token_ids, masks[:, token_ids])

    def _mask(self, source_ids: Sequence[int], also: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Return (V,) True for the tokens of a source's short-list."""
        table = self._tables.get(source_ids[0])
        if table is None:
            return np.ones(self._vocab_size, dtype=np.bool_)
        mask = table.always.copy()
        offsets, targets = table.offsets, table.targets
        mask[np.concatenate([targets[offsets[token] : offsets[token + 1]] for token in set(source_ids)])] = True
        # The first is the language's own token, and no language follows from a source.
        mask[[*source_ids[1:], *also]] = True
        return mask


def _language_ids(arrays: Arrays, vocab_size: int) -> Iterator[int]:
    """Yield the languages of the arrays, after a look at all names."""
    named = {name.partition(".")[0] for name in arrays}
    expected = {f"{language}.{part}" for language in named for part in _PARTS}
    problems = [f"missing {name}" for name in sorted(expected - arrays.keys())]
    problems += [f"unknown {name}" for name in sorted(arrays.keys() - expected)]
    problems += [
        f"{language} is no token id below {vocab_size}"
        for language in sorted(named)
        if language not in map(str, range(vocab_size))
    ]
    if problems or not named:
        raise CheckpointError("the short-list does not fit: " + ("; ".join(problems) or "it has no language"))
    yield from sorted(map(int, named))


def _table(arrays: Arrays, language_id: int, vocab_size: int, eos_id: int) -> _Table:
    """Return the table of one language, after a look at its values."""
    offsets, targets, frequent = (arrays[f"{language_id}.{part}"] for part in _PARTS)
    for part, array in zip(_PARTS, (offsets, targets, frequent), strict=True):
        if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
            raise CheckpointError(f"the short-list's {language_id}.{part} must be a row of integers")
    bounds = offsets.astype(np.int64)
    if len(bounds) != vocab_size + 1 or bounds[0] != 0 or bounds[-1] != len(targets) or (np.diff(bounds) < 0).any():
        raise CheckpointError(
            f"the short-list's {language_id}.offsets must be {vocab_size + 1} rising numbers from 0 to {len(targets)}"
        )
    for part, array in (("targets", targets), ("frequent", frequent)):
        if ((array < 0) | (array >= vocab_size)).any():
            raise CheckpointError(f"the short-list's {language_id}.{part} must be token ids below {vocab_size}")
    if eos_id not in frequent:
        raise CheckpointError(f"the short-list's {language_id}.frequent must have the end token {eos_id}")
    always = np.zeros(vocab_size, dtype=np.bool_)
    always[frequent] = True
    return _Table(bounds.tolist(), targets, always)
