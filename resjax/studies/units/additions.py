"""The four measures of ``resjax.studies.units.identity``, which explains them, for one batch of examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from resjax.cpu import shared_batches as on_cores
from resjax.network import Network, Variables
from resjax.network.losses import Loss
from resjax.network.periods import Place, by_stack, by_unit, scan_places
from resjax.network.unit import Parts
from resjax.studies.paths.path_walk import norm, wide


@on_cores.jit(static=3)
def additions(
    cores: on_cores.Cores,
    network: Network,
    loss: Loss,
    variables: Variables,
    images: Any,
    labels: jax.Array,
) -> dict[str, jax.Array]:
    """Measures of each unit and example, [unit, B], NaN where undefined: ratio, cosine, novelty;
    estimation and square, the mean and mean square of a_i − a_last; last, the mean square of a_last."""

    def of_images(variables: Variables, examples: tuple[Any, jax.Array]) -> dict[str, jax.Array]:
        found = _additions(network, loss, variables, *examples)
        return jax.tree.map(jnp.transpose, found)  # [B, unit]

    found = on_cores.few_at_a_time(cores, of_images, variables, (images, labels))
    return jax.tree.map(jnp.transpose, found)


def _additions(
    network: Network, loss: Loss, variables: Variables, images: Any, labels: jax.Array
) -> dict[str, jax.Array]:
    """As ``additions``, of all images or a few of them."""
    variables = network.bound(variables, images)
    h, _ = network.run_stem(variables, images)
    places = network.places(variables)
    h, _, inputs = network.run_places(places, h, tap=lambda parts: parts.x)
    gradient = jax.grad(lambda h: jnp.sum(loss(network.run_head(variables, h)[0], labels)))(h)

    def step(place: Place, gradient: jax.Array, own: Any) -> Any:
        """From ∂L/∂y to ∂L/∂x, and the measures of the unit."""
        unit, (part, gate, x) = place.stack.unit, own

        def run(x: jax.Array) -> tuple[jax.Array, Parts]:
            parts: Any = unit.apply(part, x, gate, method="parts")
            return parts.y, parts

        _, pull, parts = jax.vjp(run, x, has_aux=True)
        (gradient,) = pull(gradient)
        return gradient, _compare(parts, gate, unit.residual, gradient)

    xs = [(place.variables, place.gates, x) for place, x in zip(places, inputs, strict=True)]
    _, found = scan_places(places, step, gradient, xs, reverse=True)
    units: dict[str, jax.Array] = by_unit(places, found)
    return units | _estimation(network, by_stack(places, inputs), h)


def _compare(parts: Parts, gate: Any, residual: bool, gradient: jax.Array) -> dict[str, jax.Array]:
    """Ratio, cosine and novelty of one unit, [B] each; ``gradient`` is ∂L/∂x."""
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
    """Norm of each example, [B, …] → [B]."""
    return norm(v, tuple(range(1, v.ndim)))


def _cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    """Cosine of each example's arrays, [B, …] twice → [B]; NaN where one is 0."""
    a, b = (v.astype(wide(v)) / _norms(v).reshape(-1, *[1] * (v.ndim - 1)) for v in (a, b))
    return jnp.sum(a * b, tuple(range(1, a.ndim)))


def _estimation(network: Network, inputs: Mapping[str, jax.Array], last: jax.Array) -> dict[str, jax.Array]:
    """``estimation``, ``square`` and ``last``, from the inputs of all stacks and the last unit's output."""
    following = [inputs[stack.name][0] for stack in network.stacks[1:]] + [last]
    final = {stack.stage: y for stack, y in zip(network.stacks, following, strict=True)}
    found = []
    for stack, y in zip(network.stacks, following, strict=True):
        goal = final[stack.stage][None]
        goal, shape, axes = goal.astype(wide(goal)), (stack.n, goal.shape[1]), range(2, goal.ndim)
        values: Any = (jnp.full(shape, jnp.nan),) * 3
        if y.shape == goal.shape[1:]:
            # A unit's output is the next one's input; a single unit's own input may differ in shape.
            within = inputs[stack.name][1:].reshape(-1, *y.shape)
            errors = jnp.concatenate([within, y[None]]).astype(goal.dtype) - goal
            means = (jnp.mean(v, tuple(axes)) for v in (errors, jnp.square(errors), jnp.square(goal)))
            values = tuple(jnp.broadcast_to(mean, shape) for mean in means)
        found.append(dict(zip(("estimation", "square", "last"), values, strict=True)))
    return jax.tree.map(lambda *v: jnp.concatenate(v), *found)
