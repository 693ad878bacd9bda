"""Units in another order: how the error rises as the order is destroyed.

*Question.* In an ensemble no member depends on the one in front of it; in a plain network each layer does.
Veit, Wilber & Belongie (2016, §4.3, Fig. 5b) swap k random pairs of units of a trained residual network, and
see the error rise smoothly as Kendall's rank correlation τ falls from 1 to about 0.84.

*Which units.* Only equal units can change places, those of one ``Stack``: a unit that changes the shape, or
is built otherwise than its neighbours, stays where it is. The k pairs are drawn uniformly from all pairs of
equal units and swapped one after the other, so that the same unit may move twice. Beside these swaps: every
two neighbours swapped (the smallest change; Lad et al. 2024), full shuffles within the stacks, and all stacks
reversed.

*How far from the true order.* With d the number of pairs of units that run in the wrong order,

    τ = 1 − 4 d / (n (n − 1)),

over all n units, also those that never move. Over the units that move alone it is smaller; the paper does
not say which it takes. Of 54 units, in stacks of 18, 17 and 17 and two that stay, ten swaps give 0.88 in the
mean, a full shuffle 0.70, the reversal 0.41.

*Protocol.* The parameters and BatchNorm statistics of a unit move with it; with ``recalibrate_on``,
statistics are those of the reordered network (``resjax.studies.lesions.batch_statistics``). Nothing is trained
again.

*Reading it.* An order that does not matter is what a vote would show, and also what small branches on a
slowly changing state show (Greff et al. 2017: the units of a stage refine one estimate). τ counts wrong pairs
and knows nothing of how much a unit does.

*Cost.* At most a forward pass an order; equal beginnings are run once (``resjax.studies.lesions.prefixes``).
With ``recalibrate_on``, whole passes, and others over the images that statistics come from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.network.losses import Loss, cross_entropy
from resjax.studies import style
from resjax.studies.batches import Progress, check_images
from resjax.studies.lesions.batch_statistics import measure_recalibrated
from resjax.studies.lesions.prefixes import measure_places
from resjax.studies.refusal import Refusal
from resjax.studies.result import Classified
from resjax.studies.spread import Spread, draw_spread, intact_value, spread, style_errors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SWAPS = (1, 2, 3, 5, 8, 10, 15, 20, 30)
KINDS = ("swaps", "neighbours", "shuffle", "reversal")


@dataclasses.dataclass(frozen=True)
class Reordering(Classified):
    """Test performance with the units in other orders.

    Attributes:
      unit: names of all units in their true order.
      kind: of each variant, one of ``KINDS``.
      swaps: int [variant], how many pairs were swapped; 0 for shuffles and the reversal.
      order: int [variant, place], which unit runs at each place, counted from 0.
      tau: [variant], Kendall's rank correlation with the true order, over all places.
      error: [variant], share of examples whose most likely class is wrong, 0 … 1.
      loss: [variant], mean loss.
      kl: [variant], mean KL(p_intact ‖ p_reordered), nats.
      agreement: [variant], share of examples for which both networks name the same class.
      fixed: names of the units that have no equal and never move.
      intact_error, intact_loss: of the network in its true order.
      num_examples, num_classes: of the data and the network.
      choices: what the paper leaves open.
    """

    AXES: ClassVar = {
        "order": ("variant", "place"),
        **dict.fromkeys(("swaps", "tau", "error", "loss", "kl", "agreement"), ("variant",)),
    }

    unit: tuple[str, ...]
    kind: tuple[str, ...]
    swaps: np.ndarray
    order: np.ndarray
    tau: np.ndarray
    error: np.ndarray
    loss: np.ndarray
    kl: np.ndarray
    agreement: np.ndarray
    fixed: tuple[str, ...]
    intact_error: float
    intact_loss: float
    num_examples: int
    num_classes: int
    choices: dict[str, Any]

    def of_kind(self, kind: str) -> np.ndarray:
        """bool [variant]."""
        return np.array([own == kind for own in self.kind])


def kendall_tau(orders: np.ndarray) -> np.ndarray:
    """int [m, n], permutations of 0 … n − 1, → [m]: rank correlation with 0, 1, 2, … (Kendall 1938).

    One unit alone has τ = 1.
    """
    orders = np.asarray(orders)
    n = orders.shape[-1]
    before, after = np.triu_indices(n, 1)
    wrong = (orders[:, before] > orders[:, after]).sum(1)
    return 1 - 4 * wrong / max(n * (n - 1), 1)


def neighbour_swaps(sizes: Sequence[int]) -> np.ndarray:
    """Every swap of two neighbours in stacks of these sizes: int [orders, sum(sizes)]."""
    orders = []
    for stack in _stacks(sizes):
        for i in stack[:-1]:
            orders.append(np.arange(sum(sizes)))
            orders[-1][[i, i + 1]] = i + 1, i
    return np.array(orders)


def swapped(sizes: Sequence[int], k: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """k random pairs of one stack swapped, one after the other: int [draws, sum(sizes)]."""
    pairs = np.concatenate(
        [stack[np.stack(np.triu_indices(len(stack), 1), 1)] for stack in _stacks(sizes)]
    )
    orders = np.tile(np.arange(sum(sizes)), (draws, 1))
    for order in orders:
        for i, j in pairs[rng.integers(len(pairs), size=k)]:
            order[[i, j]] = order[[j, i]]
    return orders


def shuffled(sizes: Sequence[int], draws: int, rng: np.random.Generator) -> np.ndarray:
    """Every stack in random order: int [draws, sum(sizes)]."""
    stacks = _stacks(sizes)
    return np.array([np.concatenate([rng.permutation(s) for s in stacks]) for _ in range(draws)])


def reverse(sizes: Sequence[int]) -> np.ndarray:
    """Every stack reversed: int [1, sum(sizes)]."""
    return np.concatenate([stack[::-1] for stack in _stacks(sizes)])[None]


def _stacks(sizes: Sequence[int]) -> list[np.ndarray]:
    """The places of each stack."""
    return np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])


def reorder_units(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    swaps: Sequence[int] = SWAPS,
    draws: int = 30,
    loss: Loss = cross_entropy,
    recalibrate_on: ArrayLike | None = None,
    batch_size: int = 128,
    seed: int = 0,
    progress: Progress | None = None,
) -> Reordering:
    """Runs the units in other orders, as Veit et al. 2016, Fig. 5b; see ``by_swaps``.

    Args:
      network: any with two equal units, that is, with a stack of two or more.
      variables: of the network, as ``Network.init`` returns them.
      images: float [N, H, W, C], standardized as in training; any N ≥ 1, each counted once.
      labels: int [N].
      swaps: how many random pairs to swap.
      draws: random orders for each number of swaps, and full shuffles.
      loss: (logits [B, classes], labels [B]) → [B].
      recalibrate_on: float [M, H, W, C], training images on which BatchNorm statistics are estimated anew for
        each order (``resjax.studies.lesions.batch_statistics``); None for running statistics, which move with
        their unit, as in the paper.
      batch_size: most examples at a time; memory grows with it, the result does not depend on it, but
        statistics do a little.
      seed: of the draws.
      progress: called as ``progress(networks done, networks in all)``, counted in each batch.

    Raises:
      ValueError: no two equal units, no example, images or labels of a wrong form, a number of swaps or of
        draws below 1; with ``recalibrate_on``, a network without BatchNorm.
    """
    images = np.asarray(images)
    check_images(images)
    sizes = [stack.n for stack in network.stacks]
    if max(sizes, default=0) < 2:
        raise Refusal(
            f"the {network.num_units} units of this network are all different, and only equal units, those "
            "of one stack, can change places"
        )
    if min(swaps, default=0) < 1 or draws < 1:
        raise ValueError(f"swaps={tuple(swaps)}, draws={draws}; allowed: numbers from 1")
    made = [("swaps", k, swapped(sizes, k, draws, np.random.default_rng((seed, k)))) for k in swaps]
    made.append(("neighbours", 1, neighbour_swaps(sizes)))
    # Seeded as if it were 0 swaps, which is none of the above.
    made.append(("shuffle", 0, shuffled(sizes, draws, np.random.default_rng((seed, 0)))))
    made.append(("reversal", 0, reverse(sizes)))
    orders = np.concatenate([orders for _, _, orders in made])
    options: dict[str, Any] = {"loss": loss, "batch_size": batch_size, "progress": progress}
    given = network, variables, images, labels
    if recalibrate_on is None:
        scores, intact = measure_places(*given, orders, **options)
        choices = {"BatchNorm": "running statistics of training, which move with their unit"}
    else:
        lesions = {"order": orders}
        scores, intact, choices = measure_recalibrated(*given, lesions, recalibrate_on, **options)
    return Reordering(
        unit=tuple(unit.name for unit in network.units),
        kind=tuple(kind for kind, _, orders in made for _ in orders),
        swaps=np.concatenate([np.full(len(orders), k) for _, k, orders in made]),
        order=orders,
        tau=kendall_tau(orders),
        error=scores.error,
        loss=scores.loss,
        kl=scores.kl,
        agreement=scores.agreement,
        fixed=tuple(unit.name for unit in network.units if unit.stack.n == 1),
        intact_error=float(intact.error[0]),
        intact_loss=float(intact.loss[0]),
        num_examples=len(images),
        num_classes=scores.class_error.shape[-1],
        choices={
            "Kendall's tau": f"over all {network.num_units} units, also those that never move",
            "units that change places": "equal ones, of one stack; not those that change the shape",
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


def plot(results: Reordering | Mapping[str, Reordering]) -> Figure:
    """Error over τ for random swaps, shuffles and the reversal; error after each swap of neighbours."""
    named = {"": results} if isinstance(results, Reordering) else dict(results)
    narrow = style.is_narrow()
    fig, grid = style.axes_grid(*((2, 1) if narrow else (1, 2)))
    if narrow:
        width, height = fig.get_size_inches()
        fig.set_size_inches(width, 2 * height)
    left, right = (ax for row in grid for ax in row)
    for i, (label, result) in enumerate(named.items()):
        look: dict[str, Any] = {"color": style.color(i)}
        tau = by_swaps(result, "tau").median
        draw_spread(left, i, by_swaps(result), tau, f"{label}: random swaps".strip(": "))
        for kind, symbol in (("shuffle", "x"), ("reversal", "*")):
            own = result.of_kind(kind)
            left.plot(result.tau[own], 100 * result.error[own], symbol, alpha=0.7, **look)
        own = result.of_kind("neighbours")
        place = 1.5 + np.argmax(result.order[own] != np.arange(len(result.unit)), axis=1)
        right.plot(place, 100 * result.error[own], style.marker(i), **look)
        right.axhline(100 * result.intact_error, lw=1.2, ls="--", **look)
    for ax in (left, right):
        style_errors(ax, max(result.chance_error for result in named.values()))
    left.set(xlabel="Kendall's τ (× shuffled, ★ reversed)")
    left.invert_xaxis()
    right.set(xlabel="neighbours swapped (-- true order)", ylabel="")
    style.legend_above(fig, left)
    return fig
