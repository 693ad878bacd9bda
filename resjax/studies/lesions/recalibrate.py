"""BatchNorm statistics re-estimated after a lesion: how much of the damage do they change?

*Question.* BatchNorm stores the mean and variance that each normalized value had during training. After a
unit is deleted, these statistics no longer match the inputs of later layers. Veit et al. (2016) keep them;
this control re-estimates them for the lesioned network and changes no parameter.

*Method.* The lesioned network runs in training mode on training images; means and variances of its batches
are combined (``batch_statistics``). The images must be *prepared as in training*, cropped and flipped
(``run.examples('train', n, augmented=True)``): running statistics are those of such images, and a convolution
near a black border sees other values than one without. On whole images even the intact network gets worse
(imported ResNet-20 on CIFAR-10: from 8.2 to 11 %, however many images), and so does every lesioned one.
``deletions``, ``pairs`` and ``reorder`` offer the same as the option ``recalibrate_on``.

*Reading it.* First the intact network: ``intact_change`` is what new statistics do to its error, with a
paired 95 % interval over images. If they raise it, the reference images do not stand for those of training,
and there is no verdict. Else a rise of the error is counted from the intact network with the same kind of
statistics, and the *share of the damage* that new statistics remove is one minus the ratio of the sums of all
rises, with a bootstrap interval over images. Its meaning is limited, because re-estimation is a second
intervention: it removes stale statistics, and it also rescales each channel of what arrives, which may make
up for part of what the unit computed. The share does not separate the two.
A network without BatchNorm has no statistics to go stale: its damage is a control of another kind.

*Cost.* That of ``lesion``, and for each deletion half a pass over the reference images and half a pass over
the evaluated images, because both share prefixes (``batch_statistics``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Unpack

import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.studies import counts, pointing, style, verdicts
from resjax.studies.batches import BATCH_SIZE, Inference, part
from resjax.studies.costs import NOTHING, Cost, evaluated, training
from resjax.studies.examples import num_examples
from resjax.studies.intervals import bootstrap, percentiles
from resjax.studies.judged import MET, MISSED, judged
from resjax.studies.lesions.batch_statistics import equal_batches, measure_recalibrated
from resjax.studies.lesions.known import KnownScores, known_scores
from resjax.studies.lesions.passes import each_alone, has_statistics, of_recalibrated
from resjax.studies.lesions.prefixes import deleting
from resjax.studies.lesions.single_deletions import score_deletions, spread_over
from resjax.studies.lesions.subsets import candidates
from resjax.studies.options import Options
from resjax.studies.result import Classified
from resjax.studies.scores import MEASURES, Scores
from resjax.studies.study import Bench, Columns, Study
from resjax.studies.subject import Subject
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
    # None in older results: shares of resampled images on which the error rises by at most one point;
    spared: Annotated[np.ndarray | None, "statistics", "unit"] = None
    # 95 % intervals of the change of the intact error by new statistics, and of ``share_of_damage``.
    intact_change: Annotated[np.ndarray | None, "end"] = None
    removed: Annotated[np.ndarray | None, "end"] = None


def recalibrate(
    network: Network,
    variables: Variables,
    images: Any,
    labels: ArrayLike,
    *,
    reference: Any,
    seed: int = 0,
    known: KnownScores | None = None,
    **how: Unpack[Inference],
) -> Recalibrated:
    """Deletes each unit in turn, with running statistics (Veit et al. 2016) and with new ones.

    Args: those of every analysis (``Inference``), and
      network: any with BatchNorm.
      reference: float [M, H, W, C], training images from which statistics are estimated, cropped and
        flipped as in training.
      seed: seed of dropout inside layers while statistics are estimated.
      known: scores of deletions with running statistics on the same examples, as of ``lesion``.

    Raises:
      ValueError: as ``lesion`` and ``reestimate``.
    """
    batches = equal_batches(network, variables, reference, how.get("batch_size", BATCH_SIZE))
    size = num_examples(batches[0])
    allowed, never = candidates(network, variables, images)
    given, progress = (network, variables, images, labels), how.get("progress")
    how["progress"] = part(progress, 0, 2)
    lesioned, intact = score_deletions(*given, allowed, known=known, **how)
    how["progress"] = part(progress, 1, 2)
    lesions = {"gates": deletion_gates(allowed)}
    new, _, _ = measure_recalibrated(*given, lesions, reference, seed=seed, **how)
    both = Scores.join([intact, lesioned]), new
    return assemble(network, allowed, never, both, len(batches) * size, size)


def assemble(
    network: Network,
    allowed: np.ndarray,
    never: dict[str, str],
    both: tuple[Scores, Scores],
    num_reference: int,
    batch: int,
) -> Recalibrated:
    """The result from scores with running and with new statistics, each of the intact network and then
    without each of the ``allowed`` units.

    Args:
      allowed, never: from ``candidates``.
      num_reference, batch: reference images, and how many of them are normalized together.
    """
    return Recalibrated(
        **_fields(allowed, both),
        unit=tuple(unit.name for unit in network.units),
        residual=np.array([unit.stack.unit.residual for unit in network.units]),
        statistics=STATISTICS,
        left_out=never,
        num_reference=num_reference,
        choices={
            "statistics": f"by the law of total variance, from batches of {batch}",
            "KL and agreement": "to the intact network with its running statistics",
            "further training": "none",
        },
    )


def deletion_gates(allowed: np.ndarray) -> np.ndarray:
    """float32 [1 + deletions, unit]: the first row deletes nothing, each other one of the allowed units."""
    one = (1 - np.eye(len(allowed)))[allowed]
    return np.vstack([np.ones(len(allowed)), one]).astype(np.float32)


def _fields(allowed: np.ndarray, both: tuple[Scores, Scores]) -> dict[str, Any]:
    """The fields of ``Recalibrated`` that follow from the scores."""
    old, new = both

    def over_units(rows: list[np.ndarray]) -> np.ndarray:
        return np.stack([spread_over(allowed, row) for row in rows])

    # The same resampled images for both, because the seed is one.
    sums = [_summed(counts.resampled_rises(s.wrong[1:], s.wrong[0])) for s in both]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(sums[0] > 0, 1 - sums[1] / sums[0], np.nan)
    known = share[~np.isnan(share)]
    changes = new.wrong[0].astype(float) - old.wrong[0]
    return {
        **{name: over_units([getattr(s, name)[1:] for s in both]) for name in MEASURES},
        "intact_error": np.array([s.error[0] for s in both]),
        "intact_loss": np.array([s.loss[0] for s in both]),
        "num_examples": old.num_examples,
        "num_classes": old.num_classes,
        "spared": over_units([counts.spared_share(s.wrong[1:], s.wrong[0]) for s in both]),
        "intact_change": np.array(bootstrap(changes)) if len(changes) > 1 else None,
        "removed": np.array(percentiles(known)) if len(known) else None,
    }


def _summed(rises: np.ndarray) -> np.ndarray:
    """The damage: the sum of all rises [..., unit] of the error."""
    return np.nansum(np.clip(rises, 0, None), axis=-1)


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
        pointing.along(ax, label, result.unit, number)
    longest = max(len(result.unit) for result in results.values())
    ax.set(xlabel="deleted unit", ylabel="error (%)", ylim=(-3, 104), xlim=(0.2, longest + 0.8))
    style.integer_ticks(ax)
    style.legend_above(fig, ax)
    return fig


# A change of the damage by at most this share counts as no change. The whole interval decides.
CHANGED = 0.1


def share_of_damage(result: Recalibrated) -> float:
    """The share of the summed rises of the error that new statistics remove; negative if they add to it.

    A rise is relative to the intact network with the same statistics; NaN where no deletion raises the error.
    """
    old, new = _summed(result.error - result.intact_error[:, None])
    return float(1 - new / old) if old > 0 else np.nan


def verdict(result: Recalibrated) -> str:
    """How much of the damage new statistics remove, if they leave the intact network as good as it is."""
    if result.intact_error[0] > verdicts.LEARNED * result.chance_error:
        return "untrained"
    if result.intact_change is not None and result.intact_change[0] > 0:
        return "unusable"
    if np.isnan(share_of_damage(result)):
        return "harmless"
    removed = (np.nan, np.nan) if result.removed is None else result.removed.tolist()
    found = judged(*removed, least=-CHANGED, most=CHANGED)
    if found == MISSED:
        return "better" if removed[0] > 0 else "worse"
    return "same" if found == MET else "undecided"


def _changes(label: str, result: Recalibrated) -> str:
    percent = 100 * share_of_damage(result)
    if percent > 0:
        return f"new BatchNorm statistics remove {percent:.0f} %{_removed(result)} of the damage in {label}"
    return (
        f"new BatchNorm statistics increase the damage in {label} by {-percent:.0f} %{_removed(result, -1)}"
    )


def _removed(result: Recalibrated, sign: int = 1) -> str:
    """' (40 to 71)', the interval of the share of the damage in percent."""
    if result.removed is None:
        return ""
    low, high = (100 * sign * result.removed)[::sign]
    return f" ({low:.0f} to {high:.0f})"


def _undecided(label: str, result: Recalibrated) -> str:
    left = 1 - share_of_damage(result)
    share = f"{100 * left:.0f} % of it is left with them"
    if result.removed is not None:
        low, high = 100 * (1 - result.removed[::-1])
        share = f"{100 * left:.0f} % ({low:.0f} to {high:.0f}) of it is left with them"
    return f"whether new BatchNorm statistics change the damage in {label} is undecided: {share}"


def _unusable(label: str, result: Recalibrated) -> str:
    before, behind = percents(result.intact_error)
    return (
        f"there is no verdict on {label}, because new BatchNorm statistics alone raise the intact network's "
        f"error from {before} to {behind}"
    )


def points(label: str, r: Recalibrated) -> list[str]:
    intact = percents(r.intact_error)
    intact_errors = f"intact {intact[0]} and {intact[1]}{_intact_change(r)}."
    if verdict(r) == "unusable":
        return [f"{label}: error with running and re-estimated statistics: {intact_errors}"]
    harmless = verdicts.spared(r.error, r.intact_error[:, None]).sum(1)
    shares = [None, None] if r.spared is None else r.spared
    may_go = [
        f"{own}{counts.between(counts.ends(np.sum, share))}"
        for own, share in zip(harmless, shares, strict=True)
    ]
    worst = int(np.nanargmax(r.error[0]))
    old, new = percents(r.error[:, worst])
    median = percents(np.nanmedian(r.error, axis=1))
    text = (
        f"{label}: {may_go[0]} of {len(r.unit) - len(r.left_out)} units can be deleted for at most one "
        f"percentage point with running statistics, {may_go[1]} with re-estimated ones. Error with running "
        f"and re-estimated statistics: worst deletion ({r.unit[worst]}) {old} and {new}, median deletion "
        f"{median[0]} and {median[1]}, {intact_errors}"
    )
    return [text + verdicts.left_out(r.left_out, "Left out")]


def _intact_change(r: Recalibrated) -> str:
    """The paired change of the intact network's error, and what a clear one means."""
    if r.intact_change is None:
        return ""
    low, high = 100 * r.intact_change
    change = 100 * (r.intact_error[1] - r.intact_error[0])
    text = f" (a change of {change:+.1f} points, {low:+.1f} to {high:+.1f})"
    if low > 0:
        return f"{text}: the reference images are too few, or not prepared as in training"
    if high < 0:
        return f"{text}: the running statistics had not converged, or come from other images"
    return text


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
    if verdict(r) == "unusable":
        return {}
    return {"one unit deleted: worst, BatchNorm re-estimated": percent(np.nanmax(r.error[1]))}


def measure(bench: Bench) -> Recalibrated:
    reference, seed = bench.reference(), bench.options.seed
    given, known = bench.evaluation(), known_scores(bench)
    return recalibrate(*given, reference=reference, seed=seed, known=known, **bench.how)


def cost(run: Subject, options: Options) -> Cost:
    if not has_statistics(run):
        return NOTHING  # it is refused at once
    count, reference = evaluated(run, options), training(run, options.reference)
    places = deleting(deletion_gates(run.deletable) == 0)
    alone = Cost(forward=count * each_alone(run), compilations=2.5, evaluated=count)
    return alone + of_recalibrated(run.network, places, count, reference, options.batch_size)


STUDY = Study(
    name="recalibrate",
    title="Is it the unit, or BatchNorm's stale statistics?",
    question=(
        "In inference, BatchNorm normalizes by the mean and variance of training. When a unit is deleted, "
        "these no longer match the inputs of later layers. Here they are re-estimated with the unit deleted, "
        "on training images (those of a run are cropped and flipped as in training); no weight is changed. "
        "How much of the damage remains?"
    ),
    code=(
        "reference, _ = run.examples('train', 2048, augmented=True)\n"
        "resjax.analysis.recalibrate(*run.evaluation(10_000), reference=reference, loss=run.loss)"
    ),
    result=Recalibrated,
    measure=measure,
    cost=cost,
    plot=plot,
    verdict=verdict,
    says={
        "better": _changes,
        "same": "new BatchNorm statistics hardly change the damage in {}",
        "worse": _changes,
        "harmless": "no deletion raises the error of {}",
        "undecided": _undecided,
        "unusable": _unusable,
        "untrained": verdicts.UNTRAINED,
    },
    points=points,
    table=table,
    summary=summary,
)
