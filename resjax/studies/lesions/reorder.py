"""Units in another order: how the error rises as the order is destroyed.

*Question.* In an ensemble no member depends on the previous one; in a plain network each layer does.
Veit, Wilber & Belongie (2016, §4.3, Fig. 5b) swap k random pairs of units of a trained residual network, and
find that the error rises smoothly as Kendall's rank correlation τ falls from 1 to about 0.84.

*Which units.* Only equal units, a *class*, can change places: those of one ``Stack``, or of a group of stacks
between which others run (in a transformer, attention with attention, MLP with MLP). A unit that changes the
shape, or has no equal, stays. The k pairs are drawn uniformly from all pairs of equal units and swapped one
after the other, so the same unit may move twice. Further orders: every two neighbours of a class swapped (the
smallest change; Lad et al. 2024), full shuffles within the classes, and all classes reversed. Where layers
have several units, such as attention and MLP, every two neighbouring layers are swapped as a whole, too.

*Distance from the true order.* With d the number of pairs of equal units that run in the wrong order,

    τ = 1 − 4 d / (n (n − 1)),

over all n units, including those that never move. Over the movable units only, τ is smaller; the paper does
not say which it uses. With 54 units, in stacks of 18, 17 and 17 and two that stay, τ is 0.88 after ten swaps
(mean), 0.70 after a full shuffle (mean), and 0.41 after the reversal.

*Protocol.* The parameters and BatchNorm statistics of a unit move with it; with ``recalibrate_on``,
statistics are those of the reordered network (``batch_statistics``). Nothing is trained again.

*Reading it.* In a vote the order would not matter, but it also matters little if small branches change the
state slowly (Greff et al. 2017: the units of a stage refine one estimate). τ counts wrong pairs, not the
effect of each unit.

*Cost.* At most one forward pass for each order; shared prefixes run once (``prefixes``). With
``recalibrate_on``, every order takes a whole pass, and further passes over the images for the statistics.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Unpack

import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.network.periods import layers_of
from resjax.network.refusal import Refusal
from resjax.studies import counts, style, verdicts
from resjax.studies.batches import Inference
from resjax.studies.costs import Cost, evaluated
from resjax.studies.intervals import bootstrap
from resjax.studies.lesions.batch_statistics import measure_recalibrated
from resjax.studies.lesions.deletions import BRACKETS, ROUNDING, STEP
from resjax.studies.lesions.known import KnownScores, known_scores
from resjax.studies.lesions.orders import (
    kendall_tau,
    layer_swaps,
    neighbour_swaps,
    reverse,
    shuffled,
    swapped,
)
from resjax.studies.lesions.passes import of_orders
from resjax.studies.options import Options
from resjax.studies.ranks import spearman
from resjax.studies.result import Compared
from resjax.studies.spread import Spread, draw_spread, intact_value, spread, style_errors
from resjax.studies.study import Bench, Columns, Study
from resjax.studies.subject import Subject
from resjax.studies.words import correlation, count, join, number, percent

SWAPS = (1, 2, 3, 5, 8, 10, 15, 20, 30)
KINDS = ("swaps", "neighbours", "layers", "shuffle", "reversal")


@dataclasses.dataclass(frozen=True)
class Reordering(Compared):
    """Test performance with the units in other orders; "intact" is the network in its true order."""

    unit: tuple[str, ...]  # names of all units in their true order
    kind: tuple[str, ...]  # of each variant, one of ``KINDS``
    swaps: Annotated[np.ndarray, "variant"]  # int, pairs swapped; 0 for shuffles and the reversal
    order: Annotated[np.ndarray, "variant", "place"]  # int, the unit at each place, from 0
    tau: Annotated[np.ndarray, "variant"]  # Kendall's τ with the true order, over all places
    error: Annotated[np.ndarray, "variant"]  # share of wrong predictions, 0 … 1
    loss: Annotated[np.ndarray, "variant"]  # mean
    kl: Annotated[np.ndarray, "variant"]  # mean KL(p_intact ‖ p_reordered), nats
    agreement: Annotated[np.ndarray, "variant"]  # share of predictions equal to the intact network's
    fixed: tuple[str, ...]  # names of the units that have no equal and never move
    # Share of resampled examples on which the error rises by at most one point; None in older results.
    spared: Annotated[np.ndarray | None, "variant"] = None

    @property
    def moved(self) -> np.ndarray:
        """bool [variant, place], whether the unit at this place differs from that in the true order."""
        return self.order != np.arange(len(self.unit))

    def of_kind(self, kind: str) -> np.ndarray:
        """bool [variant]."""
        return np.array([own == kind for own in self.kind])


def reorder(
    network: Network,
    variables: Variables,
    images: Any,
    labels: ArrayLike,
    *,
    swaps: Sequence[int] = SWAPS,
    draws: int = 30,
    seed: int = 0,
    recalibrate_on: Any = None,
    known: KnownScores | None = None,
    **how: Unpack[Inference],
) -> Reordering:
    """Runs the units in other orders, as in Veit et al. 2016, Fig. 5b; see ``by_swaps``.

    Args: those of every analysis (``Inference``), and
      network: any with two equal units.
      swaps: numbers of random pairs to swap.
      draws: random orders for each number of swaps, and full shuffles.
      seed: seed of the draws.
      recalibrate_on: float [M, H, W, C], training images for re-estimating BatchNorm statistics for each
        order; None for running statistics, which move with their unit, as in the paper.
      known: scores on the same examples, as of ``lesion``; without ``recalibrate_on`` alone.

    Raises:
      ValueError: also if no two units are equal, for fewer than one swap or draw, and with
        ``recalibrate_on`` for a network without BatchNorm.
    """
    network.check_chain()
    classes = network.classes
    if max(map(len, classes), default=0) < 2:
        raise Refusal(
            f"the {network.num_units} units of this network are all different, and only equal units, those "
            "of one stack or group, can change places"
        )
    if min(swaps, default=0) < 1 or draws < 1:
        raise ValueError(f"swaps={tuple(swaps)}, draws={draws}; allowed: numbers from 1")

    def rng(k: int) -> np.random.Generator:  # shuffles use k = 0, which no swaps use
        return np.random.default_rng((seed, k))

    made = [
        *(("swaps", k, swapped(classes, k, draws, rng(k))) for k in swaps),
        ("neighbours", 1, neighbour_swaps(classes)),
        ("layers", 1, layer_swaps(layers_of(network.stacks), [unit.part for unit in network.units])),
        ("shuffle", 0, shuffled(classes, draws, rng(0))),
        ("reversal", 0, reverse(classes)),
    ]
    orders = np.concatenate([orders for _, _, orders in made])
    grouped = any(stack.group for stack in network.stacks)
    given = network, variables, images, labels
    choices = {"BatchNorm": "running statistics of training, which move with their unit"}

    if recalibrate_on is None:
        scores = (known or KnownScores()).measure(*given, orders, **how)
    else:
        changed, intact, own = measure_recalibrated(*given, {"order": orders}, recalibrate_on, **how)
        scores = changed, intact
        choices.update(own)
    return Reordering(
        **counts.fields_of(*scores),
        unit=tuple(unit.name for unit in network.units),
        kind=tuple(kind for kind, _, orders in made for _ in orders),
        swaps=np.concatenate([np.full(len(orders), k) for _, k, orders in made]),
        order=orders,
        tau=kendall_tau(orders, classes),
        fixed=tuple(network.units[own[0]].name for own in classes if len(own) == 1),
        choices={
            "Kendall's tau": f"over all {network.num_units} units, also those that never move"
            + ("; wrong are pairs of equal units" if grouped else ""),
            "units that change places": "equal ones, of one class; not those without an equal"
            if grouped
            else "equal ones, of one stack; not those that change the shape",
            "swaps": "pairs drawn uniformly from all pairs of equal units, swapped one after the other",
            "draws": f"{draws} for each number of swaps, and {draws} full shuffles",
            **choices,
            "seed": seed,
            "further training": "none",
        },
    )


def by_swaps(result: Reordering, what: str = "error") -> Spread:
    """``tau``, ``error``, ``loss``, ``kl`` or ``agreement`` by the number of random pairs swapped."""
    chosen = result.of_kind("swaps")
    return spread(result.swaps[chosen], getattr(result, what)[chosen], intact_value(result, what))


def tau_and_error(result: Reordering) -> float:
    """Spearman's rank correlation of the median τ and the median error, over the numbers of swaps."""
    return spearman(by_swaps(result, "tau").median, by_swaps(result).median)


# --- what the report shows ---


def plot(results: Mapping[str, Reordering]) -> style.Figure:
    """Left: error by τ for random swaps, shuffles and the reversal. Right: error after neighbour swaps."""
    fig, (left, right) = style.panels(2, height=1)
    for i, (label, r) in enumerate(results.items()):
        look: dict[str, Any] = {"color": style.color(i)}
        tau = by_swaps(r, "tau").median
        draw_spread(left, i, by_swaps(r), tau, f"{label}: random swaps".strip(": "))
        for kind, symbol in (("shuffle", "x"), ("reversal", "*")):
            own = r.of_kind(kind)
            left.plot(r.tau[own], 100 * r.error[own], symbol, alpha=0.7, **look)
        for kind, fill in (("neighbours", "full"), ("layers", "none")):
            if not (own := r.of_kind(kind)).any():
                continue
            place = 1 + np.array([np.flatnonzero(row).mean() for row in r.moved[own]])  # between the two
            right.plot(place, 100 * r.error[own], style.marker(i), fillstyle=fill, **look)
        right.axhline(100 * r.intact_error, lw=1.2, ls="--", **look)
    for ax in (left, right):
        style_errors(ax, max(r.chance_error for r in results.values()))
    left.set_xlabel("Kendall's τ (× shuffled, ★ reversed)")
    left.invert_xaxis()
    layers = "; hollow: layers" if any(r.of_kind("layers").any() for r in results.values()) else ""
    right.set(xlabel=f"neighbours swapped (-- true order{layers})", ylabel="")
    style.integer_ticks(right)
    style.legend_above(fig, left)
    return fig


# The error "rises smoothly" if the medians of error and τ have at most this rank correlation, and the
# first number of swaps costs at most STEP.
IN_ORDER = -0.9
REPORTED = (1, 3, 8, 20)  # numbers of swaps


def verdict(result: Reordering) -> str:
    """Whether the error rises smoothly as the order is destroyed."""
    if verdicts.untrained(result):
        return "untrained"
    curve = by_swaps(result)
    if curve.median[1] - result.intact_error > STEP + ROUNDING:
        return "breaks"
    if verdicts.spared(curve.median, result.intact_error).all():
        return "hardly"
    return "smooth" if tau_and_error(result) <= IN_ORDER + ROUNDING else "uneven"


def _breaks(label: str, result: Reordering) -> str:
    curve = by_swaps(result)
    k = int(curve.amount[1])
    return (
        f"{count(k, 'swap')} of equal units already {'raises' if k == 1 else 'raise'} the error of {label} "
        f"from {percent(curve.median[0])} to {percent(curve.median[1])}"
    )


def _shuffled(result: Reordering) -> str:
    """The median error of full shuffles, with its interval."""
    error = result.error[result.of_kind("shuffle")]
    low, high = (float(v) for v in bootstrap(error, np.median))
    return f"{percent(float(np.median(error)))} ({percent(low)} to {percent(high)})"


def points(label: str, result: Reordering) -> list[str]:
    curve, tau = by_swaps(result), by_swaps(result, "tau").median
    swaps = [
        f"{curve.told(i)} after {count(int(curve.amount[i]), 'swap')} (τ = {tau[i]:.2f})"
        for i in sorted({1, len(curve.amount) - 1})
    ]
    near = np.flatnonzero(result.of_kind("neighbours"))
    error = result.error[near]
    worst, gentle = int(np.argmax(error)), verdicts.spared(error, result.intact_error).sum()
    interval = counts.between(counts.ends(np.sum, None if result.spared is None else result.spared[near]))
    fixed = f" {len(result.fixed)} of {count(len(result.unit), 'unit')} never moved." if result.fixed else ""
    return [
        f"{label}: {percent(result.intact_error)} error in the true order; median {join(swaps)}; "
        f"{_shuffled(result)} after full shuffles and {percent(result.error[-1])} in reverse. "
        f"Rank correlation of the median τ and the median error: {correlation(tau_and_error(result))}. "
        f"Of {count(len(error), 'swap')} of neighbours {gentle}{interval} cost at most one percentage point; "
        f"the worst, of {_units(result, near[worst])}, gives {percent(error[worst])}." + fixed,
        *_of_layers(label, result),
    ]


def _of_layers(label: str, result: Reordering) -> list[str]:
    """What swaps of whole neighbouring layers cost, where layers have several units."""
    own = np.flatnonzero(result.of_kind("layers"))
    if not len(own):
        return []
    error, share = result.error[own], None if result.spared is None else result.spared[own]
    gentle, worst = verdicts.spared(error, result.intact_error).sum(), own[np.argmax(error)]
    return [
        f"{label}: of {count(len(own), 'swap')} of neighbouring layers, whose units move together, "
        f"{gentle}{counts.between(counts.ends(np.sum, share))} cost at most one percentage point; the "
        f"median error is {percent(float(np.median(error)))}, the worst, of {_units(result, worst)}, "
        f"{percent(float(np.max(error)))}."
    ]


def _units(result: Reordering, variant: int) -> str:
    """'stage1/unit2 and stage1/unit3': the units that have moved."""
    return join([result.unit[u] for u in np.flatnonzero(result.moved[variant])])


def table(result: Reordering) -> Columns:
    """One row for each number of swaps, for shuffles, for the reversal, and for each swap of neighbours."""
    curve, shuffle = by_swaps(result), result.of_kind("shuffle")
    others = np.flatnonzero(np.isin(result.kind, ("reversal", "neighbours", "layers"))).tolist()
    orders = [
        f"{count(k, 'random swap')}, {count(draws, 'draw')}, median" if k else "true order"
        for k, draws in zip(curve.amount, curve.draws, strict=True)
    ]
    orders.append("full shuffles, median")
    for v in others:
        near = result.kind[v] != "reversal"
        orders.append(_units(result, v) if near else "all stacks reversed")

    def cells(name: str, show: Callable[[float], str], shuffled: str | None = None) -> list[str]:
        values = getattr(result, name)
        shuffled = shuffled or show(float(np.median(values[shuffle])))
        return [*by_swaps(result, name).cells(show), shuffled, *map(show, values[others])]

    return {
        "order": orders,
        "error": cells("error", percent, _shuffled(result)),
        "τ": cells("tau", number),
        "loss": cells("loss", number),
        "KL (nats)": cells("kl", number),
        "agreement": cells("agreement", percent),
    }


def summary(result: Reordering) -> dict[str, str]:
    return {"units shuffled: median": percent(np.median(result.error[result.of_kind("shuffle")]))}


def unsuited(run: Subject) -> str | None:
    run.network.check_chain()
    if max(map(len, run.network.classes), default=0) > 1:
        return None
    return "all units of this network differ, and only equal ones can change places"


def measure(bench: Bench) -> Reordering:
    draws, seed, known = bench.options.draws, bench.options.seed, known_scores(bench)
    return reorder(*bench.evaluation(), swaps=REPORTED, draws=draws, seed=seed, known=known, **bench.how)


def cost(run: Subject, options: Options) -> Cost:
    return of_orders(run.network, options.draws * (1 + len(REPORTED)), evaluated(run, options))


STUDY = Study(
    name="reorder",
    title="Run the units in another order",
    question=(
        "Does the order of the units matter? Equal units of the trained network change places: a few random "
        "pairs, every two neighbours, or all of them. Kendall's τ measures how much of the true order is "
        "left; it is 1 for the true order."
    ),
    code="resjax.analysis.reorder(*run.evaluation(10_000), loss=run.loss)",
    result=Reordering,
    unsuited=unsuited,
    measure=measure,
    cost=cost,
    plot=plot,
    verdict=verdict,
    says={
        "smooth": "the error of {} rises smoothly as its units are reordered",
        "hardly": "swapping equal units hardly raises the error of {}",
        "breaks": _breaks,
        "uneven": "the error of {} does not rise steadily as its units are reordered",
        "untrained": verdicts.UNTRAINED,
    },
    points=points,
    notes=lambda results: [BRACKETS],
    table=table,
    summary=summary,
)
