"""Interventions on one unit at a time: what does the network need from it?

*Question.* Deletion (``resjax.studies.lesions.lesion``) removes all of f from z = s + f(x). These
interventions remove less, or something else:

========  ======================================  ====================================================
scale     z = s + α·f(x)                          how much of the branch is needed? α = 0 deletes it
freeze    z = s + mean of f over a reference set  does f depend usefully on its input, or is it an offset?
reset     the unit as it was at step 0            did training have to change it?
redraw    the unit of a fresh initialization      does any random unit suffice, or only that of step 0?
parallel  z = x + Σ_i f_i(x), for a whole stack   must units read one another's output?
========  ======================================  ====================================================

(s is the shortcut, x the input, f the branch.) Zhang, Bengio & Singer (2022) call a layer *robust* if the
network survives its reset, else *critical*. Reset and redraw need no shortcut, so on a plain network they
distinguish "this layer does not matter" from "the shortcut makes it deletable". A network is more sensitive
to a fresh draw than to a reset if its trained weights stayed near their initial values. In the parallel form
the units of a stack are independent voters on one input, the literal reading of "ensemble" (Sun et al. 2025
run Transformer layers in this way, but average instead of adding).

*Decisions.* Only the parameters of reset and redrawn units change, including BatchNorm's scale and bias. They
keep the trained running statistics: those of step 0 (mean 0, variance 1) describe no data, and training never
normalized with them. ``reset_statistics=True`` resets them too. The mean of a frozen branch is taken over
examples only, so it is an image [H, W, C]. A scaled plain unit computes α·f(x) + (1 − α)·x, where shapes
agree. In parallel, every unit adds s_i(x) − x + f_i(x) to x, which is f_i(x) with an identity shortcut; the
last unit's merge follows the sum. Units that change the shape run at their own place. Nothing is trained
again, and BatchNorm elsewhere keeps its running statistics.

*Reading it.* A unit that can be frozen but not deleted contributes an offset, not information. If a reset
hurts more than a deletion, the reset unit adds noise. α > 1 also moves the inputs of later layers away from
their statistics. A harmless intervention does not prove the unit useless: see the KL divergence, and
``pairs``.

*Cost.* Half of a forward pass for each unit that is scaled, reset or redrawn, because they start from the
states of the intact network (``one_by_one``); a whole one for each that is frozen, and for each stack in
parallel. Without a chain of units, always a whole one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Unpack

import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.studies import counts, pointing, style, verdicts
from resjax.studies.batches import BATCH_SIZE, Inference, part
from resjax.studies.examples import checked_inputs, tracing
from resjax.studies.intervals import bootstrap
from resjax.studies.lesions.forwards import (
    ALPHAS,
    DRAWS,
    EXAMPLES,
    REFERENCE,
    can_run_in_parallel,
    check_alike,
    cost,
    frozen,
    jobs_of,
    measure_jobs,
    redrawn,
)
from resjax.studies.lesions.single_deletions import spread_over
from resjax.studies.lesions.subsets import why_not
from resjax.studies.result import Compared
from resjax.studies.scores import MEASURES
from resjax.studies.study import Bench, Columns, Study
from resjax.studies.words import join, numbers, percent, percents

# Interventions on one unit; a result has one row for each α, and one for each draw.
KINDS = ("scale", "freeze", "reset", "redraw")
MEANS = 20  # the mean branches of 'freeze' count as 1/MEANS of the progress


@dataclasses.dataclass(frozen=True)
class Interventions(Compared):
    """Test performance after each intervention on each unit; NaN where it is impossible."""

    unit: tuple[str, ...]  # names of all units in order
    residual: Annotated[np.ndarray, "unit"]  # bool, whether the intact unit has a shortcut
    # 'scale 0.5', 'freeze', 'reset', 'redraw 1', …; the first word is one of KINDS, 'scale' comes first
    intervention: tuple[str, ...]
    alpha: Annotated[np.ndarray, "alpha"]  # α of the rows 'scale'
    error: Annotated[np.ndarray, "intervention", "unit"]  # share of wrong predictions, 0 … 1
    loss: Annotated[np.ndarray, "intervention", "unit"]  # mean
    kl: Annotated[np.ndarray, "intervention", "unit"]  # mean KL(p_intact ‖ p_changed), nats
    agreement: Annotated[np.ndarray, "intervention", "unit"]  # share of equal predictions
    stack: tuple[str, ...]  # stacks whose units ran in parallel
    first: Annotated[np.ndarray, "stack"]  # int, their first unit, counted from 0
    size: Annotated[np.ndarray, "stack"]  # int, how many units they have
    parallel_error: Annotated[np.ndarray, "stack"]  # with only this stack in parallel
    parallel_loss: Annotated[np.ndarray, "stack"]
    parallel_kl: Annotated[np.ndarray, "stack"]
    parallel_agreement: Annotated[np.ndarray, "stack"]
    left_out: dict[str, str]  # {unit: why it can't be scaled}
    # For each of LINES: share of resampled examples on which the error rises by at most one point; None in
    # older results.
    spared: Annotated[np.ndarray | None, "line", "unit"] = None

    def of(self, kind: str, measure: str = "error") -> np.ndarray:
        """[rows of that kind, unit] of one measure; no rows if the kind was not measured.

        Raises:
          ValueError: an unknown kind.
        """
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r}; allowed: {', '.join(KINDS)}")
        rows = [i for i, name in enumerate(self.intervention) if name.split()[0] == kind]
        return np.asarray(getattr(self, measure)[rows])

    @property
    def deleted(self) -> np.ndarray | None:
        """[unit], the error at α = 0; None if it was not measured."""
        rows = self.of("scale")[self.alpha == 0]
        return rows[0] if len(rows) else None

    def redrawn(self, measure: str = "error") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean over the draws and the ends of its 95 % interval, each [unit]."""
        draws = self.of("redraw", measure).T
        return draws.mean(-1), *bootstrap(draws)


def interventions(
    network: Network,
    variables: Variables,
    images: Any,
    labels: ArrayLike,
    *,
    initial: Variables | None = None,
    reference: Any = None,
    alphas: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.25, 1.5, 2.0),
    draws: int = 5,
    reset_statistics: bool = False,
    seed: int = 0,
    **how: Unpack[Inference],
) -> Interventions:
    """Applies each intervention to one unit at a time, and runs each stack in parallel.

    Impossible interventions are NaN; ``left_out`` names the units that can't be scaled.

    Args: those of every analysis (``Inference``), and
      initial: variables at step 0, for 'reset'; None leaves it out.
      reference: float [M, H, W, C], training images over which 'freeze' takes the mean; None leaves it
        out. Left out, too, where other connections bypass units: ``choices`` tell.
      alphas: factors on the branch, for 'scale'; () leaves it out.
      draws: fresh initializations, for 'redraw', 2 or more; 0 leaves it out. Left out, too, where the network
        can't be initialized: ``choices`` tell.
      reset_statistics: whether reset and redrawn units also take BatchNorm's running statistics of step 0.
      seed: seed of the fresh initializations.

    Raises:
      ValueError: also for initial variables of another network, for one draw, and if nothing can be done.
    """
    images = checked_inputs(network, images)
    if draws < 0 or draws == 1:
        raise ValueError(f"draws={draws}; allowed: 0 for none, or 2 or more for an interval")
    if initial is not None:
        check_alike(initial, variables)
    with tracing(images):
        can_go = network.deletable(variables, images)
    progress = how.get("progress")
    size, told = how.get("batch_size", BATCH_SIZE), part(progress, 0, MEANS)
    means, how_frozen = frozen(network, variables, reference, batch_size=size, progress=told)
    others = {} if initial is None else {"reset": initial}
    drawn_afresh, how_drawn = redrawn(network, images, draws, seed)
    others |= drawn_afresh
    if not reset_statistics:
        others = {name: {"params": other["params"]} for name, other in others.items()}
    jobs = jobs_of(network, can_go, alphas, means, others)
    if not jobs:
        raise ValueError(
            "nothing to do: give initial variables, reference images, alphas or draws, and a network with "
            "a unit or stack that allows them"
        )

    def rest(done: int, of: int) -> None:
        if progress:
            progress(of + (MEANS - 1) * done, MEANS * of)

    how["progress"] = rest
    scored, intact = measure_jobs(network, variables, images, labels, jobs, **how)
    found = [scores.means for scores in scored]
    wrong: dict[str, list[np.ndarray]] = {kind: [] for kind in ("scale 0", *KINDS[1:])}
    for job, scores in zip(jobs, scored, strict=True):
        if (kind := job.name if job.name in wrong else job.name.split()[0]) in wrong:
            wrong[kind].append(spread_over(job.which, scores.wrong))
    parallel = dict.fromkeys(MEASURES, np.zeros(0))
    if jobs[-1].name == "parallel":
        parallel, jobs = found.pop(), jobs[:-1]
    measured: dict[str, Any] = {m: np.full((len(jobs), len(can_go)), np.nan) for m in MEASURES}
    for i, job in enumerate(jobs):
        for m in MEASURES:
            measured[m][i, job.which] = found[i][m]
    measured |= {f"parallel_{m}": values for m, values in parallel.items()}
    unknown = np.full((len(can_go), intact.num_examples), np.nan)
    drawn = [np.mean(own, 0) if own else unknown for own in wrong.values()]

    joined = [(stack, units) for stack, units in network.spans if can_run_in_parallel(stack)]
    return Interventions(
        **measured,
        **intact.as_intact,
        unit=tuple(unit.name for unit in network.units),
        residual=np.array([unit.stack.unit.residual for unit in network.units]),
        intervention=tuple(job.name for job in jobs),
        alpha=np.array(alphas if can_go.any() else (), float),
        stack=tuple(stack.name for stack, _ in joined),
        first=np.array([units.start for _, units in joined], int),
        size=np.array([stack.n for stack, _ in joined], int),
        left_out=why_not(network, can_go),
        spared=np.stack([counts.spared_share(own, intact.wrong[0]) for own in drawn]),
        choices={
            "BatchNorm of reset and redrawn units": "its scale and bias change, and it has the running "
            f"statistics of {'step 0' if reset_statistics else 'training'}",
            "fresh draws": how_drawn,
            "frozen units": how_frozen,
            "in parallel": "x + Σ f_i(x) over a stack's units, then what follows the last one's sum",
            "BatchNorm elsewhere": "running statistics of training, not re-estimated",
        },
    )


# --- what the report shows ---


LINES = ("deleted", "frozen to the mean", "reset to step 0", "drawn afresh")


def lines(r: Interventions) -> dict[str, np.ndarray]:
    """{one of LINES: error [unit]} of each measured intervention; fresh draws are averaged."""
    deleted = r.of("scale")[r.alpha == 0][:1]
    rows = (deleted, r.of("freeze"), r.of("reset"), r.of("redraw"))
    return {name: np.mean(own, 0) for name, own in zip(LINES, rows, strict=True) if len(own)}


def plot(results: Mapping[str, Interventions]) -> style.Figure:
    """For each network, the error after each intervention by unit, and as a function of α.

    Left: the band around fresh draws is their interval; thick lines are stacks in parallel. Right: the line
    is the median over units; the bands hold the middle half of the units, and all of them.
    """
    columns = 2 if any(len(r.alpha) for r in results.values()) else 1
    ratios = (2.2, 1)[:columns]
    fig, axes = style.panels(
        columns * len(results), columns=columns, height=0.9, wide=0.9, width_ratios=ratios
    )
    known: dict[str, Any] = {}  # over all networks: a plain one has no stack in parallel
    for i, (label, result) in enumerate(results.items()):
        left, *right = axes[columns * i : columns * (i + 1)]
        _by_unit(left, result, label)
        for ax in right:
            _by_alpha(ax, result, label if style.is_narrow() else "")
        known |= {str(line.get_label()): line for line in left.get_legend_handles_labels()[0]}
    ncols = 1 if style.is_narrow() else 3
    fig.legend(known.values(), known, loc="outside upper left", ncols=ncols, fontsize=9)
    return fig


def _by_unit(ax: style.Axes, result: Interventions, label: str) -> None:
    number = 1 + np.arange(len(result.unit))
    for name, error in lines(result).items():
        i = LINES.index(name)
        ax.plot(number, 100 * error, style.marker(i) + "-", lw=1, label=name, color=style.color(i))
        if name == LINES[3]:
            _, low, high = (100 * v for v in result.redrawn())
            ax.fill_between(number, low, high, alpha=0.2, lw=0, color=style.color(i))
    look: dict[str, Any] = {"color": style.ink(), "lw": 4, "alpha": 0.45, "zorder": 1.5}
    name = "a stack's units in parallel"  # label only the first line
    for first, size, error in zip(result.first, result.size, result.parallel_error, strict=True):
        ax.plot((first + 0.7, first + size + 0.3), [100 * error] * 2, label=name, **look)
        name = "_"
    pointing.along(ax, label, result.unit, number, by="intervention")
    ax.axhline(100 * result.chance_error, lw=1, ls=":", color=style.ink(), label="chance")
    ax.set(xlabel="changed unit", ylabel="error (%)", ylim=(-3, 104), title=label)
    ax.set_xlim(0.2, len(result.unit) + 0.8)
    style.integer_ticks(ax)


def _by_alpha(ax: style.Axes, result: Interventions, label: str) -> None:
    if not len(result.alpha):  # only other networks have units that can be scaled
        ax.set_axis_off()
        return
    order = np.argsort([*result.alpha, 1.0])
    alpha = np.array([*result.alpha, 1.0])[order]
    scaled = result.of("scale")[:, [unit not in result.left_out for unit in result.unit]]
    error = 100 * np.vstack([scaled, np.full((1, scaled.shape[1]), result.intact_error)])[order]
    color = style.color(4)
    for low, high in ((0, 100), (25, 75)):
        ends = np.percentile(error, (low, high), axis=1)
        ax.fill_between(alpha, *ends, color=color, alpha=0.2, lw=0)
    ax.plot(alpha, np.median(error, axis=1), "o-", color=color)
    ax.axhline(100 * result.chance_error, lw=1, ls=":", color=style.ink())
    ax.set(xlabel="one branch times α", ylabel="error (%)", ylim=(-3, 104), title=label)


def _survived(result: Interventions, line: str) -> str:
    """'3 of 4 (1 to 4)': units whose change costs at most one percentage point, of those that can be changed,
    for one of LINES."""
    error, share = lines(result)[line], result.spared
    interval = counts.ends(np.sum, None if share is None else share[LINES.index(line)])
    harmless = verdicts.spared(error, result.intact_error).sum()
    return f"{harmless} of {np.isfinite(error).sum()}{counts.between(interval)}"


def _tolerates(label: str, r: Interventions) -> str:
    done = join([f"{_survived(r, name)} {name}" for name in lines(r)])
    return f"units of {label} that can be changed alone at a cost of at most one percentage point: {done}"


def points(label: str, r: Interventions) -> list[str]:
    parts = [
        f"{name} {percent(float(np.nanmedian(error)))} (at worst {percent(np.nanmax(error))}, "
        f"{r.unit[np.nanargmax(error)]})"
        for name, error in lines(r).items()
    ]
    text = f"{label}: {percent(r.intact_error)} error when intact; error for the median unit: {join(parts)}."
    if len(reset := r.of("reset")):
        # Zhang et al. 2022 call a unit critical if resetting it leaves the network near chance.
        critical = np.sum(reset[0] > verdicts.LEARNED * r.chance_error)
        text += (
            f" {critical} of {len(r.unit)} units are critical: resetting one "
            "brings the error close to chance."
        )
    if scaled := [
        f"times {alpha:g}: {percent(float(np.nanmedian(error)))}"
        for alpha, error in zip(r.alpha, r.of("scale"), strict=True)
        if alpha not in (0, 1)
    ]:
        text += f" Median error with one branch {', '.join(scaled)}."
    if r.stack:
        rows = zip(r.stack, r.size, r.parallel_error, strict=True)
        runs = [f"{percent(error)} ({stack}, {size} units)" for stack, size, error in rows]
        text += f" With all units of a stack in parallel: {join(runs)}."
    return [text + verdicts.left_out(r.left_out, "Not scaled")]


def table(r: Interventions) -> Columns:
    """One row for each unit and intervention; stacks in parallel at the end."""

    def cells(name: str) -> list[float]:
        return [*getattr(r, name).T.ravel(), *getattr(r, f"parallel_{name}")]

    stacks = [f"all {size} of {stack}" for stack, size in zip(r.stack, r.size, strict=True)]
    return {
        "unit": [unit for unit in r.unit for _ in r.intervention] + stacks,
        "intervention": [*r.intervention] * len(r.unit) + ["parallel"] * len(stacks),
        "error": percents(cells("error")),
        "KL (nats)": numbers(cells("kl")),
        "agreement": percents(cells("agreement")),
    }


def summary(r: Interventions) -> dict[str, str]:
    if verdicts.untrained(r) or LINES[2] not in lines(r):
        return {}
    return {"units that may be reset to step 0": _survived(r, LINES[2])}


def measure(bench: Bench) -> Interventions:
    run, options = bench.run, bench.options
    return interventions(
        *bench.evaluation(EXAMPLES),
        initial=run.initial_variables if run.from_scratch else None,
        reference=bench.training(REFERENCE)[0] if run.has_training_examples else None,
        alphas=ALPHAS,
        draws=options.at_most("draws", DRAWS),
        seed=options.seed,
        **bench.how,
    )


STUDY = Study(
    name="interventions",
    title="Scale, freeze, reset, redraw, or run side by side",
    question=(
        "What does the network need from a unit? Each unit is changed alone: its branch is scaled by α or "
        "frozen to its mean output, or its parameters are reset to those before training or drawn afresh. "
        "In addition, the units of a stack run in parallel instead of one after the other."
    ),
    code=(
        f"reference, _ = run.examples('train', {REFERENCE})\n"
        f"resjax.analysis.interventions(*run.evaluation({EXAMPLES}), initial=run.initial_variables,\n"
        f"                              reference=reference, alphas={ALPHAS}, draws={DRAWS},\n"
        "                              loss=run.loss)"
    ),
    result=Interventions,
    measure=measure,
    cost=cost,
    plot=plot,
    verdict=lambda r: "untrained" if verdicts.untrained(r) else "changed",
    says={"changed": _tolerates, "untrained": verdicts.UNTRAINED},
    points=points,
    table=table,
    summary=summary,
)
