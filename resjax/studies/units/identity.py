"""How near to the identity each unit is, and whether that tells what its deletion costs.

*Question.* A unit that adds little to what passes by can be missed, whatever the ensemble of paths may be.
With z = s + F the sum of shortcut and branch (of a plain unit that keeps the shape, F = f(x) − x, so that
deleting it is again F → 0), four numbers a unit:

==========  ==============================================  =============================================
ratio       mean of ‖F(x)‖ / ‖x‖                             how large (Jastrzębski et al. 2018)
cosine      mean of cos(F(x), ∂L/∂x)                         does F step downhill? ibid., from
                                                             L(x + F) ≈ L(x) + F·∂L/∂x: negative
novelty     mean of 1 − cos²(F(x), s)                        how new: the share of ‖F‖² orthogonal to s
estimation  std of a_i − a_last, ÷ rms of a_last             how far from the stage's final representation
                                                             (Greff et al. 2017: its mean stays near 0, its
                                                             deviation shrinks along a stage)
==========  ==============================================  =============================================

x is the unit's input, L an example's loss, ∂L/∂x its gradient through all that follows x, this unit included;
a_i is the output of unit i and a_last that of its stage's last unit. Norms, cosines and the orthogonal share
are those of one example's whole array, then averaged over examples. Novelty splits F into a part along s,
which only rescales what passes by (and which the next normalization may undo), and the rest: 0 is a mere
rescaling, 1 is orthogonal. It does not depend on the size of F.

With the result of ``lesion``, each number is ranked against the damage of deleting that unit, the
KL divergence to the intact network (the error would be tied: most units cost nothing): Spearman's ρ, and what
other draws of units would give (bootstrap over units).

*Reading it.* A small ratio with harmless deletions is what near-identity units predict without any ensemble.
A correlation over twenty-odd units is coarse, see its interval, and no cause. Cosines in tens of thousands
of dimensions are small even where the step is systematic, so look at their sign; where the loss is nearly 0,
∂L/∂x is tiny and its direction noisy. Units that change the shape have no cosine. With a ReLU behind the sum,
x ≥ 0, and F is what is added before it.

*Cost.* One forward and one backward pass, with every unit run once more; one compilation. Activations of one
batch at a time are kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.network.losses import Loss, cross_entropy
from resjax.network.parts import scan_units
from resjax.network.unit import Parts, Unit
from resjax.studies import style
from resjax.studies.batches import (
    Progress,
    check_examples,
    check_images,
    count_classes,
    padded_batches,
)
from resjax.studies.intervals import bootstrap
from resjax.studies.lesions.lesion import Lesion
from resjax.studies.paths.path_walk import norm, wide
from resjax.studies.ranks import spearman
from resjax.studies.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MEASURES = ("ratio", "cosine", "novelty", "estimation")


@dataclasses.dataclass(frozen=True)
class Identity(Result):
    """Four measures of each unit, NaN where there is none, and their rank correlation with the damage.

    Attributes:
      unit: names of all units in order.
      stage: int [unit].
      residual: bool [unit], whether the unit has a shortcut in the intact network.
      ratio, cosine, novelty: [unit], means over examples.
      cosine_error: [unit], standard error of the mean cosine.
      estimation_mean, estimation_std: [unit], of a_i − a_last over examples, positions and channels.
      scale: [unit], root mean square of a_last.
      damage: [unit], KL(p_intact ‖ p_without), nats, or None without lesions.
      measure: the names in MEASURES.
      correlation, low, high: [measure], Spearman's ρ with the damage and its 95 % interval (NaN for
        fewer than four units), or None without lesions.
      num_examples: of the data.
      choices: what the papers leave open.
    """

    AXES: ClassVar = {
        **dict.fromkeys(
            (
                *("stage", "residual", "ratio", "cosine", "cosine_error", "novelty"),
                *("estimation_mean", "estimation_std", "scale", "damage"),
            ),
            ("unit",),
        ),
        **dict.fromkeys(("correlation", "low", "high"), ("measure",)),
    }

    unit: tuple[str, ...]
    stage: np.ndarray
    residual: np.ndarray
    ratio: np.ndarray
    cosine: np.ndarray
    cosine_error: np.ndarray
    novelty: np.ndarray
    estimation_mean: np.ndarray
    estimation_std: np.ndarray
    scale: np.ndarray
    damage: np.ndarray | None
    measure: tuple[str, ...]
    correlation: np.ndarray | None
    low: np.ndarray | None
    high: np.ndarray | None
    num_examples: int
    choices: dict[str, Any]

    @property
    def estimation(self) -> np.ndarray:
        """[unit], the deviation of a_i from a_last in units of a_last; 0 for a stage's last unit, which
        says nothing and takes no part in the correlation."""
        return self.estimation_std / self.scale


def measure_identity(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    lesions: Lesion | None = None,
    loss: Loss = cross_entropy,
    batch_size: int = 128,
    seed: int = 0,
    progress: Progress | None = None,
) -> Identity:
    """Size, direction and novelty of what each unit adds, and its distance from the stage's last output.

    Args:
      network: any; a plain unit that changes the shape has no measure but the estimation error.
      variables: of the network, as ``Network.init`` returns them. BatchNorm uses its running statistics.
      images: float [N, H, W, C], standardized as in training; any N ≥ 1, each counted once. Training images
        for the cosine, whose meaning is a step of training.
      labels: int [N].
      lesions: of the same network, to correlate with.
      loss: (logits [B, classes], labels [B]) → [B].
      batch_size: most examples at a time; memory grows with it, the result does not depend on it.
      seed: of the bootstrap.
      progress: called as ``progress(batches done, batches in all)``.

    Raises:
      ValueError: no example, images or labels of a wrong form, or lesions of other units.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    check_images(images)
    check_examples(images, labels, count_classes(network, variables, images.shape[1:]))
    units = network.units
    names = tuple(unit.name for unit in units)
    if lesions is not None and lesions.unit != names:
        raise ValueError(
            f"the lesions are those of {len(lesions.unit)} units, {lesions.unit[0]} to {lesions.unit[-1]}; "
            f"this network has {len(names)}, {names[0]} to {names[-1]}: delete its own units"
        )
    seen = []
    for x, y, mask in padded_batches(images, labels, batch_size, progress):
        part = jax.device_get(_look(network, loss, variables, x, y))
        seen.append({k: np.asarray(v, np.float64)[:, mask] for k, v in part.items()})
    of_each = {name: np.concatenate([part[name] for part in seen], 1) for name in seen[0]}
    means = {name: _mean(values) for name, values in of_each.items()}
    spread = np.sqrt(_mean((of_each["cosine"] - means["cosine"][:, None]) ** 2) / len(images))
    error_mean = means["estimation"]
    result = Identity(
        unit=names,
        stage=np.array([unit.stack.stage for unit in units]),
        residual=np.array([unit.stack.unit.residual for unit in units]),
        ratio=means["ratio"],
        cosine=means["cosine"],
        cosine_error=spread,
        novelty=means["novelty"],
        estimation_mean=error_mean,
        estimation_std=np.sqrt(np.maximum(means["square"] - error_mean**2, 0)),
        scale=np.sqrt(means["last"]),
        damage=None,
        measure=MEASURES,
        correlation=None,
        low=None,
        high=None,
        num_examples=len(images),
        choices={
            "F of a plain unit": "f(x) − x, where shapes agree",
            "∂L/∂x": "of each example's own loss, through all units behind x and the unit itself",
            "BatchNorm": "running statistics",
            "estimation error": "over examples, positions and channels of a stage's units of one shape",
            "damage": "KL(p_intact ‖ p_without the unit)",
        },
    )
    return result if lesions is None else _against(result, lesions.kl, seed)


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the examples that have a value, [unit, N] → [unit]; NaN where none has."""
    known = np.isfinite(values)
    return np.where(known, values, 0).sum(1) / np.where(known.any(1), known.sum(1), np.nan)


@partial(jax.jit, static_argnums=(0, 1))
def _look(
    network: Network, loss: Loss, variables: Variables, images: jax.Array, labels: jax.Array
) -> dict[str, jax.Array]:
    """Each number of each unit and example, [unit, B]."""
    h, _ = network.run_stem(variables, images)
    stacks, inputs = network.places(variables), {}
    for place in stacks:
        h, _, inputs[place.stack.name] = network.run_stack(
            place.stack, variables, h, gates=place.gates, tap=lambda parts: parts.x
        )
    gradient = jax.grad(lambda h: jnp.sum(loss(network.run_head(variables, h)[0], labels)))(h)
    found = []
    for place in reversed(stacks):

        def step(
            gradient: jax.Array, own: Any, unit: Unit = place.stack.unit
        ) -> tuple[jax.Array, dict[str, jax.Array]]:
            """From ∂L/∂y to ∂L/∂x."""
            part, gate, x = own
            run = partial(unit.apply, part, method="parts")
            _, pull, parts = jax.vjp(lambda x: _with_output(run(x, gate)), x, has_aux=True)
            (gradient,) = pull(gradient)
            return gradient, _compare(parts, gate, unit.residual, gradient)

        xs = (place.variables, place.gates, inputs[place.stack.name])
        gradient, of_units = scan_units(place.stack.n, step, gradient, xs, reverse=True)
        found.append(of_units)
    units = {name: jnp.concatenate([f[name] for f in reversed(found)]) for name in found[0]}
    return units | _estimation(network, inputs, h)


def _with_output(parts: Any) -> tuple[jax.Array, Any]:
    return parts.y, parts


def _compare(parts: Parts, gate: Any, residual: bool, gradient: jax.Array) -> dict[str, jax.Array]:
    """One unit's input, shortcut, branch and ∂L/∂x → its measures, [B] each."""
    x, s, f, _ = parts
    none = jnp.full(len(x), jnp.nan, wide(x))
    if s is None:
        return dict.fromkeys(("ratio", "cosine", "novelty"), none)
    f = f if gate is None else gate.astype(f.dtype) * f
    added = f if residual else f - s
    return {
        "ratio": _norms(added) / _norms(x),
        "cosine": _cosine(added, gradient) if added.shape == x.shape else none,
        "novelty": 1 - _cosine(added, s) ** 2,
    }


def _norms(v: jax.Array) -> jax.Array:
    """[B, …] → [B]."""
    return norm(v, tuple(range(1, v.ndim)))


def _cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    """[B, …] twice → [B]; NaN where one of both is 0."""
    a, b = (v.astype(wide(v)) / _norms(v).reshape(-1, *[1] * (v.ndim - 1)) for v in (a, b))
    return jnp.sum(a * b, tuple(range(1, a.ndim)))


def _estimation(
    network: Network, inputs: Mapping[str, jax.Array], last: jax.Array
) -> dict[str, jax.Array]:
    """Mean and mean square of a_i − a_last, and mean square of a_last, each [unit, B]."""
    following = [inputs[stack.name][0] for stack in network.stacks[1:]] + [last]
    final = {stack.stage: y for stack, y in zip(network.stacks, following, strict=True)}
    rows = []
    for stack, y in zip(network.stacks, following, strict=True):
        goal = final[stack.stage]
        goal, shape = goal.astype(wide(goal)), (stack.n, len(goal))
        if y.shape != goal.shape:
            rows.append((jnp.full(shape, jnp.nan),) * 3)
            continue
        axes = tuple(range(2, goal.ndim + 1))
        # A unit's output is the next one's input; a single unit's own input may differ in shape.
        within = inputs[stack.name][1:].reshape(-1, *y.shape)
        errors = jnp.concatenate([within, y[None]]).astype(goal.dtype) - goal[None]
        size = jnp.mean(jnp.square(goal), tuple(a - 1 for a in axes))
        rows.append(
            (
                jnp.mean(errors, axes),
                jnp.mean(jnp.square(errors), axes),
                jnp.broadcast_to(size[None], shape),
            )
        )
    names = ("estimation", "square", "last")
    return {k: jnp.concatenate(v) for k, v in zip(names, zip(*rows, strict=True), strict=True)}


def _against(result: Identity, damage: np.ndarray, seed: int) -> Identity:
    found: list[tuple[float, ...]] = []
    for name in result.measure:
        pair = np.stack([getattr(result, name), damage])
        if name == "estimation":
            pair[:, _is_last(result)] = np.nan
        pair = pair[:, np.isfinite(pair).all(0)]
        if pair.shape[1] < 4:
            found.append((np.nan, np.nan, np.nan))
            continue
        ends = bootstrap(pair, _rho, seed=seed)
        found.append((float(_rho(pair)), *map(float, ends)))
    rho, low, high = np.array(found).T
    return dataclasses.replace(result, damage=damage, correlation=rho, low=low, high=high)


def _rho(pair: np.ndarray, axis: int = -1) -> np.ndarray:
    """Spearman's ρ of the rows of [2, n]; 0 where one of both is constant, as some resample may be."""
    del axis
    return np.nan_to_num(spearman(*pair))


def _is_last(result: Identity) -> np.ndarray:
    """bool [unit], the last of its stage, whose distance from itself is no measurement."""
    return np.append(np.diff(result.stage) != 0, True)


_AXES = {
    "ratio": "‖F‖ / ‖x‖",
    "cosine": "cos(F, ∂L/∂x)",
    "novelty": "novelty",
    "estimation": "distance from\nstage's last output",
}


def plot(results: Identity | Mapping[str, Identity]) -> Figure:
    """Each measure unit by unit, and its rank correlation with the damage, if lesions were given."""
    named = {"": results} if isinstance(results, Identity) else dict(results)
    narrow = style.is_narrow()
    ranked = {label: r for label, r in named.items() if r.correlation is not None}
    cells = len(MEASURES) + bool(ranked)
    columns = 1 if narrow else 2
    fig, grid = style.axes_grid(-(-cells // columns), columns)
    fig.set_figheight((0.5 if narrow else 0.62) * fig.get_figheight() * len(grid))
    axes = [ax for row in grid for ax in row]
    if cells < len(axes):  # correlations have a row of their own
        for ax in axes[-2:]:
            ax.remove()
        axes[-2:] = [fig.add_subplot(axes[0].get_gridspec()[-1, :])]  # type: ignore[index]
    for ax, measure in zip(axes, MEASURES, strict=False):
        _by_unit(ax, named, measure)
    for i, (label, r) in enumerate(named.items()):
        if label in ranked:
            _correlations(axes[len(MEASURES)], r, i, len(named))
    style.legend_above(fig, axes[0], 3)
    return fig


def _by_unit(ax: Axes, named: Mapping[str, Identity], measure: str) -> None:
    for i, (label, r) in enumerate(named.items()):
        values = (
            np.where(_is_last(r), np.nan, r.estimation)
            if measure == "estimation"
            else getattr(r, measure)
        )
        number = 1 + np.arange(len(values))
        dots = style.marker(i) + "-"
        ax.plot(number, values, dots, lw=1, ms=3.5, color=style.color(i), label=label)
    ax.set(xlabel="unit", ylabel=_AXES[measure])
    if measure == "cosine":
        ax.axhline(0, lw=1, color=style.ink())
    elif measure in ("ratio", "estimation"):
        ax.set_yscale("log")
    style.integer_ticks(ax)


def _correlations(ax: Axes, r: Identity, i: int, runs: int) -> None:
    assert r.correlation is not None and r.low is not None and r.high is not None
    place = np.arange(len(r.measure)) + 0.16 * (i - (runs - 1) / 2)
    # An end of the bootstrap interval may lie beyond the estimate itself.
    sides = np.clip([r.correlation - r.low, r.high - r.correlation], 0, None)
    ax.errorbar(r.correlation, place, xerr=sides, fmt=style.marker(i), color=style.color(i), lw=1.4)
    ax.axvline(0, lw=1, color=style.ink())
    ax.set(xlim=(-1.03, 1.03), xlabel="rank correlation with the damage (ρ)")
    ax.set_yticks(range(len(r.measure)), [_AXES[name] for name in r.measure])
    ax.set_ylim(len(r.measure) - 0.5, -0.5)
