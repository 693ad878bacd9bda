"""How surgery is shown; the numbers are those of ``resjax.studies.units.surgery``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from resjax.studies.batches import Progress
from resjax.studies.old_study import Finding, Options, Study, Table
from resjax.studies.run import Run
from resjax.studies.units import surgery
from resjax.studies.units.insertion import fixed_depth
from resjax.studies.units.surgery import Surgery, operate
from resjax.studies.words import count, factor, join, number, percent

Results = Mapping[str, Surgery]

# A training loss that is higher by less than this share of the untouched network's is called the same.
SAME = 0.05


def _run(run: Run, options: Options, progress: Progress | None) -> Surgery:
    images, labels = run.examples(run.split, options.max_examples)
    train = run.examples("train", run.config.train.batch_size * options.gradient_batches)
    result = operate(
        run.network,
        run.variables,
        images,
        labels,
        train=train,
        loss=run.loss,
        batch_size=options.batch_size,
        seed=options.seed,
        progress=progress,
    )
    result.choices["data"] = (
        f"{len(images):,} {run.split} examples; batches from the first {len(train[0]):,} of training"
    )
    result.choices["network"] = f"the checkpoint of step {run.step:,}"
    return result


def excess(result: Surgery) -> float:
    """Deeper minus untouched training loss in the second half of the steps, as a share of the latter."""
    steps = result.untouched_loss.shape[1]
    return result.gap / float(result.untouched_loss[:, steps // 2 :].mean())


def _harm(result: Surgery) -> str:
    """'none', 'some' or 'unclear': the deeper network's training loss beside the untouched one's."""
    if not np.isfinite(result.deep_loss).all():
        return "some"
    if excess(result) <= SAME:
        return "none"
    return "some" if result.gap_interval[0] > 0 else "unclear"


def finding(results: Results) -> Finding:
    """Whose function survived, and who trains on unharmed."""
    return Finding("; ".join(_clause(k, r) for k, r in results.items()) + ".", _points(results))


def _clause(label: str, r: Surgery) -> str:
    new = count(r.count * len(r.place), "more unit")
    they, harm = ("it", "harms") if r.count * len(r.place) == 1 else ("they", "harm")
    if r.difference == 0:
        function = f"{new} changed no bit of the function of {label}"
    elif r.changed:
        function = f"{new} changed {count(r.changed, 'answer')} of {label}"
    else:
        function = f"{new} changed logits of {label} by up to {factor(r.difference)}, and no answer"
    link = "but" if _harm(r) == "some" else "and"
    after = {
        "none": "its training goes on unharmed",
        "some": f"{they} {harm} its training from there",
        "unclear": f"whether {they} {harm} its training from there is unclear",
    }
    return f"{function}, {link} {after[_harm(r)]}"


def _points(results: Results) -> list[str]:
    points = []
    for label, r in results.items():
        steps = r.untouched_loss.shape[1]
        deep, untouched = (v[:, steps // 2 :].mean() for v in (r.deep_loss, r.untouched_loss))
        low, high = r.gap_interval
        kind = "zero branches" if r.residual else "identity kernels"
        new = count(r.count * len(r.place), "unit")
        points.append(
            f"{label}: {new} with {kind}, {join(r.place)}. Over the last {steps - steps // 2} of {steps} "
            f"steps the training loss is {factor(deep)}, and {factor(untouched)} in the untouched network: "
            f"{percent(abs(excess(r)))} {'more' if excess(r) > 0 else 'less'} (difference {factor(r.gap)}, "
            f"95 % interval {factor(low)} to {factor(high)}). The error was {percent(r.error)}, and became "
            f"{percent(r.deep_error.mean())} with the new {'unit' if new == '1 unit' else 'units'} and "
            f"{percent(r.untouched_error.mean())} without. New units now change their input by "
            f"{percent(r.change.mean())} of its norm."
        )
        for place, reason in r.refused.items():
            points.append(f"{label}: no unit {place}, because {reason.rstrip('.')}.")
    points.append(
        "An unchanged function is what the construction promises. That a start does no harm does not mean "
        "that more depth helps, nor that training from scratch would find such units."
    )
    return points


def table(results: Results) -> Table:
    """One row a repeat of the training."""
    rows = []
    for label, r in results.items():
        for i, deep in enumerate(r.deep_loss):
            untouched = r.untouched_loss[i]
            half = len(deep) // 2
            rows.append(
                (
                    label,
                    str(i + 1),
                    number(deep[0]),
                    number(untouched[0]),
                    number(deep[half:].mean()),
                    number(untouched[half:].mean()),
                    percent(r.deep_error[i]),
                    percent(r.untouched_error[i]),
                )
            )
    columns = (
        "network",
        "repeat",
        "first loss, deeper",
        "untouched",
        "loss in the second half, deeper",
        "untouched",
        "error after, deeper",
        "untouched",
    )
    return Table(columns, rows)


def summary(results: Results) -> dict[str, dict[str, str]]:
    """What inserted units did to the training loss."""
    return {
        label: {
            "training loss with units inserted": f"{round(100 * excess(r), 1) + 0.0:+} %"
            if np.isfinite(excess(r))
            else "diverged"
        }
        for label, r in results.items()
    }


STUDY = Study(
    name="surgery",
    title="Surgery: units that do nothing",
    question=(
        "Can a trained network be made deeper without harm? Units that pass their input on unchanged are "
        "inserted at the front, in the middle and at the end. The outputs should stay the same; then the "
        "deeper network and the untouched one are trained on, side by side."
    ),
    code=(
        "images, labels = run.examples(run.split, 10_000)\n"
        "resjax.analysis.operate(run.network, run.variables, images, labels,\n"
        "                        train=run.examples('train', 512), loss=run.loss)"
    ),
    result=Surgery,
    unsuited=lambda run: fixed_depth(run.network),  # of others, only trying tells
    run=_run,
    plot=surgery.plot,
    finding=finding,
    table=table,
    summary=summary,
)
