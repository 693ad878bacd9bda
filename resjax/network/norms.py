"""Norms of each layer, for any tree with the structure of a network's parameters.

The same function serves gradients, parameters, updates and momenta, inside or outside a compiled step::

    norms = layer_norms(network, grads)     # {"stem/conv/kernel": (), "stage2/conv1/kernel": [n], …}
    for name, value in flatten_norms(network, norms, image_shape):
        print(name, value)                  # stage2/unit3/conv1/kernel 0.0123

The leaves of a stack of n units are stacked, so its norms are vectors with one number per unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resjax.network.network import Network
from resjax.network.unit import Parts


def layer_norms(network: Network, tree: Mapping[str, Any]) -> dict[str, jax.Array]:
    """L2 norm ‖v‖₂ of every leaf; for a stack's leaves, one for each unit.

    Args:
      network: the network; leaves of its stacks have a leading axis of n units.
      tree: as ``variables["params"]``: {part: {…: leaf}}, of any float dtype; parts may be missing.

    Returns:
      {"<part>/<path of the leaf>": float32 (float64 for float64 leaves)}, of shape [] in stem and head,
      [n] in a stack. Half-precision leaves are summed in float32.

    Raises:
      ValueError: a part that the network does not have.
    """
    norms = {}
    for name, first, leaf in _leaves(network, tree):
        wide = leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
        norms[name] = jnp.sqrt(jnp.sum(jnp.square(wide), tuple(range(first, leaf.ndim))))
    return norms


def kernel_names(network: Network, params: Mapping[str, Any]) -> frozenset[str]:
    """Names in ``layer_norms`` of the parameters called ``kernel``; where a network has none, its
    layers having other names, of those with two axes or more."""
    leaves = list(_leaves(network, params))
    named = frozenset(name for name, _, _ in leaves if name.endswith("/kernel"))
    return named or frozenset(name for name, first, leaf in leaves if leaf.ndim - first >= 2)


def zero_norms(network: Network, tree: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Zeros of the shapes and dtypes of ``layer_norms``."""
    return {
        name: jnp.zeros(leaf.shape[:first], jnp.promote_types(leaf.dtype, jnp.float32))
        for name, first, leaf in _leaves(network, tree)
    }


def _leaves(network: Network, tree: Mapping[str, Any]) -> Iterator[tuple[str, int, Any]]:
    """(name, number of axes over units, leaf)."""
    stacks = dict.fromkeys(stack.part for stack in network.stacks)
    known = ["stem", *stacks, "head"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        part, *rest = (str(entry.key) for entry in path)
        if part not in known:
            raise ValueError(f"the tree has a part {part!r}; this network has {', '.join(known)}")
        yield "/".join((part, *rest)), int(part in stacks), leaf


def flatten_norms(network: Network, norms: Mapping[str, Any], example: Any) -> list[tuple[str, float]]:
    """The result of ``layer_norms`` as a list from the first layer to the last, for text and figures.

    Args:
      network: the network.
      norms: from ``layer_norms``; leaves may be missing.
      example: (H, W, C) of the images, or inputs of another form, since the order of the layers is known only
        when the network is traced (``Network.layer_paths``).

    Returns:
      [(name, value)], names like ``stem/conv/kernel`` or ``stage2/unit3/conv1/kernel``: units are counted
      within their stage from 1, as in ``Network.units``.
    """
    leaves = network.layer_paths(example)
    values = {key: np.asarray(value) for key, value in norms.items()}
    flat = _of_part("stem", values, leaves)
    for unit in network.units:
        for path in leaves[unit.stack.name]:
            value = values.get(f"{unit.part}/{path}")
            if value is not None:
                flat.append((f"{unit.name}/{path}", float(value[unit.row])))
    return flat + _of_part("head", values, leaves)


def output_norm(parts: Parts) -> jax.Array:
    """The L2 norm of a unit's output, averaged over examples, float32 []; for ``Network.apply(tap=…)``."""
    y = parts.y.astype(jnp.float32)
    return jnp.mean(jnp.sqrt(jnp.sum(jnp.square(y), axis=tuple(range(1, y.ndim)))))


def flatten_taps(network: Network, taps: Mapping[str, Any]) -> np.ndarray:
    """Taps of scalars, {stack: [n]}, as one array [unit] in the order of ``Network.units``."""
    return np.concatenate([np.zeros(0), *(np.ravel(taps[stack.name]) for stack in network.stacks)])


def _of_part(
    part: str, values: Mapping[str, np.ndarray], leaves: Mapping[str, list[str]]
) -> list[tuple[str, float]]:
    keys = [f"{part}/{path}" for path in leaves[part]]
    return [(key, float(values[key])) for key in keys if key in values]
