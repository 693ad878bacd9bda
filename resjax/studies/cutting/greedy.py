"""Units deleted one after the other, the least harmful first; see ``resjax.studies.lesions.pruning``."""

from __future__ import annotations

import dataclasses
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.studies.batches import Inference, Progress, within
from resjax.studies.lesions.prefixes import deleting, measure_places
from resjax.studies.lesions.subsets import candidates
from resjax.studies.study import Bench

# About n²/2 deletions choose the order: few examples, and fewer rounds where there are many units.
MOST_CHOICE_EXAMPLES = 128
MOST_TRIALS = 5_000


@dataclasses.dataclass(frozen=True)
class Rounds:
    """The unit deleted in each of k rounds, and the network after 0, 1, … k of them."""

    order: np.ndarray  # int [k], indices of units
    error: np.ndarray  # [k + 1], mean of the metric; by default the share of wrong predictions
    loss: np.ndarray  # [k + 1], mean
    num_examples: int


def num_trials(pool: int, rounds: int) -> int:
    """How many deletions ``greedy`` tries where ``pool`` units can be deleted."""
    return rounds * pool - rounds * (rounds - 1) // 2


def rounds_of(pool: int) -> int:
    """Rounds of the order that studies share, where ``pool`` units can be deleted."""
    return min(pool, max(1, MOST_TRIALS // pool))


def greedy(
    network: Network,
    variables: Variables,
    images: Any,
    labels: ArrayLike,
    allowed: np.ndarray,
    rounds: int,
    **how: Unpack[Inference],
) -> Rounds:
    """Deletes in each round the unit whose deletion gives the lowest loss on these examples.

    A loss that is not finite ranks last; ties go to the earlier unit.

    Args: those of every analysis (``Inference``), where ``progress`` counts trials, and
      allowed: bool [units], which units can be deleted.
      rounds: 1 or more, at most the number of these.
    """
    progress, trials = how.get("progress"), num_trials(int(allowed.sum()), rounds)
    deleted = np.zeros(network.num_units, bool)
    order: list[int] = []
    means, done, count = [], 0, 0
    for _ in range(rounds):
        left = np.flatnonzero(allowed & ~deleted)
        how["progress"] = within(progress, done, len(left), trials)
        trial = deleted | np.eye(len(deleted), dtype=bool)[left]
        given = network, variables, images, labels, deleting(trial)
        scores, intact = measure_places(*given, intact=not order, **how)
        done, count = done + len(left), scores.num_examples
        best = int(np.argmin(np.where(np.isfinite(scores.loss), scores.loss, np.inf)))
        means += [scores.take(best)] if order else [intact.take(0), scores.take(best)]
        order.append(int(left[best]))
        deleted = trial[best]
    return Rounds(
        order=np.array(order),
        error=np.array([scores.error for scores in means]),
        loss=np.array([scores.loss for scores in means]),
        num_examples=count,
    )


def given_or_greedy(
    network: Network,
    variables: Variables,
    choose_on: tuple[Any, ArrayLike] | None,
    chosen: Rounds | None,
    allowed: np.ndarray,
    rounds: int,
    **how: Unpack[Inference],
) -> Rounds:
    """``chosen``, or what ``greedy`` chooses on the examples ``choose_on``.

    Raises:
      ValueError: neither or both are given.
    """
    if (choose_on is None) == (chosen is None):
        raise ValueError("give choose_on, examples for choosing the order, or chosen, an order; not both")
    if choose_on is None:
        assert chosen is not None
        return chosen
    return greedy(network, variables, *choose_on, allowed, rounds, **how)


def chosen_order(bench: Bench, progress: Progress | None = None, told: str = "chosen on") -> Rounds:
    """The order in which studies of a bench delete units, chosen on some of its training examples. It is
    computed once for all of them. ``bench.choices`` say how, under the name ``told``."""
    images, labels = bench.training(bench.options.at_most("max_examples", MOST_CHOICE_EXAMPLES))
    network, variables = bench.run.network, bench.run.variables
    allowed, _ = candidates(network, variables, images)
    pool = int(allowed.sum())
    rounds = rounds_of(pool)
    bench.choices[told] = f"{len(labels):,} training examples, not augmented"
    if rounds < pool:
        bench.choices["rounds"] = f"{rounds} of {pool}, to keep the cost down"
    how = bench.how | Inference(progress=progress)

    def choose() -> Rounds:
        return greedy(network, variables, images, labels, allowed, rounds, **how)

    return bench.run.once(("greedy", len(labels), rounds, bench.options.batch_size), choose)
