"""BatchNorm statistics estimated anew for a network that was changed: gates, another order.

*Method.* The changed network runs in training mode on training images, where each batch is normalized by its
own mean and variance, and these are combined by the law of total variance, over batches of equal size:

    mean = E[mean of a batch],    variance = E[variance of a batch] + Var[mean of a batch].

In a first layer this is the mean and variance of the whole set. Further on it depends a little on the
batches, as in training. An exponential average does not come into it: Linen's BatchNorm keeps
m·old + (1 − m)·new, so the network is run with old = 0, and once with old = 2²⁰ to find m.

``reestimate`` does it for one network, ``measure_recalibrated`` for many that are then evaluated, each with
its own statistics: what ``recalibrate_on`` asks for in ``delete_random``, ``delete_subsets``,
``delete_pairs`` and ``reorder_units``. What it means is said in ``resjax.studies.lesions.recalibrate``.

*Cost.* For each network one pass over the images that statistics come from and one over those that are
evaluated. Networks with other statistics share no beginnings. Two compilations, whatever their number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.network.losses import Loss, cross_entropy
from resjax.studies.batches import Progress, check_examples, check_images, count_classes
from resjax.studies.refusal import Refusal
from resjax.studies.scores import Scores
from resjax.studies.variants import measure, split_variants

Lesion = Mapping[str, Any]
"""What ``Network.apply`` takes: {"gates": float [units]} or {"order": int [units]}, or both."""
_FAR = 2.0**20  # so large that its share m stands out from any statistic of a batch


def reestimate(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    *,
    gates: ArrayLike | None = None,
    batch_size: int = 128,
    seed: int = 0,
) -> dict[str, Any]:
    """``variables`` with BatchNorm statistics of the network with these gates on these images.

    Args:
      network: any with BatchNorm (``resjax.models.layers`` or Linen's own).
      variables: of the network.
      images: float [N, H, W, C], standardized as in training. Batches have one size, so up to one image less
        than there are batches is not used.
      gates: float [units], as for ``Network.apply``; None for the intact network.
      batch_size: most images at a time. Normalization is by batch, so a little of the result depends on it.
      seed: of dropout inside of layers, which acts as in training; stochastic depth does not.

    Raises:
      ValueError: no image or images of a wrong form, no batch statistics, or some of an unknown kind.
    """
    batches = equal_batches(variables, images, batch_size)
    lesion = {} if gates is None else {"gates": gates}
    kept = _kept(network, variables, batches[0], lesion, seed)
    return {**variables, "batch_stats": _estimate(network, variables, batches, lesion, kept, seed)}


def equal_batches(variables: Variables, images: ArrayLike, batch_size: int) -> list[np.ndarray]:
    """Equal batches, after all checks."""
    images = np.asarray(images)
    check_images(images)
    _check_kinds(variables.get("batch_stats", {}))
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; allowed: 1 or more")
    count = -(-len(images) // batch_size)
    size = len(images) // count
    return [images[i * size : (i + 1) * size] for i in range(count)]


def _check_kinds(tree: Mapping[str, Any]) -> None:
    if not jax.tree.leaves(tree):
        raise Refusal(
            "this network has no batch statistics to estimate: it has no BatchNorm, so deletions are "
            "already measured without stale ones"
        )
    for path, _ in jax.tree_util.tree_leaves_with_path(tree):
        if path[-1].key not in ("mean", "var"):
            raise Refusal(
                f"batch statistic {path[-1].key!r}; only 'mean' and 'var' of a BatchNorm can be estimated"
            )


def _kept(
    network: Network, variables: Variables, images: np.ndarray, lesion: Lesion, seed: int
) -> Any:
    """m of each statistic: new = m·old + (1 − m)·batch. In the intact network, by the lesion's program."""
    intact = {"order": np.arange(network.num_units)} if "order" in lesion else {}
    low, far = (_update(network, variables, images, intact, start, seed, 0) for start in (0, _FAR))
    # One number for a module; over its channels, the median is the least rounded.
    kept = jax.tree.map(lambda a, b: np.median((b - a) / _FAR), low, far)
    if max(jax.tree.leaves(kept)) > 1 - 1e-6:
        raise Refusal("some statistics do not change in training, so they can't be estimated")
    return kept


def _estimate(
    network: Network,
    variables: Variables,
    batches: list[np.ndarray],
    lesion: Lesion,
    kept: Any,
    seed: int,
) -> Any:
    seen = []
    for i, images in enumerate(batches):
        first = _update(network, variables, images, lesion, 0, seed, i)
        seen.append(jax.tree.map(lambda a, m: a / (1 - m), first, kept))
    total = _combine(jax.tree.map(lambda *v: np.stack(v), *seen))
    return jax.tree.map(lambda v, old: v.astype(old.dtype), total, variables["batch_stats"])


def _combine(tree: Any) -> Any:
    """{'mean': [batches, …], 'var': [batches, …]} anywhere in a tree → those of all batches together."""
    if "mean" not in tree:
        return {name: _combine(inner) for name, inner in tree.items()}
    mean = tree["mean"]
    return {"mean": mean.mean(0), "var": tree["var"].mean(0) + mean.var(0)}


def _update(
    network: Network,
    variables: Variables,
    images: np.ndarray,
    lesion: Lesion,
    start: float,
    seed: int,
    i: int,
) -> Any:
    """Statistics float64 after batch i, if all of them were ``start`` before it."""
    gates = jnp.asarray(lesion.get("gates", np.ones(network.num_units)))
    if network.test_gates is not None:  # a lesion is measured with all other units
        gates = gates * network.test_gates
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
    images: jax.Array,
    key: jax.Array,
) -> Variables:
    filled = jax.tree.map(lambda v: jnp.full_like(v, start), variables["batch_stats"])
    mixed = {**variables, "batch_stats": filled}
    return network.apply(mixed, images, train=True, key=key, **lesion).batch_stats


def with_statistics(
    network: Network, variables: Variables, images: jax.Array, variant: Any, extra: Any
) -> jax.Array:
    """A variant is a ``Lesion`` and the statistics it runs with, {"gates": [units], "batch_stats": …}."""
    del extra
    lesion = {name: value for name, value in variant.items() if name != "batch_stats"}
    own = {**variables, "batch_stats": variant["batch_stats"]}
    return network.apply(own, images, **lesion).logits


def measure_recalibrated(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    labels: ArrayLike,
    lesions: Lesion,
    recalibrate_on: ArrayLike,
    *,
    loss: Loss = cross_entropy,
    batch_size: int = 128,
    progress: Progress | None = None,
) -> tuple[Scores, Scores, dict[str, str]]:
    """Error, loss, KL and agreement of m lesioned networks, each with statistics of its own.

    Args:
      network, variables, images, labels, loss, batch_size: as in ``resjax.studies.variants.measure``.
      lesions: with a leading axis m.
      recalibrate_on: float [M, H, W, C], training images, standardized as in training. Dropout inside of
        layers acts with the seed 0.
      progress: called as ``progress(steps done, steps in all)``, estimates and evaluations each a half.

    Returns:
      Scores of the lesioned networks, those of the intact one with its running statistics (m = 1), and
      choices, to be written into a result.

    Raises:
      ValueError: no BatchNorm, images to estimate on of another shape than the others, and as ``reestimate``.
    """
    reference, images, labels = (np.asarray(a) for a in (recalibrate_on, images, labels))
    check_images(images)
    shape = images.shape[1:]
    check_examples(images, labels, count_classes(network, variables, shape))
    if not jax.tree.leaves(variables.get("batch_stats", {})):
        raise Refusal(
            "recalibrate_on: this network has no BatchNorm, so there are no statistics to estimate anew; "
            "leave recalibrate_on at None"
        )
    if reference.shape[1:] != shape:
        raise ValueError(
            f"recalibrate_on has shape {list(reference.shape)}; allowed: [M, {', '.join(map(str, shape))}], "
            "images like those that are evaluated"
        )
    batches = equal_batches(variables, reference, batch_size)
    first, second = halves(progress)
    made = estimates(network, variables, batches, lesions, 0, first)
    variants = {**lesions, "batch_stats": jax.tree.map(lambda *v: np.stack(v), *made)}
    options: dict[str, Any] = {"loss": loss, "batch_size": batch_size, "progress": second}
    scores = measure(network, variables, images, labels, with_statistics, variants, **options)
    count = len(batches) * len(batches[0])
    choices = {
        "BatchNorm": f"statistics re-estimated for each lesioned network, on {count:,} images in batches of "
        f"{len(batches[0])}; the intact one keeps its running statistics",
        "forward passes": "one for each network and the intact one, besides those that statistics take; "
        "no beginnings are shared",
    }
    return *scores, choices


def estimates(
    network: Network,
    variables: Variables,
    batches: list[np.ndarray],
    lesions: Lesion,
    seed: int,
    progress: Progress | None,
) -> list[Any]:
    """Statistics of each of the lesions, whose arrays have a leading axis."""
    kept, made = _kept(network, variables, batches[0], lesions, seed), []
    for i, lesion in enumerate(rows := split_variants(lesions)):
        if progress:
            progress(i, len(rows))
        made.append(_estimate(network, variables, batches, lesion, kept, seed))
    return made


def halves(progress: Progress | None) -> tuple[Progress | None, Progress | None]:
    """Of what is reported as one, the part of estimates and that of evaluations."""
    if progress is None:
        return None, None
    return (
        lambda done, of: progress(done, 2 * of),
        lambda done, of: progress(of + done, 2 * of),
    )
