"""Networks that were made by a cut: from the names of the units that are gone, with maps or without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from resjax.discovery.found import Found
from resjax.models.layer_table import layer_table, totals
from resjax.network import Network, Variables
from resjax.network.cut import cut as cut_network
from resjax.network.cut import cut_variables
from resjax.network.losses import Metric
from resjax.studies.batches import per_example
from resjax.studies.examples import take


class Made(NamedTuple):
    """A network that can be run, and what is known of it."""

    run: Callable[[Any, Any], jax.Array]  # (variables, inputs) → logits
    variables: Any
    multiply_adds: float = np.nan  # of one input; NaN where they are not counted
    error: float = np.nan


Without = Callable[[Sequence[str]], Made]
"""Names of units → the network without them."""


def made(network: Network, variables: Variables, inputs: Any, error: float = np.nan) -> Made:
    """Of a network of resjax and inputs like those that it takes."""

    def run(variables: Variables, inputs: Any) -> jax.Array:
        return network.apply(variables, inputs).logits

    return Made(run, variables, multiply_adds(network, inputs), error)


def without_of(network: Network, variables: Variables, inputs: Any) -> Without:
    """By ``resjax.network.cut``."""
    one = take(inputs, slice(1))

    def without(gone: Sequence[str]) -> Made:
        return made(cut_network(network, gone, one), cut_variables(network, variables, gone, one), one)

    return without


def without_of_found(found: Found) -> Without:
    """By ``Found.cut``, for a network that was discovered. Variables are the arrays of its pytree, by number;
    what else the pytree has is a part of the function."""

    def without(gone: Sequence[str]) -> Made:
        fn, smaller = found.cut(gone)
        leaves, tree = jax.tree.flatten(smaller)
        arrays = {i: leaf for i, leaf in enumerate(leaves) if hasattr(leaf, "dtype")}

        def run(arrays: dict[int, Any], inputs: Any) -> jax.Array:
            own = [arrays.get(i, leaf) for i, leaf in enumerate(leaves)]
            return fn(jax.tree.unflatten(tree, own), inputs)

        return Made(run, arrays)

    return without


def multiply_adds(network: Network, inputs: Any) -> float:
    """Of one image, as ``resjax.models.layer_table`` counts them; NaN where it sees none, and for inputs that
    are no images."""
    leaves = jax.tree.leaves(inputs)
    if len(leaves) != 1 or np.ndim(leaves[0]) != 4:
        return np.nan
    return totals(layer_table(network, leaves[0].shape[1:])).multiply_adds or np.nan


def mean_wrong(
    network: Network, variables: Variables, inputs: Any, labels: np.ndarray, metric: Metric, batch_size: int
) -> float:
    """The mean of the metric over examples."""
    found = per_example(partial(_wrong, network, metric, variables), inputs, labels, batch_size)
    return float(np.mean(found, dtype=float))


@partial(jax.jit, static_argnums=(0, 1))
def _wrong(network: Network, metric: Metric, variables: Variables, x: Any, y: jax.Array) -> jax.Array:
    return metric(network.apply(variables, x).logits, y)
