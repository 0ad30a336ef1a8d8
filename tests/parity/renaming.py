"""Renames another code base's tensors into ours by a table; a tensor that no line of the table names is an error."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rename:
    """One line of a table.

    Attributes:
        theirs: regular expression that matches the whole of their name.
        ours: our name, with groups as in ``re.Match.expand``; None where the network computes the tensor itself.
    """

    theirs: str
    ours: str | None


class RenamingError(Exception):
    """A table and a set of tensors do not fit; all complaints are told at once."""


def rename(tensors: Mapping[str, Tensor], table: Sequence[Rename]) -> dict[str, Tensor]:
    """Return the tensors under our names.

    Several of their names may become one of ours, as tied matrices do, if the tensors are equal. A leading dimension
    of one, which logit biases have, is taken away.

    Raises:
        RenamingError: a tensor that no line names, a line that names no tensor, or tied tensors that differ.
    """
    renamed: dict[str, Tensor] = {}
    problems: list[str] = []
    used: set[Rename] = set()
    for name, tensor in tensors.items():
        line = next((line for line in table if re.fullmatch(line.theirs, name)), None)
        if line is None:
            problems.append(f"{name} is in no line of the table")
            continue
        used.add(line)
        if line.ours is None:
            continue
        ours = re.sub(line.theirs, line.ours, name)
        tensor = tensor[0] if tensor.dim() == 2 and len(tensor) == 1 else tensor
        if ours in renamed and not torch.equal(renamed[ours], tensor):
            problems.append(f"{name} differs from another tensor that becomes {ours}")
        renamed[ours] = tensor
    problems += [f"the line {line.theirs} names no tensor" for line in table if line not in used]
    if problems:
        raise RenamingError("; ".join(problems))
    return renamed
