"""How norms over training are shown; numbers: ``resjax.studies.signals.norms_over_training``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from resjax.studies.batches import Progress
from resjax.studies.old_study import Finding, Options, Study, Table
from resjax.studies.run import Run
from resjax.studies.signals import norms_over_training as analysis
from resjax.studies.signals.norm_maps import plot_maps
from resjax.studies.signals.norms_over_training import NormsOverTraining, quarters, training_norms
from resjax.studies.words import factor, number, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Results = Mapping[str, NormsOverTraining]

# First and last layers' gradients that differ by no more are called alike.
ALIKE = 3.0
# More runs than these would be a tangle of lines.
FEW = 3


def _unsuited(run: Run) -> str | None:
    if any("norms" in record for record in run.records):
        return None
    return "metrics.jsonl has no norms yet: they are written every log.every"


def _run(run: Run, options: Options, progress: Progress | None) -> NormsOverTraining:
    del options, progress
    return training_norms(run.network, run.records, run.image_shape)


def plot(results: Results) -> Figure:
    """Lines for a few runs, a map of every layer for more."""
    return analysis.plot(results) if len(results) <= FEW else plot_maps(results)


def evenness(result: NormsOverTraining) -> np.ndarray:
    """[step], gradient norm of the first quarter of the layers ÷ that of the last; 0/0 is NaN."""
    first, last = quarters(result.gradient)
    with np.errstate(divide="ignore", invalid="ignore"):
        return first / last


def share_alike(result: NormsOverTraining) -> float:
    """Share of the records at which first and last layers' gradients are alike."""
    with np.errstate(divide="ignore"):
        return float(np.mean(np.abs(np.log(evenness(result))) <= np.log(ALIKE)))


def finding(results: Results) -> Finding:
    """Whether first and last layers get gradients of one size throughout, and how they move."""
    shares = {label: share_alike(r) for label, r in results.items()}
    best, worst = max(shares, key=shares.__getitem__), min(shares, key=shares.__getitem__)
    if len(results) == 1:
        headline = (
            f"Gradients of the first and the last layers of {best} are of one size (within a factor of "
            f"{ALIKE:g}) at {percent(shares[best])} of the logged steps."
        )
    elif shares[best] - shares[worst] > 0.1:
        headline = (
            f"Through training, first and last layers get gradients of one size (within a factor of "
            f"{ALIKE:g}) more often in {best} ({percent(shares[best])} of the logged steps) than in {worst} "
            f"({percent(shares[worst])})."
        )
    else:
        headline = (
            "Through training, first and last layers get gradients of one size (within a factor of "
            f"{ALIKE:g}) about equally often in these networks ({percent(shares[worst])} to "
            f"{percent(shares[best])} of the logged steps)."
        )
    return Finding(headline, [_sentence(label, r) for label, r in results.items()])


def _sentence(label: str, r: NormsOverTraining) -> str:
    ends = (0, -1) if len(r.step) > 1 else (0,)
    first, last = quarters(r.gradient)
    parts = [
        f"at step {int(r.step[t]):,} a kernel of the first quarter gets a gradient of norm "
        f"{factor(float(first[t]))} and moves by {factor(_median(r.relative_update[t], first=True))} of "
        f"its own norm, one of the last quarter {factor(float(last[t]))} and "
        f"{factor(_median(r.relative_update[t], first=False))}"
        for t in ends
    ]
    return f"{label}: {'; '.join(parts)}."


def _median(values: np.ndarray, *, first: bool) -> float:
    """Over the first or the last quarter of the layers."""
    quarter = max(len(values) // 4, 1)
    values = values[:quarter] if first else values[-quarter:]
    return float(np.median(values))


def table(results: Results) -> Table:
    """One row a record and run: geometric means of the first and the last quarter of the layers, and of the
    units where their outputs were logged."""
    columns = ["network", "step"]
    for name in ("gradient", "weights", "update"):
        columns += [f"{name}, first layers", f"{name}, last layers"]
    outputs = any(r.unit for r in results.values())
    columns += ["‖y‖, first units", "‖y‖, last units"] if outputs else []
    rows = []
    for label, r in results.items():
        means = [q for kind in analysis.KINDS for q in quarters(getattr(r, kind))]
        if outputs:
            missing = np.full(len(r.step), np.nan)
            means += quarters(r.activation) if r.unit else (missing, missing)
        for t, step in enumerate(r.step):
            rows.append((label, f"{int(step):,}", *(number(float(q[t])) for q in means)))
    return Table(tuple(columns), rows)


STUDY = Study(
    name="norms_over_training",
    title="Norms while learning",
    question=(
        "Does every layer keep learning, from the first step to the last? Shown are the norms of gradients, "
        "weights and updates that the training loop has logged, for the first and the last layers."
    ),
    code="resjax.analysis.training_norms(run.network, run.records, run.image_shape)",
    result=NormsOverTraining,
    unsuited=_unsuited,
    run=_run,
    plot=plot,
    finding=finding,
    table=table,
    summary=lambda results: {},
)
