"""Each unit deleted alone, all in one compiled pass over the examples; see ``resjax.studies.lesions.lesion``.

Each deletion starts from the intact state in front of its unit and runs the units behind it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from resjax.cpu import shared_batches as on_cores
from resjax.network import Network, Variables
from resjax.network.losses import Loss, Metric, cross_entropy, share_wrong
from resjax.network.periods import Place, loops, scan_places
from resjax.studies.batches import BATCH_SIZE, Inference, Progress, padded_batches
from resjax.studies.examples import checked_examples, take
from resjax.studies.lesions.known import KnownScores, intact_places
from resjax.studies.lesions.prefixes import deleting
from resjax.studies.scores import Outcomes, Scores, compare

FEW = 4  # images at a time on a core, with the states of all deletions so far; 8 take longer


def spread_over(allowed: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values [allowed units, …] as [units, …], NaN for the others."""
    out = np.full((len(allowed), *values.shape[1:]), np.nan)
    out[allowed] = values
    return out


def score_deletions(
    network: Network,
    variables: Variables,
    images: Any,
    labels: ArrayLike,
    allowed: np.ndarray,
    *,
    known: KnownScores | None = None,
    loss: Loss = cross_entropy,
    metric: Metric = share_wrong,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> tuple[Scores, Scores]:
    """Scores without each of the ``allowed`` units, bool [units], and of the intact network (m = 1);
    ``known`` as of ``lesion``."""
    known, alone = known or KnownScores(), deleting(np.eye(len(allowed), dtype=bool)[allowed])
    images, labels, num_classes = checked_examples(network, variables, images, labels)
    work = list(known.missing(alone, len(labels)))
    if not network.chained or len(work) != 1 or not work[0][2].all():
        how = Inference(loss=loss, metric=metric, batch_size=batch_size, progress=progress)
        return known.measure(network, variables, images, labels, alone, **how)
    first, cores, deletable = work[0][0], on_cores.shared_cores(), tuple(allowed.tolist())
    variables, found = cores.copy(variables), []
    new = take(images, slice(first, None)), labels[first:]
    for batch in padded_batches(*new, batch_size, progress, cores.count):
        x, y = cores.split((batch.images, batch.labels))
        outcomes = _lesion_batch(cores, network, loss, metric, deletable, variables, x, y)
        found.append((jax.device_get(outcomes), batch.mask))
    scores, whole = Scores.of(found, new[1], num_classes), intact_places(network)
    known.add(alone, scores.take(slice(1, None)), first)
    known.add(whole, scores.take(slice(1)), first)
    return known.take(alone, labels, num_classes), known.take(whole, labels, num_classes)


@on_cores.jit(static=5)
def _lesion_batch(
    cores: on_cores.Cores,
    network: Network,
    loss: Loss,
    metric: Metric,
    deletable: tuple[bool, ...],
    variables: Variables,
    images: Any,
    labels: jax.Array,
) -> Outcomes:
    """Outcomes [1 + deletions, B] of the intact network and of each deletion."""

    def run(variables: Variables, of_images: tuple[Any, jax.Array]) -> Outcomes:
        images, labels = of_images
        variables = network.bound(variables, images)
        h, _ = network.run_stem(variables, images)
        # [deletions so far, B, …]: the state of each lesioned network at this place.
        lesioned = jnp.zeros((0, *h.shape), h.dtype)
        for places in loops(network.places(variables)):
            h, lesioned = _run_loop(places, h, lesioned, np.array(deletable))
        logits, _ = network.run_head(variables, h)

        def against(own: jax.Array) -> Outcomes:
            return compare(own, logits, labels, loss, metric)

        changed = lax.map(lambda h: against(network.run_head(variables, h)[0]), lesioned)
        return jax.tree.map(lambda one, all: jnp.concatenate([one[None], all]).T, against(logits), changed)

    found = on_cores.few_at_a_time(cores, run, variables, (images, labels), most=FEW)
    return jax.tree.map(lambda v: v.T, found)


def _run_loop(
    places: list[Place], h: jax.Array, lesioned: jax.Array, deletable: np.ndarray
) -> tuple[jax.Array, jax.Array]:
    """Runs the units of one loop on the intact state ``h`` and on the ``lesioned`` ones, adding their own
    deletions."""
    before = np.cumsum(deletable) - deletable  # deletions in front of each unit
    own = [(place.take(before), place.variables, place.gates) for place in places]

    def parts_of(place: Place, part: Any, gate: jax.Array | None, h: jax.Array) -> Any:
        return place.stack.unit.apply(part, h, gate, method="parts")

    def without(place: Place, part: Any, shortcut: jax.Array) -> Any:
        return place.stack.unit.apply(part, shortcut, False, method="merge")

    if sum(len(place.units) for place in places) == 1:
        # A single unit may change the shape, so the lesioned states need a new array.
        (place,), ((_, part, gate),) = places, jax.tree.map(lambda v: v[0], own)
        parts = parts_of(place, part, gate, h)
        lesioned = lax.map(lambda h: parts_of(place, part, gate, h).y, lesioned)
        if deletable[place.units[0]]:
            lesioned = jnp.concatenate([lesioned, without(place, part, parts.shortcut)[None]])
        return parts.y, lesioned

    added = sum(int(deletable[place.units].sum()) for place in places)
    lesioned = jnp.concatenate([lesioned, jnp.zeros((added, *h.shape), h.dtype)])

    def step(place: Place, carry: Any, xs: Any) -> tuple[Any, None]:
        h, lesioned = carry
        before, part, gate = xs
        parts = parts_of(place, part, gate, h)
        same = parts.y.shape == h.shape  # else, the lesioned states need a new array
        room = lesioned if same else jnp.zeros((len(lesioned), *parts.y.shape), parts.y.dtype)

        def run(i: jax.Array, new: jax.Array) -> jax.Array:
            return new.at[i].set(parts_of(place, part, gate, (new if same else lesioned)[i]).y)

        # Networks lesioned before this unit still run it; the bound is traced, so no later one runs.
        lesioned = lax.fori_loop(0, before, run, room)
        if deletable[place.units[0]]:  # equal units can all be deleted, or none of them
            lesioned = lesioned.at[before].set(without(place, part, parts.shortcut))
        return (parts.y, lesioned), None

    (h, lesioned), _ = scan_places(places, step, (h, lesioned), own)
    return h, lesioned
