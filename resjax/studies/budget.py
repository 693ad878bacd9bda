"""How many examples and draws each study gets, so that all of them fit into some minutes.

*Choices.* ``RANGES`` names the options that a budget chooses, each from a floor up to the value that was
given (by default that of a full analysis). An option that was given on the command line is not chosen but
kept. Values lie on a ladder of powers of two, and the full value is the last rung. So whole batches stay
whole, and a machine that is a little slower or faster makes the same choice for nearly all studies. Training
on, in the study ``cut``, is done as long as was given, or not at all.

*Rule.* Every study begins with its floors. As long as time is left, the step up the ladder that gains most
for each second is taken, in any option of any study; a step that costs nothing is taken first. The first step
that does not fit ends it. What a step gains is the fall of a half-width, which is proportional to σ/√n, with
σ = 30 percentage points for an example (an error of 10 %) and 10 points for all else, about how much random
sets of units scatter. If cost is proportional to n, the sum of all half-widths Σ σᵢ/√nᵢ at a fixed time Σ
cᵢnᵢ is smallest at nᵢ ∝ (σᵢ/cᵢ)^⅔: a study that costs eight times as much for an example gets a quarter of
the examples. Training on counts as a gain of one percentage point.

*Too little time.* If the floors alone do not fit, the most expensive studies are left out until the others
do.

*More time.* The order of steps does not depend on the minutes, so no option of a study falls while the same
studies run. Beside that, a finished result that is at least as fine as what was chosen is used again
(``at_least``; ``resjax.report.plan`` looks for them), and so is one that is at least as fine as the choice
for a share ``TOLERANCE`` of the minutes: the same command chooses a little more or less whenever the machine
is a little faster or slower. So more minutes never make a study worse.

*Not chosen.* The batch size, which changes no result; the seed; numbers that the protocol of a study fixes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

from resjax.config import steps_of
from resjax.studies.options import Options

TOLERANCE = 0.8
MINUTES = 5.0  # of a quick look


class Range(NamedTuple):
    """A number: the smallest value that a budget chooses, and σ, in which a half-width is σ/√value."""

    floor: int
    sigma: float

    def rungs(self, full: int) -> list[int]:
        """Powers of two, then ``full`` itself."""
        floor, found = self.floor, []
        while floor < full:
            found.append(floor)
            floor *= 2
        return [*found, full]

    def gain(self, now: int, new: int) -> float:
        return float(self.sigma * (now**-0.5 - new**-0.5))

    def covers(self, one: int, other: int) -> bool:
        """Whether ``one`` is at least as fine as ``other``."""
        return one >= other


class Duration(NamedTuple):
    """A number of steps: none, or what was given; and what that gains."""

    gained: float

    def rungs(self, full: str) -> list[str]:
        return [NO_STEPS, full] if steps_of(full, 1, "duration") else [full]

    def gain(self, now: str, new: str) -> float:
        return self.gained

    def covers(self, one: str, other: str) -> bool:
        return one == other or not steps_of(other, 1, "duration")


NO_STEPS = "0 steps"
RANGES: dict[str, Range | Duration] = {
    "max_examples": Range(64, 0.3),
    "draws": Range(8, 0.1),
    "path_draws": Range(8, 0.1),
    "gradient_batches": Range(2, 0.1),
    "reference": Range(256, 0.1),
    "cut_training": Duration(0.01),
}

Price = Callable[[Options], float]
"""The estimated seconds of a study with these options."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """Minutes for all studies together, ``math.inf`` for everything; and the options that stay as given."""

    minutes: float = MINUTES
    fixed: frozenset[str] = frozenset()

    @property
    def full(self) -> bool:
        return math.isinf(self.minutes)

    def __post_init__(self) -> None:
        if not self.minutes > 0:
            raise ValueError(f"minutes={self.minutes:g}; allowed: more than 0, or --full for everything")


def ladder(name: str, full: Any) -> list[Any]:
    """The values of an option from its floor up to ``full``."""
    return list(RANGES[name].rungs(full))


def floors(options: Options, fixed: Collection[str] = ()) -> Options:
    """Every option at its floor, except those that are ``fixed``."""
    chosen = RANGES.keys() - set(fixed)
    return _with(options, {name: ladder(name, getattr(options, name))[0] for name in chosen})


def choose(
    prices: Mapping[str, Price], options: Options, minutes: float, fixed: Collection[str] = ()
) -> dict[str, Options]:
    """The options of each study, so that the sum of all prices is at most ``minutes``; see the module.

    Args:
      prices: {study: price}.
      options: the largest value of each option that is chosen, and the value of all others.
      fixed: names of options that keep their value.

    Returns:
      {study: options}, without the studies that are left out.
    """
    limit, chosen, ladders = 60 * minutes, {}, {}
    for study, price in prices.items():
        names = [name for name in changing(price, options) if name not in fixed]
        ladders[study] = {name: ladder(name, getattr(options, name)) for name in names}
        lowest = {name: rungs[0] for name, rungs in ladders[study].items()}
        chosen[study] = _with(options, lowest)
    seconds = {study: price(chosen[study]) for study, price in prices.items()}
    dearest = sorted(seconds, key=seconds.__getitem__)
    while dearest and sum(seconds.values()) > limit:
        del seconds[dearest.pop()]
    spent = sum(seconds.values())

    def steps() -> Iterator[tuple[float, str, Options, float]]:
        """Gain for each second, study, its options, and the seconds that they add."""
        for study in seconds:
            for new, gain in _higher(chosen[study], ladders[study]):
                more = prices[study](new) - seconds[study]
                yield gain / more if more > 0 else math.inf, study, new, more

    while step := max(steps(), key=lambda step: step[0], default=None):
        _, study, new, more = step
        if spent + more > limit:
            break
        chosen[study], seconds[study], spent = new, seconds[study] + more, spent + more
    return {study: chosen[study] for study in seconds}


def _higher(options: Options, ladders: Mapping[str, list[Any]]) -> Iterator[tuple[Options, float]]:
    """(options with one of them a rung higher, fall of its half-width)."""
    for name, rungs in ladders.items():
        now = getattr(options, name)
        if now != rungs[-1]:
            new = rungs[rungs.index(now) + 1]
            yield _with(options, {name: new}), RANGES[name].gain(now, new)


def at_least(one: Options, other: Options) -> bool:
    """Whether ``one`` has no chosen option below that of ``other``, and all other options are equal."""
    own, least = dataclasses.asdict(one), dataclasses.asdict(other)
    if any(own[name] != least[name] for name in own.keys() - RANGES.keys()):
        return False
    return all(scale.covers(own[name], least[name]) for name, scale in RANGES.items())


def changing(price: Price, options: Options) -> list[str]:
    """The options of ``RANGES`` on which a study's price depends, between their floors and these values."""

    def at_floor(name: str) -> Options:
        return _with(options, {name: ladder(name, getattr(options, name))[0]})

    there = price(options)
    return [name for name in RANGES if price(at_floor(name)) != there]


def _with(options: Options, sizes: Mapping[str, Any]) -> Options:
    return dataclasses.replace(options, **sizes)
