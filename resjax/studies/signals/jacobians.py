"""Products of unit Jacobians: why the gradient of a deep network vanishes or explodes, or does not.

*Question.* Back-propagation multiplies one Jacobian for each unit, ∂L/∂x_0 = J_1ᵀ J_2ᵀ … J_nᵀ ∂L/∂x_n. If a
factor is typically a little below or above 1, the product vanishes or explodes with depth. In y = x + f(x) a
factor is 1 + J_f, whose norm lies between 1 − ‖J_f‖ and 1 + ‖J_f‖ and is near 1 where the branch is small.

*Method.* Three numbers for each unit's Jacobian J = ∂y/∂x, at every example:

* ``largest``: the largest singular value ‖J‖₂, the most that any gradient can grow, by power iteration on JᵀJ
  (Golub & Van Loan 2013, §8.2.1); ``branch``: the same without the shortcut's part of J, ‖J_f‖₂;
* ``mean_square``: tr(J Jᵀ)/d, the mean over directions of the growth of a squared gradient, by Hutchinson's
  estimator (1990): the mean of ‖Jᵀw‖²/d over random signs w ∈ {−1, 1}^d, with an interval from several w;
* ``gain``: ‖c_l‖/‖c_{l+1}‖ of the actual gradient c = ∂L/∂x. The product of the gains *is* the end-to-end
  gain.

Jᵀw is one reverse-mode product. Jv is the reverse-mode derivative of w ↦ Jᵀw, which is linear in w and has
the transpose J. So no layer needs a forward-mode derivative (this project's convolution on CPU has none).

*Protocol.* Each example is measured alone: BatchNorm's statistics are constants, taken from ``variables``. At
init they match no data: call ``resjax.studies.lesions.batch_statistics.reestimate`` first.

*Reading it.* Largest singular values bound the gain from above, ∏‖J_l‖, often by far: the worst direction of
one unit is not that of the next. The root of the mean square is the gain of a *random* gradient; real
gradients may prefer some directions. Power iteration estimates ‖J‖ from below; ``change`` tells whether it
has converged.

*Cost.* About 4·(iterations) + probes reverse-mode products of every unit, for each example; one compilation.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.network.losses import Loss, cross_entropy
from resjax.studies import pointing, style
from resjax.studies.batches import Progress, per_example
from resjax.studies.costs import Cost, data
from resjax.studies.examples import checked_examples, take
from resjax.studies.intervals import bootstrap
from resjax.studies.lesions.batch_statistics import reestimate
from resjax.studies.marks import few_ticks, legend_by_colour_and_line
from resjax.studies.moments import by_moment, first_moment, moment
from resjax.studies.options import Options
from resjax.studies.paths.path_walk import Crossing, Probe, norm_of_each, walk_back
from resjax.studies.result import Result
from resjax.studies.signals.near_one import ALIKE, compared
from resjax.studies.signals.training_batches import init_and_now
from resjax.studies.study import Bench, Columns, Study
from resjax.studies.subject import Subject
from resjax.studies.words import factor, join, with_ends

ITERATIONS, PROBES = 20, 8


@dataclasses.dataclass(frozen=True)
class Jacobians(Result):
    """Singular values of unit Jacobians; join moments with ``resjax.studies.moments.join``."""

    unit: tuple[str, ...]  # names of all units in order
    residual: Annotated[np.ndarray, "unit"]  # bool, whether the unit has a shortcut
    step: Annotated[np.ndarray, "step"]  # int, training steps done
    largest: Annotated[np.ndarray, "step", "example", "unit"]  # ‖∂y/∂x‖₂
    branch: Annotated[np.ndarray, "step", "example", "unit"]  # without the shortcut's part of ∂y/∂x
    # Mean over examples of ‖Jᵀw‖²/d for each random w; d is the size of the output.
    mean_square: Annotated[np.ndarray, "step", "probe", "unit"]
    # ‖∂L/∂x‖ ÷ ‖∂L/∂y‖; NaN where the gradient of an example is 0.
    gain: Annotated[np.ndarray, "step", "example", "unit"]
    change: Annotated[np.ndarray, "step"]  # largest relative change in the last power iteration

    @property
    def bound(self) -> np.ndarray:
        """[step, example, unit], ∏ of ``largest`` from the unit to the last: no gradient grows more."""
        return _products(self.largest)

    @property
    def typical(self) -> np.ndarray:
        """[step, probe, unit], the same product of root mean squares: growth of random gradients."""
        return _products(np.sqrt(self.mean_square))

    @property
    def actual(self) -> np.ndarray:
        """[step, example, unit], ‖∂L/∂x_l‖ ÷ ‖∂L/∂x_n‖."""
        return _products(self.gain)


def _products(values: np.ndarray) -> np.ndarray:
    """From each unit to the last one, along the last axis."""
    with np.errstate(divide="ignore"):
        return np.exp(np.cumsum(np.log(values)[..., ::-1], -1)[..., ::-1])


def centre(values: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Geometric mean over draws or examples with its 95 % interval: [draw, unit] → three of [unit].

    Draws that are not finite or 0 are left out; NaN where fewer than two are left.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(values)
    logs = logs[np.isfinite(logs).all(-1)]
    if len(logs) < 2:
        return (np.full(values.shape[-1], np.nan),) * 3
    low, high = bootstrap(logs.T, seed=seed)
    return np.exp(logs.mean(0)), np.exp(low), np.exp(high)


def jacobians(
    network: Network,
    variables: Variables,
    images: Any,
    labels: ArrayLike,
    *,
    loss: Loss = cross_entropy,
    iterations: int = ITERATIONS,
    probes: int = PROBES,
    batch_size: int = 32,
    step: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Jacobians:
    """Largest and mean-square singular value of every unit's Jacobian, and the gradient's actual gain.

    Args: those of every analysis (``Inference``), and
      variables: including the statistics that BatchNorm holds constant (see the module).
      iterations: number of power iterations.
      probes: number of random w, 2 or more.
      step: training steps done, noted in the result.
      seed: of the starting vectors of power iteration and of the probes.
    """
    images, labels, _ = checked_examples(network, variables, images, labels)
    if iterations < 1 or probes < 2:
        raise ValueError(
            f"iterations={iterations}, probes={probes}; allowed: 1 or more, 2 or more (an interval needs two)"
        )
    batch = itertools.count()

    def run(images: Any, labels: np.ndarray) -> dict[str, jax.Array]:
        key = jax.random.fold_in(jax.random.key(seed), next(batch))
        return _batch(network, loss, iterations, probes, variables, images, labels, key)

    found = per_example(run, images, labels, batch_size, progress)
    found = {name: np.asarray(values, np.float64) for name, values in found.items()}
    return Jacobians(
        unit=tuple(unit.name for unit in network.units),
        residual=network.residual,
        step=np.array([step]),
        **{name: found[name].T[None] for name in ("largest", "branch", "gain")},
        mean_square=found["mean_square"].mean(-1).T[None],
        change=np.array([found["change"].max()]),
        choices={
            "BatchNorm": "statistics held constant, so that every example stands alone",
            "largest singular values": f"{iterations} power iterations by double reverse mode",
            "mean squares": f"{probes} vectors of random signs an example",
            "stochastic depth": "every unit runs, with the gates of evaluation",
            "seed": seed,
        },
    )


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _batch(network: Network, loss: Loss, iterations: int, probes: int, *given: Any) -> dict[str, jax.Array]:
    """[unit, B], ``mean_square`` [unit, probe, B]; ``given`` are variables, images, labels and key."""

    def cross(unit: Crossing, rows: jax.Array, key: jax.Array, xs: Any) -> tuple[Any, Any, Any]:
        del xs
        gradient = rows[0]
        key, first, signs = jax.random.split(key, 3)
        merge, branch = unit.merge(), unit.branch()
        shortcut = unit.shortcut() if unit.unit.residual else None

        def pull(w: jax.Array, weight: jax.Array | float = 1.0) -> jax.Array:
            """The unit's Jᵀw with a weight on the shortcut; a weight of 0 gives the branch's Jᵀw."""
            c = merge(w)
            if shortcut is None:
                return branch(c)
            return branch(c) + jnp.asarray(weight, c.dtype) * shortcut(c)

        def largest(weight: jax.Array) -> tuple[jax.Array, jax.Array]:
            return _largest(lambda w: pull(w, weight), gradient, unit.x, first, iterations)

        def mean_square(key: jax.Array) -> jax.Array:
            w = jax.random.rademacher(key, gradient.shape, gradient.dtype)
            return jnp.square(norm_of_each(pull(w))) / (w.size // len(w))

        # The shortcut's weight is traced, so one compilation serves both; they run one after the other.
        values, change = lax.map(largest, jnp.array([1.0] if shortcut is None else [1.0, 0.0]))
        before, size = pull(gradient), norm_of_each(gradient)
        kept = {
            "largest": values[0],
            "branch": values[-1],
            "change": change.max(0),
            "gain": jnp.where(size > 0, norm_of_each(before) / size, jnp.nan),
            "mean_square": lax.map(mean_square, jax.random.split(signs, probes)),
        }
        return before[None], key, kept

    start: Any = {"start": lambda gradient: gradient[None], "carry": given[-1], "xs": ()}
    return walk_back(network, loss, Probe(), *given, cross=cross, **start).units


def _largest(
    pull: Callable[[jax.Array], jax.Array],
    y: jax.Array,
    x: jax.Array,
    key: jax.Array,
    iterations: int,
) -> tuple[jax.Array, jax.Array]:
    """[B] largest singular value of each example's J, and its relative change in the last iteration. ``pull``
    computes Jᵀw; ``y`` and ``x`` have the shapes of w and of Jᵀw."""
    # w ↦ Jᵀw is linear, so its own reverse-mode derivative, anywhere, is v ↦ Jv.
    _, push = jax.vjp(pull, jnp.zeros_like(y))

    def unit_length(v: jax.Array) -> tuple[jax.Array, jax.Array]:
        size = norm_of_each(v)
        safe = jnp.where(size > 0, size, 1).astype(v.dtype)
        return v / safe.reshape(-1, *(1,) * (v.ndim - 1)), size

    def once(_: Any, carry: Any) -> Any:
        v, value, _ = carry
        v, square = unit_length(pull(push(v)[0]))
        return v, jnp.sqrt(square), value

    v, size = unit_length(jax.random.normal(key, x.shape, x.dtype))
    zero = jnp.zeros_like(size)
    _, value, before = lax.fori_loop(0, iterations, once, (v, zero, zero))
    return value, jnp.abs(value - before) / jnp.where(value > 0, value, 1)


# --- what the report shows ---

GAINS = ("gain of the gradient", "root mean square", "largest singular value")  # columns of the table
PRODUCTS = ("product of gains", "product of root mean squares")
LINES = {"actual gradient": "-", "random gradient": "--", "largest possible": ":"}


def plot(results: Mapping[str, Jacobians]) -> style.Figure:
    """One column for each moment: above, the gain of one unit; below, the product of the gains from the last
    unit back to this one (without the largest possible, which would be off the scale).

    Colours tell runs apart, line styles the kinds of gradient. Bands are 95 % intervals of geometric means
    over examples or probes.
    """
    columns = max(len(r.step) for r in results.values())
    fig, grid = style.axes_grid(2, columns, sharex=True, sharey="row")
    fig.set_figheight(fig.get_figheight() * 1.5)
    for i, (label, r) in enumerate(results.items()):
        for t, step in enumerate(r.step):
            for row, shown in zip(grid, (GAINS, PRODUCTS), strict=True):
                own: dict[str, Any] = {"by": "moment", "only": moment(step), "columns": shown}
                pointing.along(row[t], label, r.unit, 1 + np.arange(len(r.unit)), **own)
            one = (r.gain[t], np.sqrt(r.mean_square[t]), r.largest[t])
            for ax, kinds in ((grid[0][t], one), (grid[1][t], (r.actual[t], r.typical[t]))):
                for values, ls in zip(kinds, LINES.values(), strict=False):
                    unit, (mean, low, high) = 1 + np.arange(len(r.unit)), centre(values)
                    ax.plot(unit, mean, ls=ls, color=style.color(i))
                    ax.fill_between(unit, low, high, color=style.color(i), alpha=0.2, lw=0)
            grid[0][t].set_title(moment(step))
    for ax in grid[0] + grid[1]:
        ax.set_yscale("log")
        ax.axhline(1, lw=0.8, color=style.ink(), alpha=0.5)
        few_ticks(ax)
    for ax in grid[1]:
        ax.set_xlabel("unit")
    grid[0][0].set_ylabel("gain of one unit")
    grid[1][0].set_ylabel("product, from the last")
    legend_by_colour_and_line(fig, results, LINES)
    return fig


def whole(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and interval of a product over all units, from [draw, unit]."""
    mean, low, high = (float(v[0]) for v in centre(values))
    return mean, low, high


def a_unit(values: np.ndarray) -> float:
    """The factor that gives the product ``whole`` if every unit has it."""
    return float(whole(values)[0] ** (1 / values.shape[-1]))


def headline(results: Mapping[str, Jacobians]) -> str:
    """In which network the product of Jacobians stays near 1 at the first moment, for a random gradient."""
    typical = {label: whole(r.typical[0])[0] for label, r in results.items()}

    def told(label: str) -> str:
        return f"{factor(typical[label])} ({factor(a_unit(results[label].typical[0]))} a unit)"

    said = compared(
        typical,
        told,
        alike="the products of the units' Jacobians are alike in these networks",
        apart="the product of the units' Jacobians is nearer to 1 in {near} than in {far}: a random gradient "
        "changes by a factor of {of_near} against {of_far}",
        opposite="the products of the units' Jacobians are about as far from 1 in these networks, but on "
        "opposite sides: a random gradient changes by a factor of {of_high} in {high}, {of_low} in {low}",
    )
    label, product = next(iter(typical.items()))
    if not said and np.isfinite(product) and product > 0:
        said = f"all units of {label} together {_way(product)} by a factor of {told(label)}"
    none = f"no random gradient keeps a finite length above 0 through all units of {join(list(typical))}"
    return f"{first_moment(results)}, {said or none}"


def _way(product: float) -> str:
    if 1 / ALIKE <= product <= ALIKE:
        return "keep the length of a random gradient: they change it"
    return "lengthen a random gradient" if product > 1 else "shorten a random gradient: they change it"


def points(label: str, r: Jacobians) -> list[str]:
    parts = []
    for t, step in enumerate(r.step):
        actual, low, high = map(factor, whole(r.actual[t]))
        text = (
            f"{moment(step)} the actual gradient changes by a factor of {actual} from the head to the "
            f"first unit ({low} to {high}), a random one by {factor(whole(r.typical[t])[0])}, and no "
            f"gradient by more than about {factor(whole(r.bound[t])[0])}, the product of the largest "
            f"singular values ({factor(a_unit(r.bound[t]))} a unit"
        )
        if r.residual.any():
            own = centre(r.branch[t][:, r.residual])[0]
            text += f"; of the branches alone, {factor(np.median(own))} in the median"
        parts.append(text + ")")
    return [f"{label}: {'; '.join(parts)}."]


def table(r: Jacobians) -> Columns:
    def cells(values: np.ndarray) -> list[str]:
        mean, *ends = centre(values)
        return with_ends(mean, ends)

    own = r.gain, np.sqrt(r.mean_square), r.largest, r.branch, r.actual, r.typical
    names = *GAINS, "of the branch alone", *PRODUCTS
    kinds = {name: map(cells, values) for name, values in zip(names, own, strict=True)}
    return by_moment(r.step, "unit", r.unit, kinds)


# Power iteration takes about eighty backward passes for each unit, and examples differ little.
EXAMPLES = 8


def measure(bench: Bench) -> Jacobians:
    run, seed = bench.run, bench.options.seed
    images, labels = bench.data(run.train_batch_size)
    some = take(images, slice(EXAMPLES)), labels[:EXAMPLES]
    used = bench.choices["data"]
    bench.choices["data"] = f"{len(some[1])} of {used}"
    bench.choices["statistics of BatchNorm"] = f"of {used}"

    def one(network: Network, variables: Variables, *examples: Any, **options: Any) -> Jacobians:
        if jax.tree.leaves(variables.get("batch_stats", {})):
            variables = reestimate(network, variables, images, batch_size=len(labels), seed=seed)
        return jacobians(network, variables, *examples, **options)

    return init_and_now(bench, one, *some, loss=run.loss, batch_size=EXAMPLES)


def cost(run: Subject, options: Options) -> Cost:
    del options
    moments, count = len(run.moments), data(run, run.train_batch_size)
    # Two power iterations, with and without the shortcut. A step is Jᵀ(Jv), and Jv costs about two products.
    products = 6 * ITERATIONS + PROBES
    statistics = count if jax.tree.leaves(run.variables.get("batch_stats", {})) else 0
    return Cost(
        forward=moments * 2 * statistics,
        backward=moments * min(EXAMPLES, count) * products,
        compilations=20,
    )


STUDY = Study(
    name="jacobians",
    title="Products of Jacobians",
    question=(
        "Back-propagation multiplies the gradient by one matrix for each unit. How much do these matrices "
        "change its norm: at most, in a random direction, and in fact? In a deep network, factors a little "
        "above 1 make the gradient explode, and factors a little below 1 make it vanish."
    ),
    code=(
        "images, labels = run.examples('train', 8)\n"
        "resjax.analysis.jacobians(run.network, run.variables, images, labels, loss=run.loss)"
    ),
    result=Jacobians,
    measure=measure,
    cost=cost,
    plot=plot,
    headline=headline,
    points=points,
    table=table,
)
