"""The arrays of a model's short-list from a parallel corpus, and how much of real translations it covers.

What a short-list does with them is told in ``generation/shortlist.py``; probabilities come from ``lexicon.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model.errors import CorpusError
from model.generation.shortlist import Shortlist
from model.text.tokenizer import Tokenizer
from model.training.corpus import Corpus
from model.training.lexicon import Lexicon, LongArray, estimate_lexicon, ranges, row_offsets

MIN_PROBABILITY = 1e-3
"""Translations less probable than this are left out, however few a source token has."""
_BYTE = re.compile("<0x[0-9A-F]{2}>")
"""How sentencepiece writes the tokens of single bytes."""
HELD_OUT_EVERY = 100
"""One pair of this many is kept back from the estimation, to measure coverage."""


@dataclass(frozen=True)
class Coverage:
    """How much of references a short-list covers, in one direction.

    Attributes:
        source: language code.
        target: language code.
        num_sentences: references looked at.
        tokens: share of their tokens that are in the short-lists of their sources.
        sentences: share of the references whose tokens all are.
        mean_size: tokens in a short-list.
    """

    source: str
    target: str
    num_sentences: int
    tokens: float
    sentences: float
    mean_size: float


def split_held_out(corpus: Corpus) -> tuple[LongArray, LongArray]:
    """Return the numbers of the pairs to estimate from, and of those to measure coverage on.

    Raises:
        CorpusError: there are fewer than two pairs.
    """
    if len(corpus) < 2:
        raise CorpusError(f"a short-list needs at least 2 sentence pairs, got {len(corpus)}")
    held_out = np.arange(min(HELD_OUT_EVERY, len(corpus)) - 1, len(corpus), HELD_OUT_EVERY)
    return np.setdiff1d(np.arange(len(corpus)), held_out), held_out


def estimate_shortlist(
    corpus: Corpus,
    sentence_pairs: LongArray,
    languages: tuple[str, str],
    tokenizer: Tokenizer,
    *,
    best: int = 100,
    frequent: int = 1000,
) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a short-list for both directions.

    Args:
        corpus: tokenised pairs.
        sentence_pairs: numbers of those to estimate from.
        languages: codes of the corpus' two languages.
        tokenizer: the one that the pairs were tokenised with.
        best: most probable translations of each source token.
        frequent: tokens of each target language that are in every short-list, beside bytes and the end token.

    Raises:
        UnsupportedLanguageError: the tokeniser has no token for a language.
    """
    language_ids = [tokenizer.language_id(code) for code in languages]
    arrays: dict[str, npt.NDArray[Any]] = {}
    for source, language_id in ((0, language_ids[1]), (1, language_ids[0])):
        lexicon = estimate_lexicon(corpus, sentence_pairs, source, tokenizer.vocab_size)
        counts = token_counts(corpus, sentence_pairs, 1 - source, tokenizer.vocab_size)
        arrays |= direction_arrays(language_id, lexicon, always_listed(counts, tokenizer, frequent), best)
    return arrays


def token_counts(corpus: Corpus, sentence_pairs: LongArray, language: int, vocab_size: int) -> LongArray:
    """Return (V,) how often each token occurs in one language of some pairs."""
    starts = corpus.offsets[language][sentence_pairs]
    positions = ranges(starts, corpus.lengths(language)[sentence_pairs])
    return np.bincount(corpus.ids[language][positions], minlength=vocab_size)


def always_listed(counts: LongArray, tokenizer: Tokenizer, frequent: int) -> LongArray:
    """Return the tokens of every short-list of a target language, rising.

    They are the most frequent ones, of equally frequent ones the smaller, the end token, and all bytes that occur: with
    some bytes of a character and without the others, a search could only write something that is no character.

    Args:
        counts: (V,) how often each token occurs in the language.
        tokenizer: knows the bytes and the end token.
        frequent: how many frequent tokens.
    """
    order = np.argsort(-counts, kind="stable")[:frequent]
    is_byte = [_BYTE.fullmatch(piece) is not None for piece in tokenizer.pieces(range(tokenizer.vocab_size))]
    bytes_that_occur = np.flatnonzero(np.array(is_byte) & (counts > 0))
    return np.unique(np.concatenate([order[counts[order] > 0], bytes_that_occur, [tokenizer.eos_id]]))


def direction_arrays(language_id: int, lexicon: Lexicon, always: LongArray, best: int) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of one direction; translations that are in every short-list anyway are not stored again.

    Args:
        language_id: the target language's token.
        lexicon: from the source to the target language.
        always: tokens of every short-list, rising.
        best: most probable translations of each source token.
    """
    vocab_size = len(lexicon.offsets) - 1
    id_type = np.uint16 if vocab_size <= 2**16 else np.int32
    offsets, target_ids = lexicon.best(best, MIN_PROBABILITY)
    source_ids = np.repeat(np.arange(vocab_size), np.diff(offsets))
    stored = ~np.isin(target_ids, always)
    return {
        f"{language_id}.offsets": row_offsets(source_ids[stored], vocab_size).astype(np.int32),
        f"{language_id}.targets": target_ids[stored].astype(id_type),
        f"{language_id}.frequent": always.astype(id_type),
    }


def measure_coverage(
    shortlist: Shortlist, corpus: Corpus, sentence_pairs: LongArray, languages: tuple[str, str], tokenizer: Tokenizer
) -> Iterator[Coverage]:
    """Yield how much of the references among some pairs the short-lists cover, for both directions."""
    for source in (0, 1):
        language_id = tokenizer.language_id(languages[1 - source])
        covered: list[npt.NDArray[np.bool_]] = []
        sizes: list[int] = []
        for pair in sentence_pairs:
            source_ids = [language_id, *corpus.side(source, pair).tolist(), tokenizer.eos_id]
            candidates = shortlist.candidates(source_ids)
            covered.append(np.isin(corpus.side(1 - source, pair), candidates))
            sizes.append(len(candidates))
        yield Coverage(
            languages[source],
            languages[1 - source],
            len(sentence_pairs),
            float(np.concatenate(covered).mean()),
            float(np.mean([each.all() for each in covered])),
            float(np.mean(sizes)),
        )
