"""BatchNorm statistics estimated anew after a lesion: how much of the damage is a stale average?

*Question.* A network with BatchNorm remembers the mean and variance that each normalized value had during
training. Take a unit out, and everything behind it is normalized by numbers that no longer fit. Veit et al.
(2016) leave them; this control estimates them again for the network as it is after the lesion, without
changing a parameter. Damage that goes away was no loss of what the unit computed. But new statistics are a
second intervention: they may also make up for some of that loss, so what stays is a lower bound of it.

*Method.* The lesioned network runs in training mode on training images; means and variances of its batches
are combined (``resjax.studies.lesions.batch_statistics``). Several deletions and other orders have it as an
option: ``recalibrate_on`` of ``delete_random``, ``delete_subsets``, ``delete_pairs`` and ``reorder_units``.

*Reading it.* On an intact network new statistics should change little; if they do, the running ones were not
settled (few steps, a high m), and differences after lesions are to be read against that. Units whose deletion
is harmless only after the new estimate were not used by later layers but shifted them. A network without
BatchNorm has nothing to estimate: its damage can't be blamed on this.

*Cost.* For each deletion one pass over the reference images and two over the evaluated ones; two
compilations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.network.losses import Loss, cross_entropy
from resjax.studies import style
from resjax.studies.batches import Progress, check_examples, check_images, count_classes
from resjax.studies.lesions.batch_statistics import (
    equal_batches,
    estimates,
    halves,
    with_statistics,
)
from resjax.studies.refusal import Refusal
from resjax.studies.result import Classified
from resjax.studies.variants import measure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STATISTICS = ("running", "re-estimated")


@dataclasses.dataclass(frozen=True)
class Recalibrated(Classified):
    """Deletion of each unit with the trained statistics and with new ones; NaN where a unit can't go.

    Attributes:
      unit: names of all units in order.
      residual: bool [unit], whether the unit has a shortcut in the intact network.
      statistics: 'running' and 're-estimated'.
      error, loss, kl, agreement: [statistics, unit], as in ``DeleteEach``; all are compared with the intact
        network as it was trained.
      intact_error, intact_loss: [statistics], of the whole network.
      left_out: unit name → why it can't be deleted.
      num_examples, num_reference, num_classes: evaluated examples, images that statistics came from, classes.
      choices: what is left open.
    """

    AXES: ClassVar = {
        "residual": ("unit",),
        **dict.fromkeys(("error", "loss", "kl", "agreement"), ("statistics", "unit")),
        **dict.fromkeys(("intact_error", "intact_loss"), ("statistics",)),
    }

    unit: tuple[str, ...]
    residual: np.ndarray
    statistics: tuple[str, ...]
    error: np.ndarray
    loss: np.ndarray
    kl: np.ndarray
    agreement: np.ndarray
    intact_error: np.ndarray
    intact_loss: np.ndarray
    left_out: dict[str, str]
    num_examples: int
    num_reference: int
    num_classes: int
    choices: dict[str, Any]


def delete_each_recalibrated(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    reference: ArrayLike,
    loss: Loss = cross_entropy,
    batch_size: int = 128,
    seed: int = 0,
    progress: Progress | None = None,
) -> Recalibrated:
    """Deletes each unit in turn, with running statistics (Veit et al. 2016) and with new ones.

    Args:
      network: any with BatchNorm; a unit that can't be deleted is left out and named.
      variables: of the network, as ``Network.init`` returns them.
      images: float [N, H, W, C], standardized as in training; any N ≥ 1, each counted once.
      labels: int [N].
      reference: float [M, H, W, C], training images that statistics are estimated on.
      loss: (logits [B, classes], labels [B]) → [B].
      batch_size: most examples at a time.
      seed: of dropout inside of layers while statistics are estimated.
      progress: called as ``progress(lesions done, lesions in all)``, estimates and evaluations each a half.

    Raises:
      ValueError: as ``delete_each`` and ``reestimate``.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    check_images(images)
    shape, n = images.shape[1:], network.num_units
    num_classes = count_classes(network, variables, shape)
    check_examples(images, labels, num_classes)
    batches = equal_batches(variables, reference, batch_size)
    deletable = network.deletable(variables, shape)
    if not deletable.any():
        raise Refusal(
            f"none of the {n} units can be deleted: none has a shortcut or keeps its shape"
        )
    gates = np.vstack([np.ones(n), (1 - np.eye(n))[deletable]]).astype(np.float32)
    first, second = halves(progress)
    made = estimates(network, variables, batches, {"gates": gates}, seed, first)
    running = jax.tree.map(np.asarray, variables["batch_stats"])
    scores, _ = measure(
        network,
        variables,
        images,
        labels,
        with_statistics,
        {
            "gates": np.concatenate([gates, gates]),
            "batch_stats": jax.tree.map(lambda *v: np.stack(v), *[running] * len(gates), *made),
        },
        loss=loss,
        batch_size=batch_size,
        progress=second,
    )

    def by_statistics(values: np.ndarray) -> np.ndarray:
        """[statistics × (intact, lesions)] → [statistics, unit]."""
        out = np.full((len(STATISTICS), n), np.nan)
        out[:, deletable] = values.reshape(len(STATISTICS), -1)[:, 1:]
        return out

    units = network.units
    return Recalibrated(
        unit=tuple(unit.name for unit in units),
        residual=np.array([unit.stack.unit.residual for unit in units]),
        statistics=STATISTICS,
        error=by_statistics(scores.error),
        loss=by_statistics(scores.loss),
        kl=by_statistics(scores.kl),
        agreement=by_statistics(scores.agreement),
        intact_error=scores.error[:: len(gates)],
        intact_loss=scores.loss[:: len(gates)],
        left_out={
            unit.name: "no shortcut, and its input and output differ in shape"
            for unit, can_go in zip(units, deletable, strict=True)
            if not can_go
        },
        num_examples=len(images),
        num_reference=sum(map(len, batches)),
        num_classes=num_classes,
        choices={
            "statistics": f"by the law of total variance, from batches of {len(batches[0])}",
            "KL and agreement": "to the intact network with its running statistics",
            "further training": "none",
        },
    )


def plot(results: Recalibrated | Mapping[str, Recalibrated]) -> Figure:
    """Error after the deletion of each unit: filled with running, hollow with re-estimated statistics.

    Lines are the intact networks, dashed with running and dotted with re-estimated statistics.
    """
    named = {"": results} if isinstance(results, Recalibrated) else dict(results)
    fig, ax = style.axes()
    for i, (label, result) in enumerate(named.items()):
        number = 1 + np.arange(len(result.unit))
        for j, name in enumerate(result.statistics):
            look: dict[str, Any] = {"color": style.color(i), "lw": 1.4 - 0.4 * j}
            if j:
                look["markerfacecolor"] = "none"
            text = f"{label}, {name} statistics".strip(", ")
            ax.plot(number, 100 * result.error[j], style.marker(i) + "-:"[j], label=text, **look)
            ax.axhline(100 * result.intact_error[j], lw=1, ls=("--", ":")[j], color=style.color(i))
    longest = max(len(result.unit) for result in named.values())
    ax.set(xlabel="deleted unit", ylabel="error (%)", ylim=(-3, 104))
    ax.set_xlim(0.2, longest + 0.8)
    style.integer_ticks(ax)
    style.legend_above(fig, ax)
    return fig
