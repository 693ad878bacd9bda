"""The order in which a network's units run: an index into the leading axis of each part of the variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from resjax.network.groups import of_rows
from resjax.network.unit import UnitInfo


def checked(order: ArrayLike, units: tuple[UnitInfo, ...], train: bool) -> jax.Array:
    """``order`` as integers [unit]: at place i runs unit ``order[i]``. Traced values are not checked.

    Raises:
      ValueError: a wrong length or dtype, a unit of another part, or a repeated unit in training.
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
        if not 0 <= unit < n or units[unit].part != units[place].part:
            raise ValueError(
                f"order puts unit {unit} at place {place} ({units[place].name}); only equal units "
                f"can be exchanged: here {exchangeable(units, place)}"
            )
    if train and len(set(values)) < n:
        raise ValueError(f"order={values} repeats units; in training each must run exactly once")
    return jnp.asarray(order)


def exchangeable(units: tuple[UnitInfo, ...], place: int) -> str:
    """The units that may run at ``place``, '3 to 7' or '0, 2, 4'."""
    own = [u.index for u in units if u.part == units[place].part]
    if own == list(range(own[0], own[-1] + 1)):
        return f"{own[0]} to {own[-1]}"
    return ", ".join(map(str, own))


def rows(order: jax.Array, units: tuple[UnitInfo, ...]) -> dict[str, jax.Array]:
    """{part: int [its rows], the row of the unit that runs in place of each}."""
    row = jnp.array([unit.row for unit in units])
    return {part: row[order[own]] for part, own in of_rows(units).items()}


def arranged(
    variables: Mapping[str, Any],
    gates: jax.Array | None,
    order: jax.Array | None,
    units: tuple[UnitInfo, ...],
) -> tuple[Mapping[str, Any], jax.Array | None]:
    """Variables and gates for units that run in another ``order``, from ``checked``; None: the true one."""
    if order is None:
        return variables, gates
    return permuted(variables, rows(order, units)), None if gates is None else gates[order]


def permuted(variables: Mapping[str, Any], rows: Mapping[str, jax.Array]) -> dict[str, Any]:
    """``variables`` with the rows of each part in another order."""
    return {
        collection: {
            part: jax.tree.map(lambda v, part=part: jnp.asarray(v)[rows[part]], own) if part in rows else own
            for part, own in tree.items()
        }
        for collection, tree in variables.items()
    }


def put_back(old: Mapping[str, Any], new: Mapping[str, Any], rows: Mapping[str, jax.Array]) -> dict[str, Any]:
    """``new``, a tree of one collection in the order of ``permuted``, in the order of ``old``."""
    return {
        part: jax.tree.map(
            lambda a, b, part=part: jnp.asarray(a).at[rows[part]].set(b), old.get(part, {}), own
        )
        if part in rows
        else own
        for part, own in new.items()
    }
