"""Path lengths of the gradient over training: do the paths that carry it grow longer or shorter?

*Question.* The gradient of a residual network comes through paths of some lengths (``path_exact``). Do these
lengths change during training, when, and in which direction?

*Method.* The exact spectrum is computed at step 0 and at every checkpoint, on the same batches of training
images. Every batch has its own mean length, weighted by its norms. The change between two moments is the mean
over batches of the difference, with Student's t interval of these paired differences: what makes the paths of
one batch long at both moments cancels.

A *turn* is an inner moment at which the mean length is largest or smallest, and differs from that of the
first and of the last moment. It is the most extreme one of several, so its intervals are widened to hold for
all inner moments together (Bonferroni).

*Protocol.* BatchNorm uses the statistics of the batch at every moment: at step 0 the running mean and
variance are 0 and 1, which describe no data, and at the first checkpoints they may lag.

*Reading it.* The intervals are over batches of one run, not over seeds. The mean length can grow because long
paths gain or because short ones fade: see the spectra. Littwin & Wolf (2016) argue that the ensemble of paths
grows deeper during training, because BatchNorm's scales γ grow. Theirs is *a different quantity*, the weights
of paths in the loss of a spin-glass model, which a gradient norm by path length neither confirms nor
contradicts. The result holds the cause that they name, the mean |γ| of every unit, at each moment.

*Cost.* One exact spectrum for each batch and moment, of which ``paths`` needs that of the newest moment, too;
one compilation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple, Self, Unpack

import numpy as np
from flax.traverse_util import flatten_dict
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.studies import style
from resjax.studies.batches import Progress, Running
from resjax.studies.costs import Cost
from resjax.studies.intervals import LEVEL, of_mean
from resjax.studies.moments import at_moments, moment
from resjax.studies.more_batches import add_batches
from resjax.studies.options import Options
from resjax.studies.paths.path_counts import between, one_path
from resjax.studies.paths.path_exact import PathSpectrum, path_spectrum, spectra_of
from resjax.studies.paths.path_walk import (
    STUDY_BATCH,
    TRAINING,
    Probe,
    study_batches,
)
from resjax.studies.paths.walk_costs import passes_of_a_walk, study_examples
from resjax.studies.run import as_run, no_training
from resjax.studies.study import Bench, Columns, Study
from resjax.studies.subject import Subject
from resjax.studies.words import capital, numbers


@dataclasses.dataclass(frozen=True)
class PathGrowth(PathSpectrum):
    """The gradient by path length at several moments of one training, and the scales of BatchNorm."""

    scale: Annotated[np.ndarray, "step", "unit"]  # mean |γ| of a unit's BatchNorms; NaN without one

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """As ``Result.from_json``; files without scales get NaN."""
        units = data["num_residual"] + data["num_plain"]
        return super().from_json({"scale": np.full((len(data["step"]), units), np.nan).tolist(), **data})

    @property
    def mean_scale(self) -> np.ndarray:
        """[step]: mean of ``scale`` over the units that have a BatchNorm; NaN where none has."""
        has = np.isfinite(self.scale).all(0)
        return self.scale[:, has].mean(1) if has.any() else np.full(len(self.step), np.nan)

    def change(self, first: int, last: int, level: float = LEVEL) -> Change:
        """How the mean length changes from moment ``first`` to moment ``last``, numbers on the axis step."""
        by_batch = self.own_length[last] - self.own_length[first]
        low, high = of_mean(by_batch, 0, level)
        return Change(float(by_batch.mean()), float(low), float(high))


class Change(NamedTuple):
    """A difference of mean lengths, and the interval of the paired differences over batches; NaN with one."""

    mean: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether the direction is known: the interval exists and does not hold 0."""
        return self.low > 0 or self.high < 0


def path_growth(
    network: Network,
    steps: Sequence[int],
    at: Callable[[int], Variables],
    images: Any,
    labels: ArrayLike,
    *,
    probe: Probe = TRAINING,
    first_batch: int = 0,
    seed: int = 0,
    spectrum: Callable[..., PathSpectrum] = path_spectrum,
    **how: Unpack[Running],
) -> PathGrowth:
    """The exact gradient by path length at several moments of a training.

    Args: those of ``path_spectrum``, where ``progress`` counts batches of all moments, and
      steps: training steps done at each moment, in order.
      at: the variables after so many steps, such as ``run.at``; one checkpoint is held at a time.
      spectrum: what is called instead of ``path_spectrum``, with its arguments.
    """

    def measure(step: int, variables: Variables, tell: Progress) -> PathGrowth:
        own: Running = how | {"progress": tell}
        given = network, variables, images, labels
        which: dict[str, Any] = {"first_batch": first_batch, "step": step, "seed": seed}
        found = spectrum(*given, probe=probe, **which, **own)
        fields = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
        return PathGrowth(**fields, scale=unit_scales(network, variables)[None])

    return at_moments(steps, at, measure, how.get("progress"))


def unit_scales(network: Network, variables: Variables) -> np.ndarray:
    """[unit]: mean |γ| over the channels of all BatchNorms of each unit; NaN where there is none.

    A BatchNorm is known by its running variance, beside which the parameter ``scale`` is its γ.
    """
    found = np.full(network.num_units, np.nan)
    for place in network.places(variables):
        leaves = flatten_dict(place.variables)
        normalizations = [path[1:-1] for path in leaves if path[0] == "batch_stats" and path[-1] == "var"]
        gammas = [np.abs(leaves["params", *path, "scale"]) for path in normalizations]
        rows = [np.reshape(gamma, (len(place.units), -1)) for gamma in gammas]
        rows = rows or [np.full((len(place.units), 1), np.nan)]
        found[place.units] = np.concatenate(rows, axis=1).mean(1, dtype=np.float64)
    return found


# --- what the report shows ---


def plot(results: Mapping[str, PathGrowth]) -> style.Figure:
    """Spectra at the first and the last moment; mean length at every moment; and mean |γ|, where it is known.

    Bands are intervals over batches. The dotted line is the mean length of all paths.
    """
    scaled = any(np.isfinite(r.mean_scale).any() for r in results.values())
    fig, (left, middle, *right) = style.panels(2 + scaled)
    if scaled:
        narrow = (style.NARROW[0], 2.3 * style.NARROW[1])
        fig.set_size_inches(*(narrow if style.is_narrow() else (9.6, 3.5)))
    for i, (label, result) in enumerate(results.items()):
        color, look = style.color(i), style.marker(i) + "-"
        for t, line in {0: "--", len(result.step) - 1: "-"}.items():
            name = f"{label}, {moment(int(result.step[t]))}".strip(", ")
            left.plot(result.length, 100 * result.share[t], line, color=color, label=name)
        middle.fill_between(result.step, *result.mean_length_interval, color=color, alpha=0.2, lw=0)
        middle.plot(result.step, result.mean_length, look, color=color)
        for ax in right:
            ax.plot(result.step, result.mean_scale, look, color=color)
    for mean in sorted({r.num_plain + r.num_residual / 2 for r in results.values()}):
        middle.axhline(mean, ls=":", lw=1, color=style.ink())
        text: dict[str, Any] = {"ha": "right", "va": "bottom", "fontsize": 8.5}
        at = (1, mean), (0, 2), ("axes fraction", "data"), "offset points"
        middle.annotate("all paths", *at, **text)
    left.set(xlabel="length (branches crossed)", ylabel="share of the gradient (%)")
    middle.set(xlabel="training steps", ylabel="mean effective length")
    for ax in right:
        ax.set(xlabel="training steps", ylabel="mean |γ| in the units")
    for ax in (middle, *right):
        ax.set_ylim(bottom=0)
    for ax in (left, middle, *right):
        style.integer_ticks(ax)
    style.legend_above(fig, left)
    return fig


# Changes that certainly lie within this many units are called the same length.
SAME = 0.5


def verdict(result: PathGrowth) -> str:
    """How the mean length changes from the first moment to the last, by the interval of ``change``.

    'same': the interval lies within ± ``SAME``; 'longer', 'shorter': it does not hold 0; 'undecided': it
    holds 0 and more than ``SAME``, or there is no interval, with one batch; 'none': fewer than two moments
    that have a gradient.
    """
    if len(result.step) < 2 or not np.isfinite(result.mean_length[[0, -1]]).all():
        return "none"
    change = result.change(0, -1)
    if change.low >= -SAME and change.high <= SAME:
        return "same"
    if not change.known:
        return "undecided"
    return "longer" if change.mean > 0 else "shorter"


class Turn(NamedTuple):
    """An inner moment at which the mean length turns: its place on the axis step, and the change up to it and
    after it."""

    at: int
    before: Change
    after: Change


def turns(r: PathGrowth) -> list[Turn]:
    """The inner moments with the smallest and the largest mean length, in order: those to which it falls and
    after
    which it grows, or the opposite, where the intervals of both changes do not hold 0."""
    inner = len(r.step) - 2
    if inner < 1 or not np.isfinite(r.mean_length).all():
        return []
    level = 1 - (1 - LEVEL) / inner
    found = []
    for extreme, up in ((np.argmin, False), (np.argmax, True)):
        t = 1 + int(extreme(r.mean_length[1:-1]))
        before, after = r.change(0, t, level), r.change(t, -1, level)
        rises, falls = (before, after) if up else (after, before)
        if rises.low > 0 and falls.high < 0:
            found.append(Turn(t, before, after))
    return sorted(found)


# So many moments are told one by one.
MOST = 8


def points(label: str, r: PathGrowth) -> list[str]:
    """The mean length at every moment, the change from first to last, turns, effective lengths, and γ."""
    units, last = r.num_plain + r.num_residual, len(r.step) - 1
    told = range(last + 1) if last < MOST else sorted({0, *(turn.at for turn in turns(r)), last})
    course = ", ".join(f"{_mean(r, t)} {moment(int(r.step[t]))}" for t in told)
    text = f"{label}: the mean effective length is {course}, of {units} units."
    if verdict(r) == "none":
        return [text]
    text += f" From the first to the last moment it changes by {_change(r.change(0, -1))} units."
    for turn in turns(r):
        kind, then = ("largest", "falls") if turn.after.mean < 0 else ("smallest", "grows")
        text += (
            f" It is {kind} {moment(int(r.step[turn.at]))}; from there to the last moment it {then} again, "
            f"by {_change(turn.after, abs)} units."
        )
    ranges = " and ".join(
        f"{between(r.effective[t])} units {moment(int(r.step[t]))}" for t in sorted({0, last})
    )
    text += f" 95 % of the gradient comes through {ranges}."
    gamma = r.mean_scale
    if np.isfinite(gamma).all():
        ends = " and ".join(f"{gamma[t]:.2f} {moment(int(r.step[t]))}" for t in sorted({0, last}))
        text += f" The mean |γ| of BatchNorm in the units is {ends}."
    return [text]


def _mean(r: PathGrowth, t: int) -> str:
    if np.isnan(r.mean_length[t]):
        return "not known (a gradient is zero or not finite)"
    low, high = np.stack(r.mean_length_interval)[:, t]
    return f"{r.mean_length[t]:.1f}" + ("" if np.isnan(low) else f" ({low:.1f} to {high:.1f})")


def _change(change: Change, size: Callable[[float], float] = float) -> str:
    """'−3.78 (−4.23 to −3.33)'; with ``abs``, its size."""
    ends = sorted(map(size, (change.low, change.high)))
    around = "" if np.isnan(change.low) else " ({} to {})".format(*(f"{end:.2f}" for end in ends))
    return (f"{size(change.mean):.2f}" + around).replace("-0.00", "0.00").replace("-", "−")


def table(r: PathGrowth) -> Columns:
    low, high = r.mean_length_interval
    changes = [r.change(0, t) for t in range(len(r.step))]
    with np.errstate(divide="ignore"):
        typical = np.exp(np.log(r.total).mean(1))
    return {
        "moment": [capital(moment(int(step))) for step in r.step],
        "mean effective length": numbers(r.mean_length),
        "95 % interval": [f"{a} to {b}" for a, b in zip(numbers(low), numbers(high), strict=True)],
        "change since the first moment": ["–", *map(_change, changes[1:])],
        "effective lengths": map(between, r.effective),
        "mean length by contribution": numbers(r.mean_contribution @ r.length),
        **({"mean |γ| in the units": numbers(r.mean_scale)} if np.isfinite(r.mean_scale).any() else {}),
        "norm of the gradient, geometric mean": numbers(typical),
    }


def summary(r: PathGrowth) -> dict[str, str]:
    ends = r.mean_length[sorted({0, len(r.step) - 1})]
    return {"mean effective length, first → last": " → ".join(numbers(np.round(ends, 1)))}


def measure(bench: Bench) -> PathGrowth:
    run, options = as_run(bench.run), bench.options
    images, labels = bench.data(STUDY_BATCH * study_batches(options))
    steps = sorted({*([0] if run.from_scratch else []), *run.steps, run.step})
    how: Running = bench.running | {"batch_size": STUDY_BATCH}
    given, seed = (run.network, steps, run.at, images, labels), options.seed
    measured = partial(path_growth, *given, seed=seed, spectrum=spectra_of(bench), **how)
    return add_batches(bench.earlier, len(labels), measured)


def cost(run: Subject, options: Options) -> Cost:
    own = as_run(run)
    moments = len({*([0] if own.from_scratch else []), *own.steps, own.step})
    walks = moments * study_examples(run, options)
    return Cost(backward=walks * passes_of_a_walk(run.network), compilations=3.5)


STUDY = Study(
    name="path_growth",
    title="Path lengths during training",
    question=(
        "Do the paths that carry the gradient grow longer or shorter during training, and when? At every "
        "checkpoint the gradient is split exactly by the number of branches that it has crossed."
    ),
    code=(
        "images, labels = run.examples('train', 256)\n"
        "resjax.analysis.path_growth(run.network, (0, *run.steps), run.at, images, labels,\n"
        "                            loss=run.loss, batch_size=16)"
    ),
    result=PathGrowth,
    unsuited=lambda run: no_training(run) or one_path(run),
    measure=measure,
    adds=("gradient_batches",),
    cost=cost,
    plot=plot,
    verdict=verdict,
    says={
        "longer": "the paths that carry the gradient of {} are longer after training than before",
        "shorter": "the paths that carry the gradient of {} are shorter after training than before",
        "same": "the paths that carry the gradient of {} are as long after training, within half a unit",
        "undecided": "whether the paths that carry the gradient of {} grow longer or shorter is undecided",
        "none": "no two moments of {} have a gradient to compare",
    },
    points=points,
    table=table,
    summary=summary,
)
