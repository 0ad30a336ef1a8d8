"""Compare language detectors on short spans of dev sets; prints a table and a JSON line.

    .venv/bin/python -m pip install --target /tmp/peers py3langid lingua-language-detector
    .venv/bin/python benchmarks/language_detection.py DEV_FOLDER --peers /tmp/peers

From every line of every set NAME.fr and NAME.en in the folder, spans of 1, 2, 3 and 5 words are drawn from its middle;
the line itself is taken whole. Every detector is restricted to French and English and sees the same spans. Times are
CPU time, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from model.text.languages import LanguageDetector

LENGTHS = (1, 2, 3, 5, 0)
"""Words of a span; 0 is the whole line."""
LANGUAGES = ("en", "fr")
BINS = 15
"""Bins of the expected calibration error (Guo et al. 2017, section 2)."""

Guess = Callable[[str], tuple[str, float]]
"""A detector: text to language and confidence."""


def spans(folder: Path, seed: int) -> dict[int, list[tuple[str, str]]]:
    """Return text and language of every span, by its number of words."""
    generator = random.Random(seed)
    found: dict[int, list[tuple[str, str]]] = {length: [] for length in LENGTHS}
    for path in sorted(folder.glob("*.*")):
        language = path.suffix[1:]
        if language not in LANGUAGES:
            continue
        for line in path.read_text(encoding="utf-8").split("\n"):
            words = line.split()
            for length in LENGTHS:
                if len(words) < max(length, 1):
                    continue
                # Not the first word and not the last, where there are others: they give too much away.
                first, last = (1, len(words) - length - 1) if len(words) > length + 1 else (0, len(words) - length)
                start = generator.randint(first, max(first, last))
                text = " ".join(words[start : start + length]) if length else line
                if any(map(str.isalpha, text)):
                    found[length].append((text, language))
    return found


def detectors(peers: Path | None) -> Iterator[tuple[str, Guess]]:
    """Yield the name of each detector that is there, and the detector."""
    ours = LanguageDetector()

    def guess_ours(text: str) -> tuple[str, float]:
        best = ours.detect(text, LANGUAGES)[0]
        return best.language, best.confidence

    yield "dragoman", guess_ours
    if peers is None:
        return
    sys.path.append(str(peers))
    from lingua import Language, LanguageDetectorBuilder
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(list(LANGUAGES))

    def guess_py3langid(text: str) -> tuple[str, float]:
        language, confidence = identifier.classify(text)
        return language, float(confidence)

    yield "py3langid", guess_py3langid
    lingua = LanguageDetectorBuilder.from_languages(Language.ENGLISH, Language.FRENCH).build()

    def guess_lingua(text: str) -> tuple[str, float]:
        best = lingua.compute_language_confidence_values(text)[0]
        return best.language.iso_code_639_1.name.lower(), best.value

    yield "lingua", guess_lingua


def measure(guess: Guess, found: dict[int, list[tuple[str, str]]]) -> dict[str, float]:
    """Return the accuracy for each length in percent, the calibration error, and microseconds a text."""
    figures: dict[str, float] = {}
    bins = [[0.0, 0.0] for _ in range(BINS)]
    total, started = 0, time.process_time()
    for length, examples in found.items():
        right = 0
        for text, language in examples:
            answer, confidence = guess(text)
            correct = answer == language
            right += correct
            sums = bins[min(int(confidence * BINS), BINS - 1)]
            sums[0] += confidence
            sums[1] += correct
        total += len(examples)
        figures[f"{length} words" if length else "line"] = 100 * right / len(examples)
    figures["microseconds"] = 1e6 * (time.process_time() - started) / total
    figures["calibration error"] = sum(abs(confidence - right) for confidence, right in bins) / total
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--peers", type=Path, help="folder that the other detectors were installed into")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    found = spans(arguments.folder, arguments.seed)
    results = {name: measure(guess, found) for name, guess in detectors(arguments.peers)}
    columns = list(results["dragoman"])
    print(f"{'detector':12}" + "".join(f"{column:>19}" for column in columns))
    for name, figures in results.items():
        print(f"{name:12}" + "".join(f"{figures[column]:19.3f}" for column in columns))
    print(json.dumps({"spans": {str(length): len(examples) for length, examples in found.items()}, "results": results}))


if __name__ == "__main__":
    main()
