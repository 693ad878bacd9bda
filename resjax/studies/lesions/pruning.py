"""Greedy deletion: which unit goes next with least harm, and how far that leads.

*Question.* Random deletions (``resjax.studies.lesions.deletions``) tell what an average set of k units
costs. How much can go when the units are chosen well? In each round every unit that is left is deleted on
trial, and the one stays out whose deletion leaves the lowest loss:

    u_k = argmin_u L(u_1, …, u_{k−1}, u out),   k = 1, 2, …

*Protocol.* The order is chosen by the loss on examples that are given for choosing; error, loss, KL and
agreement after each round are then measured on other examples. Choosing on the test set would make the curve
too good: the best of n units is partly the luckiest one. The loss decides, not the error, because it is finer
and because a network that fits its training set makes no errors there. Ties go to the earlier unit. Nothing
is trained again. Beside it stand random sets, measured on the same examples.

*Reading it.* A low curve says that this network can be made shallower at once, not that its units do nothing
(training again would mend more), nor that greedy is the best: sets found in another way may be better.
Where random sets do as well as chosen ones, it does not matter which units go.

*Cost.* n(n + 1)/2 deletions on the examples for choosing, n + 1 and the random ones on the others. Units that
are out are not run, and trials share what lies in front of them (``resjax.studies.lesions.prefixes``): about
n³/6 evaluations of a unit. ``max_deleted`` and fewer examples for choosing make it cheaper.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.network.losses import Loss, cross_entropy
from resjax.studies import style
from resjax.studies.batches import Progress, check_images
from resjax.studies.lesions.prefixes import measure_places
from resjax.studies.lesions.subsets import candidates, default_numbers, random_subsets
from resjax.studies.result import Classified
from resjax.studies.spread import Spread, draw_spread, spread, style_errors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Pruning(Classified):
    """What is left of a network as more and more units go, the least harmful first.

    Attributes:
      unit: names of all units in order.
      order: int [round], which unit went in each round, counted from 0.
      error: [number], share of examples whose most likely class is wrong with 0, 1, 2, … units out.
      loss: [number], mean loss.
      kl: [number], mean KL(p_intact ‖ p_pruned), nats.
      agreement: [number], share of examples for which intact and pruned network name the same class.
      choice_error, choice_loss: [number], the same on the examples that the order was chosen on.
      random_number: int [draw], how many units were out of a random set.
      random_error: [draw], and the error then.
      left_out: unit name → why it is never deleted.
      num_examples, num_choice_examples, num_classes: of the data and the network.
      choices: what is left open.
    """

    AXES: ClassVar = {
        "order": ("round",),
        **dict.fromkeys(
            ("error", "loss", "kl", "agreement", "choice_error", "choice_loss"), ("number",)
        ),
        **dict.fromkeys(("random_number", "random_error"), ("draw",)),
    }

    unit: tuple[str, ...]
    order: np.ndarray
    error: np.ndarray
    loss: np.ndarray
    kl: np.ndarray
    agreement: np.ndarray
    choice_error: np.ndarray
    choice_loss: np.ndarray
    random_number: np.ndarray
    random_error: np.ndarray
    left_out: dict[str, str]
    num_examples: int
    num_choice_examples: int
    num_classes: int
    choices: dict[str, Any]

    @property
    def intact_error(self) -> float:
        """Of the whole network."""
        return float(self.error[0])


def prune_greedily(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    choose_on: tuple[ArrayLike, ArrayLike],
    max_deleted: int | None = None,
    draws: int = 10,
    loss: Loss = cross_entropy,
    batch_size: int = 128,
    seed: int = 0,
    progress: Progress | None = None,
) -> Pruning:
    """Deletes units one after the other, the least harmful first, and measures what is left.

    Args:
      network: any; a unit that can't be deleted is left out and named.
      variables: of the network, as ``Network.init`` returns them.
      images: float [N, H, W, C], standardized as in training; any N ≥ 1. The curve is measured on them.
      labels: int [N].
      choose_on: images [M, H, W, C] and labels [M] that the order is chosen on, such as training images.
      max_deleted: rounds; None for all units that can be deleted.
      draws: random sets to compare with, of each of some sizes.
      loss: (logits [B, classes], labels [B]) → [B].
      batch_size: most examples at a time; memory grows with it, the result does not depend on it.
      seed: of the random sets.
      progress: called as ``progress(networks done, networks in all)``.

    Raises:
      ValueError: no example, images or labels of a wrong form, no unit that could be deleted, or fewer than
        one round or draw, or more rounds than units.
    """
    images, chosen_images = np.asarray(images), np.asarray(choose_on[0])
    check_images(images)
    check_images(chosen_images)
    allowed, left_out = candidates(network, variables, images.shape[1:])
    pool, n = int(allowed.sum()), network.num_units
    rounds = pool if max_deleted is None else max_deleted
    if not 1 <= rounds <= pool:
        raise ValueError(
            f"max_deleted={max_deleted}; allowed: 1 … {pool}, the units that can be deleted"
        )
    numbers = [k for k in default_numbers(pool) if k <= rounds]
    random = random_subsets(allowed, numbers, draws, seed)
    trials = rounds * pool - rounds * (rounds - 1) // 2
    total = trials + rounds + 1 + len(random)

    def measure(part: tuple[ArrayLike, ArrayLike], deleted: np.ndarray, before: int) -> Any:
        def tell(done: int, of: int) -> None:
            if progress:  # batches differ in number between the two sets: count whole networks
                progress(before + done * len(deleted) // of, total)

        return measure_places(
            network,
            variables,
            *part,
            np.where(deleted, ~np.arange(n), np.arange(n)),
            loss=loss,
            batch_size=batch_size,
            progress=tell,
        )

    out = np.zeros((rounds + 1, n), bool)  # row k: what is out after k rounds
    order, choice_error, choice_loss, done = [], [], [], 0
    for k in range(rounds):
        left = np.flatnonzero(allowed & ~out[k])
        trial = out[k] | np.eye(n, dtype=bool)[left]
        scores, intact = measure(choose_on, trial, done)
        done += len(trial)
        if k == 0:
            choice_error.append(intact.error[0])
            choice_loss.append(intact.loss[0])
        # A loss that is not finite is the worst of all.
        best = int(np.argmin(np.where(np.isfinite(scores.loss), scores.loss, np.inf)))
        order.append(left[best])
        choice_error.append(scores.error[best])
        choice_loss.append(scores.loss[best])
        out[k + 1] = trial[best]

    scores, _ = measure((images, labels), np.concatenate([out, random]), done)
    curve = slice(rounds + 1)
    return Pruning(
        unit=tuple(unit.name for unit in network.units),
        order=np.array(order),
        error=scores.error[curve],
        loss=scores.loss[curve],
        kl=scores.kl[curve],
        agreement=scores.agreement[curve],
        choice_error=np.array(choice_error),
        choice_loss=np.array(choice_loss),
        random_number=random.sum(1),
        random_error=scores.error[rounds + 1 :],
        left_out=left_out,
        num_examples=len(images),
        num_choice_examples=len(chosen_images),
        num_classes=scores.class_error.shape[-1],
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


def plot(results: Pruning | Mapping[str, Pruning], ax: Axes | None = None) -> Figure:
    """Error by the number of deleted units: lines are greedy, markers with bands random sets."""
    named = {"": results} if isinstance(results, Pruning) else dict(results)
    fig, ax = style.axes(ax)
    for i, (label, result) in enumerate(named.items()):
        name = f"{label}: " if label else ""
        random = random_curve(result)
        draw_spread(ax, i, random, random.amount, f"{name}random sets")
        ax.plot(
            np.arange(len(result.error)),
            100 * result.error,
            "--",
            lw=2.2,
            color=style.color(i),
            label=f"{name}least harmful first",
        )
    style_errors(ax, max(result.chance_error for result in named.values()))
    ax.set(xlabel="deleted units", xlim=(-0.5, None))
    style.integer_ticks(ax)
    style.legend_above(fig, ax)
    return fig
