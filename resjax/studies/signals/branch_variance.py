"""How large branches are relative to shortcuts at initialization: the variance that each unit adds.

*Question.* Why do deep residual networks start to train at all? At init, in x_{l+1} = x_l + F(x_l), branch
and shortcut are uncorrelated, so variances add. Two laws follow (De & Smith 2020, §3):

* *without normalization*, He-initialized branches keep the variance of their input: Var F(x) = Var x. The
  ratio of branch to shortcut is 1 in every unit, and the variance doubles from unit to unit, 2^l;
* *with BatchNorm in front of the branch*, every branch has the same variance, whatever its input. The
  shortcut's variance grows like l, and Var(branch)/Var(shortcut) falls like 1/l: deep units start close to
  the identity, and the network starts effectively shallow.

*Method.* The variance over everything (examples, pixels, channels) of the shortcut's and the branch's output,
unit by unit, in a training pass. The law 1/l is a straight line of slope −1 in log ratio against log l, where
l counts the units of a stage from 1. The fit is least squares, its interval Student's t of the residuals.

*Protocol.* BatchNorm with the statistics of each batch: at init its running statistics are not those of any
data.

*Reading it.* The law holds within a run of equal units. The transition sets the variance with which the
next stage starts: a projection of normalized inputs resets it; a zero-padded identity carries the old
variance over (halved by the new, empty channels), and the slope of that stage is then flatter than −1. The
law is about initialization: a trained network need not follow it. Zero-initialized branches (SkipInit, Fixup,
zero γ) have a ratio of 0 at init, and no slope.

*Cost.* One forward pass for each batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from resjax.network import Network, Variables
from resjax.network.refusal import Refusal
from resjax.network.unit import Parts
from resjax.studies import pointing, style
from resjax.studies.costs import Cost, of_first_batches
from resjax.studies.intervals import LEVEL
from resjax.studies.marks import legend_by_colour_and_line, plain_log_ticks
from resjax.studies.moments import by_moment, moment
from resjax.studies.options import Options
from resjax.studies.paths.path_walk import wide
from resjax.studies.result import Result
from resjax.studies.signals.training_batches import FirstBatches, first_batches, on_training_batches
from resjax.studies.study import Bench, Columns, Study
from resjax.studies.subject import Subject
from resjax.studies.words import capital, factor, join, numbers

NO_SHORTCUT = "no unit has a shortcut to compare its branch with"


class Fit(NamedTuple):
    """Slope of a straight line with its 95 % interval (NaN with two points), and the number of points."""

    slope: float
    low: float
    high: float
    points: int


@dataclasses.dataclass(frozen=True)
class BranchVariance(Result):
    """Variances over examples, pixels and channels; join moments with ``resjax.studies.moments.join``."""

    unit: tuple[str, ...]  # names of the units that have a shortcut, in order
    position: Annotated[np.ndarray, "unit"]  # int, place of the unit in its stage, from 1
    step: Annotated[np.ndarray, "step"]  # int, training steps done
    shortcut: Annotated[np.ndarray, "step", "batch", "unit"]
    branch: Annotated[np.ndarray, "step", "batch", "unit"]
    output: Annotated[np.ndarray, "step", "batch", "unit"]
    batch_size: int
    stage: tuple[str, ...] | None = None  # of each unit; None in older results: the first part of its name

    @property
    def ratio(self) -> np.ndarray:
        """[step, batch, unit], Var(branch) ÷ Var(shortcut)."""
        return self.branch / np.where(self.shortcut > 0, self.shortcut, np.nan)

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages, in order."""
        return tuple(dict.fromkeys(self._stage))

    def of_stage(self, stage: str) -> np.ndarray:
        """bool [unit], which units belong to the stage."""
        return np.array([own == stage for own in self._stage])

    @property
    def _stage(self) -> tuple[str, ...]:
        return self.stage or tuple(unit.split("/")[0] for unit in self.unit)

    def slope(self, t: int, stage: str) -> Fit:
        """Slope of the log ratio (mean over batches) against log position, in one stage at moment t."""
        own = self.of_stage(stage)
        x, y = self.position[own], self.ratio[t].mean(0)[own]
        usable = np.isfinite(y) & (y > 0)
        n = int(usable.sum())
        if n < 2:
            return Fit(np.nan, np.nan, np.nan, n)
        line = stats.linregress(np.log(x[usable]), np.log(y[usable]))
        half = stats.t.ppf((1 + LEVEL) / 2, n - 2) * line.stderr if n > 2 else np.nan
        return Fit(float(line.slope), float(line.slope - half), float(line.slope + half), n)


def branch_variance(
    network: Network,
    variables: Variables,
    images: Any,
    **how: Unpack[FirstBatches],
) -> BranchVariance:
    """Variance of shortcut, branch and output of every unit that has a shortcut.

    Args: those of every analysis (``Inference``) except labels; ``how``, see ``FirstBatches``; and
      network: with at least one residual unit. Stochastic depth drops no unit, and scales branches as
        in evaluation.

    Raises:
      Refusal: a network without a shortcut.
    """
    batches = first_batches(network, variables, images, None, **how)
    units = [unit for unit in network.units if unit.stack.unit.residual]
    if not units:
        raise Refusal(NO_SHORTCUT)
    first = {unit.stack.stage: unit.index for unit in reversed(network.units)}
    shortcut, branch, output = batches.measure(
        lambda images, _, key: _batch(network, batches.train, variables, images, key)
    )
    return BranchVariance(
        unit=tuple(unit.name for unit in units),
        position=np.array([1 + unit.index - first[unit.stack.stage] for unit in units]),
        stage=tuple(f"stage{unit.stack.stage}" for unit in units),
        step=np.array([batches.step]),
        shortcut=shortcut,
        branch=branch,
        output=output,
        batch_size=batches.size,
        choices={
            **batches.choices,
            "variance": "over examples, pixels and channels together",
            "position": "units of a stage from 1, its transition included",
            "stochastic depth": "every unit runs, with the gates of evaluation",
        },
    )


@partial(jax.jit, static_argnums=(0, 1))
def _batch(network: Network, train: bool, variables: Variables, images: Any, key: jax.Array) -> jax.Array:
    """[3, residual units]: variance of shortcut, branch and output."""
    gates = network.test_gates
    whole = dataclasses.replace(network, unit_dropout=None)
    own = key if train else None
    out = whole.apply(variables, images, train=train, gates=gates, key=own, tap=_variances)
    names = [stack.name for stack in network.stacks if stack.unit.residual]
    found = jnp.concatenate([out.taps[name] for name in names]).T
    if gates is not None:  # then every unit is residual
        found = found.at[1].multiply(jnp.square(gates))
    return found


def _variances(parts: Parts) -> jax.Array:
    values = (parts.branch if parts.shortcut is None else parts.shortcut, parts.branch, parts.y)
    return jnp.stack([jnp.var(v.astype(wide(v))) for v in values])


# --- what the report shows ---


def plot(results: Mapping[str, BranchVariance]) -> style.Figure:
    """Var(branch) ÷ Var(shortcut) against the unit's place in its stage, one panel for each stage.

    Colours and markers tell runs apart, line styles moments; dotted is the law 1/l through the first point.
    """
    stages = list(dict.fromkeys(stage for r in results.values() for stage in r.stages))
    fig, panels = style.panels(len(stages), height=0.65, sharey=True)
    lines: dict[str, str] = {}
    for ax, stage in zip(panels, stages, strict=True):
        for i, (label, r) in enumerate(results.items()):
            own = r.of_stage(stage)
            names = [unit for unit, here in zip(r.unit, own, strict=True) if here]
            pointing.along(ax, label, names, r.position[own], by="moment")
            look: dict[str, Any] = {"color": style.color(i), "marker": style.marker(i)}
            for t, step in enumerate(r.step):
                ls = lines.setdefault(moment(step), style.LINES[t % 3])
                y = r.ratio[t].mean(0)[own]
                ax.plot(r.position[own], np.where(y > 0, y, np.nan), ls=ls, **look)
        _law(ax)
        ax.set_title(stage.replace("stage", "stage "))
        if any(np.isfinite(np.asarray(line.get_ydata(), float)).any() for line in ax.lines):
            # A logarithmic axis without a point can't be drawn.
            ax.set(xscale="log", yscale="log")
            plain_log_ticks(ax.xaxis)
        if not style.is_narrow() or ax is panels[-1]:
            ax.set_xlabel("unit of the stage")
        if style.is_narrow() or ax is panels[0]:
            ax.set_ylabel("branch ÷ shortcut")
    legend_by_colour_and_line(fig, results, {**lines, "the law 1/l": ":"}, markers=True)
    return fig


def _law(ax: style.Axes) -> None:
    """A dotted line of slope −1 through the first point that is drawn."""
    for line in ax.lines:
        x, y = (np.asarray(v, float) for v in line.get_data())
        if len(x) > 1 and np.isfinite(y[0]):
            ax.plot(x, y[0] * x[0] / x, ":", lw=1.2, color=style.ink())
            return


# Ranges of slopes that are called 1/l (De & Smith 2020) and flat.
LAW, FLAT = (-1.3, -0.7), (-0.3, 0.3)
# Fewest units of a stage whose slope is interpreted.
ENOUGH = 3

SAYS = {
    "law": "branches shrink relative to the shortcut like 1/l in {}",
    "flat": "branches keep their size relative to the shortcut in {}",
    "steep": "branches shrink relative to the shortcut faster than 1/l in {}",
    "between": "branches shrink relative to the shortcut, but more slowly than 1/l, in {}",
    "rising": "branches grow relative to the shortcut in {}",
    "none": "no stage of {} has enough units with branches above 0 to fit a slope",
}
LATER = "later: "


def verdict(r: BranchVariance) -> str:
    """How branches scale relative to the shortcut at the first moment, in the first stage with enough units:
    in later stages, transitions may have carried variance over."""
    fits = [r.slope(0, stage) for stage in r.stages]
    slope = next((fit.slope for fit in fits if fit.points >= ENOUGH), np.nan)
    kinds = {
        "steep": slope < LAW[0],
        "law": slope <= LAW[1],
        "between": slope < FLAT[0],
        "flat": slope <= FLAT[1],
        "rising": slope > FLAT[1],
        "none": np.isnan(slope),
    }
    return ("" if r.step[0] == 0 else LATER) + next(kind for kind, holds in kinds.items() if holds)


def points(label: str, r: BranchVariance) -> list[str]:
    parts = []
    for t, step in enumerate(r.step):
        ratio = r.ratio[t].mean(0)
        fits = {stage.replace("stage", "stage "): r.slope(t, stage) for stage in r.stages}
        slopes = [
            f"{fit.slope:.2f} in {stage} ({fit.low:.2f} to {fit.high:.2f})".replace("-", "−")
            for stage, fit in fits.items()
            if fit.points >= ENOUGH
        ]
        text = (
            f"{moment(step)} the branch has {factor(ratio[0])} times the variance of the shortcut in the "
            f"first unit and {factor(ratio[-1])} times in the last"
        )
        if slopes:
            text += f"; slope of log ratio against log place: {join(slopes)}"
        growth = np.median(r.output[t].mean(0) / r.shortcut[t].mean(0))
        parts.append(f"{text}; a unit multiplies the variance by {factor(growth)} in the median")
    return [f"{label}: {'. '.join(map(capital, parts))}."]


def table(r: BranchVariance) -> Columns:
    """Means over batches."""
    cells = {
        "Var(shortcut)": map(numbers, r.shortcut.mean(1)),
        "Var(branch)": map(numbers, r.branch.mean(1)),
        "ratio": map(numbers, r.ratio.mean(1)),
        "Var(output)": map(numbers, r.output.mean(1)),
    }
    return by_moment(r.step, "unit", r.unit, cells)


def measure(bench: Bench) -> BranchVariance:  # without labels
    return on_training_batches(bench, lambda *given, **how: branch_variance(*given[:3], **how))


def cost(run: Subject, options: Options) -> Cost:
    count = len(run.moments) * of_first_batches(run, options)
    # In training mode: a pass with sums over the batch took about as long as two.
    return Cost(forward=2 * count, compilations=3)


STUDY = Study(
    name="branch_variance",
    title="How much a branch weighs",
    question=(
        "How large is a unit's branch compared with its shortcut? With BatchNorm in front of the branch, "
        "theory predicts that the ratio falls like 1/l at initialization, so that deep units start as near "
        "identities; without normalization the ratio stays constant, and every unit doubles the variance."
    ),
    code=(
        "images, _ = run.examples('train', 8 * run.train_batch_size)\n"
        "resjax.analysis.branch_variance(run.network, run.initial_variables, images,\n"
        "                                batch_size=run.train_batch_size)"
    ),
    result=BranchVariance,
    unsuited=lambda run: None if run.residual else NO_SHORTCUT,
    measure=measure,
    adds=("gradient_batches",),
    cost=cost,
    plot=plot,
    verdict=verdict,
    says={
        **{kind: f"at init, {text}" for kind, text in SAYS.items()},
        **{LATER + kind: f"after some training, {text}" for kind, text in SAYS.items()},
    },
    points=points,
    table=table,
)
