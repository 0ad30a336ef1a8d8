"""Which characters of a text stand behind its normalised form and behind each piece of it; it encodes nothing."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

Span = tuple[int, int]
"""Beginning and end in characters."""
_SPACE = "\u2581"
"""How sentencepiece writes a space at the beginning of a piece."""


def origins(text: str, normalize: Callable[[str], str]) -> tuple[str, list[Span]]:
    """Return the normalised text, and for each of its characters the span of ``text`` that it came from.

    ``normalize`` is Unicode NFC followed by replacing single characters. NFC works on stretches that begin with a
    starter which does not combine with what stands before it (Unicode Standard Annex 15): all characters of a stretch
    that NFC changes get the span of the whole stretch.
    """
    normalized = normalize(text)
    if len(normalized) == len(text) and (text.isascii() or unicodedata.is_normalized("NFC", text)):
        return normalized, [(index, index + 1) for index in range(len(text))]
    spans: list[Span] = []
    start = 0
    for end in range(1, len(text) + 1):
        if end < len(text) and not _begins_stretch(text[start:end], text[end]):
            continue
        stretch = normalize(text[start:end])
        if unicodedata.is_normalized("NFC", text[start:end]):
            spans += [(index, index + 1) for index in range(start, end)]
        else:
            spans += [(start, end)] * len(stretch)
        start = end
    assert len(spans) == len(normalized), "NFC changed a text across the stretches"
    return normalized, spans


def piece_spans(pieces: Sequence[str | int], text: str) -> list[Span]:
    """Return the span of each piece in a text, without the spaces before it.

    Args:
        pieces: characters, U+2581 for a space, or the value of a byte where a character is written as its UTF-8 bytes;
            "" for what stands for no text, which gets an empty span.
        text: what the pieces stand for, with plain spaces only; there may be more of them than the pieces have.
    """
    spans: list[Span] = []
    position = 0
    index = 0
    while index < len(pieces):
        piece = pieces[index]
        if isinstance(piece, str):
            start, position = _match(piece, text, position)
            spans.append((start, position))
            index += 1
            continue
        size = _bytes_of_next(pieces, index, text, position)
        end = min(position + (size > 0), len(text))
        spans += [(position, end)] * max(size, 1)
        position = end
        index += max(size, 1)
    return spans


def _match(piece: str, text: str, position: int) -> Span:
    """Return where a piece begins, behind its space, and where it ends."""
    start = None
    for character in piece:
        if character != " ":
            while position < len(text) and text[position] == " ":
                position += 1
        if character == _SPACE:
            continue
        start = position if start is None else start
        if position < len(text) and text[position] == character:
            position += 1
    return (position if start is None else start), position


def _bytes_of_next(pieces: Sequence[str | int], index: int, text: str, position: int) -> int:
    """Return how many byte pieces from ``index`` on are the text's next character; 0 if they are none of it."""
    if position >= len(text):
        return 0
    expected = list(text[position].encode())
    if list(pieces[index : index + len(expected)]) == expected:
        return len(expected)
    return 1 if text[position] == "\ufffd" else 0  # what a byte becomes that is no character


def _begins_stretch(before: str, character: str) -> bool:
    """Say whether NFC treats what stands before a character and what begins with it apart."""
    if unicodedata.combining(unicodedata.normalize("NFD", character)[0]):
        return False
    joined = unicodedata.normalize("NFC", before + character)
    return joined == unicodedata.normalize("NFC", before) + unicodedata.normalize("NFC", character)
