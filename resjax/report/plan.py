"""What an analysis will do and how long it will take: sizes of all studies, estimated before the first one.

``resjax.studies.budget`` has the rule by which minutes are spread, ``resjax.studies.costs`` what an estimate
counts. Here the two meet the runs of a report and their finished results. All runs of a report get the same
sizes, because they are compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from resjax.report import compare, kept
from resjax.report.page import Look
from resjax.studies.batches import Progress, reported
from resjax.studies.budget import (
    NO_STEPS,
    RANGES,
    TOLERANCE,
    Budget,
    Price,
    at_least,
    changing,
    choose,
    floors,
)
from resjax.studies.costs import Speed
from resjax.studies.intervals import wilson
from resjax.studies.options import Options
from resjax.studies.speed import measure_speed
from resjax.studies.study import Study
from resjax.studies.subject import Subject
from resjax.studies.words import capital, duration, join

DRAWING = 1.5  # seconds for the figures and texts of a study of one run; 1.3 s were measured for ``lesion``
ONE_POINT, ERROR = 0.01, 0.1
_NAMES = {
    "max_examples": "examples",
    "draws": "draws",
    "path_draws": "paths of each length",
    "gradient_batches": "training batches",
    "reference": "reference images",
    "cut_training": "of training on",
}
assert set(_NAMES) == set(RANGES)


@dataclasses.dataclass(frozen=True)
class Planned:
    """One study with its sizes."""

    study: Study
    options: Options
    seconds: Mapping[str, float]  # {label of the run: estimate}, of the runs whose result is not there yet
    evaluated: int  # examples on which errors are measured, 0 for none
    sizes: str  # in words

    @property
    def half_width(self) -> float | None:
        """Half of the 95 % interval of an error of 10 % on so many examples; None where no error is
        measured."""
        if not self.evaluated:
            return None
        low, high = wilson(ERROR, self.evaluated)
        return float(high - low) / 2


@dataclasses.dataclass(frozen=True)
class Plan:
    """All studies that some run allows, with their sizes and times."""

    budget: Budget
    studies: Mapping[str, Planned]
    left_out: Sequence[tuple[Study, float]]  # studies that do not fit, with the seconds of the smallest form
    full: float  # estimated seconds of everything

    @property
    def seconds(self) -> float:
        """Estimated seconds, with figures."""
        return sum(sum(one.seconds.values()) + DRAWING for one in self.studies.values())


def plan(
    runs: Sequence[Subject],
    studies: Sequence[Study],
    options: Options,
    budget: Budget,
    progress: Progress | None = None,
) -> Plan:
    """Measures the speed of all runs, and chooses the sizes of all studies.

    Nothing is measured where no study runs a network, or where everything was asked for and is there.

    Args:
      options: the sizes of a full analysis, and all other options.
    """
    suited = {study.name: [run for run in runs if _allows(study, run, options)] for study in studies}
    own = {study.name: study for study in studies if suited[study.name]}
    if any(_takes_time(study, suited[name], options, budget) for name, study in own.items()):
        speeds = {run.label: _speed(run, options) for run in reported(runs, progress)}
    else:
        speeds = dict.fromkeys((run.label for run in runs), UNKNOWN)
    prices = {name: _price(study, suited[name], speeds) for name, study in own.items()}
    lower = chosen = dict.fromkeys(own, options)
    if not budget.full:
        chosen, lower = (
            choose(prices, options, share * budget.minutes, budget.fixed) for share in (1, TOLERANCE)
        )
        for name in chosen:
            least = lower.get(name, chosen[name])
            chosen[name] = _or_finished(own[name], suited[name], prices[name], chosen[name], least, speeds)
    smallest = floors(options, budget.fixed)
    for name in own.keys() - chosen.keys():  # what is there takes no time
        if there := _all_finished(own[name], suited[name], smallest):
            chosen[name] = there
    chosen = {name: chosen[name] for name in own if name in chosen}
    sizes = {name: changing(prices[name], options) for name in chosen}
    planned = {name: _planned(own[name], suited[name], chosen[name], sizes[name], speeds) for name in chosen}
    without = [(own[name], prices[name](smallest)) for name in own if name not in chosen]
    return Plan(budget, planned, without, sum(price(options) for price in prices.values()))


def _allows(study: Study, run: Subject, options: Options) -> bool:
    try:
        return not study.unsuited(run) and study.estimate(run, options) is not None
    except Exception:  # the study tells its refusal or its failure when its turn comes
        return False


UNKNOWN = Speed(0, 0, 0, 0)


def _speed(run: Subject, options: Options) -> Speed:
    try:
        return measure_speed(run, options)
    except Exception:  # the studies fail, too, and each tells why
        return UNKNOWN


def _takes_time(study: Study, runs: Sequence[Subject], options: Options, budget: Budget) -> bool:
    """Whether a study runs a network, and is not finished already where everything was asked for."""
    if budget.full and all(kept.load(run, study, options) is not None for run in runs):
        return False
    return any(study.estimate(run, options).seconds(Speed(1, 1, 1, 1)) for run in runs)


def _price(study: Study, runs: Sequence[Subject], speeds: Mapping[str, Speed]) -> Price:
    known: dict[Options, float] = {}

    def price(options: Options) -> float:
        if options not in known:
            estimates = (study.estimate(run, options).seconds(speeds[run.label]) for run in runs)
            known[options] = DRAWING + sum(estimates)
        return known[options]

    return price


def _finished(study: Study, runs: Sequence[Subject]) -> list[Options | None]:
    """The options of each run's finished result."""
    return [kept.options_of(run, study) for run in runs]


def _all_finished(study: Study, runs: Sequence[Subject], least: Options) -> Options | None:
    """The options of finished results that all runs have alike, if they are at least as fine as ``least``."""
    found = set(_finished(study, runs))
    only = found.pop() if len(found) == 1 else None
    return only if only is not None and at_least(only, least) else None


def _or_finished(
    study: Study,
    runs: Sequence[Subject],
    price: Price,
    chosen: Options,
    least: Options,
    speeds: Mapping[str, Speed],
) -> Options:
    """The options of finished results that are at least as fine as ``least`` or as those ``chosen``, if the
    runs that lack one can be measured alike in the time; else those that were ``chosen``. Of several, the
    most expensive. (``least`` may be finer than ``chosen`` where less time leaves another study out.)"""
    found, usable = _finished(study, runs), []
    fine = {own for own in found if own is not None and (at_least(own, least) or at_least(own, chosen))}
    for options in fine:
        lacking = [run for run, own in zip(runs, found, strict=True) if own != options]
        rest = sum(study.estimate(run, options).seconds(speeds[run.label]) for run in lacking)
        if rest <= price(chosen) / TOLERANCE:
            usable.append(options)
    return max(usable, key=price, default=chosen)


def _value(value: int | str) -> str:
    """As the column of sizes has it; a duration in its own words, none as 'no steps'."""
    if isinstance(value, int):
        return f"{value:,}"
    return "no steps" if value == NO_STEPS else value


def _planned(
    study: Study, runs: Sequence[Subject], options: Options, named: Sequence[str], speeds: Mapping[str, Speed]
) -> Planned:
    """``named`` are the options of which the sizes are told."""
    costs = {run.label: study.estimate(run, options) for run in runs}
    lacking = [run for run in runs if kept.load(run, study, options) is None]
    seconds = {run.label: costs[run.label].seconds(speeds[run.label]) for run in lacking}
    evaluated = min((cost.evaluated for cost in costs.values()), default=0)
    sizes = {name: getattr(options, name) for name in named}
    if "max_examples" in sizes:
        sizes["max_examples"] = evaluated or min(
            options.max_examples, *(run.count(run.split) for run in runs)
        )
    told = ", ".join(f"{_value(value)} {_NAMES[name]}" for name, value in sizes.items())
    return Planned(study, options, seconds, evaluated, told)


# --- in words ---


def headline(plan: Plan) -> str:
    """Which look it is, for how long."""
    if plan.budget.full:
        return "everything (--full)"
    return f"quick look ({_minutes(plan.budget)})"


def _minutes(budget: Budget) -> str:
    return f"{budget.minutes:g} minute{'' if budget.minutes == 1 else 's'}"


def coarse(plan: Plan) -> str:
    """What is too coarse for findings about one percentage point; '' where nothing is."""
    few: dict[int, list[str]] = {}
    for one in plan.studies.values():
        if (half := one.half_width) is not None and half > ONE_POINT:
            few.setdefault(one.evaluated, []).append(one.study.name)
    if not few:
        return ""
    parts = []
    for count, names in sorted(few.items()):
        low, high = wilson(ERROR, count)
        parts.append(f"±{50 * (high - low):.1f} points on {count:,} examples ({', '.join(names)})")
    return (
        "Findings about one percentage point are coarse here: the 95 % interval of an error of 10 % reaches "
        f"{join(parts)}."
    )


def left_out(plan: Plan) -> list[str]:
    """A sentence on the studies for which there is no time; [] where all fit."""
    if not plan.left_out:
        return []
    smallest = join([f"{study.name} ({duration(seconds)})" for study, seconds in plan.left_out])
    return [
        f"Not measured in {_minutes(plan.budget)}, with the time that the smallest form of each takes: "
        f"{smallest}. Give more --minutes, or name fewer --studies."
    ]


COLUMNS = ("study", "time", "sizes", "an error of 10 % is known to")


def rows(plan: Plan) -> list[tuple[str, ...]]:
    """The cells of ``COLUMNS`` of each study."""
    found: list[tuple[str, ...]] = []
    for name, one in plan.studies.items():
        time = duration(sum(one.seconds.values())) if one.seconds else "done before"
        half = "" if one.half_width is None else f"±{100 * one.half_width:.1f} points"
        found.append((name, time, one.sizes, half))
    return found


def look(plan: Plan) -> Look:
    """The same for the report."""
    return Look(
        capital(headline(plan)), [text for text in [coarse(plan)] if text], compare.Table(COLUMNS, rows(plan))
    )


def show(plan: Plan, console: Console) -> None:
    """The table of studies, the total, and what is coarse or left out, before the first study."""
    table = Table(*COLUMNS, show_edge=False, pad_edge=False)
    for row in rows(plan):
        table.add_row(*row)
    console.print(table)
    total = f"{headline(plan)}: about {duration(plan.seconds)} with figures"
    if plan.full > plan.seconds * 1.05:
        total += f"; everything (--full) takes about {duration(plan.full)}"
    for text in (f"{capital(total)}.", coarse(plan), *left_out(plan)):
        if text:
            console.print(text, markup=False)
