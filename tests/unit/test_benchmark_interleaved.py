"""Turns and ratios on a clock that the contestants move."""

from __future__ import annotations

from model.evaluation.interleaved import Ratio, in_turns, percentile_ratio, timed


class Clock:
    """Stands still unless somebody works."""

    def __init__(self) -> None:
        self.now = 0.0
        self.done: list[str] = []

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, seconds: float) -> str:
        self.done.append(name)
        self.now += seconds
        return f"{name} is done"


def test_pieces_alternate_and_so_does_who_begins() -> None:
    clock = Clock()
    ours, theirs = in_turns(
        lambda piece: clock.work(f"a{piece}", 1.0 + piece),
        lambda piece: clock.work(f"b{piece}", 10.0 + piece),
        count=3,
        rounds=2,
        clock=clock,
    )
    assert clock.done == ["a0", "b0", "b1", "a1", "a2", "b2", "b0", "a0", "a1", "b1", "b2", "a2"]
    assert ours == [[1.0, 2.0, 3.0]] * 2
    assert theirs == [[10.0, 11.0, 12.0]] * 2


def test_timed_returns_what_the_work_returns() -> None:
    clock = Clock()
    assert timed(lambda: clock.work("x", 2.5), clock) == (2.5, "x is done")


def test_ratios_are_of_pairs() -> None:
    # A machine that becomes ten times slower changes both of a pair.
    assert Ratio.of([1.0, 10.0, 3.0], [2.0, 20.0, 3.0]) == Ratio(median=0.5, lowest=0.5, highest=1.0)


def test_a_ratio_of_percentiles_has_one_pair_a_round() -> None:
    ours = [[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]]
    theirs = [[4.0, 4.0, 4.0, 4.0], [4.0, 4.0, 4.0, 4.0]]
    assert percentile_ratio(ours, theirs, 50) == Ratio(median=2.75, lowest=0.5, highest=5.0)
