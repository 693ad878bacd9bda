"""How gradient norms are shown; the numbers are those of ``resjax.studies.signals.gradients``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from resjax.network import Variables
from resjax.studies.batches import Progress
from resjax.studies.intervals import of_mean
from resjax.studies.moments import at_moments
from resjax.studies.old_study import Finding, Options, Study, Table
from resjax.studies.run import Run
from resjax.studies.signals import gradients
from resjax.studies.signals.gradients import GradientNorms, gradient_norms, moment
from resjax.studies.signals.near_one_shown import ALIKE, places
from resjax.studies.signals.norms_over_training import quarters
from resjax.studies.words import around, capital, factor, join, number

Results = Mapping[str, GradientNorms]


def _run(run: Run, options: Options, progress: Progress | None) -> GradientNorms:
    size = run.config.train.batch_size
    images, labels = run.examples("train", size * options.gradient_batches)

    def measure(step: int, variables: Variables, tell: Progress) -> GradientNorms:
        return gradient_norms(
            run.network,
            variables,
            images,
            labels,
            loss=run.loss,
            optimizer=run.experiment.task.optimizer,
            batch_size=size,
            max_batches=options.gradient_batches,
            step=step,
            seed=options.seed,
            progress=tell,
        )

    result = at_moments(sorted({0, run.step}), run.at, measure, progress)
    result.choices["data"] = f"the first {len(images):,} training examples, not augmented"
    return result


def evenness(norms: np.ndarray) -> float:
    """Geometric mean over the first quarter of the kernels ÷ that over the last quarter, from [layer].

    Above 1 the gradient grows on its way back to the input, below 1 it fades.
    """
    quarter = max(len(norms) // 4, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.exp(np.mean(np.log(norms[:quarter])) - np.mean(np.log(norms[-quarter:]))))


def _ends(norms: np.ndarray) -> tuple[float, float]:
    """95 % interval of ``evenness`` over batches, from [batch, layer]: Student's t of its logarithm."""
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = of_mean(np.log([evenness(batch) for batch in norms]), 0)
    return float(np.exp(low)), float(np.exp(high))


def finding(results: Results) -> Finding:
    """Whose gradients are most uneven from the first to the last layer."""
    at_first = {label: evenness(r.mean[0]) for label, r in results.items()}
    points = [_sentence(label, r) for label, r in results.items()]
    (label, *others) = results
    if not others:
        when = moment(int(results[label].step[0]))
        return Finding(f"{capital(when)}, {_way(label, at_first[label])}.", points)
    verdict, even, uneven, low, high = places(at_first)
    when = moment(int(results[even].step[0]))
    if verdict == "none":
        said = _way(join(list(results)), np.nan)
    elif verdict == "alike":
        said = "gradients are spread alike over the layers of these networks"
    elif verdict == "opposite":
        said = (
            "gradients are about as uneven in these networks, but not the same way: first ÷ last layers "
            f"{factor(at_first[high])} in {high}, {factor(at_first[low])} in {low}"
        )
    else:
        said = (
            f"gradients are spread more evenly in {even} than in {uneven}: first ÷ last layers "
            f"{factor(at_first[even])} against {factor(at_first[uneven])}"
        )
    return Finding(f"{capital(when)}, {said}.", points)


def _way(label: str, ratio: float) -> str:
    if not np.isfinite(ratio) or ratio <= 0:
        return f"some of the first or last layers of {label} get no gradient"
    if 1 / ALIKE <= ratio <= ALIKE:
        return f"gradients in {label} are about as large in the first layers as in the last"
    if ratio > 1:
        return f"gradients in {label} are {factor(ratio)} times larger in the first layers than in the last"
    return f"gradients in {label} are {factor(1 / ratio)} times smaller in the first layers than in the last"


def _sentence(label: str, result: GradientNorms) -> str:
    parts = []
    for t, step in enumerate(result.step):
        mean = result.mean[t]
        ratio = evenness(mean)
        parts.append(
            f"{moment(int(step))} the median kernel's gradient has norm {factor(float(np.median(mean)))}, "
            f"and the first quarter of the kernels gets {factor(ratio)}{around(_ends(result.norm[t]))} times "
            "that of the last quarter"
        )
    return f"{label}: {'; '.join(parts)}.{_others(result)}"


def _others(r: GradientNorms) -> str:
    """The other norms at init, where that is a moment."""
    at = np.flatnonzero(r.step == 0)
    if not len(at):
        return ""
    weights, update = r.parameter[at[0]], r.update[at[0]].mean(0)
    first, last = (factor(float(q)) for q in quarters(weights))
    text = f" At init the first quarter of the kernels has norm {first}, the last {last}"
    if np.isfinite(update).all() and weights.all():
        first, last = (factor(float(q)) for q in quarters(update / weights))
        text += f", and the first update changes them by {first} and {last} of that"
    if r.unit:
        outputs = r.activation[at[0]].mean(0)
        first, last = (factor(float(outputs[i])) for i in (0, -1))
        text += f"; the output of the first unit has norm {first}, that of the last {last}"
    return f"{text}."


def table(results: Results) -> Table:
    """One row a kernel and run, then one a unit: means over batches, one column a kind of norm and moment."""
    steps = sorted({int(step) for r in results.values() for step in r.step})
    kinds = ("‖∂L/∂W‖", "‖W‖", "‖y‖")
    columns = [f"{kind} {moment(step)}" for kind in kinds for step in steps]
    rows = []
    for label, r in results.items():
        at = {int(step): t for t, step in enumerate(r.step)}

        def cells(values: np.ndarray, i: int, at: dict[int, int] = at) -> list[str]:
            return [number(float(values[at[s], i])) if s in at else "–" for s in steps]

        update, outputs, none = r.update[0].mean(0), r.activation.mean(1), ["–"] * len(steps)
        for i, layer in enumerate(r.layer):
            own = (*cells(r.mean, i), *cells(r.parameter, i), *none, number(float(update[i])))
            rows.append((label, layer, *own))
        for i, unit in enumerate(r.unit):
            rows.append((label, unit, *none, *none, *cells(outputs, i), "–"))
    return Table(("network", "kernel or unit", *columns, "‖ΔW‖ of the first step"), rows)


def summary(results: Results) -> dict[str, dict[str, str]]:
    """First ÷ last layers at the first moment."""
    return {
        label: {"gradient at init, first ÷ last layers": factor(evenness(r.mean[0]))}
        for label, r in results.items()
        if r.step[0] == 0
    }


STUDY = Study(
    name="gradients",
    title="Gradients, layer by layer",
    question=(
        "Does every layer get a signal to learn from? Shown is the norm of the gradient of each kernel, for "
        "batches of training images, before the first step and now; the table has the norms of kernels, of "
        "their first update and of units' outputs, too."
    ),
    code=(
        "images, labels = run.examples('train', 8 * run.config.train.batch_size)\n"
        "resjax.analysis.gradient_norms(run.network, run.variables, images, labels, loss=run.loss,\n"
        "                               batch_size=run.config.train.batch_size)"
    ),
    result=GradientNorms,
    unsuited=lambda run: None,
    run=_run,
    plot=gradients.plot,
    finding=finding,
    table=table,
    summary=summary,
)
