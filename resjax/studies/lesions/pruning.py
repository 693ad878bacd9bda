"""Greedy pruning: units are deleted one after the other, the least harmful first.

*Question.* Random deletions (``deletions``) show what an average set of k units costs. How many units can be
deleted if they are chosen well? In each round every remaining unit is deleted on trial, and the one whose
deletion gives the lowest loss stays deleted:

    u_k = argmin_u L(u_1, …, u_{k−1}, u deleted),   k = 1, 2, …

*Protocol.* The order is chosen by the loss on separate examples (``choose_on``). Error, loss, KL and
agreement after each round, and the error of random sets, are measured on the evaluated examples. Choosing on
the test set would bias the curve downwards: the best of n units is partly the best by chance. The criterion
is the loss because it is finer than the error, and because a network that fits its training set makes no
errors there. A loss that is not finite ranks last; ties go to the earlier unit. Nothing is trained again.

*Reading it.* A low curve shows that this network can be made shallower without training. It does not show
that its units do nothing (further training would recover more), nor that the greedy order is optimal: other
search methods may find better sets. If random sets do as well as chosen ones, it does not matter which units
are deleted.

*Cost.* n(n + 1)/2 deletions on the examples for choosing; n + 1 networks and the random sets on the evaluated
ones. Deleted units do not run, and trials share prefixes (``prefixes``): about n³/6 unit evaluations; without
prefixes, where other connections bypass units (``Network.chained``), n³/2.
``max_deleted`` and fewer examples for choosing reduce the cost.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Unpack

import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.studies import counts, style, verdicts
from resjax.studies.batches import Inference, part, within
from resjax.studies.costs import Cost, evaluated
from resjax.studies.cutting.greedy import (
    MOST_CHOICE_EXAMPLES,
    Rounds,
    chosen_order,
    given_or_greedy,
    num_trials,
    rounds_of,
)
from resjax.studies.lesions.known import KnownScores, known_scores
from resjax.studies.lesions.passes import of_choice, of_rows, one_by_one
from resjax.studies.lesions.prefixes import deleting
from resjax.studies.lesions.subsets import candidates, default_numbers, random_subsets
from resjax.studies.options import Options
from resjax.studies.result import Classified
from resjax.studies.spread import Spread, draw_spread, spread, style_errors
from resjax.studies.study import Bench, Columns, Study
from resjax.studies.subject import Subject
from resjax.studies.words import numbers, percent, percents

RANDOM_SETS = 10  # of each size, for comparison


@dataclasses.dataclass(frozen=True)
class Pruning(Classified):
    """A network with 0, 1, 2, … units deleted, the least harmful first."""

    unit: tuple[str, ...]  # names of all units in order
    order: Annotated[np.ndarray, "round"]  # int, the unit deleted in each round, counted from 0
    error: Annotated[np.ndarray, "number"]  # share of wrong predictions, 0 … 1
    loss: Annotated[np.ndarray, "number"]  # mean
    kl: Annotated[np.ndarray, "number"]  # mean KL(p_intact ‖ p_pruned), nats
    agreement: Annotated[np.ndarray, "number"]  # share of predictions equal to the intact network's
    choice_error: Annotated[np.ndarray, "number"]  # on the examples for choosing the order
    choice_loss: Annotated[np.ndarray, "number"]  # likewise
    random_number: Annotated[np.ndarray, "draw"]  # int, size of a random set
    random_error: Annotated[np.ndarray, "draw"]
    left_out: dict[str, str]  # {unit: why it is never deleted}
    num_examples: int
    num_choice_examples: int
    # Share of resampled examples on which the error rises by at most one point; None in older results.
    spared: Annotated[np.ndarray | None, "number"] = None

    @property
    def intact_error(self) -> float:
        """Error of the whole network."""
        return float(self.error[0])


def pruning(
    network: Network,
    variables: Variables,
    images: Any,
    labels: ArrayLike,
    *,
    choose_on: tuple[Any, ArrayLike] | None = None,
    max_deleted: int | None = None,
    draws: int = RANDOM_SETS,
    seed: int = 0,
    chosen: Rounds | None = None,
    known: KnownScores | None = None,
    **how: Unpack[Inference],
) -> Pruning:
    """Deletes units one after the other, the least harmful first, and measures the remaining network.

    Args: those of every analysis (``Inference``), whose examples give the curve, and
      choose_on: images [M, H, W, C] and labels [M] for choosing the order, such as training examples.
      chosen: an order that ``resjax.studies.cutting.greedy`` has chosen, instead of ``choose_on`` and
        ``max_deleted``.
      max_deleted: number of rounds; None for all units that can be deleted.
      draws: number of random sets for comparison, at each of several sizes.
      seed: seed of the random sets.
      known: scores of deletions on the evaluated examples, as of ``lesion``.

    Raises:
      ValueError: also if no unit can be deleted, for fewer than one draw or round, for more rounds than
        units that can be deleted, and for neither or both of ``choose_on`` and ``chosen``.
    """
    allowed, never = candidates(network, variables, images)
    pool, n = int(allowed.sum()), network.num_units
    rounds = pool if max_deleted is None else max_deleted
    if chosen is not None:
        rounds = len(chosen.order)
    if not 1 <= rounds <= pool:
        allowed_to = f"1 … {pool}, the units that can be deleted"
        raise ValueError(f"max_deleted={max_deleted}; allowed: {allowed_to}")
    sizes = [k for k in default_numbers(pool) if k <= rounds]
    random = random_subsets(allowed, sizes, draws, seed)
    trials = num_trials(pool, rounds)
    before = trials if chosen is None else 0
    progress, total = how.get("progress"), before + rounds + 1 + len(random)
    # The two sets of examples differ in their number of batches: progress counts whole networks.
    how["progress"] = within(progress, 0, before, total)
    chosen = given_or_greedy(network, variables, choose_on, chosen, allowed, rounds, **how)
    deleted = np.zeros((rounds + 1, n), bool)  # [after k rounds, unit]
    for k, unit in enumerate(chosen.order):
        deleted[k + 1 :, unit] = True
    how["progress"] = within(progress, before, total - before, total)
    given = network, variables, images, labels, deleting(np.concatenate([deleted, random]))
    scores, _ = (known or KnownScores()).measure(*given, **how)
    return Pruning(
        **{name: values[: rounds + 1] for name, values in scores.means.items()},
        unit=tuple(unit.name for unit in network.units),
        order=chosen.order,
        choice_error=chosen.error,
        choice_loss=chosen.loss,
        random_number=random.sum(1),
        random_error=scores.error[rounds + 1 :],
        spared=counts.spared_share(scores.wrong[: rounds + 1], scores.wrong[0]),
        left_out=never,
        num_examples=scores.num_examples,
        num_choice_examples=chosen.num_examples,
        num_classes=scores.num_classes,
        choices={
            "BatchNorm": "running statistics of training, not re-estimated after the deletion",
            "chosen by": "the lowest mean loss on the examples for choosing; ties go to the earlier unit",
            "deletions tried": trials,
            "random sets": f"{draws} different ones of each size, or all where there are no more",
            "seed": seed,
            "further training": "none",
        },
    )


def random_curve(result: Pruning) -> Spread:
    """Error of random sets by their size."""
    return spread(result.random_number, result.random_error, result.intact_error)


# --- what the report shows ---


def plot(results: Mapping[str, Pruning]) -> style.Figure:
    """Error by the number of deleted units: dashed for the greedy order, bands for random sets."""
    fig, ax = style.axes()
    for i, (label, result) in enumerate(results.items()):
        name = f"{label}: " if label else ""
        random = random_curve(result)
        draw_spread(ax, i, random, random.amount, f"{name}random sets")
        look: dict[str, Any] = {"lw": 2.2, "color": style.color(i)}
        error = 100 * result.error
        ax.plot(range(len(error)), error, "--", label=f"{name}least harmful first", **look)
    style_errors(ax, max(result.chance_error for result in results.values()))
    style.count_axis(fig, ax, "deleted units")
    return fig


def spared_when_chosen(result: Pruning) -> int:
    """Number of units deleted in this order before the error first rises by more than one point."""
    return _before_harm(verdicts.spared(result.error, result.intact_error))


def _before_harm(harmless: np.ndarray) -> int:
    """Index of the last entry before the first that is not harmless; the first is the intact network."""
    return int(np.argmin(np.append(harmless, False))) - 1


def _interval(result: Pruning) -> str:
    """' (3 to 6)', the interval of ``spared_when_chosen`` over test sets."""
    return counts.between(counts.ends(_before_harm, result.spared))


def _pool(result: Pruning) -> int:
    return len(result.unit) - len(result.left_out)


def verdict(result: Pruning) -> str:
    """Whether at least one unit can be deleted for at most one point of error."""
    if verdicts.untrained(result):
        return "untrained"
    return "some" if spared_when_chosen(result) else "none"


def _some(label: str, result: Pruning) -> str:
    chosen, curve = spared_when_chosen(result), random_curve(result)
    # The largest measured size of random sets before the median first rises by more than a point.
    random = int(curve.amount[_before_harm(verdicts.spared(curve.median, result.intact_error))])
    beside = "as many" if random == chosen else ("none" if random == 0 else str(random))
    return (
        f"{chosen} of {_pool(result)} units{_interval(result)} of {label} can be deleted together in the "
        f"greedy order, for at most one point of error, and {beside} at random"
    )


def points(label: str, result: Pruning) -> list[str]:
    middle, without, those = max(1, len(result.order) // 2), "", "that unit"
    if middle > 1:
        without = f", {percent(result.error[middle])} without the {middle} least harmful"
        those = f"those {middle}"
    names = ", ".join(result.unit[u] for u in result.order[:5])
    text = (
        f"{label}: {percent(result.intact_error)} error when intact, {percent(result.error[1])} without the "
        f"least harmful unit{without}. First to go: {names}. The order was chosen on "
        f"{result.num_choice_examples:,} other examples, where the error without {those} is "
        f"{percent(result.choice_error[middle])}."
    )
    if np.min(result.error) < result.intact_error - verdicts.MAY_GO:
        text += f" Deletions lower the error: {verdicts.undertrained(result)}."
    return [text + verdicts.left_out(result.left_out)]


def table(r: Pruning) -> Columns:
    random = random_curve(r)
    told = dict(zip(random.amount.tolist(), random.cells(), strict=True))
    return {
        "deleted": [str(k) for k in range(len(r.error))],
        "the last of them": ["–", *(r.unit[u] for u in r.order)],
        "error": percents(r.error),
        "loss": numbers(r.loss),
        "KL (nats)": numbers(r.kl),
        "agreement": percents(r.agreement),
        "error where chosen": percents(r.choice_error),
        "loss where chosen": numbers(r.choice_loss),
        "random sets: median error": [told.get(k, "–") for k in range(len(r.error))],
    }


def summary(result: Pruning) -> dict[str, str]:
    if verdicts.untrained(result):
        return {}
    together = f"{spared_when_chosen(result)} of {_pool(result)}{_interval(result)}"
    return {"units that may go together": together}


def measure(bench: Bench) -> Pruning:
    chosen = chosen_order(bench, part(bench.progress, 0, 2))
    given, how = bench.evaluation(), bench.how
    how["progress"] = part(bench.progress, 1, 2)
    known = known_scores(bench)
    return pruning(*given, chosen=chosen, seed=bench.options.seed, known=known, **how)


def cost(run: Subject, options: Options) -> Cost:
    pool, count = int(run.deletable.sum()), evaluated(run, options)
    rounds = rounds_of(pool)
    sizes = [k for k in default_numbers(pool) if k <= rounds]
    random = random_subsets(run.deletable, sizes, RANDOM_SETS, options.seed)
    rows = np.concatenate([one_by_one(run.deletable, rounds), random])
    return of_choice(run, options) + of_rows(run.network, deleting(rows), count) + Cost(evaluated=count)


STUDY = Study(
    name="pruning",
    title="Delete the least harmful units first",
    question=(
        "How many units can be deleted at once? Each round deletes the unit whose deletion gives the lowest "
        "loss on some training images. The curve is the error on other images. Nothing is trained again."
    ),
    code=(
        f"choose_on = run.examples('train', {MOST_CHOICE_EXAMPLES})\n"
        "resjax.analysis.pruning(*run.evaluation(10_000), choose_on=choose_on, loss=run.loss)"
    ),
    result=Pruning,
    unsuited=verdicts.cannot_delete,
    measure=measure,
    cost=cost,
    plot=plot,
    verdict=verdict,
    says={
        "some": _some,
        "none": "not even the least harmful unit of {} can be deleted",
        "untrained": verdicts.UNTRAINED,
    },
    points=points,
    table=table,
    summary=summary,
)
