"""Checks of the order in which a network's units run."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from resjax.network.unit import UnitInfo


def checked(order: ArrayLike, units: tuple[UnitInfo, ...], train: bool) -> jax.Array:
    """``order`` as integers [unit]: at place i runs unit ``order[i]``. Traced values are not checked.

    Raises:
      ValueError: a wrong length or dtype, a unit outside its stack, or a repeated unit in training.
    """
    n = len(units)
    if not isinstance(order, jax.Array | np.ndarray):
        order = jnp.asarray(order)  # a list, which may hold traced numbers
    if jnp.shape(order) != (n,) or not jnp.issubdtype(order.dtype, jnp.integer):
        raise ValueError(
            f"order has shape {jnp.shape(order)} and dtype {order.dtype}; this network has {n} "
            f"units, so order must be integers of shape ({n},)"
        )
    if isinstance(order, jax.core.Tracer):
        return order
    values = np.asarray(order).tolist()
    for place, unit in enumerate(values):
        if not 0 <= unit < n or units[unit].stack.name != units[place].stack.name:
            allowed = [u.index for u in units if u.stack.name == units[place].stack.name]
            raise ValueError(
                f"order puts unit {unit} at place {place} ({units[place].name}); only equal units "
                f"can be exchanged: here {allowed[0]} to {allowed[-1]}"
            )
    if train and len(set(values)) < n:
        raise ValueError(f"order={values} repeats units; in training each must run exactly once")
    return jnp.asarray(order)
