"""A random order of equal units for each training step (LayerShuffle: Freiberger et al. 2024).

A network that was trained in one order may fail in another. Those of the paper were trained in a new order at
each step. They tolerate orders and missing layers, at a cost of about 20 % in accuracy at the same size.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from resjax.network.network import Network
from resjax.network.periods import layers_of

KINDS = ("none", "units", "layers")


def shuffled(key: jax.Array, network: Network, kind: str) -> jax.Array:
    """An order for ``Network.apply``, int [units]; all orders of its kind are equally likely.

    Args:
      key: random key.
      network: the network.
      kind: 'units': equal units take each other's places, each class apart from the others, so attention and
        MLP of a layer part; or 'layers': the units of a layer (``periods.layers_of``) move together.
    """
    order = jnp.arange(network.num_units)
    for number, own in enumerate(_equal(network, kind)):
        drawn = jax.random.permutation(jax.random.fold_in(key, number), len(own))
        order = order.at[own].set(jnp.asarray(own)[drawn])
    return order


def check(network: Network, kind: str) -> None:
    """Raises ValueError for a network of which ``kind`` would shuffle nothing."""
    if kind != "none" and not _equal(network, kind):
        raise ValueError(
            f"train.shuffle={kind!r}: no two units of this network are equal, so none can take the place of "
            "another; use train.shuffle='none', or a network with a longer stack"
        )


def _equal(network: Network, kind: str) -> list[np.ndarray]:
    """What can take each other's places, two or more at a time: int [units or layers, units of one]."""
    moving = layers_of(network.stacks) if kind == "layers" else np.arange(network.num_units)[:, None]
    found: dict[tuple[str, ...], list[np.ndarray]] = {}
    for own in moving:
        found.setdefault(tuple(network.units[unit].part for unit in own), []).append(own)
    return [np.stack(equal) for equal in found.values() if len(equal) > 1]
