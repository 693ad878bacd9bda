"""Ways to run a network with changed units, as ``forward`` functions for ``resjax.studies.variants``.

Beside ``with_gates`` and ``with_order``: units with other variables, units whose branch is frozen, and stacks
whose units all read the same input. What is changed is a traced array of bools, so each is compiled once.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Stack, Variables
from resjax.network.parts import scan_units
from resjax.studies.batches import Progress, check_images, padded_batches


def with_variables(
    network: Network, variables: Variables, images: jax.Array, changed: jax.Array, other: Variables
) -> jax.Array:
    """A variant is bool [units]: which units take their variables from ``other``, shaped like ``variables``.

    A collection that ``other`` lacks, such as batch_stats, stays as it is.
    """

    mixed = {collection: dict(tree) for collection, tree in variables.items()}
    for place in network.places(variables):
        own, name = changed[place.units], place.stack.name

        def leaf(old: jax.Array, new: jax.Array, own: jax.Array = own) -> jax.Array:
            return jnp.where(own.reshape(-1, *[1] * (old.ndim - 1)), new.astype(old.dtype), old)

        for collection, tree in other.items():
            if name in mixed[collection]:
                mixed[collection][name] = jax.tree.map(leaf, mixed[collection][name], tree[name])
    return network.apply(mixed, images).logits


def with_means(
    network: Network, variables: Variables, images: jax.Array, frozen: jax.Array, means: Any
) -> jax.Array:
    """A variant is bool [units]: whose branch is replaced by its entry in ``means`` (``mean_branches``)."""
    h, _ = network.run_stem(variables, images)
    for place in network.places(variables):
        unit = place.stack.unit

        def step(h: jax.Array, own: Any, unit: Any = unit) -> Any:
            part, gate, is_frozen, mean = own
            s, f = unit.apply(part, h, False, method="split")
            f = jnp.where(is_frozen, mean[None].astype(f.dtype), f)
            f = f if gate is None else gate.astype(f.dtype) * f
            z = s + f if unit.residual else f
            return unit.apply(part, z, False, method="merge"), None

        own = (place.variables, place.gates, frozen[place.units], means[place.stack.name])
        h, _ = scan_units(place.stack.n, step, h, own)
    return network.run_head(variables, h)[0]


def mean_branches(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    *,
    batch_size: int = 128,
    progress: Progress | None = None,
) -> dict[str, np.ndarray]:
    """The mean of each unit's branch over examples, in one pass: {stack: [n, …]}, the shape of one example.

    Args:
      network: any.
      variables: of the network.
      images: float [N, H, W, C], the reference set; any N ≥ 1, each counted once.
      batch_size: most examples at a time.
      progress: called as ``progress(batches done, batches in all)``.

    Raises:
      ValueError: no example, or images of a wrong form.
    """
    images = np.asarray(images)
    check_images(images)
    none = np.zeros(len(images), np.int32)
    total: Any = None
    for batch in padded_batches(images, none, batch_size, progress):
        sums = jax.device_get(_branch_sums(network, variables, batch.images, batch.mask))
        total = sums if total is None else jax.tree.map(np.add, total, sums)
    return jax.tree.map(lambda v: v / np.asarray(len(images), v.dtype), total)


@partial(jax.jit, static_argnums=0)
def _branch_sums(
    network: Network, variables: Variables, images: jax.Array, mask: jax.Array
) -> dict[str, jax.Array]:
    def tap(parts: Any) -> jax.Array:
        f = parts.branch.astype(jnp.promote_types(parts.branch.dtype, jnp.float32))
        return jnp.sum(jnp.where(mask.reshape(-1, *[1] * (f.ndim - 1)), f, 0), 0)

    return network.apply(variables, images, tap=tap).taps


def can_run_in_parallel(stack: Stack) -> bool:
    """Whether a stack has two units or more, with shortcuts."""
    return stack.n > 1 and stack.unit.residual


def in_parallel(
    network: Network, variables: Variables, images: jax.Array, together: jax.Array, extra: Any
) -> jax.Array:
    """A variant is bool [stacks]: whose units all read the stack's input x; what they add to x is summed.

    y = merge(x + Σ_i (s_i(x) − x + f_i(x))), merge that of the last unit. A stack of one unit, or without
    shortcuts, runs as it is whatever the variant says.
    """
    del extra
    h, _ = network.run_stem(variables, images)
    for i, place in enumerate(network.places(variables)):
        stack = place.stack
        if not can_run_in_parallel(stack):
            h, _, _ = network.run_stack(stack, variables, h, gates=place.gates)
            continue

        def step(carry: Any, own: Any, x: Any = h, unit: Any = stack.unit, i: int = i) -> Any:
            part, gate = own
            h, others = carry  # the sum of what earlier units have added to x
            s, f = unit.apply(part, jnp.where(together[i], x, h), False, method="split")
            f = f if gate is None else gate.astype(f.dtype) * f
            y = unit.apply(part, s + f + others, False, method="merge")
            added = others + (s - x) + f
            return (y, jnp.where(together[i], added, 0)), None

        own = (place.variables, place.gates)
        (h, _), _ = scan_units(stack.n, step, (h, jnp.zeros_like(h)), own)
    return network.run_head(variables, h)[0]
