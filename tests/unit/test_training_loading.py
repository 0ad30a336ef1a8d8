"""Batches made ahead and elsewhere: the same ones in the same order, whoever makes them, and errors that arrive."""

from __future__ import annotations

import dataclasses
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.training.batching import BatchArrays, Position, planned_steps
from model.training.loading import array_steps, load_batches
from model.training.prefetch import Ahead
from model.training.workers import mapped
from model.training_config import AugmentationConfig, TrainingConfig
from tests.unit.halving import Halved
from tests.unit.tiny_training import (
    all_equal,
    log_of,
    one_cpu_thread,
    recipe,
    run,
    tokenizer,
    weights_of,
)

ROOT = Path(__file__).parents[2]


def arrays_of(config: TrainingConfig, cache: Path, count: int) -> list[tuple[list[BatchArrays], Position]]:
    batches, _ = load_batches(config, tokenizer(), cache, config.data_workers)
    planned = itertools.islice(planned_steps(batches, Position(0, 1), 2, 0, 1), count)
    return list(array_steps(config, tokenizer(), cache, batches, planned))


def same(left: BatchArrays, right: BatchArrays) -> bool:
    pairs: Iterator[tuple[Any, Any]] = zip(left, right, strict=True)
    return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in pairs)


# Worker processes


def test_workers_make_the_same_arrays(tmp_path: Path) -> None:
    augmentation = AugmentationConfig(upper_case=0.2, typos=0.2, joined=0.2, terms=0.3, placeholders=0.3)
    config = recipe(tmp_path, augmentation=augmentation, batch_tokens=512)
    alone = arrays_of(config, tmp_path / "alone", 40)
    shared = arrays_of(dataclasses.replace(config, data_workers=2), tmp_path / "shared", 40)
    assert [position for _, position in alone] == [position for _, position in shared]
    assert len({position.epoch for _, position in alone}) > 1
    for (left, _), (right, _) in zip(alone, shared, strict=True):
        assert all(same(a, b) for a, b in zip(left, right, strict=True))


def test_a_run_with_workers_equals_one_without(tmp_path: Path) -> None:
    with one_cpu_thread():
        plain = recipe(tmp_path / "plain")
        shared = recipe(tmp_path / "shared", data_workers=1)
        assert all_equal(weights_of(run(plain)), weights_of(run(shared)))
    assert log_of(plain) == log_of(shared)


def test_mapped_is_in_order_and_reads_ahead_by_a_bounded_number() -> None:
    read: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(0, 200, 2):
            read.append(number)
            yield number

    results = mapped(Halved, ("x",), numbers(), 2)
    first, (name, half, process) = next(results)
    assert (first, name, half) == (0, "x", 0)
    assert process != os.getpid()
    assert len(read) == 5
    assert [half for _, (_, half, _) in results] == list(range(1, 100))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_of_the_function_arrives(num_workers: int) -> None:
    results = mapped(Halved, ("x",), [2, 3, 4], num_workers)
    assert next(results)[0] == 2
    with pytest.raises(ValueError, match="3 is odd"):
        next(results)


def test_workers_import_no_torch() -> None:
    code = "import sys, model.training.loading; print([m for m in ('torch', 'numba') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# Ahead


def test_ahead_keeps_order_and_runs_in_a_thread_of_its_own() -> None:
    threads = set()

    def items() -> Iterator[int]:
        for number in range(50):
            threads.add(threading.current_thread().name)
            yield number

    ahead = Ahead(items(), 3)
    assert list(ahead) == list(range(50))
    ahead.close()
    assert threads == {"dragoman-prefetch"}


def test_an_error_of_the_items_arrives_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    ahead = Ahead(items(), 3)
    reader = iter(ahead)
    assert next(reader) == 1
    with pytest.raises(ValueError, match="broken"):
        next(reader)
    ahead.close()


def test_close_ends_an_endless_iterator() -> None:
    ended = threading.Event()

    def items() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            ended.set()

    ahead = Ahead(items(), 2)
    assert next(iter(ahead)) == 0
    ahead.close()
    assert ended.is_set()
