"""How long a cut network takes: its forward pass and its training step, beside those of the intact one.

*Question.* Multiply-adds fall with every unit that is cut. Does the time fall as well?

*Protocol.* ``latency`` measures compiled programs in turns, in one process: a turn is as many calls as fill a
given time, one after the other, and counts as their mean. Programs take their turns in one order, then in the
reversed one, so that slow changes of the machine meet all of them alike. The first call of each, and its
compilation, are not counted. Of many turns the median is told, with a bootstrap interval (``intervals``). The
ratio of two programs is that of the turns of one round, so what slows a whole round does not show.

*Straight line.* ``Line`` fits the medians by least squares. If all units cost the same and nothing else
changed, they would lie on a straight line in the number of units that are gone. Where they do not, the
multiply-adds decide between two reasons: units of different cost (then time is a straight line in
multiply-adds), or times that operations do not determine, such as those of starting programs and of moving
data. Where the medians themselves are known less well than they lie apart from the line, nothing is decided.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.studies.batches import Progress, reported
from resjax.studies.intervals import bootstrap
from resjax.training.step import Task, TrainState, train_step

Program = Callable[[], Any]
STRAIGHT = 0.05


def forward_pass(network: Network, variables: Variables, images: Any) -> Program:
    """The compiled forward pass of one batch, all on the device."""
    return compiled(lambda v, x: network.apply(v, x).logits, variables, images)


def training_step(task: Task, state: TrainState, batch: Mapping[str, Any]) -> Program:
    """The compiled training step; each call starts from ``state``. ``batch`` as in ``train_step``."""
    return compiled(functools.partial(train_step, task=task), state, dict(batch))


def compiled(function: Callable[..., Any], *arguments: Any) -> Program:
    """The compiled ``function``, to be called with these arguments, which are on the device."""
    placed = jax.device_put(jax.device_get(arguments))
    program = jax.jit(function).lower(*placed).compile()
    return lambda: jax.block_until_ready(program(*placed))


def latency(
    programs: Mapping[str, Program],
    *,
    rounds: int = 20,
    seconds: float = 0.05,
    budget: float = math.inf,
    clock: Callable[[], float] = time.perf_counter,
    progress: Progress | None = None,
) -> dict[str, np.ndarray]:
    """Seconds of a call of each program, float64 [rounds]: the mean over the calls of each turn.

    Args:
      programs: by name; each call waits for its result.
      rounds: turns of each program, 2 or more.
      seconds: the least time of a turn, by a first call.
      budget: seconds for all rounds, by first calls; it may lessen the rounds, to 2 at least.
      clock: in seconds.
      progress: counts rounds.

    Raises:
      ValueError: fewer than two rounds.
    """
    if rounds < 2:
        raise ValueError(f"rounds={rounds}; allowed: 2 or more, since an interval needs two turns")

    def turn(program: Program, calls: int) -> float:
        start = clock()
        for _ in range(calls):
            program()
        return (clock() - start) / calls

    calls, one_round = {}, 0.0
    for name, program in programs.items():
        program()  # the first call may be slower
        each = max(turn(program, 1), 1e-9)
        calls[name] = max(1, math.ceil(seconds / each))
        one_round += calls[name] * each
    if budget < rounds * one_round:
        rounds = max(2, int(budget / one_round))
    found: dict[str, list[float]] = {name: [] for name in programs}
    for i in reported(range(rounds), progress):
        for name in list(programs)[:: -1 if i % 2 else 1]:
            found[name].append(turn(programs[name], calls[name]))
    return {name: np.array(own) for name, own in found.items()}


def median(values: ArrayLike) -> tuple[float, float, float]:
    """The median over turns, and the ends of its interval."""
    values = np.asarray(values, float)
    low, high = bootstrap(values, np.median)
    return float(np.median(values)), float(low), float(high)


@dataclasses.dataclass(frozen=True)
class Line:
    """A straight line through k medians, and how far they are from it."""

    at_zero: float  # seconds
    slope: float  # seconds for each step of x
    apart: float  # the largest distance of a median from the line, as a share of the largest median
    known: float  # the largest half width of the medians' intervals, as such a share

    @property
    def straight(self) -> bool:
        return self.apart <= STRAIGHT

    @property
    def undecided(self) -> bool:
        return STRAIGHT < self.apart <= self.known

    @classmethod
    def through(cls, x: ArrayLike, seconds: ArrayLike) -> Line:
        """The line of least squares through the medians of ``seconds`` [k, rounds] at ``x`` [k], k ≥ 3.

        Raises:
          ValueError: fewer than three points, which are always near a line.
        """
        x, seconds = np.asarray(x, float), np.asarray(seconds, float)
        medians, (low, high) = np.median(seconds, 1), bootstrap(seconds, np.median)
        if len(x) < 3:
            raise ValueError(f"{len(x)} points; a line that could be missed needs 3 or more")
        slope, at_zero = np.polyfit(x, medians, 1)
        apart = float(np.abs(at_zero + slope * x - medians).max() / medians.max())
        known = float(((high - low) / 2).max() / medians.max())
        return cls(float(at_zero), float(slope), apart, known)


def line_told(gone: ArrayLike, multiply_adds: ArrayLike, seconds: ArrayLike) -> str:
    """Whether time against units that are gone is a straight line, or why not.

    Args:
      gone: int [k], units that are gone, k ≥ 3, the first 0.
      multiply_adds: int [k], of the networks.
      seconds: float [k, rounds].
    """
    units, products = Line.through(gone, seconds), Line.through(multiply_adds, seconds)
    farthest = f"the farthest median is {100 * units.apart:.1f} % of the largest one away"
    if units.straight:
        share = -units.slope / units.at_zero
        fewer = (multiply_adds := np.asarray(multiply_adds, float))[0] - multiply_adds[-1]
        each = fewer / multiply_adds[0] / np.asarray(gone)[-1]
        return (
            f"time against units is a straight line ({farthest}): each unit saves {100 * share:.2f} % of the "
            f"intact time, and {100 * each:.2f} % of its multiply-adds"
        )
    if units.undecided:
        return (
            f"whether time against units is a straight line can't be told: {farthest}, and the medians are "
            f"known to ±{100 * units.known:.1f} %; measure more rounds, on a machine without other work"
        )
    if products.straight:
        return (
            f"time against units is no straight line ({farthest}), because the units differ in cost: against "
            f"multiply-adds it is one ({100 * products.apart:.1f} %)"
        )
    return (
        f"time against units is no straight line ({farthest}), nor is it against multiply-adds "
        f"({100 * products.apart:.1f} %): something other than these operations takes time, such as the "
        "start of each layer and the transport of its data"
    )
