"""Which units to cut, in which order, and how many of them.

*Rules.* Each gives an order u_1, u_2, …; the first k units of it are cut.

* ``greedy``: u_k is the unit whose deletion gives the lowest loss when u_1 … u_{k−1} are gone
  (``resjax.studies.lesions.pruning``).
* ``single``: by the loss when the unit alone is deleted.
* ``similarity``: by the angular distance between the states before and behind blocks of consecutive units, as
  layers of language models are cut (``resjax.studies.cutting.similarity``).
* ``random``: a permutation.
* ``last``: the last unit goes first.

*Protocol.* The order, and the number of units where it depends on an error, are chosen on ``choose_on``, such
as training images. The best of n choices is partly the best by chance, so their errors are too low for new
images: measure the network that is cut on others. A unit that can't be deleted is in no order, and one unit
stays. Losses that are not finite rank last; ties go to the earlier unit.

*Cost.* ``greedy``: n(n + 1)/2 deletions; ``single``: n; ``similarity``: about one forward pass. All but
``greedy`` then measure k + 1 networks.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Callable
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.network.refusal import Refusal
from resjax.studies.batches import BATCH_SIZE, Inference, part
from resjax.studies.cutting.greedy import greedy
from resjax.studies.cutting.similarity import block_distances, by_similarity
from resjax.studies.lesions.prefixes import deleting, measure_places
from resjax.studies.lesions.subsets import candidates

BY = ("greedy", "single", "similarity", "random", "last")


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Units in the order in which they go, and the network without the first 0, 1, … k of them."""

    by: str
    pool: int  # how many units can be cut
    units: tuple[str, ...]  # k names
    error: np.ndarray  # [k + 1], mean of the metric on the examples for choosing
    loss: np.ndarray  # [k + 1], mean on them
    num_examples: int
    left_out: dict[str, str]  # {unit: why it can't be cut}


def order(
    network: Network,
    variables: Variables,
    by: str,
    *,
    choose_on: tuple[Any, ArrayLike],
    count: int | None = None,
    seed: int = 0,
    **how: Unpack[Inference],
) -> Chosen:
    """The order in which units are cut.

    Args: those of every analysis (``Inference``), and
      by: one of ``BY``.
      choose_on: inputs [M, …] and labels [M, …] for choosing, such as training images.
      count: k; None for all units that can be cut.
      seed: of ``random``.

    Raises:
      ValueError: another rule, no unit that can be cut, or a ``count`` of more units than can be cut.
    """
    if by not in BY:
        raise ValueError(f"by={by!r}; allowed: {', '.join(BY)}")
    images, labels = choose_on
    allowed, never = candidates(network, variables, images)
    most = min(int(allowed.sum()), network.num_units - 1)
    if not most:
        raise Refusal("the only unit of this network can't be cut, because one must stay")
    rounds = most if count is None else count
    if not 1 <= rounds <= most:
        some = f"{most} of {network.num_units} units can be cut"
        raise ValueError(f"count={count}; allowed: 1 … {most}, since {some}")
    if by == "greedy":
        found = greedy(network, variables, images, labels, allowed, rounds, **how)
        units, error, loss, seen = found.order, found.error, found.loss, found.num_examples
    else:
        progress = how.get("progress")
        how["progress"] = part(progress, 0, 2)
        units = _ranked(network, variables, by, choose_on, allowed, seed, **how)[:rounds]
        how["progress"] = part(progress, 1, 2)
        gone = np.zeros((rounds + 1, network.num_units), bool)
        for k, unit in enumerate(units):
            gone[k + 1 :, unit] = True
        scores, _ = measure_places(network, variables, images, labels, deleting(gone), **how)
        error, loss, seen = scores.error, scores.loss, scores.num_examples
    names = tuple(network.units[unit].name for unit in units)
    return Chosen(by, most, names, error, loss, seen, never)


def _ranked(
    network: Network,
    variables: Variables,
    by: str,
    choose_on: tuple[Any, ArrayLike],
    allowed: np.ndarray,
    seed: int,
    **how: Unpack[Inference],
) -> np.ndarray:
    """All units that can be deleted, in the order of a rule that needs no rounds."""
    pool = np.flatnonzero(allowed)
    if by == "last":
        return pool[::-1]
    if by == "random":
        return np.random.default_rng(seed).permutation(pool)
    if by == "similarity":
        size, progress = how.get("batch_size", BATCH_SIZE), how.get("progress")
        distances = block_distances(
            network, variables, choose_on[0], allowed, batch_size=size, progress=progress
        )
        return by_similarity(distances, allowed, len(pool))
    alone = np.eye(len(allowed), dtype=bool)[pool]
    scores, _ = measure_places(network, variables, *choose_on, deleting(alone), **how)
    return pool[np.argsort(np.where(np.isfinite(scores.loss), scores.loss, np.inf), kind="stable")]


def how_many(
    chosen: Chosen,
    costs: Callable[[int], float],
    *,
    count: int | None = None,
    flops: float | None = None,
    rise: float | None = None,
) -> int:
    """How many units of an order are cut, by one of three criteria.

    Args:
      chosen: the order.
      costs: k → multiply-adds of the network without the first k units; it must not increase.
      count: this many.
      flops: in (0, 1): the fewest that leave at most this share of the multiply-adds.
      rise: the most before the error on the examples for choosing first rises by more than this, in
        percentage points.

    Raises:
      ValueError: not exactly one criterion, one out of range, or no number of units that meets it.
    """
    given = {"count": count, "flops": flops, "rise": rise}
    if sum(value is not None for value in given.values()) != 1:
        raise ValueError(f"give exactly one of count, flops and rise, got {given}")
    most = len(chosen.units)
    if count is not None:
        if not 1 <= count <= most:
            raise ValueError(f"count={count}; allowed: 1 … {most}, the units that can be cut")
        return count
    if flops is not None:
        if not 0 < flops < 1:
            raise ValueError(f"flops={flops}; allowed: 0 < flops < 1, a share of the multiply-adds")
        whole = costs(0)
        if not whole:
            raise ValueError("flops: no multiply-adds are seen in this network; give count or rise instead")
        k = bisect.bisect_left(range(most + 1), True, key=lambda k: costs(k) <= flops * whole)
        if k > most:
            raise ValueError(
                f"flops={flops}: without all {most} units that can be cut, {costs(most) / whole:.3f} of the "
                "multiply-adds are left; give this share or a greater one"
            )
        return k
    assert rise is not None
    if not 0 <= rise < 100:
        raise ValueError(f"rise={rise}; allowed: 0 ≤ rise < 100, in percentage points")
    harmless = chosen.error[1:] <= chosen.error[0] + rise / 100 + 1e-9
    k = int(np.argmin(np.append(harmless, False)))
    if not k:
        one = 100 * (chosen.error[1] - chosen.error[0])
        raise ValueError(
            f"rise={rise:g}: cutting one unit, {chosen.units[0]}, raises the error on the examples for "
            f"choosing by {one:.2f} points; allow more, or give a number with count"
        )
    return k
