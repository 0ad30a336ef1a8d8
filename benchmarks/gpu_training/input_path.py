"""Time the way from a recipe's text to batches: filters and tokens, planning, arrays; prints a table and a JSON line.

    .venv/bin/python benchmarks/gpu_training/input_path.py recipes/gpu.toml --cache /tmp/cache --workers 0 2

Nothing is trained, and no torch is needed. Shapes and their padding are told for several numbers of shapes.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from model.text.tokenizer import Tokenizer
from model.training.batching import Batches, Position, planned_steps
from model.training.loading import array_steps, load_batches
from model.training.recipe import load_recipe
from model.training_config import AugmentationConfig, TrainingConfig


def measure_padding(config: TrainingConfig, batches: Batches, count: int) -> dict[str, Any]:
    """Return what an epoch and some of its batches are like."""
    started = time.perf_counter()
    order = batches.epoch(0)
    planning = time.perf_counter() - started
    chosen = order[:: max(1, len(order) // count)][:count]
    arrays = [batches.arrays(examples, 0) for examples in chosen]
    ids = sum(each.source_ids.size + each.targets.size for each in arrays)
    executed = sum(each.flops.executed for each in arrays)
    return {
        "shapes": config.num_shapes,
        "augmented": bool(config.augmentation.shares),
        "batches": len(order),
        "planning_seconds": planning,
        "padding": sum(each.num_padding for each in arrays) / ids,
        "flops_on_padding": 1 - sum(each.flops.useful for each in arrays) / executed,
        "target_tokens": sum(len(each.positions) for each in arrays) / len(arrays),
    }


def measure_speed(
    config: TrainingConfig, tokenizer: Tokenizer, cache: Path, batches: Batches, count: int
) -> dict[str, Any]:
    """Return the target tokens a second that the configured workers make, after the first of each is there."""
    planned = itertools.islice(planned_steps(batches, Position(), 1, 0, 1), count + config.data_workers)
    tokens, started = 0, 0.0
    for number, (arrays, _) in enumerate(array_steps(config, tokenizer, cache, batches, planned)):
        if number == config.data_workers:
            started = time.perf_counter()
        elif number > config.data_workers:
            tokens += sum(len(each.positions) for each in arrays)
    return {"workers": config.data_workers, "tokens_per_second": tokens / (time.perf_counter() - started)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--tokenizer", type=Path, help="instead of the recipe's")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--workers", type=int, nargs="+", default=[0])
    parser.add_argument("--shapes", type=int, nargs="+", default=[0, 6, 12, 24])
    parser.add_argument("--batches", type=int, default=24)
    arguments = parser.parse_args()
    config = load_recipe(arguments.recipe)
    tokenizer = Tokenizer.load(arguments.tokenizer or Path(config.tokenizer))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size))
    found: dict[str, Any] = {"processors": os.cpu_count(), "loading": [], "padding": [], "speed": []}
    for kind in ("made", "mapped"):
        started = time.perf_counter()
        first = dataclasses.replace(config, num_shapes=0)
        batches, reports = load_batches(first, tokenizer, arguments.cache, max(arguments.workers))
        found["loading"].append({"cache": kind, "seconds": time.perf_counter() - started})
        lines = sum(report.lines for report in reports)
        print(
            f"{len(batches.corpus)} of {lines} pairs, cache {kind}: {found['loading'][-1]['seconds']:.1f} s", flush=True
        )
    for shares, shapes in itertools.product((config.augmentation, AugmentationConfig()), arguments.shapes):
        variant = dataclasses.replace(config, augmentation=shares, num_shapes=shapes)
        batches, _ = load_batches(variant, tokenizer, arguments.cache)
        found["padding"].append(measure_padding(variant, batches, arguments.batches))
        print(found["padding"][-1], flush=True)
    for shares, workers in itertools.product((config.augmentation, AugmentationConfig()), arguments.workers):
        variant = dataclasses.replace(config, augmentation=shares, data_workers=workers)
        batches, _ = load_batches(variant, tokenizer, arguments.cache)
        speed = measure_speed(variant, tokenizer, arguments.cache, batches, arguments.batches)
        found["speed"].append({"augmented": bool(shares.shares), **speed})
        print(found["speed"][-1], flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
