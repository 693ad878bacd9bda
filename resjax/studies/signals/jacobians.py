"""Products of unit Jacobians: why the gradient of a deep network vanishes or explodes, or does not.

*Question.* Back-propagation multiplies one Jacobian a unit, ∂L/∂x_0 = J_1ᵀ J_2ᵀ … J_nᵀ ∂L/∂x_n. A factor
that is typically a little below or above 1 makes the product vanish or explode with depth. In y = x +
f(x) a factor is 1 + J_f, of a norm that lies between 1 − ‖J_f‖ and 1 + ‖J_f‖ and is near 1 where the
branch is small.

*Method.* Three numbers for each unit's Jacobian J = ∂y/∂x, at every example:

* ``largest``: the largest singular value ‖J‖₂, the most that any gradient can grow, by power iteration on
  JᵀJ (Golub & Van Loan 2013, §8.2.1); ``branch``: the same with the shortcut's part left out of J,
  ‖J_f‖₂;
* ``mean_square``: tr(J Jᵀ)/d, the mean over directions of the growth of a squared gradient, by
  Hutchinson's estimator (1990): the mean of ‖Jᵀw‖²/d over random signs w ∈ {−1, 1}^d, an interval from
  several w;
* ``gain``: ‖c_l‖/‖c_{l+1}‖ of the actual gradient c = ∂L/∂x. The product of the gains *is* the end-to-end
  gain.

Jᵀw is one reverse-mode product. Jv is the reverse-mode derivative of w ↦ Jᵀw, which is linear in w with the
transpose J: so no layer needs a forward-mode derivative (this project's convolution on CPU has none).

*Protocol.* Per example: BatchNorm's statistics are constants, those in ``variables``. At init these are
of no data: take ``resjax.studies.lesions.batch_statistics.reestimate`` first.

*Reading it.* Largest singular values bound the gain from above, ∏‖J_l‖, often by far: the worst direction
of one unit is not that of the next. The root of the mean square is the gain of a *random* gradient; real
gradients may prefer directions. Power iteration gives a lower estimate of ‖J‖; ``change`` tells how
settled it is.

*Cost.* About 4·(iterations) + probes reverse-mode products of every unit, an example; one compilation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.network.losses import Loss, cross_entropy
from resjax.studies import style
from resjax.studies.batches import (
    Progress,
    check_examples,
    check_images,
    count_classes,
    padded_batches,
)
from resjax.studies.intervals import bootstrap
from resjax.studies.marks import few_ticks, legend_by_colour_and_line
from resjax.studies.paths.path_walk import Crossing, Probe, norm, walk_back
from resjax.studies.result import Result
from resjax.studies.signals.gradients import moment

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class JacobianNorms(Result):
    """Singular values of unit Jacobians; join moments with ``resjax.studies.moments.join``.

    Attributes:
      unit: names of all units in order.
      residual: bool [unit], whether the unit has a shortcut.
      step: int [step], training steps done.
      largest: [step, example, unit], ‖∂y/∂x‖₂.
      branch: [step, example, unit], the same of the branch alone: the shortcut's part is left out of ∂y/∂x.
      mean_square: [step, probe, unit], mean over examples of ‖Jᵀw‖²/d for each random w, d the output's size.
      gain: [step, example, unit], ‖∂L/∂x‖ ÷ ‖∂L/∂y‖; NaN where the gradient of an example is 0.
      change: [step], the largest relative change of a singular value in the last iteration.
      choices: what is left open.
    """

    AXES: ClassVar = {
        "residual": ("unit",),
        "step": ("step",),
        **dict.fromkeys(("largest", "branch", "gain"), ("step", "example", "unit")),
        "mean_square": ("step", "probe", "unit"),
        "change": ("step",),
    }

    unit: tuple[str, ...]
    residual: np.ndarray
    step: np.ndarray
    largest: np.ndarray
    branch: np.ndarray
    mean_square: np.ndarray
    gain: np.ndarray
    change: np.ndarray
    choices: dict[str, Any]

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


def jacobian_norms(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    loss: Loss = cross_entropy,
    iterations: int = 20,
    probes: int = 8,
    batch_size: int = 32,
    step: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> JacobianNorms:
    """Largest and mean-square singular value of every unit's Jacobian, and the gradient's actual gain.

    Args:
      network: any.
      variables: with the statistics that BatchNorm shall hold constant (see the module).
      images: float [N, H, W, C], standardized as in training; any N ≥ 1.
      labels: int [N].
      loss: (logits [B, classes], labels [B]) → [B], whose gradient's gain is measured.
      iterations: of power iteration.
      probes: random w, 2 or more.
      batch_size: most examples at a time; memory grows with it.
      step: training steps done, to note in the result.
      seed: of starts and probes.
      progress: called as ``progress(batches done, batches in all)``.

    Raises:
      ValueError: no example, images or labels of a wrong form, no iteration, fewer than two probes.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    check_images(images)
    check_examples(images, labels, count_classes(network, variables, images.shape[1:]))
    if iterations < 1 or probes < 2:
        raise ValueError(
            f"iterations={iterations}, probes={probes}; allowed: 1 or more, 2 or more (an interval needs two)"
        )
    parts = []
    for i, batch in enumerate(padded_batches(images, labels, batch_size, progress)):
        key = jax.random.fold_in(jax.random.key(seed), i)
        out = _batch(network, loss, iterations, probes, variables, batch.images, batch.labels, key)
        parts.append({k: np.asarray(v, np.float64)[..., batch.mask] for k, v in out.items()})
    found = {k: np.concatenate([p[k] for p in parts], -1) for k in parts[0]}
    units = network.units
    return JacobianNorms(
        unit=tuple(unit.name for unit in units),
        residual=np.array([unit.stack.unit.residual for unit in units]),
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
def _batch(
    network: Network,
    loss: Loss,
    iterations: int,
    probes: int,
    variables: Variables,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
) -> dict[str, jax.Array]:
    """[unit, B], ``mean_square`` [unit, probe, B]."""

    def cross(unit: Crossing, rows: jax.Array, key: jax.Array, xs: Any) -> tuple[Any, Any, Any]:
        del xs
        gradient = rows[0]
        key, start, signs = jax.random.split(key, 3)
        merge, branch = unit.merge(), unit.branch()
        shortcut = unit.shortcut() if unit.unit.residual else None

        def pull(w: jax.Array, weight: jax.Array | float = 1.0) -> jax.Array:
            """The unit's Jᵀw, its shortcut weighted: with 0, the branch's."""
            c = merge(w)
            if shortcut is None:
                return branch(c)
            return branch(c) + jnp.asarray(weight, c.dtype) * shortcut(c)

        def largest(weight: jax.Array) -> tuple[jax.Array, jax.Array]:
            return _largest(lambda w: pull(w, weight), gradient, unit.x, start, iterations)

        def mean_square(key: jax.Array) -> jax.Array:
            w = jax.random.rademacher(key, gradient.shape, gradient.dtype)
            return jnp.square(_lengths(pull(w))) / (w.size // len(w))

        # A traced weight of the shortcut: both are compiled once, and run one after the other.
        values, change = lax.map(largest, jnp.array([1.0] if shortcut is None else [1.0, 0.0]))
        before, size = pull(gradient), _lengths(gradient)
        kept = {
            "largest": values[0],
            "branch": values[-1],
            "change": change.max(0),
            "gain": jnp.where(size > 0, _lengths(before) / size, jnp.nan),
            "mean_square": lax.map(mean_square, jax.random.split(signs, probes)),
        }
        return before[None], key, kept

    return walk_back(
        network,
        loss,
        Probe(),
        variables,
        images,
        labels,
        key,
        start=lambda gradient: gradient[None],
        cross=cross,
        carry=key,
        xs=(),
    ).units


def _lengths(v: jax.Array) -> jax.Array:
    """[B, …] → [B], L2 norm of each example."""
    return norm(v, tuple(range(1, v.ndim)))


def _largest(
    pull: Callable[[jax.Array], jax.Array],
    y: jax.Array,
    x: jax.Array,
    key: jax.Array,
    iterations: int,
) -> tuple[jax.Array, jax.Array]:
    """[B] largest singular value of each example's J, of which ``pull`` gives Jᵀw, and its relative change
    in the last iteration; ``y`` and ``x`` have the shapes of w and of Jᵀw."""
    # w ↦ Jᵀw is linear, so its own reverse-mode derivative, anywhere, is v ↦ Jv.
    _, push = jax.vjp(pull, jnp.zeros_like(y))

    def unit_length(v: jax.Array) -> tuple[jax.Array, jax.Array]:
        size = _lengths(v)
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


LINES = {"actual gradient": "-", "random gradient": "--", "largest possible": ":"}


def plot(results: JacobianNorms | Mapping[str, JacobianNorms]) -> Figure:
    """One column a moment: above, how much one unit lengthens a gradient, below, all units from the last
    back to this one (where the largest possible is off the scale, and left out).

    Colours tell runs, lines which gradient. Bands are 95 % intervals of geometric means over examples or
    probes.
    """
    named = {"": results} if isinstance(results, JacobianNorms) else dict(results)
    columns = max(len(r.step) for r in named.values())
    fig, grid = style.axes_grid(2, columns, sharex=True, sharey="row")
    width, height = fig.get_size_inches()
    fig.set_size_inches(width, height * 1.5)
    for i, r in enumerate(named.values()):
        for t, step in enumerate(r.step):
            one = (r.gain[t], np.sqrt(r.mean_square[t]), r.largest[t])
            _curves(grid[0][t], one, style.color(i))
            _curves(grid[1][t], (r.actual[t], r.typical[t]), style.color(i))
            grid[0][t].set_title(moment(int(step)))
    for ax in grid[0] + grid[1]:
        ax.set_yscale("log")
        ax.axhline(1, lw=0.8, color=style.ink(), alpha=0.5)
        few_ticks(ax)
    for ax in grid[1]:
        ax.set_xlabel("unit")
    grid[0][0].set_ylabel("gain of one unit")
    grid[1][0].set_ylabel("product, from the last")
    legend_by_colour_and_line(fig, named, LINES)
    return fig


def _curves(ax: Axes, kinds: tuple[np.ndarray, ...], color: str) -> None:
    """Gains of the actual, of a random and, if given, of the luckiest gradient, [draw, unit] each."""
    unit = 1 + np.arange(kinds[0].shape[-1])
    for values, ls in zip(kinds, LINES.values(), strict=False):
        mean, low, high = centre(values)
        ax.plot(unit, mean, ls=ls, color=color)
        ax.fill_between(unit, low, high, color=color, alpha=0.2, lw=0)
