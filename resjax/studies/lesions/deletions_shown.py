"""How random deletions are shown; the numbers are those of ``resjax.studies.lesions.deletions``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from resjax.studies.batches import Progress
from resjax.studies.lesions import deletions
from resjax.studies.lesions.deletions import Deletions, by_number, delete_random
from resjax.studies.lesions.lesion_shown import LEARNED, MAY_GO
from resjax.studies.old_study import Finding, Options, Study, Table
from resjax.studies.ranks import spearman
from resjax.studies.run import Run
from resjax.studies.spread import Spread
from resjax.studies.words import capital, count, join, number, percent

Results = Mapping[str, Deletions]

# The error "rises smoothly" where no deleted unit adds more and the medians are in order.
STEP, IN_ORDER = 0.15, 0.95
BRACKETS = (
    "In brackets: the 95 % interval of the median over other draws. A step between two measured numbers is "
    "seen only as their mean slope."
)


def unsuited(run: Run) -> str | None:
    """Why nothing can be deleted there, or None."""
    if run.network.deletable(run.variables, run.image_shape).any():
        return None
    return "no unit of this network can be deleted: none has a shortcut or keeps its shape"


def _run(run: Run, options: Options, progress: Progress | None) -> Deletions:
    images, labels = run.examples(run.split, options.max_examples)
    can_go = int(run.network.deletable(run.variables, run.image_shape).sum())
    every = range(1, min(options.delete_up_to, can_go) + 1)
    result = delete_random(
        run.network,
        run.variables,
        images,
        labels,
        ks=every or None,
        draws=options.draws,
        loss=run.loss,
        batch_size=options.batch_size,
        seed=options.seed,
        progress=progress,
    )
    result.choices["data"] = f"{len(images):,} {run.split} examples, not augmented"
    result.choices["network"] = f"the checkpoint of step {run.step:,}"
    return result


def ranked(value: float) -> str:
    """A correlation as text: '0.95'; not a number → '–'."""
    return "–" if np.isnan(value) else f"{value:.2f}"


def untrained(result: Any) -> bool:
    """Whether the network knows too little to lose anything."""
    return bool(result.intact_error > LEARNED * result.chance_error)


def group(results: Mapping[str, Any], verdict: Callable[[Any], str]) -> dict[str, list[str]]:
    """Verdict → labels of those that have it, in order of appearance."""
    groups: dict[str, list[str]] = {}
    for label, result in results.items():
        groups.setdefault(verdict(result), []).append(label)
    return groups


def too_little(labels: list[str]) -> str:
    """What is said of networks that are ``untrained``."""
    return f"there is no verdict on {join(labels)}, which learned too little to lose anything"


def sentence(parts: list[str]) -> str:
    """Clauses as one sentence; none may begin with a label."""
    text = "; ".join(parts)
    return f"{capital(text)}."


def with_interval(curve: Spread, i: int, show: Callable[[float], str] = percent) -> str:
    """'41.6 % (25.7 % to 65.9 %)': the median and its interval."""
    median, low, high = (show(float(v[i])) for v in (curve.median, curve.low, curve.high))
    return median if low == high else f"{median} ({low} to {high})"


def _steepest(curve: Spread) -> tuple[int, float]:
    """Index of the entry behind which the median rises fastest, and how much by each unit."""
    slope = np.diff(curve.median) / np.diff(curve.amount)
    return int(np.argmax(slope)), float(np.max(slope))


def _verdict(result: Deletions) -> str:
    curve = by_number(result)
    if untrained(result):
        return "untrained"
    at, slope = _steepest(curve)
    if slope > STEP:
        return "first" if at == 0 else "jump"
    if np.max(curve.median) - result.intact_error <= MAY_GO + 1e-9:
        return "hardly"
    return "smooth" if spearman(curve.amount, curve.median) >= IN_ORDER else "uneven"


def finding(results: Results) -> Finding:
    """Whether the error rises smoothly with the number of deleted units."""
    groups = group(results, _verdict)
    parts = []
    if labels := groups.get("smooth"):
        parts.append(f"the error of {join(labels)} rises smoothly with the number of deleted units")
    if labels := groups.get("hardly"):
        parts.append(f"the error of {join(labels)} hardly rises, whatever is deleted")
    for label in groups.get("first", []):
        curve = by_number(results[label])
        parts.append(
            f"the error of {label} jumps from {percent(curve.median[0])} to "
            f"{percent(curve.median[1])} with the first {_units(curve.amount[1])}"
        )
    for label in groups.get("jump", []):
        curve = by_number(results[label])
        at, _ = _steepest(curve)
        parts.append(
            f"the error of {label} jumps from {percent(curve.median[at])} to "
            f"{percent(curve.median[at + 1])} between {curve.amount[at]} and "
            f"{curve.amount[at + 1]} deleted units"
        )
    if labels := groups.get("uneven"):
        parts.append(f"the error of {join(labels)} does not rise steadily with the number deleted")
    if labels := groups.get("untrained"):
        parts.append(too_little(labels))
    points = [_point(label, result) for label, result in results.items()]
    return Finding(sentence(parts), [*points, BRACKETS])


def _units(k: int) -> str:
    return "deleted unit" if k == 1 else f"{k} deleted units"


def _told(curve: Spread) -> list[int]:
    """Entries to tell of: the paper's 10 and 20 units where they are there, else the middle one."""
    told = np.flatnonzero(np.isin(curve.amount, (10, 20))).tolist()
    return told or [max(1, len(curve.amount) // 2)]


def _point(label: str, result: Deletions) -> str:
    curve = by_number(result)
    pool = len(result.unit) - len(result.left_out)
    medians = [
        f"{with_interval(curve, i)} with {curve.amount[i]} of {count(pool, 'unit')} deleted"
        for i in _told(curve)
    ]
    at, slope = _steepest(curve)
    rank = ranked(spearman(curve.amount, curve.median))
    text = (
        f"{label}: {percent(result.intact_error)} error when intact; in the median {join(medians)}. "
        f"Rank correlation of number and median error: {rank}. Where it rises fastest, from "
        f"{curve.amount[at]} to {curve.amount[at + 1]}, each unit adds {100 * slope:.1f} points."
    )
    if result.left_out:
        reasons = sorted(set(result.left_out.values()))
        text += f" Never deleted: {join(list(result.left_out))} ({'; '.join(reasons)})."
    return text


def table(results: Results) -> Table:
    """One row a network and number of deleted units."""
    rows = []
    for label, result in results.items():
        error, *others = (by_number(result, what) for what in ("error", "loss", "kl", "agreement"))
        for i, k in enumerate(error.amount.tolist()):
            lower, upper = map(percent, error.quartiles[i])
            shows = (number, number, percent)
            cells = (with_interval(o, i, show) for o, show in zip(others, shows, strict=True))
            quartiles = f"{lower} to {upper}"
            draws = str(error.draws[i])
            rows.append((label, str(k), draws, with_interval(error, i), quartiles, *cells))
    columns = ("network", "deleted", "sets", "median error", "quartiles")
    return Table((*columns, "median loss", "median KL (nats)", "median agreement"), rows)


def summary(results: Results) -> dict[str, dict[str, str]]:
    """The median error where 10 units are deleted, of networks that have so many."""
    short = {}
    for label, result in results.items():
        curve = by_number(result)
        for i in np.flatnonzero(curve.amount == 10):
            short[label] = {"10 random units deleted: median": percent(float(curve.median[i]))}
    return short


STUDY = Study(
    name="deletions",
    title="Delete several units at random",
    question=(
        "How fast does the error rise as more and more units are taken out? For each number, many random "
        "sets of units are deleted from the trained network. Where each unit depends on the one in front of "
        "it, one is enough to break everything; where they add up, the error rises bit by bit."
    ),
    code=(
        "images, labels = run.examples(run.split, 10_000)\n"
        "resjax.analysis.delete_random(run.network, run.variables, images, labels, loss=run.loss)"
    ),
    result=Deletions,
    unsuited=unsuited,
    run=_run,
    plot=deletions.plot,
    finding=finding,
    table=table,
    summary=summary,
)
