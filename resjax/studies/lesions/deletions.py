"""Deleting several units at once: how the error rises with their number.

*Question.* If a residual network is a vote of its 2ⁿ paths, then deleting k units leaves 2ⁿ⁻ᵏ of them, and
the error should rise smoothly with k. Veit, Wilber & Belongie (2016, §4.2, Fig. 5a) delete k random units,
k = 1 … 20 of 54, many times: the error is about 0.2 at k = 10, and much higher at 20. ``deletions`` is that
experiment; ``by_number`` summarizes it by the median, the interval of the median, and the quartiles.
"The error is proportional to the number of units deleted" is a statement on means; ``proportion`` tests it,
and whether the rises of single deletions add up.

*Protocol.* As for single deletions (``lesion``), but ``transitions=False`` keeps units that change the shape,
and with ``recalibrate_on`` BatchNorm uses statistics of the lesioned network (``batch_statistics``). The k
units are drawn uniformly, and no set is drawn twice; where there are no more sets than draws, all are taken.
Sets of one unit are always all taken, because the others are compared with them.

*Reading it.* An ensemble of paths would show a smooth rise, but a smooth rise does not prove an ensemble:
any sum of many small branches shows one, and the forward pass is not a sum of 2ⁿ models (only the gradient
is a sum over paths). A straight line of means does not prove that each unit does equal harm: a random set
contains a given harmful unit with a probability that is itself proportional to k. Intervals are over draws of
units, for these examples and this one network. Sets of one size differ widely: see the quartiles, and
``pruning`` for sets that are chosen greedily.

*Cost.* At most one forward pass for each deletion, in practice less than half: shared prefixes run once
and deleted branches do not run (``prefixes``). With ``recalibrate_on``, every deletion takes a whole pass,
and further passes over the images for the statistics. A whole pass, too, where other connections bypass units
(``Network.chained``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.studies import style, verdicts
from resjax.studies.batches import Inference
from resjax.studies.costs import Cost, evaluated
from resjax.studies.intervals import LEVEL
from resjax.studies.judged import MET, MISSED, judged
from resjax.studies.lesions.deletions_result import Deletions
from resjax.studies.lesions.known import KnownScores, known_scores
from resjax.studies.lesions.passes import of_rows
from resjax.studies.lesions.prefixes import deleting
from resjax.studies.lesions.proportion import (
    FITS,
    Line,
    complete_numbers,
    line_of,
    points_each,
    single_rises,
    sum_of_rises,
    told_line,
    told_sums,
    without_worst,
)
from resjax.studies.lesions.sets import delete_subsets
from resjax.studies.lesions.subsets import candidates, default_numbers, random_subsets
from resjax.studies.options import Options
from resjax.studies.ranks import spearman
from resjax.studies.scores import MEASURES
from resjax.studies.spread import Spread, draw_spread, intact_value, spread, style_errors
from resjax.studies.study import Bench, Columns, Study
from resjax.studies.subject import Subject
from resjax.studies.verdicts import num_deletable
from resjax.studies.words import correlation, count, join, number, numbers, percent, percents


def deletions(
    network: Network,
    variables: Variables,
    images: Any,
    labels: ArrayLike,
    *,
    ks: Sequence[int] | None = None,
    draws: int = 30,
    transitions: bool = True,
    seed: int = 0,
    recalibrate_on: Any = None,
    known: KnownScores | None = None,
    **how: Unpack[Inference],
) -> Deletions:
    """Deletes k random units for each k, as Veit et al. 2016, Fig. 5a; see ``by_number``.

    Args: those of ``delete_subsets`` except ``subsets``, and
      ks: numbers of units to delete, such as ``range(1, 21)`` as in the paper; None for 1, 2, 3, 5, 7, 10, …
        all.
      draws: different random sets of each size; all sets where there are no more, and all sets of one unit.
      transitions: whether units that change the shape may be drawn, as in the paper.
      seed: seed of the draws.

    Raises:
      ValueError: as ``delete_subsets``, and if k exceeds the number of units that can be deleted.
    """
    allowed, never = candidates(network, variables, images, transitions=transitions)
    ks = default_numbers(int(allowed.sum())) if ks is None else ks
    subsets = random_subsets(allowed, ks, draws, seed)
    if 1 in ks:
        alone = np.eye(len(allowed), dtype=bool)[allowed]
        subsets = np.concatenate([alone, subsets[subsets.sum(1) != 1]])
    given = network, variables, images, labels, subsets
    result = delete_subsets(*given, recalibrate_on=recalibrate_on, known=known, **how)
    kept = "branch removed, shortcut kept" if transitions else "not deleted"
    drawn = f"{draws} different sets of each size, or all where there are no more; all sets of one unit"
    result.choices.update({"units that change the shape": kept, "draws": drawn, "seed": seed})
    return dataclasses.replace(result, left_out=never)


def by_number(result: Deletions, what: str = "error") -> Spread:
    """``error``, ``loss``, ``kl`` or ``agreement`` by the number of deleted units."""
    given = getattr(result, what), intact_value(result, what)
    return spread(result.number, *given, complete_numbers(result))


# --- what the report shows ---


def plot(results: Mapping[str, Deletions]) -> style.Figure:
    """Left: median error by the number of deleted units, its interval, and quartiles as a band. Right: mean
    error and the line from the intact network, hollow where the sets have none of the worst units."""
    fig, (left, right) = style.panels(2, sharey=True)
    for i, (label, result) in enumerate(results.items()):
        curve = by_number(result)
        draw_spread(left, i, curve, curve.amount, label)
        line, without = line_of(result), without_worst(result)
        _draw_means(right, i, line)
        if line.up_to:
            ends = np.array([0, line.up_to])
            right.plot(ends, 100 * (line.mean[0] + line.slope * ends), "-", color=style.color(i))
        if without is not None:
            _draw_means(right, i, without[1], mfc="none", alpha=0.8)
    for ax in (left, right):
        style_errors(ax, max(result.chance_error for result in results.values()))
        style.integer_ticks(ax)
    left.set(title="median and quartiles of sets")
    right.set(title="mean and line; hollow: without the worst", xlabel="deleted units")
    if not style.is_narrow():
        right.set_ylabel("")
    right.set_xlim(-0.5, None)
    style.count_axis(fig, left, "deleted units")
    return fig


def _draw_means(ax: style.Axes, i: int, line: Line, **look: Any) -> None:
    bars = 100 * np.nan_to_num(np.stack([line.mean - line.low, line.high - line.mean]).clip(0))
    form: dict[str, Any] = {"fmt": style.marker(i), "color": style.color(i), "capsize": 2.5, "lw": 1}
    ax.errorbar(line.amount, 100 * line.mean, bars, **form, **look)


# The error "rises smoothly" if no deleted unit adds more than STEP and the medians increase.
STEP, IN_ORDER, ROUNDING = 0.15, 0.95, 1e-9
BRACKETS = (
    "In brackets: the 95 % interval of the median over draws. Between two measured numbers of units, only "
    "the mean slope is known."
)
OF_LINE = (
    "Lines start at the intact network. Intervals of slopes, R² and rank correlations are over draws, too."
)


def verdict(result: Deletions) -> str:
    """Whether the error rises in proportion to the number of deleted units, or at least smoothly."""
    curve = by_number(result)
    if verdicts.untrained(result):
        return "untrained"
    if verdicts.spared(curve.median, result.intact_error).all():
        return "hardly"
    (at, slope), least = _steepest(curve), steepest_at_least(result)
    if at == 0 and least > STEP + ROUNDING:
        return "first"
    straight = judged(*line_of(result).r2_interval, least=FITS)
    if straight == MET:
        without = without_worst(result)
        few = without and judged(*without[1].r2_interval, least=FITS) == MISSED
        return "few" if few else "proportional"
    if slope > STEP + ROUNDING:
        return "jump" if least > STEP + ROUNDING else "undecided"
    in_order = spearman(curve.amount, curve.median) >= IN_ORDER - ROUNDING
    smooth = "curved" if straight == MISSED else "smooth"
    return smooth if in_order else "uneven"


def _steepest(curve: Spread) -> tuple[int, float]:
    """Index of the entry after which the median rises fastest, and the rise per unit."""
    slope = np.diff(curve.median) / np.diff(curve.amount)
    at = int(np.argmax(slope))
    return at, float(slope[at])


def steepest_at_least(result: Deletions) -> float:
    """Lower end of the interval of the fastest rise of the median per unit, from the intervals of the medians
    before and behind it (Zou & Donner 2008); NaN where one has none.

    It is the fastest of all steps, so each step has Bonferroni's level for so many: with 20 steps, 99.75 %.
    The fastest of many noisy steps would else exceed a threshold far more often than in 2.5 %.
    """
    curve = by_number(result)
    at, slope = _steepest(curve)
    before, behind = curve.amount[at : at + 2]
    own = np.isin(result.number, (before, behind))
    level = 1 - (1 - LEVEL) / (len(curve.amount) - 1)
    given = result.number[own], result.error[own], result.intact_error, complete_numbers(result)
    strict = spread(*given, level=level)
    i = int(np.flatnonzero(strict.amount == before)[0])
    down = strict.median[i + 1] - strict.low[i + 1], strict.high[i] - strict.median[i]
    return float(slope - np.hypot(*down) / (behind - before))


def _jumps(label: str, result: Deletions) -> str:
    curve = by_number(result)
    at, _ = _steepest(curve)
    before, behind = (percent(v) for v in curve.median[at : at + 2])
    k, more = curve.amount[at : at + 2]
    first = "deleted unit" if more == 1 else f"{more} deleted units"
    where = f"between {k} and {more} deleted units" if at else f"with the first {first}"
    return f"the error of {label} jumps from {before} to {behind} {where}"


def _proportional(label: str, result: Deletions) -> str:
    line = line_of(result)
    return (
        f"the mean error of {label} is proportional to the number of deleted units up to {line.up_to}: "
        f"{points_each(line)} for each"
    )


def _few(label: str, result: Deletions) -> str:
    without = without_worst(result)
    worst = "" if without is None else count(len(without[0]), "worst unit")
    return f"{_proportional(label, result)}, but without its {worst} it is not proportional"


def points(label: str, result: Deletions) -> list[str]:
    curve = by_number(result)
    pool = len(result.unit) - len(result.left_out)
    # The paper's 10 and 20 units if they were measured, else the middle number.
    told = np.flatnonzero(np.isin(curve.amount, (10, 20))).tolist()
    told = told or [max(1, len(curve.amount) // 2)]
    medians = [f"{curve.told(i)} with {curve.amount[i]} of {count(pool, 'unit')} deleted" for i in told]
    at, slope = _steepest(curve)
    rank = correlation(spearman(curve.amount, curve.median))
    text = (
        f"{label}: {percent(result.intact_error)} error when intact; median {join(medians)}. "
        f"Rank correlation of the number and the median error: {rank}. The error rises fastest "
        f"from {curve.amount[at]} to {curve.amount[at + 1]} deleted units, by {100 * slope:.1f} points each."
    )
    text += verdicts.left_out(result.left_out)
    return [text, told_line(label, result), *told_sums(label, result, int(curve.amount[told[0]]))]


def table(result: Deletions) -> Columns:
    error, loss, kl, agreement = (by_number(result, name) for name in MEASURES)
    means, rises, without = line_of(result), single_rises(result), without_worst(result)
    sums = None if rises is None else sum_of_rises(result, rises)
    spared = {} if without is None else dict(zip(without[1].amount.tolist(), without[1].mean, strict=True))
    amounts = error.amount.tolist()
    predicted = [np.nan if sums is None else sums[result.number == k].mean() for k in amounts[1:]]
    return {
        "deleted": map(str, error.amount),
        "sets": map(str, error.draws),
        "median error": error.cells(),
        "quartiles": [f"{percent(a)} to {percent(b)}" for a, b in error.quartiles],
        "mean error": percents(means.mean),
        "sum of single rises": percents([result.intact_error, *predicted]),
        "mean without the worst": percents([spared.get(k, np.nan) for k in amounts]),
        "median loss": loss.cells(number),
        "median KL (nats)": kl.cells(number),
        "mean KL (nats)": numbers(line_of(result, "kl").mean),
        "median agreement": agreement.cells(),
    }


def summary(result: Deletions) -> dict[str, str]:
    curve, line = by_number(result), line_of(result)
    told = percents(curve.median[curve.amount == 10])
    rows = {"10 random units deleted: median": told[0]} if told else {}
    return rows | ({"rise of the mean for each deleted unit": points_each(line)} if line.up_to else {})


def measure(bench: Bench) -> Deletions:
    options = bench.options
    ks = range(1, min(options.delete_up_to, num_deletable(bench.run)) + 1)
    given, draws, seed = bench.evaluation(), options.draws, options.seed
    known = known_scores(bench)
    return deletions(*given, ks=ks or None, draws=draws, seed=seed, known=known, **bench.how)


def cost(run: Subject, options: Options) -> Cost:
    allowed, count = run.deletable, evaluated(run, options)
    pool = int(allowed.sum())
    ks = range(1, min(options.delete_up_to, pool) + 1) or default_numbers(pool)
    rows = np.concatenate(
        [np.eye(len(allowed), dtype=bool)[allowed], random_subsets(allowed, ks, options.draws, options.seed)]
    )
    return Cost(evaluated=count) + of_rows(run.network, deleting(rows), count)


STUDY = Study(
    name="deletions",
    title="Delete several units at random",
    question=(
        "How fast does the error rise as more and more units are deleted? For each number, many random sets "
        "of units are deleted from the trained network. If each unit depends on the one before it, a single "
        "deletion breaks the network; if the units' contributions add up, the error rises gradually."
    ),
    code="resjax.analysis.deletions(*run.evaluation(10_000), loss=run.loss)",
    result=Deletions,
    unsuited=verdicts.cannot_delete,
    measure=measure,
    cost=cost,
    plot=plot,
    verdict=verdict,
    says={
        "proportional": _proportional,
        "few": _few,
        "smooth": (
            "the error of {} rises smoothly with the number of deleted units; whether its mean is "
            "proportional to the number is undecided"
        ),
        "curved": (
            "the error of {} rises smoothly with the number of deleted units, but its mean is not "
            "proportional to the number"
        ),
        "hardly": "the error of {} hardly rises, however many units are deleted",
        "first": _jumps,
        "jump": _jumps,
        "undecided": "these draws don't decide whether the error of {} rises smoothly or jumps",
        "uneven": "the error of {} does not rise steadily with the number of deleted units",
        "untrained": verdicts.UNTRAINED,
    },
    points=points,
    notes=lambda results: [BRACKETS, OF_LINE],
    table=table,
    summary=summary,
)
