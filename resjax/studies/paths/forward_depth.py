"""How deep a residual network is in its forward pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from resjax.cpu import shared_batches as on_cores
from resjax.network import Network, Variables
from resjax.studies.batches import BATCH_SIZE, Inference, Progress, checked_examples, padded_batches, part, reported
from resjax.studies.lesions.prefixes import measure_places
from resjax.studies.lesions.pruning import pruning
from resjax.studies.lesions.subsets import default_numbers, random_subsets
from resjax.studies.paths.truncation import truncated_logits
from resjax.studies.refusal import Refusal
from resjax.studies.result import Compared

CUTS = ("units", "paths", "linear")


@dataclasses.dataclass(frozen=True)
class ForwardDepth(Compared):
    """What is left of the network with k = 0 … n residual units or branches, cut in three ways; NaN where a
    number was not measured."""

    unit: tuple[str, ...]  # names of the residual units in order
    needed: Annotated[np.ndarray, "rank"]  # int, residual units by need, the most needed first
    error: Annotated[np.ndarray, "cut", "kept"]  # share of wrong predictions, 0 … 1
    lost: Annotated[np.ndarray, "cut", "kept"]  # share wrong here and right in the intact network
    agreement: Annotated[np.ndarray, "cut", "kept"]  # share of predictions equal to the intact network's
    kl: Annotated[np.ndarray, "cut", "kept"]  # mean KL(p_intact ‖ p_cut), nats
    kl_error: Annotated[np.ndarray, "cut", "kept"]  # standard error of the mean over images
    cosine: Annotated[np.ndarray, "cut", "kept"]  # mean cosine of the logits, each minus its mean over classes
    cosine_error: Annotated[np.ndarray, "cut", "kept"]  # standard error of the mean over images
    random_number: Annotated[np.ndarray, "draw"]  # int, random residual units that are kept
    random_error: Annotated[np.ndarray, "draw"]
    random_kl: Annotated[np.ndarray, "draw"]
    num_choice_examples: int


def forward_depth(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    choose_on: tuple[ArrayLike, ArrayLike],
    max_deleted: int | None = None,
    draws: int = 10,
    seed: int = 0,
    **how: Unpack[Inference],
) -> ForwardDepth:
    """doc"""
    images, labels, classes = checked_examples(network, variables, images, labels)
    residual = np.flatnonzero(network.residual)
    if not len(residual):
        raise Refusal("no unit has a shortcut, so all paths through the network have one length")
    n, total, progress = len(residual), network.num_units, how.pop("progress", None)
    batch_size = how.get("batch_size", BATCH_SIZE)

    chosen = pruning(
        network, variables, *choose_on, choose_on=choose_on, max_deleted=max_deleted, draws=2, seed=seed,
        progress=part(progress, 0, 3), **how,
    )
    gone = [u for u in chosen.order.tolist() if u in residual]
    gates = np.ones((len(gone) + 1, total), np.float32)
    for k, u in enumerate(gone):
        gates[k + 1 :, u] = 0

    cores = on_cores.shared_cores()
    own, found = cores.copy(variables), []
    batches = list(padded_batches(images, labels, batch_size, multiple=cores.count))
    for batch in reported(batches, part(progress, 1, 3)):
        x, y = cores.split((batch.images, batch.labels))
        values = jax.device_get(cores.wait(_cut_batch(cores, network, own, gates[::-1], x, y)))
        found.append(np.asarray(values, np.float64)[..., batch.mask])
    each = np.concatenate(found, -1)
    return each, gone


@on_cores.jit(static=2)
def _cut_batch(cores, network, variables, gates, images, labels):
    intact = network.apply(variables, images).logits

    def measures(logits: jax.Array) -> jax.Array:
        """[measure, B]: wrong, agreement, KL, cosine."""
        log_p, log_q = jax.nn.log_softmax(intact), jax.nn.log_softmax(logits)
        choice = jnp.argmax(logits, -1)
        kl = jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)
        a, b = (v - v.mean(-1, keepdims=True) for v in (intact, logits))
        size = jnp.sqrt(jnp.sum(a**2, -1) * jnp.sum(b**2, -1))
        cosine = jnp.sum(a * b, -1) / jnp.where(size > 0, size, 1)
        return jnp.stack([choice != labels, choice == jnp.argmax(intact, -1), kl, cosine])

    units = lax.map(lambda g: measures(network.apply(variables, images, gates=g).logits), gates)
    paths = lax.map(measures, truncated_logits(network, variables, images, linear=False))
    linear = lax.map(measures, truncated_logits(network, variables, images, linear=True))
    return jnp.stack([units, paths, linear])
