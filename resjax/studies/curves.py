"""Training curves: how fast a network learns, and whether a deeper one can be trained at all.

*Question.* He et al. (2015, Fig. 6) train plain and residual networks of equal depth by the same recipe.
Beyond some depth the plain ones get worse, and already on the *training* data: they are not overfitted but
hard to train. So training and test error belong in one figure.

*Reading it.* The training error is the mean over the batches since the last record, measured before each
update and on augmented images; the test error is that of one state on whole images. One seed does not show
how much the result varies between seeds: the gap between two single runs is compared with the noise of the
evaluated images alone, and says nothing of their recipes. With several seeds of each recipe, the gap between
their means is compared with the spread over seeds, by Welch's t interval.

*Cost.* None: the numbers are in metrics.jsonl.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from resjax.network.refusal import Refusal
from resjax.studies import style
from resjax.studies.costs import nothing
from resjax.studies.intervals import LEVEL, of_difference, of_mean
from resjax.studies.result import Classified
from resjax.studies.run import Run, as_run, no_training
from resjax.studies.study import Bench, Columns, Study
from resjax.studies.verdicts import LEARNED
from resjax.studies.words import join, numbers, percent, percents


@dataclasses.dataclass(frozen=True)
class Curves(Classified):
    """Loss and error over training."""

    step: Annotated[np.ndarray, "point"]  # int
    train_loss: Annotated[np.ndarray, "point"]  # mean since the point before
    train_error: Annotated[np.ndarray, "point"]  # likewise
    eval_step: Annotated[np.ndarray, "evaluation"]  # int
    eval_loss: Annotated[np.ndarray, "evaluation"]
    eval_error: Annotated[np.ndarray, "evaluation"]
    split: str  # the evaluation set, 'test' or 'holdout'
    num_examples: int  # of that split
    total_steps: int  # of the whole run; more than the last step if the run is still training
    residual: bool  # whether some unit has a shortcut


def curves(records: Iterable[Mapping[str, Any]], *, split: str, **fields: Any) -> Curves:
    """Sorts the records of metrics.jsonl into curves; ``fields`` are those of ``Curves`` that are no array.

    Raises:
      ValueError: the records hold no training loss or no evaluation.
    """
    training: list[tuple[int, float, float]] = []
    evaluations: list[tuple[int, float, float]] = []
    for record in records:
        for rows, kind in ((training, ""), (evaluations, f"{split}_")):
            if f"{kind}loss" in record and f"{kind}error" in record:
                rows.append((record["step"], record[f"{kind}loss"], record[f"{kind}error"]))
    if not training or not evaluations:
        raise Refusal(
            f"metrics.jsonl has {len(training)} training records and {len(evaluations)} evaluations; "
            "curves need one of each"
        )
    step, train_loss, train_error = map(np.array, zip(*training, strict=True))
    eval_step, eval_loss, eval_error = map(np.array, zip(*evaluations, strict=True))
    return Curves(
        step=step,
        train_loss=train_loss,
        train_error=train_error,
        eval_step=eval_step,
        eval_loss=eval_loss,
        eval_error=eval_error,
        split=split,
        **fields,
        choices={"training error": "mean since the last record, before each update"},
    )


# --- what the report shows ---


def plot(results: Mapping[str, Curves]) -> style.Figure:
    """Loss and error by step, side by side: training thin and dashed, evaluation with markers."""
    fig, (left, right) = style.panels(2, height=0.5, sharex=True)
    for i, (label, r) in enumerate(results.items()):
        color, own = style.color(i), f"{label}, {r.split}".strip(", ")
        both = ((left, r.train_loss, r.eval_loss), (right, 100 * r.train_error, 100 * r.eval_error))
        for ax, train, evaluation in both:
            ax.plot(r.eval_step, evaluation, f"-{style.marker(i)}", color=color, label=own)
            training = f"{label}, training".strip(", ")
            ax.plot(r.step, train, "--", lw=1.1, color=color, label=training)
    left.set(ylabel="loss", yscale="log", xlabel="" if style.is_narrow() else "step")
    right.set(ylabel="error (%)", ylim=(-3, 104), xlabel="step")
    style.legend_above(fig, left)
    return fig


def headline(results: Mapping[str, Curves]) -> str:
    """Which of these runs ends best; for a single one, whether it learned anything."""
    if len(results) == 1:
        ((label, r),) = results.items()
        return _reaches(label, r, float(r.eval_error[-1]), "")
    best, worst, gap, noise = _extremes(results)
    if gap <= noise:
        return _undecided(best, worst)
    ends = [percent(results[label].eval_error[-1]) for label in (best, worst)]
    return f"{best} ends at {ends[0]} {results[best].split} error, {worst} at {ends[1]} (one run each)"


def _reaches(label: str, r: Curves, error: float, how: str) -> str:
    verb = "reaches" if error <= LEARNED * r.chance_error else "is still close to chance, at"
    return f"{label} {verb} {percent(error)} {r.split} error{how}"


def _undecided(best: str, worst: str) -> str:
    return f"which of {best} and {worst} ends better is undecided"


def _extremes(results: Mapping[str, Curves]) -> tuple[str, str, float, float]:
    """The best and the worst network, the gap between them, and two standard errors of that gap."""
    last = {label: float(r.eval_error[-1]) for label, r in results.items()}
    best, worst = _ends_of(last)
    variances = [last[k] * (1 - last[k]) / results[k].num_examples for k in (best, worst)]
    return best, worst, last[worst] - last[best], float(2 * np.sqrt(sum(variances)))


def _ends_of(errors: Mapping[str, float]) -> tuple[str, str]:
    """The labels of the smallest and of the largest error, of two or more."""
    order = sorted(errors, key=errors.__getitem__)
    return order[0], order[-1]


def points(label: str, r: Curves) -> list[str]:
    going = "" if r.step[-1] >= r.total_steps else f" of {r.total_steps:,} (the run goes on)"
    return [
        f"{label}: after {int(r.step[-1]):,} steps{going}, {percent(r.eval_error[-1])} {r.split} error "
        f"({r.num_examples:,} examples) and {percent(r.train_error[-1])} training error."
    ]


ONE_RUN = (
    "One run each: the gap is compared with the noise of the evaluated images alone. It is about these runs, "
    "not about their recipes, which may vary more between seeds."
)


def notes(results: Mapping[str, Curves]) -> list[str]:
    """What the gap was compared with, and whether the worst network fails on its training data already."""
    if len(results) == 1:
        return []
    best, worst, gap, noise = _extremes(results)
    if gap <= noise:
        within = "within two standard errors of so few examples"
        return [f"The gap of {percent(gap)} is {within} ({percent(noise)}).", ONE_RUN]
    train = [float(results[label].train_error[-1]) for label in (best, worst)]
    text = f"{worst} fails on its training data already: it is hard to train, not overfitted."
    if train[1] - train[0] < gap / 2:
        ends = " and ".join(percents(train))
        text = f"Training errors ({ends}) make less than half of that gap: {worst} generalizes worse."
    return [text + _shortcuts(results[best], results[worst]), ONE_RUN]


def _shortcuts(best: Curves, worst: Curves) -> str:
    if best.residual == worst.residual:
        return ""
    return f" The better one is the network {'with' if best.residual else 'without'} shortcuts."


def over_seeds(results: Mapping[str, Sequence[Curves]]) -> tuple[str, list[str]]:
    """Headline and notes where several seeds of a recipe were trained, {label: its runs}.

    The networks with the lowest and the highest mean error are compared by Welch's t interval of the
    difference of their means over seeds, at a level of 1 − 0.05/c for c pairs of networks (Bonferroni).
    """
    last = {label: np.array([r.eval_error[-1] for r in runs], float) for label, runs in results.items()}
    means = {label: float(ends.mean()) for label, ends in last.items()}
    if len(results) == 1:
        ((label, runs),) = results.items()
        how = f" in the mean over {len(runs)} seeds{_interval(last[label])}"
        return _reaches(label, runs[0], means[label], how), []
    best, worst = _ends_of(means)
    r, other, pairs = results[best][0], results[worst][0], len(last) * (len(last) - 1) // 2
    each = [f"{label} {percent(means[label])}{_interval(ends)}" for label, ends in last.items()]
    notes = [f"Mean {r.split} errors over seeds: {join(each)}."]
    if single := [label for label in (best, worst) if len(last[label]) == 1]:
        why = f"One run of {join(single)} does not show how much its recipe varies between seeds."
        return _undecided(best, worst), [*notes, why]
    gap, low, high = of_difference(last[worst], last[best], 1 - (1 - LEVEL) / pairs)
    of_all = f" (the widest of {pairs} gaps, so the interval is wider)" if pairs > 1 else ""
    notes.append(f"Those of {best} and {worst} differ by {_in_points(gap, low, high)} by Welch's t{of_all}.")
    if not low > 0:
        return _undecided(best, worst), notes
    notes.append(_in_training(results, best, worst, gap) + _shortcuts(r, other))
    sizes = " and ".join(dict.fromkeys(str(len(last[label])) for label in (best, worst)))
    said = f"{best} ends at {percent(means[best])} {r.split} error, {worst} at {percent(means[worst])}"
    return f"{said}, in the mean over {sizes} seeds", notes


def _in_training(results: Mapping[str, Sequence[Curves]], best: str, worst: str, gap: float) -> str:
    """Whether the worst network fails on its training data already, as far as its seeds decide that."""
    train = {k: np.array([r.train_error[-1] for r in results[k]], float) for k in (best, worst)}
    more, low, high = of_difference(train[worst], train[best])
    if low > 0 and more >= gap / 2:
        what = f"{worst} is hard to train, not overfitted"
    else:
        what = (
            f"{worst} generalizes worse"
            if high < gap / 2
            else f"whether {worst} is harder to train is undecided"
        )
    return f"Mean training errors differ by {_in_points(more, low, high)}: {what}."


def _interval(values: np.ndarray) -> str:
    """The 95 % interval of the mean of errors over seeds, in brackets; '' for one seed."""
    ends = [percent(float(np.clip(end, 0, 1))) for end in of_mean(values, 0)]
    return f" (95 % interval {ends[0]} to {ends[1]})" if len(values) > 1 else ""


def _in_points(gap: float, low: float, high: float) -> str:
    texts = [f"{round(100 * value, 1) + 0.0:.1f}" for value in (gap, low, high)]  # + 0.0: no minus zero
    return f"{texts[0]} points (95 % interval {texts[1]} to {texts[2]})"


def table(r: Curves) -> Columns:
    # The last training record up to each evaluation; entry 0 stands for "none yet".
    last = np.searchsorted(r.step, r.eval_step, side="right")
    return {
        "step": [f"{int(step):,}" for step in r.eval_step],
        "loss": numbers(r.eval_loss),
        "error": percents(r.eval_error),
        "training loss": numbers(np.append(np.nan, r.train_loss)[last]),
        "training error": percents(np.append(np.nan, r.train_error)[last]),
    }


def summary(r: Curves) -> dict[str, str]:
    """The last training error; the last evaluation is in the row of deletions."""
    return {"training error": percent(r.train_error[-1])}


def _changed(run: Run) -> str:
    """How training changed its images, in words; '' if it did not."""
    train = run.config.train
    mixed = [name for name, alpha in (("mixup", train.mixup), ("CutMix", train.cutmix)) if alpha]
    return ", ".join([*filter(None, [run.augmentation]), *mixed])


def measure(bench: Bench) -> Curves:
    run = as_run(bench.run)
    info = run.experiment.dataset.info
    bench.choices["training images"] = _changed(run) or run.as_they_are
    return curves(
        run.records.without_norms(),
        split=run.split,
        num_examples=info.num_test,
        num_classes=info.num_classes,
        total_steps=run.experiment.plan.total,
        residual=run.residual,
    )


STUDY = Study(
    name="curves",
    title="Training curves",
    question="How well does each network learn, on its training data and on other data?",
    code="run.records  # the lines of metrics.jsonl, as dictionaries",
    result=Curves,
    unsuited=no_training,
    measure=measure,
    cost=nothing,
    plot=plot,
    headline=headline,
    points=points,
    notes=notes,
    over_seeds=over_seeds,
    table=table,
    summary=summary,
)
