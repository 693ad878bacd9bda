"""How committees are shown; the numbers are those of ``resjax.studies.paths.committee``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from resjax.studies.batches import Progress
from resjax.studies.lesions.lesion_shown import LEARNED
from resjax.studies.old_study import Finding, Options, Study, Table
from resjax.studies.paths import committee
from resjax.studies.paths.committee import Committee, vote
from resjax.studies.run import Run
from resjax.studies.words import capital, factor, join, percent

Results = Mapping[str, Committee]

# A committee "comes close" where it errs no more than this above the whole network.
CLOSE = 0.01
# A committee "helps" where it errs less than the mean of its voters by more than this.
HELPS = 0.01
VOTERS = 17


def _unsuited(run: Run) -> str | None:
    can_go = run.network.deletable(run.variables, run.image_shape).sum()
    if can_go > 1:
        return None
    return f"voters differ in the units that they lack, and {can_go or 'no'} unit of this network can go"


def _run(run: Run, options: Options, progress: Progress | None) -> Committee:
    images, labels = run.examples(run.split, options.max_examples)
    can_go = int(run.network.deletable(run.variables, run.image_shape).sum())
    some = max(2, can_go // 8)
    result = vote(
        run.network,
        run.variables,
        images,
        labels,
        deleted=(1, some, None) if some < can_go else (1, None),
        voters=VOTERS,
        draws=options.draws,
        batch_size=options.batch_size,
        seed=options.seed,
        progress=progress,
    )
    result.choices["data"] = f"{len(images):,} {run.split} examples, not augmented"
    result.choices["network"] = f"the checkpoint of step {run.step:,}"
    return result


def alone(result: Committee) -> np.ndarray:
    """[kind], mean error of a voter."""
    return np.nanmean(result.voter_error, axis=1)


def together(result: Committee) -> np.ndarray:
    """[kind], mean error of a majority of the largest size."""
    return result.majority_error[np.arange(len(result.kind)), result.largest].mean(-1)


def close(result: Committee) -> np.ndarray:
    """bool [kind], whether such a majority comes close to the whole network."""
    return together(result) <= result.whole_error + CLOSE + 1e-9


def _learned(result: Committee) -> bool:
    return result.whole_error <= LEARNED * (1 - 1 / result.num_classes)


def finding(results: Results) -> Finding:
    """Whose committees come close to the whole network, and with which voters."""
    parts = [_clause(label, result) for label, result in results.items()]
    text = "; ".join(parts) + "."
    if not _learned(next(iter(results.values()))):  # it begins with a label, which stays as it is
        return Finding(text, _points(results))
    return Finding(capital(text), _points(results))


def _clause(label: str, result: Committee) -> str:
    if not _learned(result):
        return f"{label} has learned too little for a vote to say anything"
    near = close(result)
    if near.all():
        return f"majorities of sub-networks of every kind come close to the whole {label}"
    if not near.any():
        return f"no majority of sub-networks comes close to the whole {label}"
    yes, no = (
        [f"“{k}”" for k, n in zip(result.kind, near, strict=True) if n == is_near]
        for is_near in (True, False)
    )
    return (
        f"in {label}, majorities come close to the whole network with voters of the kind "
        f"{join(yes)}, not with {join(no)}"
    )


def _points(results: Results) -> list[str]:
    points = []
    for label, r in results.items():
        covered = r.choices.get("intervals", "over committees of these voters")  # early files
        points.append(
            f"{label}: the whole network errs on {percent(r.whole_error)}. Intervals (95 %) are "
            f"{covered}."
        )
        for k, kind in enumerate(r.kind):
            single, majority, size = alone(r)[k], together(r)[k], r.size[r.largest[k]]
            low, high = r.majority_interval[k, r.largest[k]]
            gain = single - majority
            verb = "lower than" if gain > HELPS else "higher than" if gain < -HELPS else "about"
            points.append(
                f"{label}, {kind} ({r.kept[k]:.3g} of {r.num_units} units kept): a majority of {size} errs "
                f"on {percent(majority)} ({percent(low)} to {percent(high)}), {verb} the {percent(single)}"
                f"{_range(r.voter_error_interval[k])} of one voter; two voters name different classes for "
                f"{percent(r.different_answers[k])}{_range(r.different_answers_interval[k])} of the "
                f"examples, κ = {factor(r.kappa[k])}{_range(r.kappa_interval[k], factor)}."
            )
    points.append(
        "Voters were never trained to vote, and use BatchNorm statistics of the whole network. A close "
        "committee does not prove that the network is an ensemble: the forward pass is no sum of models."
    )
    return points


def _range(ends: np.ndarray, text: Callable[[float], str] = percent) -> str:
    """' (1.2 % to 1.9 %)', or nothing where there is no interval."""
    low, high = ends
    return "" if np.isnan(low) else f" ({text(low)} to {text(high)})"


def table(results: Results) -> Table:
    """One row a kind of voters and size of committee."""
    rows = []
    for label, r in results.items():
        for k, kind in enumerate(r.kind):
            for m in range(r.largest[k] + 1):
                cells = []
                for error, interval in (
                    (r.majority_error, r.majority_interval),
                    (r.average_error, r.average_interval),
                ):
                    low, high = interval[k, m]
                    cells.append(
                        f"{percent(error[k, m].mean())} ({percent(low)} – {percent(high)})"
                    )
                cells += [
                    percent(alone(r)[k]) + _range(r.voter_error_interval[k]),
                    percent(r.disagreement[k]) + _range(r.disagreement_interval[k]),
                    factor(r.kappa[k]) + _range(r.kappa_interval[k], factor),
                ]
                rows.append((label, kind, str(r.size[m]), *cells))
    columns = ("network", "voters", "size", "error of the majority", "error of the average")
    return Table((*columns, "error of one voter", "disagreement", "κ"), rows)


def summary(results: Results) -> dict[str, dict[str, str]]:
    """The kind that keeps fewest units: one voter, and a majority."""
    cells = {}
    for label, r in results.items():
        k = int(np.argmin(r.kept))
        size = r.size[r.largest[k]]
        column = f"{r.kept[k]:.3g} of {r.num_units} units kept"
        cells[label] = {
            "vote of sub-networks": f"{percent(together(r)[k])} ({size} voters, {column})"
            if _learned(r)
            else "–"
        }
    return cells


STUDY = Study(
    name="committee",
    title="A vote of sub-networks",
    question=(
        "Is the network a committee? Sub-networks that lack some units each name a class; a committee of "
        "them decides by majority, or by the mean of their outputs. If the whole network were nothing but "
        "such a vote, large committees would come close to it."
    ),
    code=(
        "images, labels = run.examples(run.split, 10_000)\n"
        "resjax.analysis.vote(run.network, run.variables, images, labels, deleted=(1, 3, None),\n"
        f"                     voters={VOTERS})"
    ),
    result=Committee,
    unsuited=_unsuited,
    run=_run,
    plot=committee.plot,
    finding=finding,
    table=table,
    summary=summary,
)
