"""Deletions of several units at once: how the error rises with their number.

*Question.* If a residual network is a vote of its 2ⁿ paths, then k deleted units leave 2ⁿ⁻ᵏ of them, and
the error should rise smoothly with k. Veit, Wilber & Belongie (2016, §4.2, Fig. 5a) delete k random units,
k = 1 … 20 of 54, again and again: the error is about 0.2 at k = 10, and the drop severe at 20.
``delete_random`` is that experiment, ``by_number`` its summary: median, interval of the median, quartiles.

*Protocol.* As for single deletions (``resjax.studies.lesions.lesion``): branch removed, shortcut kept, also
where a unit changes the shape unless ``transitions=False``; running BatchNorm statistics, or with
``recalibrate_on`` those of the lesioned network (``resjax.studies.lesions.batch_statistics``); nothing is trained
again. The k units are drawn uniformly, and no set twice; where there are no more sets than draws, all are
taken.

*Reading it.* A smooth rise is what an ensemble of paths would show, and no proof of one: any sum of many
small branches does the same, and the forward pass is not a sum of 2ⁿ models (only the gradient is a sum
over paths). Intervals are over draws of units, for these examples and this one network. Sets of one size
differ much: see the quartiles, and ``resjax.studies.lesions.pruning`` for sets that are chosen.

*Cost.* At most a forward pass a deletion, in practice less than half: equal beginnings are run once and
deleted branches not at all (``resjax.studies.lesions.prefixes``). Each result says how many it took. With
``recalibrate_on``, every deletion takes a whole pass, and others over the images that statistics come from.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.network.losses import Loss, cross_entropy
from resjax.studies import style
from resjax.studies.batches import Progress, check_images
from resjax.studies.lesions.batch_statistics import measure_recalibrated
from resjax.studies.lesions.prefixes import count_passes, measure_places
from resjax.studies.lesions.subsets import candidates, default_numbers, random_subsets
from resjax.studies.result import Classified
from resjax.studies.spread import Spread, draw_spread, intact_value, spread, style_errors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Deletions(Classified):
    """Test performance after several deletions of some units each.

    Attributes:
      unit: names of all units in order.
      deleted: bool [deletion, unit], True where a unit is out.
      error: [deletion], share of examples whose most likely class is wrong, 0 … 1.
      loss: [deletion], mean loss.
      kl: [deletion], mean KL(p_intact ‖ p_lesioned), nats.
      agreement: [deletion], share of examples for which intact and lesioned network name the same class.
      left_out: unit name → why it is never deleted.
      intact_error, intact_loss: of the whole network.
      num_examples, num_classes: of the data and the network.
      choices: what the papers leave open.
    """

    AXES: ClassVar = {
        "deleted": ("deletion", "unit"),
        **dict.fromkeys(("error", "loss", "kl", "agreement"), ("deletion",)),
    }

    unit: tuple[str, ...]
    deleted: np.ndarray
    error: np.ndarray
    loss: np.ndarray
    kl: np.ndarray
    agreement: np.ndarray
    left_out: dict[str, str]
    intact_error: float
    intact_loss: float
    num_examples: int
    num_classes: int
    choices: dict[str, Any]

    @property
    def number(self) -> np.ndarray:
        """int [deletion], how many units are out."""
        return self.deleted.sum(1)


def delete_subsets(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    labels: ArrayLike,
    subsets: np.ndarray,
    *,
    loss: Loss = cross_entropy,
    recalibrate_on: ArrayLike | None = None,
    batch_size: int = 128,
    progress: Progress | None = None,
) -> Deletions:
    """Deletes each of the given sets of units and measures what is left.

    Args:
      network: any; a unit that can't be deleted is left out and named.
      variables: of the network, as ``Network.init`` returns them.
      images: float [N, H, W, C], standardized as in training; any N ≥ 1, each counted once.
      labels: int [N].
      subsets: bool [deletion, unit], True deletes; one deletion or more.
      loss: (logits [B, classes], labels [B]) → [B].
      recalibrate_on: float [M, H, W, C], training images on which BatchNorm statistics are estimated anew for
        each set, also an empty one (``resjax.studies.lesions.batch_statistics``); None for running statistics, as
        in the paper.
      batch_size: most examples at a time; memory grows with it, the result does not depend on it, but
        statistics do a little.
      progress: called as ``progress(networks done, networks in all)``, counted in each batch.

    Raises:
      ValueError: no example, images or labels of a wrong form, no unit that could be deleted, or subsets of
        a wrong form or with a unit that can't be; with ``recalibrate_on``, a network without BatchNorm.
    """
    images, labels, subsets = np.asarray(images), np.asarray(labels), np.asarray(subsets)
    check_images(images)
    n = network.num_units
    if subsets.ndim != 2 or subsets.shape[1] != n or not len(subsets) or subsets.dtype != bool:
        raise ValueError(
            f"subsets must be bool [m, {n}], m ≥ 1: one column for each unit; got {subsets.dtype} "
            f"{list(subsets.shape)}"
        )
    allowed, left_out = candidates(network, variables, images.shape[1:])
    if wrong := sorted({network.units[u].name for u in np.flatnonzero(subsets.any(0) & ~allowed)}):
        raise ValueError(f"subsets delete {', '.join(wrong)}: {left_out[wrong[0]]}")
    options: dict[str, Any] = {"loss": loss, "batch_size": batch_size, "progress": progress}
    given = network, variables, images, labels
    if recalibrate_on is None:
        places = np.where(subsets, ~np.arange(n), np.arange(n))
        lesioned, intact = measure_places(*given, places, **options)
        choices = {
            "BatchNorm": "running statistics of training, not re-estimated after the deletion",
            "forward passes": f"{count_passes(places):.1f} instead of {len(places) + 1}, counted in units "
            "that run: equal beginnings run once, deleted branches not at all",
        }
    else:
        gates = {"gates": 1 - subsets.astype(np.float32)}
        lesioned, intact, choices = measure_recalibrated(*given, gates, recalibrate_on, **options)
    return Deletions(
        unit=tuple(unit.name for unit in network.units),
        deleted=subsets,
        error=lesioned.error,
        loss=lesioned.loss,
        kl=lesioned.kl,
        agreement=lesioned.agreement,
        left_out=left_out,
        intact_error=float(intact.error[0]),
        intact_loss=float(intact.loss[0]),
        num_examples=len(images),
        num_classes=lesioned.class_error.shape[-1],
        choices={
            "BatchNorm": choices["BatchNorm"],
            "plain units": "replaced by their input where shapes agree",
            "further training": "none",
            "forward passes": choices["forward passes"],
        },
    )


def delete_random(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    ks: Sequence[int] | None = None,
    draws: int = 30,
    transitions: bool = True,
    loss: Loss = cross_entropy,
    recalibrate_on: ArrayLike | None = None,
    batch_size: int = 128,
    seed: int = 0,
    progress: Progress | None = None,
) -> Deletions:
    """Deletes k random units for each k, as Veit et al. 2016, Fig. 5a; see ``by_number``.

    Args:
      network, variables, images, labels, loss, recalibrate_on, batch_size, progress: as in
        ``delete_subsets``.
      ks: how many units to delete, such as ``range(1, 21)``, the paper's; None for 1, 2, 3, 5, 7, 10, … all.
      draws: different random sets of each size; all of them where there are no more.
      transitions: whether units that change the shape are among those drawn, as in the paper.
      seed: of the draws.

    Raises:
      ValueError: as ``delete_subsets``, and k beyond the number of units that can be deleted.
    """
    images = np.asarray(images)
    check_images(images)
    shape = images.shape[1:]
    allowed, left_out = candidates(network, variables, shape, transitions=transitions)
    ks = default_numbers(int(allowed.sum())) if ks is None else ks
    subsets = random_subsets(allowed, ks, draws, seed)
    result = delete_subsets(
        network,
        variables,
        images,
        labels,
        subsets,
        loss=loss,
        recalibrate_on=recalibrate_on,
        batch_size=batch_size,
        progress=progress,
    )
    result.choices.update(
        {
            "units that change the shape": "branch removed, shortcut kept"
            if transitions
            else "not deleted",
            "draws": f"{draws} different sets of units of each size, or all where there are no more",
            "seed": seed,
        }
    )
    return dataclasses.replace(result, left_out=left_out)


def by_number(result: Deletions, what: str = "error") -> Spread:
    """``error``, ``loss``, ``kl`` or ``agreement`` by how many units were deleted."""
    pool, number = len(result.unit) - len(result.left_out), result.number
    exact = [k for k in np.unique(number).tolist() if math.comb(pool, k) == np.sum(number == k)]
    return spread(number, getattr(result, what), intact_value(result, what), exact)


def plot(results: Deletions | Mapping[str, Deletions], ax: Axes | None = None) -> Figure:
    """Error by the number of deleted units: median with its interval, quartiles as a band, and chance."""
    named = {"": results} if isinstance(results, Deletions) else dict(results)
    fig, ax = style.axes(ax)
    for i, (label, result) in enumerate(named.items()):
        curve = by_number(result)
        draw_spread(ax, i, curve, curve.amount, f"{label}: median and quartiles".strip(": "))
    style_errors(ax, max(result.chance_error for result in named.values()))
    ax.set(xlabel="deleted units", xlim=(-0.5, None))
    style.integer_ticks(ax)
    style.legend_above(fig, ax)
    return fig
