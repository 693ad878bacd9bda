"""Runs many variants of one network on all examples and compares each with the intact network.

A variant is a value: gates, an order, or whatever the ``forward`` function of an analysis takes. It is
traced, so one compilation serves any number of variants::

    scores, intact = measure(network, variables, images, labels, with_gates, gates)     # gates [m, units]

*Cost.* m + 1 forward passes. (``lesion`` shares prefixes, which halves the cost.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from resjax.cpu import shared_batches as on_cores
from resjax.network import Network, Variables
from resjax.network.losses import Loss, cross_entropy
from resjax.studies.batches import (
    BATCH_SIZE,
    Progress,
    check_examples,
    check_images,
    count_classes,
    padded_batches,
)
from resjax.studies.scores import Scores, Sums, compare, compiled_compare

Forward = Callable[[Network, Variables, jax.Array, Any, Any], jax.Array]
"""(network, variables, images [B, H, W, C], one variant, extra) → logits [B, classes]. Define it at module
level: each new function object is compiled again."""


def with_gates(
    network: Network, variables: Variables, images: jax.Array, gates: jax.Array, extra: Any
) -> jax.Array:
    """A variant is gates [units]: 0 deletes a unit, α scales its branch."""
    del extra
    return network.apply(variables, images, gates=gates).logits


def with_order(
    network: Network, variables: Variables, images: jax.Array, order: jax.Array, extra: Any
) -> jax.Array:
    """A variant is an order int [units]: which unit runs at each place."""
    del extra
    return network.apply(variables, images, order=order).logits


def measure(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    labels: ArrayLike,
    forward: Forward,
    variants: Any,
    *,
    extra: Any = None,
    loss: Loss = cross_entropy,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> tuple[Scores, Scores]:
    """Error, loss, KL and agreement of m variants.

    Args:
      network: any network.
      variables: of the network.
      images: float [N, H, W, C], standardized as in training; any N ≥ 1, each counted once.
      labels: int [N].
      forward: how a variant is run.
      variants: pytree of arrays with a leading axis m ≥ 1.
      extra: pytree of arrays that all variants share, passed to ``forward``.
      loss, batch_size, progress: see ``Inference``; progress counts forward passes.

    Returns:
      Scores of the variants, and those of the intact network (m = 1).

    Raises:
      ValueError: no example, images or labels of a wrong form, or no variant.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    check_images(images)
    check_examples(images, labels, count_classes(network, variables, images.shape[1:]))
    rows = split_variants(variants)
    sums: Any = None
    cores = on_cores.shared_cores()
    variables, extra = cores.copy((variables, extra))
    batches = list(padded_batches(images, labels, batch_size, multiple=cores.count))
    for i, batch in enumerate(batches):
        x, y, mask = cores.split(jax.device_put(tuple(batch)))
        intact = _intact(cores, network, variables, x)
        part = [cores.wait(compiled_compare(intact, intact, y, mask, loss))]
        for j, variant in enumerate(rows):
            if progress:
                progress(i * len(rows) + j, len(batches) * len(rows))
            found = _score(
                cores, network, forward, loss, variables, extra, variant, x, y, mask, intact
            )
            part.append(cores.wait(found))
        stacked = jax.tree.map(lambda *v: np.stack(v).astype(np.float64), *jax.device_get(part))
        sums = stacked if sums is None else jax.tree.map(np.add, sums, stacked)
    if progress:
        progress(len(batches) * len(rows), len(batches) * len(rows))
    changed, whole = (jax.tree.map(lambda v, s=s: v[s], sums) for s in (slice(1, None), slice(1)))
    return Scores.of(changed, labels), Scores.of(whole, labels)


def logits_of(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    forward: Forward,
    variants: Any,
    *,
    extra: Any = None,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> np.ndarray:
    """float32 logits [m, N, classes] of m variants; the arguments are those of ``measure``.

    Raises:
      ValueError: no example, images of a wrong form, or no variant.
    """
    images = np.asarray(images)
    check_images(images)
    rows = split_variants(variants)
    out, cores = [], on_cores.shared_cores()
    variables, extra = cores.copy((variables, extra))
    none = np.zeros(len(images), np.int32)
    batches = list(padded_batches(images, none, batch_size, multiple=cores.count))
    for i, batch in enumerate(batches):
        x = cores.split(jax.device_put(batch.images))
        part = []
        for j, variant in enumerate(rows):
            if progress:
                progress(i * len(rows) + j, len(batches) * len(rows))
            part.append(cores.wait(_logits(cores, network, forward, variables, extra, variant, x)))
        out.append(np.stack(jax.device_get(part))[:, batch.mask])
    if progress:
        progress(len(batches) * len(rows), len(batches) * len(rows))
    return np.concatenate(out, axis=1)


def split_variants(variants: Any) -> list[Any]:
    """A pytree with a leading axis m → m pytrees.

    Raises:
      ValueError: leaves of different lengths, or no variant.
    """
    variants = jax.tree.map(np.asarray, variants)
    shapes = [leaf.shape for leaf in jax.tree.leaves(variants)]
    lengths = {shape[0] if shape else 0 for shape in shapes}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(f"variants need one leading axis of length 1 or more, got shapes {shapes}")
    return [jax.tree.map(lambda v, i=i: v[i], variants) for i in range(lengths.pop())]


@on_cores.jit(static=2)
def _intact(
    cores: on_cores.Cores, network: Network, variables: Variables, images: jax.Array
) -> jax.Array:
    return network.apply(variables, images).logits


@on_cores.jit(static=3)
def _logits(
    cores: on_cores.Cores,
    network: Network,
    forward: Forward,
    variables: Variables,
    extra: Any,
    variant: Any,
    x: jax.Array,
) -> jax.Array:
    return forward(network, variables, x, variant, extra)


@on_cores.jit(static=4)
def _score(
    cores: on_cores.Cores,
    network: Network,
    forward: Forward,
    loss: Loss,
    variables: Variables,
    extra: Any,
    variant: Any,
    x: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    intact: jax.Array,
) -> Sums:
    return compare(forward(network, variables, x, variant, extra), intact, labels, mask, loss)
