"""How the back-propagated signal is shown; the numbers are those of ``resjax.studies.signals.backward_signal``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from resjax.network import Variables
from resjax.studies.batches import Progress
from resjax.studies.intervals import of_mean
from resjax.studies.moments import at_moments
from resjax.studies.old_study import Finding, Options, Study, Table
from resjax.studies.run import Run
from resjax.studies.signals import backward_signal as signal
from resjax.studies.signals.backward_signal import Signal, backpropagated_signal
from resjax.studies.signals.gradients import moment
from resjax.studies.words import around, factor, join, number, percent

Results = Mapping[str, Signal]

# A signal that changes by no more than this factor on its whole way is called kept.
KEPT = 10.0


def _run(run: Run, options: Options, progress: Progress | None) -> Signal:
    size = run.config.train.batch_size
    images, labels = run.examples("train", size * options.gradient_batches)

    def measure(step: int, variables: Variables, tell: Progress) -> Signal:
        return backpropagated_signal(
            run.network,
            variables,
            images,
            labels,
            loss=run.loss,
            batch_size=size,
            max_batches=options.gradient_batches,
            step=step,
            seed=options.seed,
            progress=tell,
        )

    result = at_moments(sorted({0, run.step}), run.at, measure, progress)
    result.choices["data"] = f"the first {len(images):,} training examples, not augmented"
    return result


def gain(result: Signal, t: int) -> float:
    """Mean over batches of ‖∂L/∂x_0‖ ÷ ‖∂L/∂x_n‖ at moment t; NaN where the gradient is 0."""
    return float(result.gain[t].mean())


def _way(ratio: float) -> str:
    if not np.isfinite(ratio):
        return "unknown"
    if ratio > KEPT:
        return "grows"
    return "fades" if ratio < 1 / KEPT else "kept"


def finding(results: Results) -> Finding:
    """Where the signal survives its way back at the first moment, and what the shortcuts carry."""
    by_way: dict[str, list[str]] = {}
    for label, r in results.items():
        by_way.setdefault(_way(gain(r, 0)), []).append(label)
    names = {label: f"{label} ({factor(gain(r, 0))}×)" for label, r in results.items()}
    said = {
        "kept": "keeps its size within a factor of 10 in",
        "grows": "grows in",
        "fades": "fades in",
        "unknown": "is 0 or not finite in",
    }
    parts = [
        f"{verb} {join([names[label] for label in by_way[way]])}"
        for way, verb in said.items()
        if way in by_way
    ]
    when = moment(int(next(iter(results.values())).step[0]))
    headline = f"From the last unit back to the first, {when}, the gradient {'; it '.join(parts)}."
    return Finding(headline, [_sentence(label, r) for label, r in results.items()])


def _sentence(label: str, r: Signal) -> str:
    parts = []
    middle = len(r.unit) // 2
    for t, step in enumerate(r.step):
        text = (
            f"{moment(int(step))} the gradient is {factor(gain(r, t))}{around(of_mean(r.gain[t], 0))} times "
            "as large at the first unit as at the head"
        )
        if r.residual:
            share = r.share[t].mean(0)
            text += (
                f", and the shortcuts alone bring {percent(float(share[0]))} of it there, "
                f"{percent(float(share[middle]))} halfway ({r.unit[middle]})"
            )
        parts.append(text)
    end = "" if r.residual else " It has no shortcut: all of it has passed every unit's weights."
    return f"{label}: {'; '.join(parts)}.{end}"


def table(results: Results) -> Table:
    """One row a place, run and moment, means over batches."""
    columns = (
        "network",
        "moment",
        "in front of",
        "signal",
        "the “1”",
        "the rest",
        "share of the “1”",
    )
    rows = []
    for label, r in results.items():
        for t, step in enumerate(r.step):
            share = r.share[t].mean(0)
            for place, name in enumerate((*r.unit, "head")):
                cells = (
                    number(float(v[t, :, place].mean())) for v in (r.total, r.shortcut, r.rest)
                )
                rows.append((label, moment(int(step)), name, *cells, percent(float(share[place]))))
    return Table(columns, rows)


def summary(results: Results) -> dict[str, dict[str, str]]:
    """The gain of the whole way at init."""
    return {
        label: {"gradient at init, first unit ÷ head": factor(gain(r, 0))}
        for label, r in results.items()
        if r.step[0] == 0
    }


STUDY = Study(
    name="signal",
    title="The signal on its way back",
    question=(
        "What of the loss's gradient arrives at each unit, and how much of it came through the shortcuts "
        "alone, past all weights (the “1” of “1 + …”)?"
    ),
    code=(
        "images, labels = run.examples('train', 8 * run.config.train.batch_size)\n"
        "resjax.analysis.backpropagated_signal(run.network, run.variables, images, labels, loss=run.loss,\n"
        "                                      batch_size=run.config.train.batch_size)"
    ),
    result=Signal,
    unsuited=lambda run: None,
    run=_run,
    plot=signal.plot,
    finding=finding,
    table=table,
    summary=summary,
)
