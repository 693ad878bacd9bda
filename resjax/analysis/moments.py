"""One network at several moments of its training, as one result.

A moment is a number of steps and the variables that the network had then. An analysis measures one moment;
its arrays have a first axis ``step`` of length 1, along which moments are joined.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import numpy as np

from resjax.analysis.batches import Progress
from resjax.analysis.result import Result
from resjax.network import Variables

R = TypeVar("R", bound=Result)


def join(results: Iterable[R]) -> R:
    """Joins results along the axis ``step``; everything else is taken from the first.

    Raises:
      ValueError: no result, or results of different networks or examples.
    """
    results = list(results)
    if not results:
        raise ValueError("no moment to join")
    first = results[0]
    joined = {}
    for name, axes in first.AXES.items():
        if axes[0] != "step" or getattr(first, name) is None:
            continue
        values = [getattr(r, name) for r in results]
        if len({v.shape[1:] for v in values}) > 1:
            raise ValueError(
                f"only moments of one network on the same examples can be joined; {name} has the shapes "
                f"{[v.shape for v in values]}"
            )
        joined[name] = np.concatenate(values)
    return dataclasses.replace(first, **joined)  # type: ignore[type-var]


def at_moments(
    moments: Mapping[int, Variables],
    measure: Callable[[int, Variables, Progress], R],
    progress: Progress | None = None,
) -> R:
    """``measure(step, variables, progress)`` at each moment, joined.

    Args:
      moments: {training steps done: variables}.
      measure: gives a result of one moment.
      progress: called as ``progress(parts done, parts in all)`` over all moments.

    Raises:
      ValueError: as ``join``.
    """
    results = []
    for i, (step, variables) in enumerate(moments.items()):

        def tell(done: int, of: int, i: int = i) -> None:
            if progress:
                progress(i * of + done, len(moments) * of)

        results.append(measure(step, variables, tell))
    return join(results)
