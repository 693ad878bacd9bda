"""One network at several moments of its training, as one result.

A moment is a number of training steps and the variables after them. An analysis measures one moment; its
arrays have a first axis ``step`` of length 1, along which moments are joined.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from resjax.network import Variables
from resjax.studies.batches import Progress, part
from resjax.studies.result import Result
from resjax.studies.study import Columns
from resjax.studies.words import columns

R = TypeVar("R", bound=Result)


def join(results: Iterable[R]) -> R:
    """Joins results along the axis ``step``; everything else is taken from the first result.

    Raises:
      ValueError: no result, or results of different networks or examples.
    """
    results = list(results)
    if not results:
        raise ValueError("no moment to join")
    first = results[0]
    joined: dict[str, Any] = {}
    for name in (field.name for field in dataclasses.fields(first)):
        values = [getattr(r, name) for r in results]
        if first.axes().get(name, ("",))[0] == "step" and values[0] is not None:
            alike = len({v.shape[1:] for v in values}) == 1
            joined[name] = np.concatenate(values) if alike else None
        else:
            alike = name == "choices" or all(_equal(v, values[0]) for v in values)
        if not alike:
            raise ValueError(
                f"only moments of one network on the same examples can be joined; {name} differs"
            )
    return dataclasses.replace(first, **joined)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    return bool(a == b)


def at_moments(
    steps: Sequence[int],
    at: Callable[[int], Variables],
    measure: Callable[[int, Variables, Progress], R],
    progress: Progress | None = None,
) -> R:
    """``measure(step, variables, progress)`` of each number of training steps, joined as by ``join``.

    Args:
      at: step → variables, such as ``run.at``; one moment is in memory at a time.
    """
    parts = ((step, part(progress, i, len(steps))) for i, step in enumerate(steps))
    return join(measure(step, at(step), own) for step, own in parts)


AS_GIVEN = -1
"""The number of training steps of a network that somebody else trained: not known."""


def moment(step: int) -> str:
    """A number of training steps in words: 'at init', 'after 656 steps', 'as given'."""
    if step == AS_GIVEN:
        return "as given"
    return "at init" if step == 0 else f"after {step:,} steps"


def first_moment(results: Mapping[str, Any]) -> str:
    """The first moment of all results, or 'at their first moments' where these differ."""
    steps = {int(r.step[0]) for r in results.values()}
    return moment(steps.pop()) if len(steps) == 1 else "at their first moments"


def by_moment(
    steps: Iterable[int], heading: str, rows: Sequence[str], cells: Mapping[str, Iterable[Any]]
) -> Columns:
    """A table with a row for each moment and each of ``rows``, whose names stand below ``heading``;
    ``cells`` is {name of the column: cells of each moment}."""
    names = ("moment", heading, *cells)
    told = [
        (moment(step), *row)
        for step, *own in zip(steps, *cells.values(), strict=True)
        for row in zip(rows, *own, strict=True)
    ]
    return columns(names, told)
