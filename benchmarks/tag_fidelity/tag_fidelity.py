"""Measure how well inline tags follow their words through a translation; prints a table and a JSON line.

    .venv/bin/python benchmarks/tag_fidelity/tag_fidelity.py
    .venv/bin/python benchmarks/tag_fidelity/tag_fidelity.py --reference alignment

cases.tsv holds sentence pairs of our own with the same tags in English and French, placed by hand; each is used in both
directions. Without ``--reference``, the Translator translates the document (format html). With it, nothing is
translated: the target text is the case's own, and the tags are placed by the embedded model's alignment of the two
sentences, or by relative position alone, which is the floor that an alignment has to beat.

- once: tags of the source that are in the output exactly as often
- well-formed: outputs that lxml parses
- exact: elements around just the words that the case has in them, case, articles and punctuation apart
- words: F1 of the words in elements

Of elements, only those count whose words occur in the output: other words say nothing about the place of a tag.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lxml import etree

from model.text.markup import TargetSegment, parse_markup

CASES = Path(__file__).with_name("cases.tsv")
ARTICLES = frozenset(["the", "a", "an", "le", "la", "les", "l", "un", "une", "des", "du", "de", "d", "en", "to"])

Translate = Callable[[list[str], str, str], list[str]]
"""(documents, source language, target language) to documents."""


@dataclass
class Score:
    """Counts of one direction."""

    documents: int = 0
    once: int = 0
    well_formed: int = 0
    elements: int = 0
    comparable: int = 0
    exact: int = 0
    true_words: int = 0
    output_words: int = 0
    case_words: int = 0

    def row(self) -> dict[str, float]:
        """Return shares; those of positions are of the elements whose words are in the output."""
        words = self.output_words + self.case_words
        return {
            "documents": self.documents,
            "once": self.once / max(1, self.documents),
            "well_formed": self.well_formed / max(1, self.documents),
            "elements": self.elements,
            "comparable": self.comparable,
            "exact": self.exact / max(1, self.comparable),
            "words": 2 * self.true_words / max(1, words),
        }


def read_cases(path: Path) -> list[dict[str, str]]:
    """Return the pairs, by language."""
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    return [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]


def words(text: str) -> list[str]:
    """Return the words that count."""
    found = re.findall(r"\w+", text.lower())
    return [word for word in found if word not in ARTICLES] or found


def elements(document: str) -> list[tuple[str, list[str]]]:
    """Return the opening tag and the words of every element, in order of the tags; nothing if it is not well-formed."""
    try:
        root = etree.fromstring(f"<root>{document}</root>")
    except etree.XMLSyntaxError:
        return []
    found = []
    for element in root.iterdescendants():
        tag = f"{element.tag}{dict(element.attrib)}"
        found.append((tag, words("".join(element.itertext()))))
    return sorted(found)


def tags(document: str) -> Counter[str]:
    """Return all tags."""
    return Counter(re.findall(r"<[^>]+>", document))


def score(source: str, output: str, case: str, result: Score) -> None:
    """Add one output."""
    result.documents += 1
    result.once += tags(source) == tags(output)
    ours, theirs = elements(output), elements(case)
    result.well_formed += bool(ours)
    present = Counter(words(re.sub(r"<[^>]+>", "", output)))
    for (tag, found), (expected_tag, expected) in zip(ours, theirs, strict=len(ours) == len(theirs)):
        result.elements += 1
        # A translation in other words says nothing about the place of the tag.
        if tag != expected_tag or Counter(expected) - present:
            continue
        result.comparable += 1
        result.exact += found == expected
        result.true_words += (Counter(found) & Counter(expected)).total()
        result.output_words += len(found)
        result.case_words += len(expected)


def on_cases(sources: list[str], cases: list[str], target: str, *, align: bool) -> list[str]:
    """Return the sources' tags in the cases' text."""
    documents = [parse_markup(source, "html") for source in sources]
    pairs = [
        (document.units[0].text, parse_markup(case, "html").units[0].text)
        for document, case in zip(documents, cases, strict=True)
    ]
    links: list[tuple[tuple[int, int, int, int], ...]] = [()] * len(pairs)
    if align:
        from benchmarks.word_alignment.measure import align_pairs, load

        links = [
            tuple((*found.source_words[i], *found.target_words[j]) for i, j in found.links)
            for found in align_pairs(*load(), pairs, target, both=True)
        ]
    return [
        document.render([[TargetSegment(0, len(source), translation, (), own)]])
        for document, (source, translation), own in zip(documents, pairs, links, strict=True)
    ]


def by_model(checkpoint: Path | None) -> Translate:
    """Return a function that translates HTML with a model."""
    from model import TextOptions, Translator

    translator = Translator.load(checkpoint) if checkpoint else Translator.load()

    def translate(documents: list[str], source: str, target: str) -> list[str]:
        results = translator.translate(documents, source=source, target=target, options=TextOptions(format="html"))
        return [result.text for result in results]

    return translate


def main() -> None:
    """Measure both directions."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--checkpoint", type=Path, help="a model's folder; the embedded one without it")
    parser.add_argument("--reference", choices=("alignment", "positions"), help="place tags in the cases' own text")
    parser.add_argument("--show", action="store_true", help="print every output that differs from its case")
    arguments = parser.parse_args()
    cases = read_cases(CASES)
    translate = None if arguments.reference else by_model(arguments.checkpoint)
    rows = {}
    for source, target in (("en", "fr"), ("fr", "en")):
        sources, expected = [case[source] for case in cases], [case[target] for case in cases]
        if translate is not None:
            outputs = translate(sources, source, target)
        else:
            outputs = on_cases(sources, expected, target, align=arguments.reference == "alignment")
        result = Score()
        for document, output, case in zip(sources, outputs, expected, strict=True):
            score(document, output, case, result)
            if arguments.show and output != case:
                print(f"  {document}\n  {output}\n  {case}\n")
        rows[f"{source}-{target}"] = result.row()
    columns = list(rows["en-fr"])
    print("direction  " + "  ".join(f"{column:>11}" for column in columns))
    for name, row in rows.items():
        print(f"{name:<9}  " + "  ".join(f"{row[c]:>11.3f}" if row[c] <= 1 else f"{row[c]:>11}" for c in columns))
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
