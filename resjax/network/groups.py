"""The parts that stacks share, their rows, and what makes them consistent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from resjax.network.unit import Stack, UnitInfo


def sizes(stacks: Sequence[Stack]) -> dict[str, int]:
    """{part: number of units whose variables it holds}, in the order in which parts first run."""
    found: dict[str, int] = {}
    for stack in stacks:
        found[stack.part] = found.get(stack.part, 0) + stack.n
    return found


def classes(units: Sequence[UnitInfo]) -> list[np.ndarray]:
    """The indices of the units of each part, which can take each other's place."""
    found: dict[str, list[int]] = {}
    for unit in units:
        found.setdefault(unit.part, []).append(unit.index)
    return [np.array(own) for own in found.values()]


def of_rows(units: Sequence[UnitInfo]) -> dict[str, np.ndarray]:
    """{part: the index of the unit of each of its rows}."""
    found: dict[str, list[int]] = {}
    for unit in sorted(units, key=lambda unit: unit.row):
        found.setdefault(unit.part, []).append(unit.index)
    return {part: np.array(own) for part, own in found.items()}


def check(stacks: Sequence[Stack]) -> None:
    """Refuses groups whose names, modules or rows contradict each other, with a ``ValueError``."""
    alone = {"stem", "head", *(stack.name for stack in stacks if not stack.group)}
    for stack in stacks:
        if not stack.group and stack.start:
            raise ValueError(
                f"stack {stack.name!r} has start={stack.start} but no group; allowed: 0, or give the group"
            )
        if stack.group in alone:
            raise ValueError(f"the group {stack.group!r} has the name of another part; rename it")
    for group, n in sizes(stacks).items():
        own = [stack for stack in stacks if stack.group == group]
        if any(stack.unit != own[0].unit for stack in own):
            raise ValueError(
                f"the stacks of group {group!r} have different units; allowed: equal modules. Give the "
                "others another group"
            )
        rows = sorted(stack.start + i for stack in own for i in range(stack.n))
        if own and rows != list(range(n)):
            raise ValueError(
                f"the stacks of group {group!r} have the rows {rows}; allowed: 0 to {n - 1}, each once"
            )
