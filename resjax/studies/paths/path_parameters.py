"""Which paths train a unit: the gradient of a unit's own weights by the path length between unit and loss.

*Question.* The gradient that reaches unit i has crossed some of the units between it and the loss. Is a unit
trained through long paths or through short ones?

*Method.* The exact cotangents c_k by length (``path_exact``) are known at the output of every unit. The
gradient of its own parameters is linear in the cotangents, so it splits in the same way:

    ∂L/∂W_i = Σ_k (∂y_i/∂W_i)ᵀ c_k,      k = branches crossed behind unit i, between it and the loss

All parameters of the unit form one vector. Each length has a norm and a contribution ⟨·, whole⟩/‖whole‖²;
contributions sum to 1 over lengths. Every batch has its own mean lengths, weighted by its norms, and all
batches count alike (``path_exact`` says why); intervals are Student's t over batches.

*Reading it.* Early units have more units behind them, so lengths grow towards the input in any network:
compare with the dotted line, half of the units behind, which is the mean length of *all* paths there. The
units before unit i do not split its gradient; they only determine its input, as in the intact network.

*Control.* The same network at initialization (``resjax.studies.initial``).

*Cost.* That of the exact spectrum, and the same number of backward passes with respect to a unit's weights;
all of it a second time for the control.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from numpy.typing import ArrayLike

from resjax.cpu import shared_batches as on_cores
from resjax.network import Network, Variables
from resjax.network.losses import Loss, cross_entropy
from resjax.studies import style
from resjax.studies.batches import Progress, Running, on_each_core, whole_batches
from resjax.studies.costs import Cost
from resjax.studies.intervals import of_mean
from resjax.studies.more_batches import add_batches
from resjax.studies.options import Options
from resjax.studies.paths.path_counts import between, one_path
from resjax.studies.paths.path_exact import part_of, walk_lengths
from resjax.studies.paths.path_lengths import central_range, shares
from resjax.studies.paths.path_walk import (
    BATCH_SIZE,
    PAPER,
    STUDY_BATCH,
    Crossing,
    Probe,
    norm,
    study_batches,
    wide,
)
from resjax.studies.paths.walk_costs import passes_of_a_walk, study_examples
from resjax.studies.result import Result
from resjax.studies.study import Bench, Columns, Study
from resjax.studies.subject import Subject
from resjax.studies.words import numbers, over


@dataclasses.dataclass(frozen=True)
class PathParameters(Result):
    """Gradients of units' own parameters by the length of the path behind them."""

    unit: tuple[str, ...]  # names in order
    length: Annotated[np.ndarray, "length"]  # int, branches crossed behind a unit, 0 … units − 1
    # Norm of the gradient through all paths of a length, 0 without paths; its share of the unit's gradient.
    norm: Annotated[np.ndarray, "batch", "unit", "length"]
    contribution: Annotated[np.ndarray, "batch", "unit", "length"]
    total: Annotated[np.ndarray, "batch", "unit"]  # norm of the unit's gradient
    residual: Annotated[np.ndarray, "unit"]  # bool, whether the unit has a shortcut
    batch_size: int

    @property
    def own_share(self) -> np.ndarray:
        """[batch, unit, length]: norms divided by their sum; NaN where a unit has no gradient in a batch."""
        return shares(self.norm)

    @property
    def share(self) -> np.ndarray:
        """[unit, length]: mean of ``own_share`` over batches."""
        return self.own_share.mean(0)

    @property
    def own_length(self) -> np.ndarray:
        """[batch, unit]: mean length, weighted by ``own_share``."""
        return self.own_share @ self.length

    @property
    def mean_length(self) -> np.ndarray:
        """[unit]: mean of ``own_length`` over batches."""
        return self.own_length.mean(0)

    @property
    def mean_length_interval(self) -> tuple[np.ndarray, np.ndarray]:
        """Ends [unit] of Student's t interval over batches, cut at the lengths of all paths; NaN with one."""
        behind = len(self.unit) - 1 - np.arange(len(self.unit))
        low, high = np.clip(of_mean(self.own_length, 0), 0, behind)
        return low, high

    @property
    def expected_length(self) -> np.ndarray:
        """[unit], mean length of all paths behind: half of the residual units plus all plain units."""
        crossed = np.where(self.residual, 0.5, 1.0)
        return crossed.sum() - crossed.cumsum()

    @property
    def effective(self) -> np.ndarray:
        """[unit, end]: first and last length of the central 95 % of ``share``."""
        return np.array([central_range(self.length, share) for share in self.share])


def path_parameters(
    network: Network,
    variables: Variables,
    images: Any,
    labels: ArrayLike,
    *,
    loss: Loss = cross_entropy,
    probe: Probe = PAPER,
    batch_size: int = BATCH_SIZE,
    first_batch: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> PathParameters:
    """Splits the gradient of each unit's parameters by the length of the path from the loss to the unit.

    Args: those of ``path_spectrum``, and
      probe: BatchNorm's mode and the reduction of the loss. A gradient of weights belongs to a whole batch,
        so ``norm`` must be 'batch'; ``at`` does not matter.
    """
    if probe.norm != "batch":
        raise ValueError(
            f"norm={probe.norm!r}; allowed: 'batch', because the gradient of a weight is a sum over the batch"
        )
    batches = whole_batches(network, variables, images, labels, batch_size)
    each = list(batches.keyed(seed, first=first_batch))
    found = on_each_core(_by_unit, (network, loss, probe), variables, each, progress)
    norms, parts, total, scale = (np.stack(values) for values in zip(*found, strict=True))
    scale = scale.astype(np.float64)[:, None]
    choices = {**probe.choices(), "norm": "L2 over all parameters of a unit"}
    del choices["gradient at"]
    return PathParameters(
        unit=tuple(unit.name for unit in network.units),
        length=np.arange(network.num_units),
        norm=_by_length(norms * scale[:, None], network.residual),
        contribution=_by_length(parts, network.residual),
        total=total * scale,
        residual=network.residual,
        batch_size=batches.size,
        choices={**choices, "batches": str(batches), "seed": seed},
    )


def _by_length(values: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """[batch, unit, row] → [batch, unit, length]: a row counts residual branches, a length also counts
    plain units behind."""
    batches, units, _ = values.shape
    placed = np.zeros((batches, units, units))
    for i in range(units):
        plain = int(np.sum(~residual[i + 1 :]))
        count = units - i - plain  # number of residual units behind, plus one
        placed[:, i, plain : plain + count] = values[:, i, :count]
    return placed


@on_cores.jit_each(static=4)
def _by_unit(
    core: on_cores.Cores, network: Network, loss: Loss, probe: Probe, *batch: Any
) -> tuple[jax.Array, ...]:
    """Norms and contributions [unit, row], the whole norms [unit], and the scale that norms are divided by.

    ``batch`` is (variables, images, labels, key).
    """
    walk = walk_lengths(network, loss, probe, *batch, measure=_gradients)
    return *walk.units, walk.scale


def _gradients(unit: Crossing, rows: jax.Array, behind: jax.Array) -> tuple[jax.Array, ...]:
    """Norms and contributions [row] of the gradients of a unit's parameters, and the whole norm."""
    parameters = unit.parameters()

    def gradient(c: jax.Array) -> jax.Array:
        flat = ravel_pytree(parameters(c))[0]
        return flat.astype(wide(flat)) if flat.size else jnp.zeros(1, wide(c))

    whole = gradient(jnp.sum(rows, 0))

    def measure(k: jax.Array, found: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        g = gradient(lax.dynamic_index_in_dim(rows, k, keepdims=False))
        norms, parts = found
        return norms.at[k].set(norm(g)), parts.at[k].set(part_of(g, whole))

    zeros = jnp.zeros(len(rows), whole.dtype)
    return *lax.fori_loop(0, behind + 1, measure, (zeros, zeros)), norm(whole)


# --- what the report shows ---


def plot(results: Mapping[str, PathParameters]) -> style.Figure:
    """For each unit, the number of branches that the gradient of its weights has crossed: mean, central 95 %.

    The dotted line is the mean length of all paths behind the unit, the dash-dotted one that at init.
    """
    fig, ax = style.axes()
    for i, (label, result) in enumerate(results.items()):
        number, color = 1 + np.arange(len(result.unit)), style.color(i)
        low, high = result.effective.T
        ax.fill_between(number, low, high, color=color, alpha=0.18, lw=0)
        names = (f"{label}, {what}".strip(", ") for what in ("gradient", "at init", "all paths"))
        own, untrained, all_paths = names
        ax.plot(number, result.mean_length, style.marker(i) + "-", color=color, label=own)
        if result.initial is not None:
            before = result.initial.mean_length
            ax.plot(number, before, "-.", color=color, lw=1, alpha=0.6, label=untrained)
        ax.plot(number, result.expected_length, ":", color=color, label=all_paths)
    ax.set(xlabel="unit, from the input to the loss", ylabel="branches crossed behind it")
    style.integer_ticks(ax)
    style.legend_above(fig, ax)
    return fig


# Paths are "shorter" or "longer than most" below or above these ratios to the mean length of all paths.
SHORT, LONG = 0.75, 1.05


def ratios(result: PathParameters) -> np.ndarray:
    """[batch]: median over the first half of the units of mean length ÷ mean length of all paths.

    Units close to the loss have too few units behind them to show a difference. Units without a gradient in
    some batch are left out; NaN where all are.
    """
    half = max(len(result.unit) // 2, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        each = (result.own_length / result.expected_length)[:, :half]
    known = np.isfinite(each).all(0)
    return np.median(each[:, known], axis=1) if known.any() else np.full(len(each), math.nan)


def verdict(result: PathParameters) -> str:
    """'short', 'like' or 'long', if the interval of the mean of ``ratios`` lies below ``SHORT``, between both
    limits, or above ``LONG``; otherwise, and with one batch, 'undecided'; 'none' without a gradient."""
    own = ratios(result)
    if np.isnan(own).any():
        return "none"
    low, high = of_mean(own, 0)
    if high < SHORT:
        return "short"
    if low > LONG:
        return "long"
    return "like" if low >= SHORT and high <= LONG else "undecided"


def points(label: str, r: PathParameters) -> list[str]:
    """The lengths behind the first unit that has a gradient, and the ratio."""
    if verdict(r) == "none":
        return []
    first = int(np.flatnonzero(np.isfinite(r.mean_length))[0])
    own, ends = ratios(r), np.stack(r.mean_length_interval)[:, first]
    ratio = f"{own.mean():.2f}{over(of_mean(own, 0), 'batches', 2)}"
    behind = f"{between(r.effective[first])} of the {len(r.unit) - 1 - first} units behind it"
    return [
        f"{label}: 95 % of the gradient of {r.unit[first]} has crossed {behind} "
        f"(mean {r.mean_length[first]:.1f}{over(ends, 'batches')}; all paths there: "
        f"{r.expected_length[first]:.1f}). In the median over the first half of the units, the mean length "
        f"divided by that of all paths is {ratio}{_untrained(r)}."
    ]


def _untrained(r: PathParameters) -> str:
    """The ratio of the network at initialization."""
    if r.initial is None or np.isnan(own := ratios(r.initial)).any():
        return ""
    return f"; at init {own.mean():.2f}{over(of_mean(own, 0), 'batches', 2)}"


def table(r: PathParameters) -> Columns:
    low, high = r.mean_length_interval
    with np.errstate(divide="ignore"):
        typical = np.exp(np.log(r.total).mean(0))
    return {
        "unit": r.unit,
        "norm of its gradient, geometric mean": numbers(typical),
        "mean length behind": numbers(r.mean_length),
        "95 % interval": [f"{a} to {b}" for a, b in zip(numbers(low), numbers(high), strict=True)],
        "effective lengths": map(between, r.effective),
        "mean length by contribution": numbers(r.contribution.mean(0) @ r.length),
        "all paths": numbers(r.expected_length),
    }


def measure(bench: Bench) -> PathParameters:
    images, labels = bench.data(STUDY_BATCH * study_batches(bench.options))
    how: Running = bench.running | {"batch_size": STUDY_BATCH}
    given, seed = (*bench.network(), images, labels), bench.options.seed
    return add_batches(bench.earlier, len(labels), partial(path_parameters, *given, seed=seed, **how))


def cost(run: Subject, options: Options) -> Cost:
    walks = study_examples(run, options)
    # A gradient with respect to a unit's weights takes more time than one with respect to its input.
    return Cost(backward=3.5 * walks * passes_of_a_walk(run.network), compilations=12)


STUDY = Study(
    name="path_parameters",
    title="Which paths train a unit",
    question=(
        "The gradient of a unit's own weights has crossed some of the branches between the unit and the "
        "loss. How many? The gradient of every unit is split exactly by that number."
    ),
    code=(
        "images, labels = run.examples('train', 256)\n"
        "resjax.analysis.path_parameters(run.network, run.variables, images, labels, loss=run.loss,\n"
        "                                batch_size=16)"
    ),
    result=PathParameters,
    control=True,
    unsuited=one_path,
    measure=measure,
    adds=("gradient_batches",),
    cost=cost,
    plot=plot,
    verdict=verdict,
    says={
        "short": "the weights of {} are trained through paths shorter than most",
        "like": "the weights of {} are trained through paths about as long as most",
        "long": "the weights of {} are trained through paths longer than most",
        "undecided": "whether the weights of {} are trained through paths shorter than most is undecided",
        "none": "the weights of {} have no finite, non-zero gradient on these examples",
    },
    points=points,
    table=table,
)
