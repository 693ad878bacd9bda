"""How large branches are against shortcuts at initialization: the variance that each unit adds.

*Question.* Why do deep residual networks start to train at all? At init, in x_{l+1} = x_l + F(x_l),
branch and shortcut are uncorrelated, so variances add. Two laws follow (De & Smith 2020, §3):

* *without normalization*, He-initialized branches keep the variance of what they get: Var F(x) = Var x.
  The ratio of branch to shortcut is 1 in every unit, and the variance doubles from unit to unit, 2^l;
* *with BatchNorm in front of the branch*, every branch has the same variance whatever it gets. The
  shortcut's grows like l, and Var(branch)/Var(shortcut) falls like 1/l: deep units start close to the
  identity, and the network starts effectively shallow.

*Method.* The variance over everything (examples, pixels, channels) of the shortcut's and the branch's
output, unit by unit, in a training pass; the law 1/l is a straight line of slope −1 in log ratio against
log l, where l counts the units of a stage from 1. The fit is least squares, its interval Student's t of
the residuals.

*Protocol.* BatchNorm with the statistics of each batch: at init its running statistics are those of no
data.

*Reading it.* The law holds in an uninterrupted run of equal units. What a transition hands on decides
where the next stage starts: a projection of normalized inputs starts it anew, a zero-padded identity
carries the old variance over (halved by the new, empty channels), and the slope of that stage is then
flatter than −1. The law is about initialization: a trained network may have left it. Zero-initialized
branches (SkipInit, Fixup, zero γ) have a ratio of 0 at init, and no slope.

*Cost.* One forward pass a batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from resjax.network import Network, Variables
from resjax.network.unit import Parts
from resjax.studies import style
from resjax.studies.batches import Progress, check_images
from resjax.studies.intervals import LEVEL
from resjax.studies.marks import legend_by_colour_and_line, plain_log_ticks
from resjax.studies.refusal import Refusal
from resjax.studies.result import Result
from resjax.studies.signals.gradients import moment

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Fit(NamedTuple):
    """Slope of a straight line with its 95 % interval (NaN with two points), and the number of points."""

    slope: float
    low: float
    high: float
    points: int


@dataclasses.dataclass(frozen=True)
class BranchVariance(Result):
    """Variances in residual units; join moments with ``resjax.studies.moments.join``.

    Attributes:
      unit: names of the units that have a shortcut, in order.
      position: int [unit], place of the unit in its stage, from 1.
      step: int [step], training steps done.
      shortcut, branch, output: [step, batch, unit], variance over examples, pixels and channels.
      batch_size: examples a batch.
      choices: what the paper leaves open.
    """

    AXES: ClassVar = {
        "position": ("unit",),
        "step": ("step",),
        **dict.fromkeys(("shortcut", "branch", "output"), ("step", "batch", "unit")),
    }

    unit: tuple[str, ...]
    position: np.ndarray
    step: np.ndarray
    shortcut: np.ndarray
    branch: np.ndarray
    output: np.ndarray
    batch_size: int
    choices: dict[str, Any]

    @property
    def ratio(self) -> np.ndarray:
        """[step, batch, unit], Var(branch) ÷ Var(shortcut)."""
        return self.branch / np.where(self.shortcut > 0, self.shortcut, np.nan)

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages, in order."""
        return tuple(dict.fromkeys(unit.split("/")[0] for unit in self.unit))

    def of_stage(self, stage: str) -> np.ndarray:
        """bool [unit]."""
        return np.array([unit.split("/")[0] == stage for unit in self.unit])

    def slope(self, t: int, stage: str) -> Fit:
        """Of log ratio (mean over batches) against log position, in one stage at moment t."""
        own = self.of_stage(stage)
        x, y = self.position[own], self.ratio[t].mean(0)[own]
        usable = np.isfinite(y) & (y > 0)
        n = int(usable.sum())
        if n < 2:
            return Fit(np.nan, np.nan, np.nan, n)
        line = stats.linregress(np.log(x[usable]), np.log(y[usable]))
        half = stats.t.ppf((1 + LEVEL) / 2, n - 2) * line.stderr if n > 2 else np.nan
        return Fit(float(line.slope), float(line.slope - half), float(line.slope + half), n)


def branch_variances(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    *,
    train: bool = True,
    batch_size: int = 128,
    max_batches: int = 8,
    step: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> BranchVariance:
    """Variance of shortcut, branch and output of every unit that has a shortcut.

    Args:
      network: with at least one residual unit.
      variables: at init, or from any checkpoint.
      images: float [N, H, W, C], standardized as in training.
      train: with the batch's own BatchNorm statistics and dropout; False: with running statistics, which at
        init are not those of any data. Stochastic depth drops no unit, and weighs branches as in evaluation.
      batch_size: examples a batch; fewer only if there are fewer in all. Examples beyond the last whole
        batch are not used, because batch statistics need batches of one size.
      max_batches: most batches.
      step: training steps done, to note in the result.
      seed: of dropout.
      progress: called as ``progress(batches done, batches in all)``.

    Raises:
      ValueError: no example, images of a wrong form, a network without a shortcut.
    """
    images = np.asarray(images)
    check_images(images)
    if batch_size < 1 or max_batches < 1:
        raise ValueError(
            f"batch_size={batch_size}, max_batches={max_batches}; allowed: 1 or more of each"
        )
    units = [unit for unit in network.units if unit.stack.unit.residual]
    if not units:
        raise Refusal(
            f"none of the {network.num_units} units has a shortcut to compare its branch with; take a "
            "residual network"
        )
    size = min(batch_size, len(images))
    count = min(max_batches, len(images) // size)
    rows = []
    for i in range(count):
        if progress:
            progress(i, count)
        key = jax.random.fold_in(jax.random.key(seed), i)
        rows.append(_batch(network, train, variables, images[i * size : (i + 1) * size], key))
    if progress:
        progress(count, count)
    found = np.array(jax.device_get(rows), np.float64).swapaxes(0, 1)[:, None]
    return BranchVariance(
        unit=tuple(unit.name for unit in units),
        position=np.array([int(unit.name.rpartition("unit")[2]) for unit in units]),
        step=np.array([step]),
        **dict(zip(("shortcut", "branch", "output"), found, strict=True)),
        batch_size=size,
        choices={
            "BatchNorm": "statistics of the batch" if train else "running statistics",
            "variance": "over examples, pixels and channels together",
            "batches": f"{count} of {size} examples",
            "position": "units of a stage from 1, its transition included",
            "stochastic depth": "every unit runs, with the gates of evaluation",
            "seed": seed,
        },
    )


@partial(jax.jit, static_argnums=(0, 1))
def _batch(
    network: Network, train: bool, variables: Variables, images: jax.Array, key: jax.Array
) -> jax.Array:
    """[3, residual units]: variance of shortcut, branch and output."""
    gates = network.test_gates
    whole = dataclasses.replace(network, unit_dropout=None)
    out = whole.apply(
        variables, images, train=train, gates=gates, key=key if train else None, tap=_variances
    )
    names = [stack.name for stack in network.stacks if stack.unit.residual]
    found = jnp.concatenate([out.taps[name] for name in names]).T
    if gates is not None:  # then every unit is residual
        found = found.at[1].multiply(jnp.square(gates))
    return found


def _variances(parts: Parts) -> jax.Array:
    values = (parts.branch if parts.shortcut is None else parts.shortcut, parts.branch, parts.y)
    return jnp.stack([jnp.var(v.astype(jnp.promote_types(v.dtype, jnp.float32))) for v in values])


def plot(results: BranchVariance | Mapping[str, BranchVariance]) -> Figure:
    """Var(branch) ÷ Var(shortcut) against the unit's place in its stage, one panel a stage.

    Colours and markers tell runs, lines moments; dotted is the law 1/l through the first point.
    """
    named = {"": results} if isinstance(results, BranchVariance) else dict(results)
    stages = list(dict.fromkeys(stage for r in named.values() for stage in r.stages))
    narrow = style.is_narrow()
    rows, columns = (len(stages), 1) if narrow else (1, len(stages))
    fig, grid = style.axes_grid(rows, columns, sharey=True)
    if narrow:
        width, height = fig.get_size_inches()
        fig.set_size_inches(width, height * max(1.0, 0.65 * len(stages)))
    panels = [ax for row in grid for ax in row]
    lines: dict[str, str] = {}
    for ax, stage in zip(panels, stages, strict=True):
        for i, r in enumerate(named.values()):
            own = r.of_stage(stage)
            for t, step in enumerate(r.step):
                ls = lines.setdefault(moment(int(step)), style.LINES[t % 3])
                y = r.ratio[t].mean(0)[own]
                look: dict[str, Any] = {"color": style.color(i), "marker": style.marker(i)}
                ax.plot(r.position[own], np.where(y > 0, y, np.nan), ls=ls, **look)
        _law(ax)
        ax.set(xscale="log", yscale="log", title=stage.replace("stage", "stage "))
        plain_log_ticks(ax.xaxis)
    for ax in grid[-1]:
        ax.set_xlabel("unit of the stage")
    for row in grid:
        row[0].set_ylabel("branch ÷ shortcut")
    legend_by_colour_and_line(fig, named, {**lines, "the law 1/l": ":"}, markers=True)
    return fig


def _law(ax: Axes) -> None:
    """A dotted line of slope −1 through the first point that is drawn."""
    for line in ax.lines:
        x, y = (np.asarray(v, float) for v in line.get_data())
        if len(x) > 1 and np.isfinite(y[0]):
            ax.plot(x, y[0] * x[0] / x, ":", lw=1.2, color=style.ink())
            return
