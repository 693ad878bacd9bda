"""How re-estimated statistics are shown; the numbers are those of ``resjax.studies.lesions.recalibrate``."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np

from resjax.studies.batches import Progress
from resjax.studies.lesions import recalibrate
from resjax.studies.lesions.lesion_shown import LEARNED, MAY_GO
from resjax.studies.lesions.recalibrate import Recalibrated, delete_each_recalibrated
from resjax.studies.old_study import Finding, Options, Study, Table
from resjax.studies.run import Run
from resjax.studies.words import capital, join, number, percent

Results = Mapping[str, Recalibrated]

# Statistics of 2 × 2 pixels and 256 images are known to some three percent.
REFERENCE = 256


def _unsuited(run: Run) -> str | None:
    if not jax.tree.leaves(run.variables.get("batch_stats", {})):
        return "it has no BatchNorm, so there are no statistics to estimate"
    if not run.network.deletable(run.variables, run.image_shape).any():
        return "no unit of this network can be deleted: none has a shortcut or keeps its shape"
    return None


def _run(run: Run, options: Options, progress: Progress | None) -> Recalibrated:
    images, labels = run.examples(run.split, options.max_examples)
    reference, _ = run.examples("train", REFERENCE)
    result = delete_each_recalibrated(
        run.network,
        run.variables,
        images,
        labels,
        reference=reference,
        loss=run.loss,
        batch_size=options.batch_size,
        seed=options.seed,
        progress=progress,
    )
    result.choices["data"] = (
        f"{len(images):,} {run.split} examples; statistics of the first {result.num_reference:,} training "
        "examples, not augmented"
    )
    result.choices["network"] = f"the checkpoint of step {run.step:,}"
    return result


def rises(result: Recalibrated) -> np.ndarray:
    """[statistics, deletable unit]: error minus that of the intact network with the same statistics."""
    rise = result.error - result.intact_error[:, None]
    return rise[:, np.isfinite(rise).all(0)]


def share_of_damage(result: Recalibrated) -> float:
    """The part of all rises of the error together that new statistics take away; negative if they add."""
    old, new = np.clip(rises(result), 0, None).sum(1)
    return float(1 - new / old) if old > 0 else np.nan


def finding(results: Results) -> Finding:
    """How much of the damage new statistics take away."""
    parts = []
    for label, r in results.items():
        share = share_of_damage(r)
        if r.intact_error[0] > LEARNED * r.chance_error:
            parts.append(f"{label} has learned too little for deletions to say anything")
        elif np.isnan(share):
            parts.append(f"no deletion raises the error of {label}")
        elif share >= 0.5:
            parts.append(
                f"new BatchNorm statistics take {_share(share)} of the damage in {label} away"
            )
        elif share > 0.1:
            parts.append(f"new statistics take {_share(share)} of the damage in {label} away")
        elif share >= -0.1:
            parts.append(f"new statistics leave the damage in {label} as it was")
        else:
            parts.append(f"new statistics make deletions in {label} worse, by {_share(-share)}")
    text = "; ".join(parts)
    return Finding(f"{capital(text)}.", [_point(*item) for item in results.items()])


def _share(share: float) -> str:
    return f"{100 * share:.0f} %"


def _point(label: str, r: Recalibrated) -> str:
    old, new = (int(np.sum(rise <= MAY_GO + 1e-9)) for rise in rises(r))
    total = rises(r).shape[1]
    worst = int(np.nanargmax(r.error[0]))
    text = (
        f"{label}: {old} of {total} units may go for at most one percentage point with running statistics, "
        f"{new} with re-estimated ones. The worst deletion ({r.unit[worst]}) leaves "
        f"{percent(r.error[0, worst])} error with the old and {percent(r.error[1, worst])} with the new; the "
        f"median {percent(float(np.nanmedian(r.error[0])))} and {percent(float(np.nanmedian(r.error[1])))}. "
        f"Intact: {percent(r.intact_error[0])} and {percent(r.intact_error[1])}."
    )
    if abs(r.intact_error[1] - r.intact_error[0]) > 2 * MAY_GO:
        text += " New statistics change the intact network, too: the running ones were not settled."
    if r.left_out:
        reasons = sorted(set(r.left_out.values()))
        text += f" Left out: {join(list(r.left_out))} ({'; '.join(reasons)})."
    return text


def table(results: Results) -> Table:
    """One row a unit and run."""
    rows = [
        (label, unit, *map(percent, r.error[:, i]), *map(number, r.kl[:, i]))
        for label, r in results.items()
        for i, unit in enumerate(r.unit)
    ]
    columns = ("network", "deleted unit", "error, running", "error, re-estimated")
    return Table((*columns, "KL, running", "KL, re-estimated"), rows)


def summary(results: Results) -> dict[str, dict[str, str]]:
    """The worst deletion with new statistics, beside that with old ones."""
    name = "one unit deleted: worst, BatchNorm re-estimated"
    return {label: {name: percent(float(np.nanmax(r.error[1])))} for label, r in results.items()}


STUDY = Study(
    name="recalibrate",
    title="Is it the unit, or BatchNorm's memory?",
    question=(
        "BatchNorm remembers the mean and variance of what it saw in training. When a unit is taken out, "
        "these no longer fit what comes behind it. Here they are estimated again, on training images and "
        "with the unit missing; no weight is changed. Damage that goes away was no loss of what the unit "
        "computed."
    ),
    code=(
        "images, labels = run.examples(run.split, 10_000)\n"
        f"reference, _ = run.examples('train', {REFERENCE})\n"
        "resjax.analysis.delete_each_recalibrated(run.network, run.variables, images, labels,\n"
        "                                         reference=reference, loss=run.loss)"
    ),
    result=Recalibrated,
    unsuited=_unsuited,
    run=_run,
    plot=recalibrate.plot,
    finding=finding,
    table=table,
    summary=summary,
)
