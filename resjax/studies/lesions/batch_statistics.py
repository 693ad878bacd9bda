"""Re-estimating BatchNorm statistics for a network whose units were gated or reordered.

*Method.* The changed network runs in training mode on training images, which should be cropped and flipped as
in training (``run.examples('train', n, augmented=True)``), because the statistics that are replaced were made
on such images. Each batch is normalized by its own mean and variance. Those are combined by the law of total
variance, over batches of equal size:

    mean = E[mean of a batch],    variance = E[variance of a batch] + Var[mean of a batch].

For the first layer this is exactly the mean and variance of the whole set. In deeper layers the result
depends slightly on the batches, as in training. No exponential average is involved: Linen's BatchNorm
computes m·old + (1 − m)·new, so the network runs with old = 0, and once with old = 2²⁰ to find its momentum
m.

``reestimate`` does this for one network, ``measure_recalibrated`` for many, each then evaluated with its own
statistics: the option ``recalibrate_on`` of ``deletions``, ``delete_subsets``, ``pairs`` and ``reorder``.
``resjax.studies.lesions.recalibrate`` explains how to interpret the result.

*Cost.* For each network, one pass over the images for the statistics and one over the evaluated images. Where
units form a chain, deletions and orders share prefixes in both (``recalibrated_walk``), so single deletions
take half of it; with other gates, and where other connections bypass units, nothing is shared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.network.example import alike, described
from resjax.network.refusal import Refusal
from resjax.studies.batches import (
    BATCH_SIZE,
    Inference,
    Progress,
    counted,
    part,
)
from resjax.studies.examples import checked_examples, checked_inputs, num_examples, take
from resjax.studies.lesions.prefixes import deleting
from resjax.studies.lesions.recalibrated_walk import FAR, estimate_rows, measure_rows, momentum_of
from resjax.studies.scores import Scores
from resjax.studies.variants import measure, split_variants

Lesion = Mapping[str, Any]
"""Arguments of ``Network.apply``: {"gates": float [units]} or {"order": int [units]}, or both."""


def reestimate(
    network: Network,
    variables: Variables,
    images: Any,
    *,
    gates: ArrayLike | None = None,
    order: ArrayLike | None = None,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """``variables`` with BatchNorm statistics re-estimated on these images, with these gates and this order.

    Args: those of every analysis (``Inference``), and
      network: any with BatchNorm (``resjax.models.layers`` or Linen's own).
      images: augmented as in training. All batches have the same size, so fewer images than there are batches
        may be left unused.
      gates, order: float and int [units], as for ``Network.apply``; None for the intact network.
      batch_size: each batch is normalized by itself, so the result depends slightly on it.
      seed: seed of dropout inside layers, which is active as in training; stochastic depth is not.

    Raises:
      ValueError: also for a network without batch statistics, or with statistics of an unknown kind.
    """
    batches = equal_batches(network, variables, images, batch_size)
    row = np.ones(network.num_units) if gates is None else np.asarray(gates)
    lesion = {"gates": row[None]} | ({} if order is None else {"order": np.asarray(order)[None]})
    new = _estimates(network, variables, batches, lesion, seed, progress)
    return {**variables, "batch_stats": jax.tree.map(lambda v: v[0], new)}


def check_statistics(variables: Variables) -> None:
    """Raises a ``Refusal`` if there are no statistics that can be estimated, or some of an unknown kind."""
    statistics = variables.get("batch_stats", {})
    if not jax.tree.leaves(statistics):
        raise Refusal(
            "this network has no BatchNorm: there are no batch statistics to re-estimate, and its lesions "
            "are measured without stale ones"
        )
    for path, _ in jax.tree_util.tree_leaves_with_path(statistics):
        if path[-1].key not in ("mean", "var"):
            raise Refusal(
                f"batch statistic {path[-1].key!r}; only 'mean' and 'var' of a BatchNorm can be estimated"
            )


def equal_batches(network: Network, variables: Variables, images: Any, batch_size: int) -> list[Any]:
    """Equal-sized batches for estimating statistics, after all checks of ``reestimate``."""
    images = checked_inputs(network, images)
    check_statistics(variables)
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; allowed: 1 or more")
    examples = num_examples(images)
    count = -(-examples // batch_size)
    size = examples // count
    return [take(images, slice(i * size, (i + 1) * size)) for i in range(count)]


def _estimates(
    network: Network,
    variables: Variables,
    batches: list[Any],
    lesions: Lesion,
    seed: int,
    progress: Progress | None = None,
) -> Any:
    """The batch statistics of each lesion; arrays in ``lesions`` and in the result have a leading axis m."""
    rows, made = split_variants(lesions), []
    momentum = _momentum(network, variables, batches[0], rows[0], seed)
    tell = counted(progress, len(rows))
    for lesion in rows:
        tell()
        seen = []
        for j, images in enumerate(batches):
            first = _update(network, variables, images, lesion, 0, seed, j)
            seen.append(jax.tree.map(lambda a, m: a / (1 - m), first, momentum))
        made.append(_combine(jax.tree.map(lambda *v: np.stack(v), *seen)))
    tell()
    stacked = jax.tree.map(lambda *v: np.stack(v), *made)
    return jax.tree.map(lambda v, old: v.astype(old.dtype), stacked, variables["batch_stats"])


def _momentum(network: Network, variables: Variables, images: Any, lesion: Lesion, seed: int) -> Any:
    """m of each BatchNorm, new = m·old + (1 − m)·batch, estimated on the intact network.

    Only the keys of ``lesion`` are used: they select the program that the lesions compile anyway.
    """
    intact = {"order": np.arange(network.num_units)} if "order" in lesion else {}
    low, far = (_update(network, variables, images, intact, start, seed, 0) for start in (0, FAR))
    return momentum_of(low, far)


def _combine(tree: Any) -> Any:
    """{'mean': [batches, …], 'var': [batches, …]} anywhere in a tree → statistics of all batches combined."""
    if "mean" not in tree:
        return {name: _combine(inner) for name, inner in tree.items()}
    mean = tree["mean"]
    return {"mean": mean.mean(0), "var": tree["var"].mean(0) + mean.var(0)}


def _update(
    network: Network,
    variables: Variables,
    images: Any,
    lesion: Lesion,
    start: float,
    seed: int,
    i: int,
) -> Any:
    """Statistics, float64, after batch ``i`` if all were ``start`` before it."""
    gates = jnp.asarray(lesion.get("gates", np.ones(network.num_units)))
    if network.unit_dropout is not None:  # all other units run when a lesion is measured
        gates = gates * network.unit_dropout.at_test()
        network = dataclasses.replace(network, unit_dropout=None)
    key = jax.random.fold_in(jax.random.key(seed), i)
    lesion = {**lesion, "gates": gates}
    new = _train_mode(network, variables, np.float32(start), lesion, images, key)
    return jax.tree.map(np.float64, jax.device_get(new))


@partial(jax.jit, static_argnums=0)
def _train_mode(
    network: Network,
    variables: Variables,
    start: jax.Array,
    lesion: Lesion,
    images: Any,
    key: jax.Array,
) -> Variables:
    filled = jax.tree.map(lambda v: jnp.full_like(v, start), variables["batch_stats"])
    mixed = {**variables, "batch_stats": filled}
    return network.apply(mixed, images, train=True, key=key, **lesion).batch_stats


def _places(network: Network, lesions: Lesion) -> np.ndarray | None:
    """The rows of ``measure_places`` that these lesions are; None for other gates or without a chain."""
    if not network.chained or len(lesions) != 1:
        return None
    if "order" in lesions:
        return np.asarray(lesions["order"])
    gates = np.asarray(lesions["gates"])
    return deleting(gates == 0) if np.isin(gates, (0, 1)).all() else None


def with_statistics(
    network: Network, variables: Variables, images: Any, variant: Any, extra: Any
) -> jax.Array:
    """A variant is a ``Lesion`` with its batch statistics, {"gates": [units], "batch_stats": …}."""
    lesion = {name: value for name, value in variant.items() if name != "batch_stats"}
    own = {**variables, "batch_stats": variant["batch_stats"]}
    return network.apply(own, images, **lesion).logits


def measure_recalibrated(
    network: Network,
    variables: Variables,
    images: Any,
    labels: ArrayLike,
    lesions: Lesion,
    recalibrate_on: Any,
    *,
    seed: int = 0,
    **how: Unpack[Inference],
) -> tuple[Scores, Scores, dict[str, str]]:
    """Scores of m lesioned networks, each with its own re-estimated statistics.

    Args: those of every analysis (``Inference``), and
      lesions: with a leading axis m.
      recalibrate_on: float [M, H, W, C], training images, standardized and augmented as in training.
      seed: as in ``reestimate``.

    Returns:
      Scores of the lesioned networks, scores of the intact network with its running statistics (m = 1), and
      choices for the result.

    Raises:
      ValueError: as ``reestimate``, and for reference images of another shape than the evaluated ones.
    """
    images, labels, classes = checked_examples(network, variables, images, labels)
    reference = checked_inputs(network, recalibrate_on)
    batches = equal_batches(network, variables, reference, how.get("batch_size", BATCH_SIZE))
    if not alike(reference, images):
        raise ValueError(
            f"recalibrate_on is {described(reference)}; allowed: inputs like those that are evaluated, "
            f"{described(images)}, of any number"
        )
    progress = how.get("progress")
    estimating, measuring = part(progress, 0, 2), part(progress, 1, 2)
    places = _places(network, lesions)
    if places is None:
        new = _estimates(network, variables, batches, lesions, seed, estimating)
        how["progress"] = measuring
        variants = {**lesions, "batch_stats": new}
        scores = measure(network, variables, images, labels, with_statistics, variants, **how)
    else:
        how["progress"] = measuring
        rows, row_of = np.unique(~places, axis=0, return_inverse=True)
        own = estimate_rows(network, variables, batches, ~rows, seed, estimating)
        found, intact = measure_rows(network, variables, (images, labels, classes), ~rows, own, **how)
        scores = found.take(row_of.reshape(-1)), intact
    shared = "no beginnings are shared" if places is None else "equal beginnings run once"
    size = num_examples(batches[0])
    count = len(batches) * size
    choices = {
        "BatchNorm": f"statistics re-estimated for each lesioned network, on {count:,} images in batches of "
        f"{size}, prepared as given; the intact one keeps its running statistics",
        "forward passes": "one for each network and the intact one, besides those that statistics take; "
        f"{shared}",
    }
    return *scores, choices
