"""BatchNorm statistics re-estimated after a lesion: how much of the damage is due to stale statistics?

*Question.* BatchNorm stores the mean and variance that each normalized value had during training. After a
unit is deleted, these statistics no longer match the inputs of later layers. Veit et al. (2016) keep them;
this control re-estimates them for the lesioned network and changes no parameter. Damage that disappears was
not caused by the loss of the unit's function. But re-estimation is a second intervention: it may also
compensate for part of that loss, so the remaining damage is a lower bound of it.

*Method.* The lesioned network runs in training mode on training images; means and variances of its batches
are combined (``batch_statistics``). ``deletions``, ``pairs`` and ``reorder`` offer the same as the option
``recalibrate_on``.

*Reading it.* New statistics should hardly change the intact network. If they do, the running statistics had
not converged (few steps, a high momentum); compare differences after lesions with that change. A unit whose
deletion is harmless only with new statistics shifted the inputs of later layers, which did not use its
output. In a network without BatchNorm, stale statistics can't explain the damage.

*Cost.* That of ``lesion``, and for each deletion one pass over the reference images and one over the
evaluated images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Unpack

import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.studies import style, verdicts
from resjax.studies.batches import BATCH_SIZE, Inference, part
from resjax.studies.lesions.batch_statistics import equal_batches, measure_recalibrated
from resjax.studies.lesions.lesion import lesion
from resjax.studies.result import Classified
from resjax.studies.scores import MEASURES
from resjax.studies.study import Bench, Columns, Study
from resjax.studies.words import numbers, percent, percents

STATISTICS = ("running", "re-estimated")


@dataclasses.dataclass(frozen=True)
class Recalibrated(Classified):
    """Deletion of each unit with running and with re-estimated statistics; NaN if it can't be deleted."""

    unit: tuple[str, ...]  # names of all units in order
    residual: Annotated[np.ndarray, "unit"]  # bool, whether the intact unit has a shortcut
    statistics: tuple[str, ...]  # 'running' and 're-estimated'
    error: Annotated[np.ndarray, "statistics", "unit"]  # share of wrong predictions, 0 … 1
    loss: Annotated[np.ndarray, "statistics", "unit"]  # mean
    # Both compare with the intact network with its running statistics.
    kl: Annotated[np.ndarray, "statistics", "unit"]  # mean KL(p_intact ‖ p_lesioned), nats
    agreement: Annotated[np.ndarray, "statistics", "unit"]  # share of equal predictions
    intact_error: Annotated[np.ndarray, "statistics"]
    intact_loss: Annotated[np.ndarray, "statistics"]
    left_out: dict[str, str]  # {unit: why it can't be deleted}
    num_examples: int  # evaluated
    num_reference: int  # images from which statistics were estimated


def recalibrate(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    reference: ArrayLike,
    seed: int = 0,
    **how: Unpack[Inference],
) -> Recalibrated:
    """Deletes each unit in turn, with running statistics (Veit et al. 2016) and with new ones.

    Args: those of every analysis (``Inference``), and
      network: any with BatchNorm.
      reference: float [M, H, W, C], training images from which statistics are estimated.
      seed: seed of dropout inside layers while statistics are estimated.

    Raises:
      ValueError: as ``lesion`` and ``reestimate``.
    """
    batches = equal_batches(variables, reference, how.get("batch_size", BATCH_SIZE))
    given, progress = (network, variables, images, labels), how.get("progress")
    how["progress"] = part(progress, 0, 2)
    old = lesion(*given, **how)
    gates = np.vstack([np.ones(network.num_units), (1 - np.eye(network.num_units))[old.deletable]])
    how["progress"] = part(progress, 1, 2)
    lesions = {"gates": gates.astype(np.float32)}  # the first row deletes nothing
    new, _, _ = measure_recalibrated(*given, lesions, reference, seed=seed, **how)

    def both(name: str) -> np.ndarray:
        rows = np.stack([getattr(old, name)] * len(STATISTICS))
        rows[1, old.deletable] = getattr(new, name)[1:]
        return rows

    return Recalibrated(
        **{name: both(name) for name in MEASURES},
        intact_error=np.array([old.intact_error, new.error[0]]),
        intact_loss=np.array([old.intact_loss, new.loss[0]]),
        unit=old.unit,
        residual=old.residual,
        statistics=STATISTICS,
        left_out=old.left_out,
        num_examples=old.num_examples,
        num_reference=sum(map(len, batches)),
        num_classes=old.num_classes,
        choices={
            "statistics": f"by the law of total variance, from batches of {len(batches[0])}",
            "KL and agreement": "to the intact network with its running statistics",
            "further training": "none",
        },
    )


# --- what the report shows ---


def plot(results: Mapping[str, Recalibrated]) -> style.Figure:
    """Error after the deletion of each unit: filled markers for running statistics, hollow for re-estimated.

    Dashed and dotted lines are the intact networks with running and with re-estimated statistics.
    """
    fig, ax = style.axes()
    for i, (label, result) in enumerate(results.items()):
        number = 1 + np.arange(len(result.unit))
        color = style.color(i)
        for j, name in enumerate(result.statistics):
            look: dict[str, Any] = {"color": color, "mfc": "none" if j else color}
            text = f"{label}, {name} statistics".strip(", ")
            ax.plot(
                number,
                100 * result.error[j],
                style.marker(i) + "-:"[j],
                lw=1.4 - 0.4 * j,
                label=text,
                **look,
            )
            ax.axhline(100 * result.intact_error[j], lw=1, ls=("--", ":")[j], color=color)
    longest = max(len(result.unit) for result in results.values())
    ax.set(xlabel="deleted unit", ylabel="error (%)", ylim=(-3, 104), xlim=(0.2, longest + 0.8))
    style.integer_ticks(ax)
    style.legend_above(fig, ax)
    return fig


# A change of the damage by at most this share counts as no change.
CHANGED = 0.1


def share_of_damage(result: Recalibrated) -> float:
    """The share of the summed rises of the error that new statistics remove; negative if they add to it.

    A rise is relative to the intact network with the same statistics; NaN where no deletion raises the error.
    """
    rises = result.error - result.intact_error[:, None]
    old, new = np.nansum(np.clip(rises, 0, None), axis=1)
    return float(1 - new / old) if old > 0 else np.nan


def verdict(result: Recalibrated) -> str:
    """How much of the damage new statistics remove."""
    share = share_of_damage(result)
    if result.intact_error[0] > verdicts.LEARNED * result.chance_error:
        return "untrained"
    if np.isnan(share):
        return "harmless"
    if share > CHANGED:
        return "better"
    return "same" if share >= -CHANGED else "worse"


def _changes(label: str, result: Recalibrated) -> str:
    percent = 100 * share_of_damage(result)
    if percent > 0:
        return f"new BatchNorm statistics remove {percent:.0f} % of the damage in {label}"
    return f"new BatchNorm statistics increase the damage in {label} by {-percent:.0f} %"


def points(label: str, r: Recalibrated) -> list[str]:
    harmless = verdicts.spared(r.error, r.intact_error[:, None]).sum(1)
    worst = int(np.nanargmax(r.error[0]))
    old, new = percents(r.error[:, worst])
    median, intact = percents(np.nanmedian(r.error, axis=1)), percents(r.intact_error)
    text = (
        f"{label}: {harmless[0]} of {len(r.unit) - len(r.left_out)} units can be deleted for at most one "
        f"percentage point with running statistics, {harmless[1]} with re-estimated ones. Error with running "
        f"and re-estimated statistics: worst deletion ({r.unit[worst]}) {old} and {new}, median deletion "
        f"{median[0]} and {median[1]}, intact {intact[0]} and {intact[1]}."
    )
    if abs(r.intact_error[1] - r.intact_error[0]) > 2 * verdicts.MAY_GO:
        text += " New statistics change the intact network, too: the running statistics had not converged."
    return [text + verdicts.left_out(r.left_out, "Left out")]


def table(r: Recalibrated) -> Columns:
    return {
        "deleted unit": r.unit,
        "error, running": percents(r.error[0]),
        "error, re-estimated": percents(r.error[1]),
        "KL, running": numbers(r.kl[0]),
        "KL, re-estimated": numbers(r.kl[1]),
    }


def summary(r: Recalibrated) -> dict[str, str]:
    """The worst deletion with new statistics, beside the row of ``lesion`` with old ones."""
    return {"one unit deleted: worst, BatchNorm re-estimated": percent(np.nanmax(r.error[1]))}


# Statistics over 2 × 2 pixels and 256 images have a standard error of about 3 %.
REFERENCE = 256


def measure(bench: Bench) -> Recalibrated:
    (reference, _), seed = bench.training(REFERENCE), bench.options.seed
    result = recalibrate(*bench.evaluation(), reference=reference, seed=seed, **bench.how)
    bench.choices["data"] = (
        f"{result.num_examples:,} {bench.run.split} examples; statistics of the first "
        f"{result.num_reference:,} training examples, not augmented"
    )
    return result


STUDY = Study(
    name="recalibrate",
    title="Is it the unit, or BatchNorm's stale statistics?",
    question=(
        "In inference, BatchNorm normalizes by the mean and variance of training. When a unit is deleted, "
        "these no longer match the inputs of later layers. Here they are re-estimated on training images "
        "with the unit deleted; no weight is changed. Damage that disappears was not caused by the loss of "
        "the unit's function."
    ),
    code=(
        f"reference, _ = run.examples('train', {REFERENCE})\n"
        "resjax.analysis.recalibrate(*run.evaluation(10_000), reference=reference, loss=run.loss)"
    ),
    result=Recalibrated,
    measure=measure,
    plot=plot,
    verdict=verdict,
    says={
        "better": _changes,
        "same": "new BatchNorm statistics hardly change the damage in {}",
        "worse": _changes,
        "harmless": "no deletion raises the error of {}",
        "untrained": verdicts.UNTRAINED,
    },
    points=points,
    table=table,
    summary=summary,
)
