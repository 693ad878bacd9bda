"""How training curves are shown; the numbers are those of ``resjax.studies.curves``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from resjax.studies import curves
from resjax.studies.batches import Progress
from resjax.studies.curves import Curves, training_curves
from resjax.studies.old_study import Finding, Options, Study, Table
from resjax.studies.run import Run
from resjax.studies.words import number, percent

Results = Mapping[str, Curves]


def _unsuited(run: Run) -> str | None:
    if any("loss" in r for r in run.records) and any(
        f"{run.split}_error" in r for r in run.records
    ):
        return None
    return "metrics.jsonl has no training record and evaluation yet"


def _run(run: Run, options: Options, progress: Progress | None) -> Curves:
    del options, progress
    info = run.experiment.dataset.info
    return training_curves(
        run.records,
        split=run.split,
        num_examples=info.num_test,
        num_classes=info.num_classes,
        total_steps=run.experiment.plan.total,
        residual=run.residual,
    )


def finding(results: Results) -> Finding:
    """Which network ends best, and whether the other fails on its training data already."""
    last = {label: float(r.eval_error[-1]) for label, r in results.items()}
    points = []
    for label, r in results.items():
        going = "" if r.step[-1] >= r.total_steps else f" of {r.total_steps:,} (the run goes on)"
        points.append(
            f"{label}: after {int(r.step[-1]):,} steps{going}, {percent(last[label])} {r.split} error "
            f"({r.num_examples:,} examples) and {percent(float(r.train_error[-1]))} training error."
        )
    if len(results) == 1:
        ((label, r),) = results.items()
        learned = last[label] < 0.8 * (1 - 1 / r.num_classes)
        verb = "reaches" if learned else "is still close to chance, at"
        return Finding(f"{label} {verb} {percent(last[label])} {r.split} error.", points)

    best, worst = min(last, key=last.__getitem__), max(last, key=last.__getitem__)
    gap = last[worst] - last[best]
    noise = 2 * np.sqrt(sum(_variance(last[k], results[k].num_examples) for k in (best, worst)))
    if gap <= noise:
        headline = "The networks end alike."
        points.append(
            f"The gap of {percent(gap)} is within two standard errors of so few examples "
            f"({percent(float(noise))})."
        )
        return Finding(headline, points)
    headline = (
        f"{best} ends at {percent(last[best])} {results[best].split} error, {worst} at "
        f"{percent(last[worst])}."
    )
    points.append(_explain(results, best, worst))
    return Finding(headline, points)


def _explain(results: Results, best: str, worst: str) -> str:
    train = {k: float(results[k].train_error[-1]) for k in (best, worst)}
    gap = float(results[worst].eval_error[-1] - results[best].eval_error[-1])
    if train[worst] - train[best] >= gap / 2:
        text = f"{worst} fails on its training data already: it is hard to train, not overfitted."
    else:
        errors = " and ".join(percent(train[k]) for k in (best, worst))
        text = f"Training errors ({errors}) make less than half of that gap: {worst} generalizes worse."
    if results[best].residual != results[worst].residual:
        kind = "with" if results[best].residual else "without"
        text += f" The better one is the network {kind} shortcuts."
    return text


def _variance(error: float, n: int) -> float:
    return error * (1 - error) / n


def table(results: Results) -> Table:
    """One row an evaluation, with the last training record before it."""
    rows = []
    for label, r in results.items():
        for j, step in enumerate(r.eval_step):
            i = int(np.searchsorted(r.step, step, side="right")) - 1
            own = ("–", "–") if i < 0 else (number(r.train_loss[i]), percent(r.train_error[i]))
            rows.append(
                (label, f"{int(step):,}", number(r.eval_loss[j]), percent(r.eval_error[j]), *own)
            )
    columns = ("network", "step", "loss", "error", "training loss", "training error")
    return Table(columns, rows)


def summary(results: Results) -> dict[str, dict[str, str]]:
    """The last training error; the last evaluation is among the deletions."""
    return {
        label: {"training error": percent(float(r.train_error[-1]))} for label, r in results.items()
    }


STUDY = Study(
    name="curves",
    title="Training",
    question="How well does each network learn, on its training data and on others?",
    code="run.records  # the lines of metrics.jsonl, as dictionaries",
    result=Curves,
    unsuited=_unsuited,
    run=_run,
    plot=curves.plot,
    finding=finding,
    table=table,
    summary=summary,
)
