"""How single deletions are shown; the numbers are those of ``resjax.studies.lesions.lesion``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from resjax.studies.batches import Progress
from resjax.studies.lesions import lesion
from resjax.studies.lesions.lesion import DeleteEach, delete_each
from resjax.studies.old_study import Finding, Options, Study, Table
from resjax.studies.run import Run
from resjax.studies.words import count, join, number, percent

Results = Mapping[str, DeleteEach]

# A unit "may go" where the error rises by no more (Veit et al. 2016 speak of no noticeable change).
MAY_GO = 0.01
# Beyond this share of the error of a guess, a network has learned too little to lose anything.
LEARNED = 0.8


def _unsuited(run: Run) -> str | None:
    if run.network.deletable(run.variables, run.image_shape).any():
        return None
    return "no unit of this network can be deleted: none has a shortcut or keeps its shape"


def _run(run: Run, options: Options, progress: Progress | None) -> DeleteEach:
    images, labels = run.examples(run.split, options.max_examples)
    result = delete_each(
        run.network,
        run.variables,
        images,
        labels,
        loss=run.loss,
        batch_size=options.batch_size,
        progress=progress,
    )
    result.choices["data"] = f"{len(images):,} {run.split} examples, not augmented"
    result.choices["network"] = f"the checkpoint of step {run.step:,}"
    return result


def rise(result: DeleteEach) -> np.ndarray:
    """Error after deletion minus the intact network's, of the units that can be deleted."""
    return (result.error - result.intact_error)[result.deletable]


def may_go(result: DeleteEach) -> int:
    """How many units can be deleted for at most one percentage point each."""
    return int(np.sum(rise(result) <= MAY_GO + 1e-9))


def _harmful(result: DeleteEach, most: int = 6) -> list[str]:
    """Units that may not go, the worst first, with the error that they leave."""
    order = np.argsort(-np.where(result.deletable, result.error, -1), kind="stable")
    count = int(result.deletable.sum()) - may_go(result)
    named = [f"{result.unit[i]} ({percent(result.error[i])})" for i in order[: min(count, most)]]
    return [*named, f"{count - most} more"] if count > most else named


def _verdict(result: DeleteEach) -> str:
    if result.intact_error > LEARNED * result.chance_error:
        return "untrained"
    share = may_go(result) / result.deletable.sum()
    return "spare" if share >= 0.5 else ("needed" if share <= 0.1 else "mixed")


def finding(results: Results) -> Finding:
    """Which networks can do without a unit."""
    by_verdict: dict[str, list[str]] = {}
    for label, result in results.items():
        by_verdict.setdefault(_verdict(result), []).append(label)
    return Finding(_headline(results, by_verdict), _points(results))


def _headline(results: Results, by_verdict: Mapping[str, list[str]]) -> str:
    spare, needed = by_verdict.get("spare", []), by_verdict.get("needed", [])
    parts = []
    if spare and needed:
        parts.append(f"Most units can go from {join(spare)}, hardly any from {join(needed)}")
    elif spare:
        parts.append(f"Most units can go, one at a time, from {join(spare)}")
    elif needed:
        parts.append(f"Hardly any unit can go from {join(needed)}")
    for label in by_verdict.get("mixed", []):
        total = int(results[label].deletable.sum())
        parts.append(f"{may_go(results[label])} of {total} units can go from {label}")
    if untrained := by_verdict.get("untrained"):
        verb = "has" if len(untrained) == 1 else "have"
        parts.append(f"{join(untrained)} {verb} learned too little for deletions to say anything")
    return "; ".join(parts) + "."


def _points(results: Results) -> list[str]:
    points = []
    for label, result in results.items():
        worst = int(np.nanargmax(result.error))
        total = int(result.deletable.sum())
        text = (
            f"{label}: {percent(result.intact_error)} error when intact. Deleting one of its {total} "
            f"units gives {percent(float(np.nanmedian(result.error)))} in the median and "
            f"{percent(result.error[worst])} at worst ({result.unit[worst]}); "
            f"{count(may_go(result), 'unit')} may go for at most one percentage point."
        )
        if np.median(rise(result)) < -MAY_GO:
            text += (
                " Most deletions lower the error: trained too little, or BatchNorm's running statistics are "
                "not settled; that is no sign that units can be spared."
            )
        if _verdict(result) == "spare" and (harmful := _harmful(result)):
            text += f" Those that may not: {join(harmful)}."
        if result.left_out:
            reasons = sorted(set(result.left_out.values()))
            text += f" Left out (×): {join(list(result.left_out))} ({'; '.join(reasons)})."
        points.append(text)
    chances = sorted({percent(result.chance_error) for result in results.values()})
    points.append(f"Chance is {join(chances)}.")
    return points


def table(results: Results) -> Table:
    """One row a unit and run."""
    rows = [
        (
            label,
            unit,
            percent(r.error[i]),
            percent(r.error[i] - r.intact_error),
            number(r.loss[i]),
            number(r.kl[i]),
            percent(r.agreement[i]),
        )
        for label, r in results.items()
        for i, unit in enumerate(r.unit)
    ]
    columns = ("network", "deleted unit", "error", "rise", "loss", "KL (nats)", "agreement")
    return Table(columns, rows)


def summary(results: Results) -> dict[str, dict[str, str]]:
    """Intact, median and worst error, and how many units may go."""
    return {
        label: {
            "error, intact": percent(r.intact_error),
            "one unit deleted: median": percent(float(np.nanmedian(r.error))),
            "one unit deleted: worst": percent(float(np.nanmax(r.error))),
            "units that may go": "–"  # which says nothing of a network near chance
            if _verdict(r) == "untrained"
            else f"{may_go(r)} of {int(r.deletable.sum())}",
        }
        for label, r in results.items()
    }


STUDY = Study(
    name="lesion",
    title="Delete each unit in turn",
    question=(
        "Which units could go? Each unit is taken out of the trained network, one at a time: its branch is "
        "removed, its shortcut stays (a unit without a shortcut is replaced by its input). Nothing is "
        "trained again."
    ),
    code=(
        "images, labels = run.examples(run.split, 10_000)\n"
        "resjax.analysis.delete_each(run.network, run.variables, images, labels, loss=run.loss)"
    ),
    result=DeleteEach,
    unsuited=_unsuited,
    run=_run,
    plot=lesion.plot,
    finding=finding,
    table=table,
    summary=summary,
)
