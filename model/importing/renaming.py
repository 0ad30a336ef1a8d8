"""Renames another code base's tensors into ours by a table; a tensor that no line of the table names is an error."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Rename:
    """One line of a table.

    Attributes:
        theirs: regular expression that matches the whole of their name.
        ours: our name, with groups as in ``re.Match.expand``; None where the network computes the tensor itself.
        is_optional: whether a checkpoint may lack it, such as one of several names of the same matrix.
    """

    theirs: str
    ours: str | None
    is_optional: bool = False


@dataclass(frozen=True)
class RenamingPlan:
    """Which of their tensors become which of ours."""

    sources: Mapping[str, tuple[str, ...]]
    """Our name of each tensor, and their names of it: several where matrices are tied, which must then be equal."""
    dropped: tuple[str, ...]
    """Their names of tensors that the network computes itself."""
    problems: tuple[str, ...]
    """Everything that does not fit, for people; nothing may be read if there is any."""


def plan_renaming(theirs: Mapping[str, Shape], ours: Mapping[str, Shape], table: Sequence[Rename]) -> RenamingPlan:
    """Decide by names and shapes alone what becomes of each tensor.

    Args:
        theirs: shape of each of their tensors, by name. A leading dimension of one, which logit biases have, does not
            count.
        ours: shape of each parameter of our network, by name.
        table: the family's.
    """
    sources: dict[str, list[str]] = {}
    dropped: list[str] = []
    problems: list[str] = []
    used: set[Rename] = set()
    for name, shape in theirs.items():
        line = next((line for line in table if re.fullmatch(line.theirs, name)), None)
        if line is None:
            problems.append(f"{name} is no tensor of the family")
            continue
        used.add(line)
        if line.ours is None:
            dropped.append(name)
            continue
        own = re.sub(line.theirs, line.ours, name)
        sources.setdefault(own, []).append(name)
        if own not in ours:
            problems.append(f"{name} becomes {own}, which the network does not have")
        elif squeezed(shape) != ours[own] and shape != ours[own]:
            problems.append(f"{name} has shape {shape}, the network wants {ours[own]} for {own}")
    problems += [f"no tensor becomes {name}" for name in ours if name not in sources]
    problems += [f"no tensor is called {line.theirs}" for line in _unused(table, used, sources, ours)]
    return RenamingPlan({own: tuple(names) for own, names in sources.items()}, tuple(dropped), tuple(problems))


def squeezed(shape: Shape) -> Shape:
    """Return a shape without a leading dimension of one before another one."""
    return shape[1:] if len(shape) == 2 and shape[0] == 1 else shape


def _unused(
    table: Sequence[Rename], used: set[Rename], sources: Mapping[str, object], ours: Mapping[str, Shape]
) -> Iterable[Rename]:
    """Yield lines that named nothing though they must: a table of another family would otherwise pass in silence."""
    complete = all(name in sources for name in ours)
    return () if not complete else (line for line in table if line not in used and not line.is_optional)
