"""Fits y = x with a single block, plain or residual, from random initial weights.

    plain       y = g(W₂ g(W₁ x + b₁) + b₂)           g ReLU
    residual    y = g(W₂ g(W₁ x + b₁) + b₂ + x)

x ≥ 0, as behind a ReLU. ``learns_identity`` explains what this is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

WIDTH, BATCH, HELD_OUT = 16, 64, 512
MOMENTUM = 0.9

Params = dict[str, jax.Array]


class Fit(NamedTuple):
    """Errors of one kind of block with one weight of the L2 penalty."""

    rate: float  # the learning rate that was chosen
    error: np.ndarray  # [seed, step + 1], ‖y − x‖² ÷ ‖x‖² on held-out x, before each step and at the end


def fit(
    residual: bool,
    decay: float,
    *,
    rates: Sequence[float],
    hidden: int,
    steps: int,
    seeds: int,
    tries: int,
    enough: float,
    seed: int = 0,
) -> Fit:
    """Trains blocks by SGD with momentum on ‖y − x‖² ÷ E‖x‖² + (decay/2)·(‖W‖² + ‖b‖²), new x at each step.

    Args:
      residual: whether the input is added.
      decay: weight of the penalty, of all weights and biases.
      rates: learning rates. Chosen is the one with which ``tries`` other blocks reach ``enough`` after the
        fewest steps in the median, then the one with the smallest error at the end.
      steps: number of steps.
      seeds: number of blocks.
      tries: number of blocks for choosing the rate; none of them is among the ``seeds``.
      enough: the error that counts as learned.
      seed: of all weights and inputs.
    """
    keys = jax.random.split(jax.random.key(seed), tries + seeds)
    run = partial(_errors, residual, hidden, steps)
    tried = {rate: np.asarray(run(keys[:tries], rate, decay)) for rate in rates}

    def order(rate: float) -> tuple[float, float]:
        last = np.nan_to_num(tried[rate][:, -1], nan=np.inf)
        return float(np.median(steps_to(tried[rate], enough))), float(np.median(last))

    best = min(rates, key=order)
    return Fit(best, np.asarray(run(keys[tries:], best, decay)))


def steps_to(error: np.ndarray, enough: float) -> np.ndarray:
    """[seed]: steps until the error [seed, step + 1] is at most ``enough`` for the first time; ∞ if never."""
    reached = error <= enough
    return np.where(reached.any(1), reached.argmax(1), np.inf)


def block(params: Params, x: jax.Array, residual: bool) -> jax.Array:
    """[N, width] → [N, width]."""
    hidden = jax.nn.relu(x @ params["w1"] + params["b1"][None])
    return jax.nn.relu(hidden @ params["w2"] + params["b2"][None] + (x if residual else 0))


def first(key: jax.Array, hidden: int) -> Params:
    """He-normal weights, biases 0."""
    keys = jax.random.split(key)
    w1 = jax.random.normal(keys[0], (WIDTH, hidden)) * np.sqrt(2 / WIDTH)
    w2 = jax.random.normal(keys[1], (hidden, WIDTH)) * np.sqrt(2 / hidden)
    return {"w1": w1, "b1": jnp.zeros(hidden), "w2": w2, "b2": jnp.zeros(WIDTH)}


@partial(jax.jit, static_argnums=(0, 1, 2))
def _errors(residual: bool, hidden: int, steps: int, keys: jax.Array, rate: Any, decay: Any) -> jax.Array:
    """[seed, step + 1]."""
    optimizer = optax.sgd(rate, MOMENTUM)

    def inputs(key: jax.Array, count: int) -> jax.Array:
        return jnp.abs(jax.random.normal(key, (count, WIDTH)))

    def error(params: Params, x: jax.Array) -> jax.Array:
        return jnp.sum((block(params, x, residual) - x) ** 2) / jnp.sum(x**2)

    def loss(params: Params, x: jax.Array) -> jax.Array:
        return error(params, x) + decay / 2 * sum(jnp.sum(v**2) for v in params.values())

    def one(key: jax.Array) -> jax.Array:
        init_key, held_key, x_key = jax.random.split(key, 3)
        held_out = inputs(held_key, HELD_OUT)

        def step(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            params, inner = state
            gradient = jax.grad(loss)(params, inputs(key, BATCH))
            update, inner = optimizer.update(gradient, inner)
            return (optax.apply_updates(params, update), inner), error(params, held_out)

        start = first(init_key, hidden)
        (last, _), errors = lax.scan(step, (start, optimizer.init(start)), jax.random.split(x_key, steps))
        return jnp.append(errors, error(last, held_out))

    return jax.vmap(one)(keys)
