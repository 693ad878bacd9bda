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
from resjax.network.losses import Loss, Metric, cross_entropy, share_wrong
from resjax.studies.batches import (
    BATCH_SIZE,
    PaddedBatch,
    Progress,
    counted,
    padded_batches,
)
from resjax.studies.examples import checked_examples, checked_inputs, num_examples
from resjax.studies.scores import Outcomes, Scores, compare, compiled_compare

Forward = Callable[[Network, Variables, Any, Any, Any], jax.Array]
"""(network, variables, inputs [B, …], one variant, extra) → logits [B, …, classes]. Define it at module
level: each new function object is compiled again. It must treat each example alone."""


def with_gates(
    network: Network, variables: Variables, images: Any, gates: jax.Array | None, extra: Any
) -> jax.Array:
    """A variant is gates [units]: 0 deletes a unit, α scales its branch."""
    return network.apply(variables, images, gates=gates).logits


def with_order(
    network: Network, variables: Variables, images: Any, order: jax.Array, extra: Any
) -> jax.Array:
    """A variant is an order int [units]: which unit runs at each place."""
    return network.apply(variables, images, order=order).logits


def measure(
    network: Network,
    variables: Variables,
    images: Any,
    labels: ArrayLike,
    forward: Forward,
    variants: Any,
    *,
    extra: Any = None,
    loss: Loss = cross_entropy,
    metric: Metric = share_wrong,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> tuple[Scores, Scores]:
    """Scores of m variants, and of the intact network (m = 1).

    Args: those of every analysis (``Inference``), where ``progress`` counts forward passes, and
      forward: how a variant is run.
      variants: pytree of arrays with a leading axis m ≥ 1.
      extra: pytree of arrays that all variants share, passed to ``forward``.

    Raises:
      ValueError: also for no variant.
    """
    images, labels, num_classes = checked_examples(network, variables, images, labels)
    rows, cores = split_variants(variants), on_cores.shared_cores()
    variables, extra = cores.copy((variables, extra))
    batches = list(padded_batches(images, labels, batch_size, multiple=cores.count))
    tell = counted(progress, len(batches) * len(rows))

    def scored(batch: PaddedBatch) -> tuple[Outcomes, np.ndarray]:
        x, y = cores.split(jax.device_put((batch.images, batch.labels)))
        intact = logits_with(cores, network, with_gates, variables, x, None, None)
        found = [cores.wait(compiled_compare(intact, intact, y, loss, metric))]
        for variant in rows:
            tell()
            given = variables, x, variant, extra, (intact, y)
            found.append(cores.wait(_score(cores, network, forward, loss, metric, *given)))
        return jax.tree.map(lambda *v: np.stack(v), *jax.device_get(found)), batch.mask

    scores = Scores.of(map(scored, batches), labels, num_classes)
    tell()
    return scores.take(slice(1, None)), scores.take(slice(1))


def logits_of(
    network: Network,
    variables: Variables,
    images: Any,
    forward: Forward,
    variants: Any,
    *,
    extra: Any = None,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> np.ndarray:
    """float32 logits [m, N, …, classes] of m variants; arguments and errors are those of ``measure``."""
    images = checked_inputs(network, images)
    rows, cores = split_variants(variants), on_cores.shared_cores()
    variables, extra = cores.copy((variables, extra))
    none, out = np.zeros(num_examples(images), np.int32), []
    batches = list(padded_batches(images, none, batch_size, multiple=cores.count))
    tell = counted(progress, len(batches) * len(rows))
    for batch in batches:
        x, part = cores.split(jax.device_put(batch.images)), []
        for variant in rows:
            tell()
            part.append(cores.wait(logits_with(cores, network, forward, variables, x, variant, extra)))
        out.append(np.stack(jax.device_get(part))[:, batch.mask])
    tell()
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


@on_cores.jit(static=3)
def logits_with(
    cores: on_cores.Cores, network: Network, forward: Forward, variables: Variables, *inputs: Any
) -> jax.Array:
    """Logits of one variant on one batch; ``inputs`` are x, the variant and ``extra``."""

    def run(given: Any, x: Any) -> jax.Array:
        variables, variant, extra = given
        return forward(network, variables, x, variant, extra)

    x, *others = inputs
    return on_cores.few_at_a_time(cores, run, (variables, *others), x)


@on_cores.jit(static=5)
def _score(
    cores: on_cores.Cores,
    network: Network,
    forward: Forward,
    loss: Loss,
    metric: Metric,
    variables: Variables,
    x: Any,
    variant: Any,
    extra: Any,
    compared: tuple[jax.Array, jax.Array],
) -> Outcomes:
    """``compared`` is (intact logits, labels)."""

    def run(given: Any, of_images: Any) -> Outcomes:
        variables, variant, extra = given
        x, intact, labels = of_images
        return compare(forward(network, variables, x, variant, extra), intact, labels, loss, metric)

    return on_cores.few_at_a_time(cores, run, (variables, variant, extra), (x, *compared))
