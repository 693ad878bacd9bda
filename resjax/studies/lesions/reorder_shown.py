"""How reordered networks are shown; the numbers are those of ``resjax.studies.lesions.reorder``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from resjax.studies.batches import Progress
from resjax.studies.intervals import bootstrap
from resjax.studies.lesions import reorder
from resjax.studies.lesions.deletions_shown import (
    BRACKETS,
    STEP,
    group,
    ranked,
    sentence,
    too_little,
    untrained,
    with_interval,
)
from resjax.studies.lesions.lesion_shown import MAY_GO
from resjax.studies.lesions.reorder import Reordering, by_swaps, reorder_units
from resjax.studies.old_study import Finding, Options, Study, Table
from resjax.studies.ranks import spearman
from resjax.studies.run import Run
from resjax.studies.words import count, join, number, percent

Results = Mapping[str, Reordering]

# The error "rises smoothly" where the medians fall with τ so regularly, and one swap costs less than STEP.
IN_ORDER = -0.9
SWAPS = (1, 3, 8, 20)


def _unsuited(run: Run) -> str | None:
    if max((stack.n for stack in run.network.stacks), default=0) > 1:
        return None
    return "all units of this network differ, and only equal ones can change places"


def _run(run: Run, options: Options, progress: Progress | None) -> Reordering:
    images, labels = run.examples(run.split, options.max_examples)
    result = reorder_units(
        run.network,
        run.variables,
        images,
        labels,
        swaps=SWAPS,
        draws=options.draws,
        loss=run.loss,
        batch_size=options.batch_size,
        seed=options.seed,
        progress=progress,
    )
    result.choices["data"] = f"{len(images):,} {run.split} examples, not augmented"
    result.choices["network"] = f"the checkpoint of step {run.step:,}"
    return result


def tau_and_error(result: Reordering) -> float:
    """Spearman's correlation of the medians of τ and of the error, by number of swaps."""
    return spearman(by_swaps(result, "tau").median, by_swaps(result).median)


def _verdict(result: Reordering) -> str:
    if untrained(result):
        return "untrained"
    rise = by_swaps(result).median - result.intact_error
    if rise[1] > STEP:
        return "breaks"
    if np.max(rise) <= MAY_GO + 1e-9:
        return "hardly"
    return "smooth" if tau_and_error(result) <= IN_ORDER else "uneven"


def finding(results: Results) -> Finding:
    """Whether the error rises smoothly as the order is destroyed."""
    groups = group(results, _verdict)
    parts = []
    if labels := groups.get("smooth"):
        parts.append(f"the error of {join(labels)} rises smoothly as its units are reordered")
    if labels := groups.get("hardly"):
        parts.append(f"swapping equal units hardly raises the error of {join(labels)}")
    for label in groups.get("breaks", []):
        curve = by_swaps(results[label])
        parts.append(
            f"{count(int(curve.amount[1]), 'swap')} of equal units already raises the error of {label} from "
            f"{percent(curve.median[0])} to {percent(curve.median[1])}"
        )
    if labels := groups.get("uneven"):
        parts.append(
            f"the error of {join(labels)} does not rise steadily as its units are reordered"
        )
    if labels := groups.get("untrained"):
        parts.append(too_little(labels))
    points = [_point(label, result) for label, result in results.items()]
    return Finding(sentence(parts), [*points, BRACKETS])


def _shuffled(result: Reordering) -> str:
    """The median error of full shuffles, with its interval."""
    error = result.error[result.of_kind("shuffle")]
    low, high = (float(v) for v in bootstrap(error, np.median))
    return f"{percent(float(np.median(error)))} ({percent(low)} to {percent(high)})"


def _point(label: str, result: Reordering) -> str:
    curve, tau = by_swaps(result), by_swaps(result, "tau").median
    swaps = [
        f"{with_interval(curve, i)} after {count(int(curve.amount[i]), 'swap')} (τ = {tau[i]:.2f})"
        for i in sorted({1, len(curve.amount) - 1})
    ]
    near = result.of_kind("neighbours")
    error = result.error[near]
    worst = int(np.argmax(error))
    moved = np.flatnonzero(result.order[near][worst] != np.arange(len(result.unit)))
    gentle = int(np.sum(error <= result.intact_error + MAY_GO + 1e-9))
    first, second = (result.unit[u] for u in moved)
    return (
        f"{label}: {percent(result.intact_error)} error in the true order; in the median {join(swaps)}; "
        f"{_shuffled(result)} after full shuffles and {percent(result.error[-1])} in reverse. "
        f"Rank correlation of τ and the error, of medians: {ranked(tau_and_error(result))}. "
        f"Of {len(error)} swaps of neighbours {gentle} cost at most one percentage point; the worst, of "
        f"{first} and {second}, gives {percent(error[worst])}. "
        f"{count(len(result.fixed), 'unit').capitalize()} of {len(result.unit)} never moved."
    )


def table(results: Results) -> Table:
    """One row for each number of swaps, for shuffles, the reversal, and each swap of neighbours."""
    rows = []
    for label, r in results.items():
        error, *others = (by_swaps(r, what) for what in ("error", "tau", "loss", "kl", "agreement"))
        shows = (number, number, number, percent)
        for i, k in enumerate(error.amount.tolist()):
            cells = [with_interval(o, i, show) for o, show in zip(others, shows, strict=True)]
            name = f"{count(k, 'random swap')}, {count(int(error.draws[i]), 'draw')}, median"
            rows.append((label, name if k else "true order", with_interval(error, i), *cells))
        shuffle = r.of_kind("shuffle")
        medians = (float(np.median(v[shuffle])) for v in (r.tau, r.loss, r.kl, r.agreement))
        cells = [show(v) for show, v in zip(shows, medians, strict=True)]
        rows.append((label, "full shuffles, median", _shuffled(r), *cells))
        for i in np.flatnonzero(r.of_kind("reversal") | r.of_kind("neighbours")).tolist():
            names = [r.unit[u] for u in np.flatnonzero(r.order[i] != np.arange(len(r.unit)))]
            name = join(names) if r.kind[i] == "neighbours" else "all stacks reversed"
            values = zip(shows, (r.tau[i], r.loss[i], r.kl[i], r.agreement[i]), strict=True)
            rows.append((label, name, percent(r.error[i]), *(show(float(v)) for show, v in values)))
    return Table(("network", "order", "error", "τ", "loss", "KL (nats)", "agreement"), rows)


def summary(results: Results) -> dict[str, dict[str, str]]:
    """The median error after full shuffles."""
    return {
        label: {
            "units shuffled: median": percent(float(np.median(r.error[r.of_kind("shuffle")]))),
        }
        for label, r in results.items()
    }


STUDY = Study(
    name="reorder",
    title="Run the units in another order",
    question=(
        "Does the order of the units matter? Equal units of the trained network change places: a few random "
        "pairs, every two neighbours, or all of them. Kendall's τ tells how much of the true order is left, "
        "1 for all of it."
    ),
    code=(
        "images, labels = run.examples(run.split, 10_000)\n"
        "resjax.analysis.reorder_units(run.network, run.variables, images, labels, loss=run.loss)"
    ),
    result=Reordering,
    unsuited=_unsuited,
    run=_run,
    plot=reorder.plot,
    finding=finding,
    table=table,
    summary=summary,
)
