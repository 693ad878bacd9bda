"""A random order of equal units for each training step (LayerShuffle: Freiberger et al. 2024).

A network that was trained in one order may fail in another. Those of the paper were trained in a new order at
each step. They tolerate orders and missing layers, at a cost of about 20 % in accuracy at the same size.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from resjax.network.groups import classes
from resjax.network.unit import UnitInfo

KINDS = ("none", "units", "layers")


def shuffled(key: jax.Array, units: Sequence[UnitInfo], kind: str) -> jax.Array:
    """An order for ``Network.apply``, int [units]; all orders of its kind are equally likely.

    Args:
      key: random key.
      units: those of a network.
      kind: 'units': equal units take each other's places, each class apart from the others, so attention and
        MLP of a layer part; or 'layers': classes whose units alternate, such as these two, move together.
    """
    order = jnp.arange(len(units))
    for number, group in enumerate(_moving_together(units, kind)):
        drawn = jax.random.permutation(jax.random.fold_in(key, number), len(group[0]))
        for own in group:
            order = order.at[own].set(jnp.asarray(own)[drawn])
    return order


def check(units: Sequence[UnitInfo], kind: str) -> None:
    """Raises ValueError for a network of which ``kind`` would shuffle nothing."""
    if kind != "none" and not _moving_together(units, kind):
        raise ValueError(
            f"train.shuffle={kind!r}: no two units of this network are equal, so none can take the place of "
            "another; use train.shuffle='none', or a network with a longer stack"
        )


def _moving_together(units: Sequence[UnitInfo], kind: str) -> list[list[np.ndarray]]:
    """Groups of classes of two units or more, which have the same permutation; the indices of each class."""
    groups: list[list[np.ndarray]] = []
    for own in classes(units):
        if len(own) < 2:
            continue
        partner = next((group for group in groups if kind == "layers" and _alternate(group[0], own)), None)
        if partner is None:
            groups.append([own])
        else:
            partner.append(own)
    return groups


def _alternate(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether one unit of ``second`` follows each of ``first`` before the next of ``first``."""
    if len(first) != len(second):
        return False
    return bool(np.all(first < second) and np.all(second[:-1] < first[1:]))
