"""Deleting several units at once: how the error rises with their number.

*Question.* If a residual network is a vote of its 2ⁿ paths, then deleting k units leaves 2ⁿ⁻ᵏ of them, and
the error should rise smoothly with k. Veit, Wilber & Belongie (2016, §4.2, Fig. 5a) delete k random units,
k = 1 … 20 of 54, many times: the error is about 0.2 at k = 10, and much higher at 20. ``deletions`` is that
experiment; ``by_number`` summarizes it by the median, the interval of the median, and the quartiles.

*Protocol.* As for single deletions (``lesion``), but ``transitions=False`` keeps units that change the shape,
and with ``recalibrate_on`` BatchNorm uses statistics of the lesioned network (``batch_statistics``). The k
units are drawn uniformly, and no set is drawn twice; where there are no more sets than draws, all are taken.

*Reading it.* An ensemble of paths would show a smooth rise, but a smooth rise does not prove an ensemble:
any sum of many small branches shows one, and the forward pass is not a sum of 2ⁿ models (only the gradient
is a sum over paths). Intervals are over draws of units, for these examples and this one network. Sets of one
size differ widely: see the quartiles, and ``pruning`` for sets that are chosen greedily.

*Cost.* At most one forward pass for each deletion, in practice less than half: shared prefixes run once
and deleted branches do not run (``prefixes``). With ``recalibrate_on``, every deletion takes a whole pass,
and further passes over the images for the statistics.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Unpack

import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.studies import counts, style, verdicts
from resjax.studies.batches import Inference
from resjax.studies.lesions.batch_statistics import measure_recalibrated
from resjax.studies.lesions.prefixes import count_passes, measure_places
from resjax.studies.lesions.subsets import candidates, default_numbers, random_subsets
from resjax.studies.ranks import spearman
from resjax.studies.result import Compared
from resjax.studies.scores import MEASURES
from resjax.studies.spread import Spread, draw_spread, intact_value, spread, style_errors
from resjax.studies.study import Bench, Columns, Study
from resjax.studies.verdicts import num_deletable
from resjax.studies.words import correlation, count, join, number, percent, percents


@dataclasses.dataclass(frozen=True)
class Deletions(Compared):
    """Test performance after several deletions of some units each."""

    unit: tuple[str, ...]  # names of all units in order
    deleted: Annotated[np.ndarray, "deletion", "unit"]  # bool, True where a unit is deleted
    error: Annotated[np.ndarray, "deletion"]  # share of wrong predictions, 0 … 1
    loss: Annotated[np.ndarray, "deletion"]  # mean
    kl: Annotated[np.ndarray, "deletion"]  # mean KL(p_intact ‖ p_lesioned), nats
    agreement: Annotated[np.ndarray, "deletion"]  # share of predictions equal to the intact network's
    left_out: dict[str, str]  # {unit: why it is never deleted}
    # Share of resampled examples on which the error rises by at most one point; None in older results.
    spared: Annotated[np.ndarray | None, "deletion"] = None

    @property
    def number(self) -> np.ndarray:
        """int [deletion], the number of deleted units."""
        return self.deleted.sum(1)


def delete_subsets(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    labels: ArrayLike,
    subsets: np.ndarray,
    *,
    recalibrate_on: ArrayLike | None = None,
    **how: Unpack[Inference],
) -> Deletions:
    """Deletes each of the given sets of units and measures the remaining network.

    Args: those of every analysis (``Inference``), and
      subsets: bool [deletion, unit], True where a unit is deleted; at least one row.
      recalibrate_on: float [M, H, W, C], training images for re-estimating BatchNorm statistics for each
        set, including an empty one; None for running statistics, as in the paper.

    Raises:
      ValueError: also if no unit can be deleted, if ``subsets`` has a wrong shape or dtype or deletes a unit
        that can't be deleted, and with ``recalibrate_on`` for a network without BatchNorm.
    """
    subsets, n = np.asarray(subsets), network.num_units
    if subsets.ndim != 2 or subsets.shape[1] != n or not len(subsets) or subsets.dtype != bool:
        raise ValueError(
            f"subsets must be bool [m, {n}], m ≥ 1: one column for each unit; got {subsets.dtype} "
            f"{list(subsets.shape)}"
        )
    allowed, never = candidates(network, variables, images)
    if wrong := sorted({network.units[u].name for u in np.flatnonzero(subsets.any(0) & ~allowed)}):
        raise ValueError(f"subsets delete {', '.join(wrong)}: {never[wrong[0]]}")
    given = network, variables, images, labels
    choices = {
        "plain units": "replaced by their input where shapes agree",
        "further training": "none",
    }
    if recalibrate_on is None:
        places = np.where(subsets, ~np.arange(n), np.arange(n))
        lesioned, intact = measure_places(*given, places, **how)
        choices |= {
            "BatchNorm": "running statistics of training, not re-estimated after the deletion",
            "forward passes": f"{count_passes(places):.1f} instead of {len(places) + 1}, counted in units "
            "that run: equal beginnings run once, deleted branches not at all",
        }
    else:
        gates = {"gates": 1 - subsets.astype(np.float32)}
        lesioned, intact, chosen = measure_recalibrated(*given, gates, recalibrate_on, **how)
        choices |= chosen
    return Deletions(
        **lesioned.means,
        **intact.as_intact,
        unit=tuple(unit.name for unit in network.units),
        deleted=subsets,
        left_out=never,
        spared=counts.spared_share(lesioned.wrong, intact.wrong[0]),
        choices=choices,
    )


def deletions(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    ks: Sequence[int] | None = None,
    draws: int = 30,
    transitions: bool = True,
    seed: int = 0,
    recalibrate_on: ArrayLike | None = None,
    **how: Unpack[Inference],
) -> Deletions:
    """Deletes k random units for each k, as Veit et al. 2016, Fig. 5a; see ``by_number``.

    Args: those of ``delete_subsets`` except ``subsets``, and
      ks: numbers of units to delete, such as ``range(1, 21)`` as in the paper; None for 1, 2, 3, 5, 7, 10, …
        all.
      draws: different random sets of each size; all sets where there are no more.
      transitions: whether units that change the shape may be drawn, as in the paper.
      seed: seed of the draws.

    Raises:
      ValueError: as ``delete_subsets``, and if k exceeds the number of units that can be deleted.
    """
    allowed, never = candidates(network, variables, images, transitions=transitions)
    ks = default_numbers(int(allowed.sum())) if ks is None else ks
    given = network, variables, images, labels, random_subsets(allowed, ks, draws, seed)
    result = delete_subsets(*given, recalibrate_on=recalibrate_on, **how)
    kept = "branch removed, shortcut kept" if transitions else "not deleted"
    drawn = f"{draws} different sets of units of each size, or all where there are no more"
    result.choices.update({"units that change the shape": kept, "draws": drawn, "seed": seed})
    return dataclasses.replace(result, left_out=never)


def by_number(result: Deletions, what: str = "error") -> Spread:
    """``error``, ``loss``, ``kl`` or ``agreement`` by the number of deleted units."""
    pool, number = len(result.unit) - len(result.left_out), result.number
    exact = [k for k in np.unique(number).tolist() if math.comb(pool, k) == np.sum(number == k)]
    return spread(number, getattr(result, what), intact_value(result, what), exact)


# --- what the report shows ---


def plot(results: Mapping[str, Deletions]) -> style.Figure:
    """Error by the number of deleted units: median with its interval, quartiles as a band, and chance."""
    fig, ax = style.axes()
    for i, (label, result) in enumerate(results.items()):
        curve = by_number(result)
        draw_spread(ax, i, curve, curve.amount, f"{label}: median and quartiles".strip(": "))
    style_errors(ax, max(result.chance_error for result in results.values()))
    style.count_axis(fig, ax, "deleted units")
    return fig


# The error "rises smoothly" if no deleted unit adds more than STEP and the medians increase.
STEP, IN_ORDER, ROUNDING = 0.15, 0.95, 1e-9
BRACKETS = (
    "In brackets: the 95 % interval of the median over draws. Between two measured numbers of units, only "
    "the mean slope is known."
)


def verdict(result: Deletions) -> str:
    """Whether the error rises smoothly with the number of deleted units."""
    curve = by_number(result)
    if verdicts.untrained(result):
        return "untrained"
    at, slope = _steepest(curve)
    if slope > STEP + ROUNDING:
        return "first" if at == 0 else "jump"
    if verdicts.spared(curve.median, result.intact_error).all():
        return "hardly"
    in_order = spearman(curve.amount, curve.median) >= IN_ORDER - ROUNDING
    return "smooth" if in_order else "uneven"


def _steepest(curve: Spread) -> tuple[int, float]:
    """Index of the entry after which the median rises fastest, and the rise per unit."""
    slope = np.diff(curve.median) / np.diff(curve.amount)
    return int(np.argmax(slope)), float(np.max(slope))


def _jumps(label: str, result: Deletions) -> str:
    curve = by_number(result)
    at, _ = _steepest(curve)
    before, behind = (percent(v) for v in curve.median[at : at + 2])
    k, more = curve.amount[at : at + 2]
    first = "deleted unit" if more == 1 else f"{more} deleted units"
    where = f"between {k} and {more} deleted units" if at else f"with the first {first}"
    return f"the error of {label} jumps from {before} to {behind} {where}"


def points(label: str, result: Deletions) -> list[str]:
    curve = by_number(result)
    pool = len(result.unit) - len(result.left_out)
    # The paper's 10 and 20 units if they were measured, else the middle number.
    told = np.flatnonzero(np.isin(curve.amount, (10, 20))).tolist()
    medians = [
        f"{curve.told(i)} with {curve.amount[i]} of {count(pool, 'unit')} deleted"
        for i in told or [max(1, len(curve.amount) // 2)]
    ]
    at, slope = _steepest(curve)
    rank = correlation(spearman(curve.amount, curve.median))
    text = (
        f"{label}: {percent(result.intact_error)} error when intact; median {join(medians)}. "
        f"Rank correlation of the number and the median error: {rank}. The error rises fastest "
        f"from {curve.amount[at]} to {curve.amount[at + 1]} deleted units, by {100 * slope:.1f} points each."
    )
    return [text + verdicts.left_out(result.left_out)]


def table(result: Deletions) -> Columns:
    error, loss, kl, agreement = (by_number(result, name) for name in MEASURES)
    return {
        "deleted": map(str, error.amount),
        "sets": map(str, error.draws),
        "median error": error.cells(),
        "quartiles": [f"{percent(a)} to {percent(b)}" for a, b in error.quartiles],
        "median loss": loss.cells(number),
        "median KL (nats)": kl.cells(number),
        "median agreement": agreement.cells(),
    }


def summary(result: Deletions) -> dict[str, str]:
    curve = by_number(result)
    told = percents(curve.median[curve.amount == 10])
    return {"10 random units deleted: median": told[0]} if told else {}


def measure(bench: Bench) -> Deletions:
    options = bench.options
    ks = range(1, min(options.delete_up_to, num_deletable(bench.run)) + 1)
    how, draws, seed = bench.how, options.draws, options.seed
    return deletions(*bench.evaluation(), ks=ks or None, draws=draws, seed=seed, **how)


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
    plot=plot,
    verdict=verdict,
    says={
        "smooth": "the error of {} rises smoothly with the number of deleted units",
        "hardly": "the error of {} hardly rises, however many units are deleted",
        "first": _jumps,
        "jump": _jumps,
        "uneven": "the error of {} does not rise steadily with the number of deleted units",
        "untrained": verdicts.UNTRAINED,
    },
    points=points,
    notes=lambda results: [BRACKETS],
    table=table,
    summary=summary,
)
