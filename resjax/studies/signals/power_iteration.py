"""Power iteration: the largest singular value of a linear map, from its transpose (Golub & Van Loan 2013,
§8.2.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from resjax.studies.paths.path_walk import norm


def lengths(v: jax.Array) -> jax.Array:
    """[B, …] → [B], L2 norm of each example."""
    return norm(v, tuple(range(1, v.ndim)))


def largest_singular_value(
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
        size = lengths(v)
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
