"""How many passes through the whole network sets of deletions take, counted without running any.

A pass is that of one example; these functions count the passes of *each* example. Prefixes are shared where
the units form a chain (``prefixes``, ``lesion``). The counts are those of the rows that a study draws, so
they are exact up to the order of a greedy choice, which only the network decides.
"""

from __future__ import annotations

import functools
import math

import jax
import numpy as np

from resjax.network import Network
from resjax.network.periods import layers_of
from resjax.studies.costs import Cost, training
from resjax.studies.cutting.greedy import MOST_CHOICE_EXAMPLES, num_trials, rounds_of
from resjax.studies.lesions.prefixes import count_passes, deleting
from resjax.studies.options import Options
from resjax.studies.subject import Subject


def each_alone(run: Subject) -> float:
    """Passes of ``lesion``: the intact network, and behind each deletion the units that follow it."""
    n, allowed = run.network.num_units, run.deletable
    if not run.network.chained:
        return float(allowed.sum() + 1)
    return float(1 + (n - 1 - np.arange(n))[allowed].sum() / n)


def of_rows(network: Network, places: np.ndarray, examples: int) -> Cost:
    """The cost of ``measure_places`` for rows [m, units] on so many examples."""
    if network.chained:
        return Cost(walked=examples * _counted(places), compilations=1)
    return Cost(forward=examples * (len(np.unique(places, axis=0)) + 1), compilations=1)


def of_recalibrated(
    network: Network, places: np.ndarray, examples: int, reference: int, batch_size: int
) -> Cost:
    """The cost of ``measure_recalibrated`` for deletions [m, units] with statistics of their own, on so many
    examples and reference images: both share prefixes. The momentum of the statistics takes two passes of a
    batch, and the intact network is evaluated as well."""
    momentum = 2 * min(batch_size, reference)
    if network.chained:
        passes = _counted(places, intact=False)
        return Cost(walked=(examples + reference) * passes + examples + momentum, compilations=3)
    networks = len(np.unique(places, axis=0))
    return Cost(forward=(examples + reference) * networks + examples + momentum, compilations=3)


def has_statistics(run: Subject) -> bool:
    """Whether the network has statistics of BatchNorm."""
    return bool(jax.tree.leaves(run.variables.get("batch_stats", {})))


def _counted(places: np.ndarray, intact: bool = True) -> float:
    places = places.astype(np.int64)
    return _counted_once(places.tobytes(), places.shape[1], intact)


@functools.lru_cache(maxsize=64)  # a budget asks for many numbers of examples
def _counted_once(places: bytes, units: int, intact: bool) -> float:
    return count_passes(np.frombuffer(places, np.int64).reshape(-1, units), intact)


def of_orders(network: Network, drawn: int, examples: int) -> Cost:
    """The cost of ``measure_places`` for so many random orders of equal units, and for all swaps of
    neighbours and of neighbouring layers, which share half of their units; few of the others share any."""
    possible = math.prod(math.factorial(len(own)) for own in network.classes)
    layers = [own for own in layers_of(network.stacks) if len(own) > 1]
    passes = 0.9 * drawn + (sum(map(len, network.classes)) + len(layers)) / 2
    return Cost(walked=examples * (1 + min(passes, possible)), compilations=1, evaluated=examples)


def of_choice(run: Subject, options: Options) -> Cost:
    """The cost of ``chosen_order``, in a study that comes first."""
    examples = training(run, min(options.max_examples, MOST_CHOICE_EXAMPLES))
    return of_greedy(run, rounds_of(int(run.deletable.sum())), examples)


def of_greedy(run: Subject, rounds: int, examples: int) -> Cost:
    """The cost of ``greedy``, if the units that it deletes lie evenly spread over the network."""
    allowed = run.deletable
    if not run.network.chained:
        trials = num_trials(int(allowed.sum()), rounds)
        return Cost(forward=examples * (trials + rounds), compilations=1)
    return Cost(walked=examples * _greedy(tuple(allowed.tolist()), rounds), compilations=1)


def one_by_one(allowed: np.ndarray, rounds: int) -> np.ndarray:
    """bool [rounds + 1, units]: 0, 1, 2, … deleted units, evenly spread over the network at every time.

    It stands for a greedy order that is not known yet.
    """
    pool = np.flatnonzero(allowed)
    bits = max(1, (len(pool) - 1).bit_length())
    reversed_bits = (int(f"{i:0{bits}b}"[::-1], 2) for i in range(2**bits))  # van der Corput's sequence
    order = [place for place in reversed_bits if place < len(pool)]
    deleted = np.zeros((rounds + 1, len(allowed)), bool)
    for k, place in enumerate(order[:rounds]):
        deleted[k + 1 :, pool[place]] = True
    return deleted


@functools.lru_cache(maxsize=64)
def _greedy(allowed: tuple[bool, ...], rounds: int) -> float:
    one, passes = np.eye(len(allowed), dtype=bool), 0.0
    for deleted in one_by_one(np.array(allowed), rounds)[:rounds]:
        left = np.flatnonzero(np.array(allowed) & ~deleted)
        # Only the first round runs the intact network.
        passes += count_passes(deleting(deleted | one[left]), intact=not deleted.any())
    return passes
