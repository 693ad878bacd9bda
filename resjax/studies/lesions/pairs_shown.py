"""How pairs and runs of deleted units are shown; numbers: ``resjax.studies.lesions.pairs``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from resjax.studies.batches import Progress
from resjax.studies.lesions import deletions_shown as deletions
from resjax.studies.lesions import pairs
from resjax.studies.lesions.deletions import Deletions
from resjax.studies.lesions.deletions_shown import group, sentence, too_little, untrained
from resjax.studies.lesions.lesion_shown import LEARNED, MAY_GO
from resjax.studies.lesions.pairs import delete_pairs, interaction, pair_matrix, run_matrix
from resjax.studies.old_study import Finding, Options, Study, Table
from resjax.studies.run import Run
from resjax.studies.words import count, join, percent

Results = Mapping[str, Deletions]

# About n² deletions: enough examples to see a point of error, few enough to wait for.
MOST_EXAMPLES = 200
MOST_UNITS = 150
# How many pairs a table holds.
MOST_PAIRS = 20


def _unsuited(run: Run) -> str | None:
    n = int(run.network.deletable(run.variables, run.image_shape).sum())
    if n == 1:
        return "only one unit of this network can be deleted"
    if n > MOST_UNITS:
        return (
            f"its {n} units make about {n**2:,} pairs and runs; choose some, and use "
            "resjax.analysis.delete_subsets"
        )
    return deletions.unsuited(run)


def _run(run: Run, options: Options, progress: Progress | None) -> Deletions:
    images, labels = run.examples(run.split, min(options.max_examples, MOST_EXAMPLES))
    result = delete_pairs(
        run.network,
        run.variables,
        images,
        labels,
        loss=run.loss,
        batch_size=options.batch_size,
        progress=progress,
    )
    result.choices["data"] = (
        f"{len(images):,} {run.split} examples, not augmented; at most {MOST_EXAMPLES}, because of the "
        f"{len(result.error):,} deletions"
    )
    result.choices["network"] = f"the checkpoint of step {run.step:,}"
    return result


def additive(result: Deletions) -> float:
    """Share of pairs whose errors add up to within one percentage point."""
    together = _upper(interaction(result))
    return float(np.mean(np.abs(together) <= MAY_GO + 1e-9)) if len(together) else float("nan")


def longest_run(result: Deletions) -> int:
    """The most neighbours that can go together for at most one percentage point; 0 where none can."""
    error = run_matrix(result)
    first, last = np.nonzero(error <= result.intact_error + MAY_GO + 1e-9)
    return int(np.max(last - first + 1, initial=0))


def _upper(matrix: np.ndarray) -> np.ndarray:
    values = matrix[np.triu_indices(len(matrix), 1)]
    return values[~np.isnan(values)]


def _verdict(result: Deletions) -> str:
    if untrained(result):
        return "untrained"
    alone = np.diag(pair_matrix(result))
    if np.nanmedian(alone) > LEARNED * result.chance_error:
        return "broken"
    return "additive" if additive(result) >= 0.5 else "dependent"


def finding(results: Results) -> Finding:
    """Whether the harm of two deletions is that of one and the other."""
    groups = group(results, _verdict)
    parts = []
    if labels := groups.get("additive"):
        parts.append(
            f"in {join(labels)}, most pairs of units cost what the two cost alone, to one point of error"
        )
    if labels := groups.get("dependent"):
        parts.append(f"in {join(labels)}, most pairs of units cost more or less than the two alone")
    if labels := groups.get("broken"):
        parts.append(f"one deleted unit already breaks {join(labels)}, so two can't do much more")
    if labels := groups.get("untrained"):
        parts.append(too_little(labels))
    return Finding(sentence(parts), [_point(label, result) for label, result in results.items()])


def _point(label: str, result: Deletions) -> str:
    together, error = interaction(result), pair_matrix(result)
    values = _upper(together)
    text = f"{label}: {percent(result.intact_error)} error when intact. "
    if len(values):
        i, j = np.unravel_index(int(np.nanargmax(together)), together.shape)
        text += (
            f"Errors add up to within one point in {percent(additive(result))} of {len(values):,} pairs; "
            f"{percent(float(np.mean(values > MAY_GO + 1e-9)))} cost more than that. "
            f"{'Most beyond their sum' if together[i, j] > 0 else 'No pair costs more than its sum; nearest'}"
            f": {result.unit[i]} and {result.unit[j]}, "
            f"{percent(error[i, j])} without both, {percent(error[i, i])} and {percent(error[j, j])} without "
            "one. "
        )
    length = longest_run(result)
    if not length:
        return text + "No unit can go for at most one percentage point."
    run = np.diag(run_matrix(result), length - 1)
    first = int(np.nanargmin(run))
    where = (
        result.unit[first]
        if length == 1
        else f"{result.unit[first]} to {result.unit[first + length - 1]}"
    )
    return text + (
        f"Of neighbours, as many as {length} can go together for at most one percentage point "
        f"({where}: {percent(run[first])})."
    )


def table(results: Results) -> Table:
    """The pairs with the largest interactions, and the least harmful run of each length."""
    rows = []
    for label, result in results.items():
        together, error, run = interaction(result), pair_matrix(result), run_matrix(result)
        n = len(result.unit)
        i, j = np.triu_indices(n, 1)
        order = np.argsort(-np.nan_to_num(np.abs(together[i, j]), nan=-1.0), kind="stable")
        for a, b in zip(i[order[:MOST_PAIRS]], j[order[:MOST_PAIRS]], strict=True):
            if np.isnan(together[a, b]):
                continue
            alone = f"{percent(error[a, a])}, {percent(error[b, b])}"
            names = f"{result.unit[a]} and {result.unit[b]}"
            points = f"{100 * together[a, b]:+.1f}"
            rows.append((label, names, percent(error[a, b]), alone, points))
        for length in range(2, n + 1):
            own = np.diag(run, length - 1)
            if np.isnan(own).all():
                continue
            first = int(np.nanargmin(own))
            names = f"{result.unit[first]} to {result.unit[first + length - 1]}"
            rows.append((label, f"best run of {length}: {names}", percent(own[first]), "", ""))
    columns = ("network", "deleted", "error", "each alone", "interaction (points)")
    return Table(columns, rows)


def summary(results: Results) -> dict[str, dict[str, str]]:
    """How many neighbours may go together."""
    return {
        label: {"neighbours that may go together": count(longest_run(result), "unit")}
        for label, result in results.items()
        if not untrained(result)
    }


STUDY = Study(
    name="pairs",
    title="Delete pairs, and runs of neighbours",
    question=(
        "Do units stand in for one another? Every two units are deleted together and compared with each "
        "alone, and every run of neighbouring units is cut out of the trained network."
    ),
    code=(
        f"images, labels = run.examples(run.split, {MOST_EXAMPLES})\n"
        "resjax.analysis.delete_pairs(run.network, run.variables, images, labels, loss=run.loss)"
    ),
    result=Deletions,
    unsuited=_unsuited,
    run=_run,
    plot=pairs.plot,
    finding=finding,
    table=table,
    summary=summary,
)
