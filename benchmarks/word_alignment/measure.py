"""Alignment error rate of the embedded model's word alignments on pairs that were aligned by hand; it trains nothing.

Run it from the repository's root: ``python -m benchmarks.word_alignment.measure``. In ``pairs.txt`` words of a French
sentence and its English translation that stand for each other have a number in common.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from model.checkpoints.checkpoint import load_checkpoint, load_weights
from model.generation.forced import force_decode
from model.text.alignment import WordAlignment, align_words, find_words, piece_attention
from model.text.tokenizing import TextTokenizer
from model.transformer import Transformer
from model.translator import DEFAULT_MODEL, PRETRAINED

PAIRS = Path(__file__).with_name("pairs.txt")
_MARK = re.compile(r"\[([\d,]+)\]")


@dataclass(frozen=True)
class AlignedPair:
    """A sentence in French and in English, and the links between their words."""

    french: str
    english: str
    links: frozenset[tuple[int, int]]
    """Pairs (index of a French word, index of an English word)."""


def read_pairs(text: str) -> list[AlignedPair]:
    """Return the pairs of a file: two lines each, a blank line between them."""
    pairs = []
    for block in text.strip().split("\n\n"):
        (french, left), (english, right) = map(_read_line, block.split("\n"))
        links = {(i, j) for i, own in enumerate(left) for j, other in enumerate(right) if own & other}
        pairs.append(AlignedPair(french, english, frozenset(links)))
    return pairs


def align_pairs(
    network: Transformer, tokenizer: TextTokenizer, pairs: Sequence[tuple[str, str]], target: str, both: bool
) -> list[WordAlignment]:
    """Align sources with targets in the language ``target``; with ``both``, also as translated back."""
    [back] = [code for code in tokenizer.languages if code != target]
    forward = [_inputs(tokenizer, source, translation, target) for source, translation in pairs]
    backward = [_inputs(tokenizer, translation, source, back) for source, translation in pairs] if both else []
    weights = []
    for (_, target_ids), decoded in zip(forward + backward, force_decode(network, forward + backward), strict=True):
        assert decoded.cross_attention is not None, "was asked for"
        weights.append(piece_attention(decoded.cross_attention, len(target_ids)))
    alignments = []
    for index, (source, translation) in enumerate(pairs):
        alignments.append(
            align_words(
                source,
                translation,
                tokenizer.encode_with_spans(source)[1],
                tokenizer.encode_with_spans(translation)[1],
                weights[index][:, 1:-1],  # without the language and end tokens
                weights[len(pairs) + index][:, 1:-1] if both else None,
            )
        )
    return alignments


def error_rate(found: Sequence[frozenset[tuple[int, int]]], expected: Sequence[frozenset[tuple[int, int]]]) -> float:
    """Return the alignment error rate (Och and Ney 2003, section 2.3), all expected links being sure ones."""
    shared = sum(len(own & gold) for own, gold in zip(found, expected, strict=True))
    return 1 - 2 * shared / (sum(map(len, found)) + sum(map(len, expected)))


def measure(
    network: Transformer, tokenizer: TextTokenizer, pairs: Sequence[AlignedPair], both: bool
) -> dict[str, float]:
    """Return the error rate of each direction."""
    rates = {}
    for source, target in (("fr", "en"), ("en", "fr")):
        texts = [(p.french, p.english) if source == "fr" else (p.english, p.french) for p in pairs]
        found = [each.links for each in align_pairs(network, tokenizer, texts, target, both)]
        same_way = [frozenset(links if source == "fr" else ((j, i) for i, j in links)) for links in found]
        rates[f"{source}-{target}"] = error_rate(same_way, [pair.links for pair in pairs])
    return rates


def load() -> tuple[Transformer, TextTokenizer]:
    """Return the embedded model's network and tokeniser."""
    checkpoint = load_checkpoint(PRETRAINED / DEFAULT_MODEL)
    network = Transformer(checkpoint.config)
    load_weights(network, checkpoint.weights)
    return network.eval(), checkpoint.tokenizer


def _inputs(tokenizer: TextTokenizer, source: str, target: str, language: str) -> tuple[list[int], list[int]]:
    return tokenizer.encode_source(source, language), tokenizer.encode_target(target)


def _read_line(line: str) -> tuple[str, list[frozenset[str]]]:
    """Return a sentence without its numbers, and each word's numbers."""
    text, position = "", 0
    numbers: dict[int, frozenset[str]] = {}
    for match in _MARK.finditer(line):
        text += line[position : match.start()]
        numbers[len(text)] = frozenset(match[1].split(","))
        position = match.end()
    text += line[position:]
    words = find_words(text)
    left_over = numbers.keys() - {end for _, end in words}
    if left_over:
        raise ValueError(f"numbers must stand behind words, got {line!r}")
    return text, [numbers.get(end, frozenset()) for _, end in words]


def main() -> None:
    """Print the error rates and the time of both ways."""
    torch.set_num_threads(1)
    network, tokenizer = load()
    pairs = read_pairs(PAIRS.read_text(encoding="utf-8"))
    for both in (False, True):
        started = time.perf_counter()
        rates = measure(network, tokenizer, pairs, both)
        milliseconds = (time.perf_counter() - started) * 1000 / (2 * len(pairs))
        shown = ", ".join(f"{direction} {rate:.3f}" for direction, rate in rates.items())
        print(f"{'both directions' if both else 'one direction'}: AER {shown}; {milliseconds:.1f} ms a sentence")


if __name__ == "__main__":
    main()
