"""Single deletions: how well a network performs when one of its units is removed.

*Question.* In y = x + f(x), does the network need f? Veit, Wilber & Belongie (2016, §4.1, Fig. 3) delete
one unit of a trained network at a time, at test time and without any further training,

    y_i = y_{i−1} + f_i(y_{i−1})   becomes   y_i = y_{i−1},

and measure the error on test data. In a network of n residual units, 2ⁿ⁻¹ of the 2ⁿ paths from the input
to the output avoid unit i; in a plain network (y = f(x)) the only path goes through every unit.

*Protocol.* The branch is removed and the shortcut kept, even if the unit changes the shape (so a
projection stays). A plain unit can be deleted if its input and output have the same shape: the input then
replaces the output. BatchNorm uses its running statistics, which are not re-estimated.

``spared`` says how sure each "at most one point" is, and with it the number of such units: the share of test
sets resampled from this one in which the unit's rise stays within a point (``resjax.studies.counts``).

*Reading it.* A rise of the error near 0 shows that the network works without this unit, not that the unit
does nothing: see the KL divergence and the agreement too. It does not prove that the network is an ensemble:
small branches predict the same (He et al. 2015, Fig. 7), and the paper's plain network has no
normalization, so it differs in more than the shortcuts.

*Cost.* The intact network and all later deletions share the state before a unit; only the units after a
deleted one run again. For n units that is n + n(n − 1)/2 unit evaluations per example, half of the n(n + 1)
of n + 1 forward passes. There is one compilation, whose size grows with the number of stacks and not with n.
Memory holds one state for each deletion, fewer than a backward pass keeps. Where other connections bypass
units (``Network.chained``), nothing is shared: n + 1 forward passes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.network.losses import Loss, Metric, cross_entropy, share_wrong
from resjax.studies import counts, pointing, style, verdicts
from resjax.studies.batches import BATCH_SIZE, Inference, Progress
from resjax.studies.costs import Cost, evaluated
from resjax.studies.lesions.known import KnownScores, known_scores
from resjax.studies.lesions.passes import each_alone
from resjax.studies.lesions.single_deletions import score_deletions, spread_over
from resjax.studies.lesions.subsets import candidates
from resjax.studies.options import Options
from resjax.studies.result import Compared
from resjax.studies.study import Bench, Columns, Study
from resjax.studies.subject import Subject
from resjax.studies.words import count, join, numbers, percent, percents


@dataclasses.dataclass(frozen=True)
class Lesion(Compared):
    """Test performance after the deletion of each unit, one at a time; NaN where a unit can't be deleted."""

    unit: tuple[str, ...]  # names of all units in order
    residual: Annotated[np.ndarray, "unit"]  # bool, whether the intact unit has a shortcut
    error: Annotated[np.ndarray, "unit"]  # share of wrong predictions, 0 … 1
    loss: Annotated[np.ndarray, "unit"]  # mean
    kl: Annotated[np.ndarray, "unit"]  # mean KL(p_intact ‖ p_lesioned), nats
    agreement: Annotated[np.ndarray, "unit"]  # share of predictions equal to the intact network's
    # The error on the examples of each class (NaN without examples); None unless requested.
    class_error: Annotated[np.ndarray | None, "unit", "class"]
    left_out: dict[str, str]  # {unit: why it can't be deleted}
    unit_evaluations: int  # evaluations of a unit per example
    # Share of resampled examples on which the error rises by at most one point; None in older results.
    spared: Annotated[np.ndarray | None, "unit"] = None
    # Of each unit, the group of its stack, such as 'attention' or 'mlp'; '' without. () in older results.
    kind: tuple[str, ...] = ()

    @property
    def deletable(self) -> np.ndarray:
        """bool [unit]."""
        return np.array([name not in self.left_out for name in self.unit])

    @property
    def of_kinds(self) -> dict[str, np.ndarray]:
        """{kind: bool [unit], units that can be deleted}, where kinds alternate; {} where there is one."""
        can_go = self.deletable
        every = {name: can_go & (np.array(self.kind) == name) for name in dict.fromkeys(self.kind)}
        found = {name or "other": own for name, own in every.items() if own.any()}
        return found if len(found) > 1 else {}


def lesion(
    network: Network,
    variables: Variables,
    images: Any,
    labels: ArrayLike,
    *,
    per_class: bool = False,
    known: KnownScores | None = None,
    loss: Loss = cross_entropy,
    metric: Metric = share_wrong,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> Lesion:
    """Deletes each unit in turn and measures the remaining network, as in Veit et al. 2016, Fig. 3.

    ``left_out`` names the units that can't be deleted.

    Args: those of every analysis (``Inference``), and
      per_class: also measure the error of each class, for labels [N].
      known: scores on the same examples, or on more or fewer of them in the same order. What they have is
        not measured again; new scores are added.

    Raises:
      ValueError: also if no unit can be deleted, and for ``per_class`` where labels are not [N].
    """
    allowed, never = candidates(network, variables, images)
    how = Inference(loss=loss, metric=metric, batch_size=batch_size, progress=progress)
    if per_class and np.ndim(labels) != 1:
        raise ValueError(
            f"per_class=True needs labels [N], one class for each example, got {list(np.shape(labels))}"
        )
    lesioned, intact = score_deletions(network, variables, images, labels, allowed, known=known, **how)

    def over_units(values: np.ndarray) -> Any:
        return spread_over(allowed, values)

    n = network.num_units
    again = n - 1 - np.arange(n) if network.chained else np.full(n, n)  # units that a deletion runs again
    return Lesion(
        **{name: over_units(values) for name, values in lesioned.means.items()},
        **intact.as_intact,
        unit=tuple(unit.name for unit in network.units),
        residual=np.array([unit.stack.unit.residual for unit in network.units]),
        class_error=over_units(np.asarray(lesioned.class_error)) if per_class else None,
        spared=over_units(counts.spared_share(lesioned.wrong, intact.wrong[0])),
        left_out=never,
        kind=tuple(unit.stack.group for unit in network.units),
        unit_evaluations=int(n + again[allowed].sum()),
        choices={
            "BatchNorm": "running statistics of training, not re-estimated after the deletion",
            "units that change the shape": "branch removed, shortcut kept",
            "plain units": "replaced by their input where shapes agree",
            "further training": "none",
        },
    )


# --- what the report shows ---

LETTERS = 100  # above a figure; of longer names none is shown, for they would overlap


def plot(results: Mapping[str, Lesion]) -> style.Figure:
    """Error after the deletion of each unit; lines are the intact networks and chance.

    A cross on the line of the intact network marks a unit that can't be deleted. Kinds of units that
    alternate, such as attention and MLP, differ in how markers are filled. Networks of different depth share
    the axis by the number of the unit.
    """
    fig, ax = style.axes()
    for i, (label, r) in enumerate(results.items()):
        unit, can_go, color = 1 + np.arange(len(r.unit)), r.deletable, style.color(i)
        name, intact = f"{label}, one unit deleted".strip(", "), 100 * r.intact_error
        kinds = {f"{label}, one {kind} unit deleted".strip(", "): own for kind, own in r.of_kinds.items()}
        for k, (deleted, own) in enumerate((kinds or {name: can_go}).items()):
            look: dict[str, Any] = {"color": color, "fillstyle": style.fill(k), "ls": ""}
            ax.plot(unit[own], 100 * r.error[own], marker=style.marker(i), label=deleted, **look)
        ax.axhline(intact, lw=1.2, ls="--", color=color, label=f"{label}, intact".strip(", "))
        ax.plot(unit[~can_go], np.full(int(np.sum(~can_go)), intact), "x", ms=6, color=color)
        pointing.along(ax, label, r.unit, unit)
    if crossed := any(r.left_out for r in results.values()):
        # One entry for all networks; the crosses have the networks' colours.
        ax.plot([], [], "x", ms=6, color=style.ink(), label="can't be deleted")
    for chance in sorted({r.chance_error for r in results.values()}):
        style.draw_chance(ax, chance)
    longest = max((r.unit for r in results.values()), key=len)
    stages = [unit.split("/")[0] for unit in longest]
    names = list(dict.fromkeys(stages))
    fits = len(names) > 1 and sum(len(name) + 2 for name in names) <= LETTERS
    for stage in names if fits else ():  # thin lines between stages, with the names above
        first, units = stages.index(stage), stages.count(stage)
        style.label_above(ax, first + 0.5 + units / 2, stage.replace("stage", "stage "))
        if first:
            ax.axvline(first + 0.5, lw=0.8, color=style.ink(), alpha=0.35)
    ax.set(xlabel="deleted unit", ylabel="error (%)", ylim=(-3, 104))
    ax.set_xlim(0.2, len(longest) + 0.8)
    style.integer_ticks(ax)
    # A column for each network, and one for the cross.
    style.legend_above(fig, ax, min(len(results) + 1, 3) if crossed else 2)
    return fig


# A unit "may go" if its deletion costs at most one percentage point. "Most" units may if the whole interval
# of their number is at least a share MOST of them, "hardly any" if it is at most a share HARDLY.
MOST, HARDLY = 0.5, 0.1
NAMED = 6  # most harmful units that are named


def may_go(result: Lesion, own: Any = slice(None)) -> int:
    """Number of units (of ``own`` units) whose deletion alone costs at most one percentage point."""
    return int(verdicts.spared(result.error[own], result.intact_error).sum())


def _interval(result: Lesion, own: Any = slice(None)) -> tuple[int, int] | None:
    """The interval of ``may_go`` over test sets; None in older results."""
    return counts.ends(np.sum, None if result.spared is None else result.spared[own])


def verdict(result: Lesion) -> str:
    """Whether the network can do without single units."""
    if verdicts.untrained(result):
        return "untrained"
    low, high = np.array(_interval(result) or [may_go(result)] * 2) / result.deletable.sum()
    return "spare" if low >= MOST else ("needed" if high <= HARDLY else "mixed")


def _mixed(label: str, result: Lesion) -> str:
    units = f"{may_go(result)} of {result.deletable.sum()} units{counts.between(_interval(result))}"
    return f"{units} can go, one at a time, from {label}"


def points(label: str, result: Lesion) -> list[str]:
    worst, median = int(np.nanargmax(result.error)), float(np.nanmedian(result.error))
    text = (
        f"{label}: {percent(result.intact_error)} error when intact. Deleting one of its "
        f"{result.deletable.sum()} units gives {percent(median)} in the median and "
        f"{percent(result.error[worst])} at worst ({result.unit[worst]}); "
        f"{count(may_go(result), 'unit')}{counts.between(_interval(result))} can be deleted alone "
        "at a cost of at most one percentage point."
    )
    if median - result.intact_error < -verdicts.MAY_GO:
        text += f" Most deletions lower the error: {verdicts.undertrained(result)}."
        text += " This does not show that the units are dispensable."
    order = np.argsort(-np.where(result.deletable, result.error, -1), kind="stable")
    harmful = int(result.deletable.sum()) - may_go(result)
    if verdict(result) == "spare" and harmful:  # the worst first, with the error after the deletion
        named = [f"{result.unit[i]} ({percent(result.error[i])})" for i in order[:harmful]]
        more = [f"{harmful - NAMED} more"] if harmful > NAMED else []
        text += f" Units whose deletion costs more: {join([*named[:NAMED], *more])}."
    return [text + verdicts.left_out(result.left_out, "Left out (×)"), *_by_kind(label, result)]


def _by_kind(label: str, result: Lesion) -> list[str]:
    """What the deletion of each kind of units costs, where kinds alternate."""
    told = [
        f"{kind} units, {percent(float(np.median(result.error[own])))} in the median and "
        f"{percent(float(np.max(result.error[own])))} at worst, and {may_go(result, own)} of {own.sum()}"
        f"{counts.between(_interval(result, own))} may go"
        for kind, own in result.of_kinds.items()
    ]
    return [f"{label}, by kind of the deleted unit: {'; '.join(told)}."] if told else []


def notes(results: Mapping[str, Lesion]) -> list[str]:
    chances = sorted({percent(result.chance_error) for result in results.values()})
    return [f"Chance is {join(chances)}."]


def table(result: Lesion) -> Columns:
    return {
        "deleted unit": result.unit,
        **({"kind": result.kind} if result.of_kinds else {}),
        "error": percents(result.error),
        "rise": percents(result.error - result.intact_error),
        **({} if result.spared is None else {"may go, of resamples": percents(result.spared)}),
        "loss": numbers(result.loss),
        "KL (nats)": numbers(result.kl),
        "agreement": percents(result.agreement),
    }


def summary(result: Lesion) -> dict[str, str]:
    # Near chance, the number of such units means nothing.
    spare = f"{may_go(result)} of {result.deletable.sum()}{counts.between(_interval(result))}"
    return {
        "error, intact": percent(result.intact_error),
        "one unit deleted: median": percent(float(np.nanmedian(result.error))),
        **{
            f"one {kind} unit deleted: median": percent(float(np.median(result.error[own])))
            for kind, own in result.of_kinds.items()
        },
        "one unit deleted: worst": percent(float(np.nanmax(result.error))),
        "units that may go": "–" if verdicts.untrained(result) else spare,
    }


def measure(bench: Bench) -> Lesion:
    return lesion(*bench.evaluation(), known=known_scores(bench), **bench.how)


def cost(run: Subject, options: Options) -> Cost:
    count = evaluated(run, options)
    return Cost(forward=count * each_alone(run), compilations=2.5, evaluated=count)


STUDY = Study(
    name="lesion",
    title="Delete each unit in turn",
    question=(
        "Which units are dispensable? Each unit is deleted from the trained network, one at a time: its "
        "branch is removed, its shortcut stays (a unit without a shortcut is replaced by its input). Nothing "
        "is trained again."
    ),
    code="resjax.analysis.lesion(*run.evaluation(10_000), loss=run.loss)",
    result=Lesion,
    unsuited=verdicts.cannot_delete,
    measure=measure,
    cost=cost,
    plot=plot,
    verdict=verdict,
    says={
        "spare": "most units can go, one at a time, from {}",
        "needed": "hardly any unit can go from {}",
        "mixed": _mixed,
        "untrained": verdicts.UNTRAINED,
    },
    points=points,
    notes=notes,
    table=table,
    summary=summary,
)
