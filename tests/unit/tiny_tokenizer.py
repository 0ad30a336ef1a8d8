"""A small tokeniser for tests, trained in a second on sentences that this file makes up."""

from __future__ import annotations

import functools
import itertools
import random
import tempfile
from pathlib import Path

from model.text.tokenizer import Tokenizer, train_tokenizer

VOCAB_SIZE = 700

_SUBJECTS = {
    "fr": [
        "Le voisin",
        "Ma sœur",
        "Une vieille dame",
        "Notre équipe",
        "L'élève",
        "Ce garçon",
        "La boulangère",
        "Personne",
    ],
    "en": ["The neighbour", "My sister", "An old lady", "Our team", "The pupil", "That boy", "The baker", "Nobody"],
}
_VERBS = {
    "fr": ["regarde", "n'a jamais vu", "cherche encore", "voulait vendre", "préfère", "avait oublié", "dessine"],
    "en": ["looks at", "has never seen", "is still looking for", "wanted to sell", "prefers", "had forgotten", "draws"],
}
_OBJECTS = {
    "fr": ["le château", "deux pommes vertes", "la gare du Nord", "son chapeau", "une île déserte", "l'été", "ça"],
    "en": ["the castle", "two green apples", "the railway station", "his hat", "a desert island", "summer", "it"],
}
_ENDS = {
    "fr": [".", " hier soir.", " à 7 h 30 ?", " !", ", bien sûr.", " depuis 1998.", " avec « plaisir »."],
    "en": [".", " last night.", " at 7:30?", "!", ", of course.", " since 1998.", ' with "pleasure".'],
}


_SYLLABLES = (
    "ba",
    "con",
    "dé",
    "fri",
    "gla",
    "hou",
    "ja",
    "ker",
    "lu",
    "mi",
    "nou",
    "pré",
    "qui",
    "ra",
    "ston",
    "té",
    "ville",
    "xo",
    "zen",
    "tion",
    "ment",
    "ing",
    "ough",
    "eau",
)


def sentences() -> list[str]:
    """Return all sentences that the lists above make, and as many of made-up words for a varied vocabulary."""
    parts = [_SUBJECTS, _VERBS, _OBJECTS, _ENDS]
    real = [
        f"{subject} {verb} {thing}{end}"
        for language in ("fr", "en")
        for subject, verb, thing, end in itertools.product(*(part[language] for part in parts))
    ]
    draw = random.Random(5)
    words = ["".join(draw.choices(_SYLLABLES, k=draw.randint(1, 4))) for _ in range(3000)]
    return real + [" ".join(draw.choices(words, k=8)) + "." for _ in real]


@functools.cache
def tiny_tokenizer() -> Tokenizer:
    """Return the tokeniser, the same object for a whole test session."""
    with tempfile.TemporaryDirectory() as folder:
        return train_tokenizer(sentences(), Path(folder) / "tokenizer.model", vocab_size=VOCAB_SIZE, num_threads=1)
