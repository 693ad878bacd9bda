"""How branch variances are shown; the numbers are those of ``resjax.studies.signals.branch_variance``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from resjax.network import Variables
from resjax.studies.batches import Progress
from resjax.studies.moments import at_moments
from resjax.studies.old_study import Finding, Options, Study, Table
from resjax.studies.run import Run
from resjax.studies.signals import branch_variance as analysis
from resjax.studies.signals.branch_variance import BranchVariance, branch_variances
from resjax.studies.signals.gradients import moment
from resjax.studies.words import capital, factor, join, number

Results = Mapping[str, BranchVariance]

# Slopes that are called 1/l (De & Smith 2020), and ones that are called flat.
LAW, FLAT = (-1.3, -0.7), (-0.3, 0.3)
# A stage needs so many units before its slope says anything.
ENOUGH = 3


def _unsuited(run: Run) -> str | None:
    return None if run.residual else "no unit has a shortcut to compare its branch with"


def _run(run: Run, options: Options, progress: Progress | None) -> BranchVariance:
    size = run.config.train.batch_size
    images, _ = run.examples("train", size * options.gradient_batches)

    def measure(step: int, variables: Variables, tell: Progress) -> BranchVariance:
        return branch_variances(
            run.network,
            variables,
            images,
            batch_size=size,
            max_batches=options.gradient_batches,
            step=step,
            seed=options.seed,
            progress=tell,
        )

    result = at_moments(sorted({0, run.step}), run.at, measure, progress)
    result.choices["data"] = f"the first {len(images):,} training examples, not augmented"
    return result


def _first_stage(r: BranchVariance) -> str | None:
    """The first with units enough: behind it, transitions may carry variance over."""
    usable = [stage for stage in r.stages if r.slope(0, stage).points >= ENOUGH]
    return usable[0] if usable else None


def _verdict(r: BranchVariance) -> str:
    stage = _first_stage(r)
    if stage is None:
        return "none"
    slope = r.slope(0, stage).slope
    if LAW[0] <= slope <= LAW[1]:
        return "law"
    if FLAT[0] <= slope <= FLAT[1]:
        return "flat"
    return "steep" if slope < LAW[0] else ("between" if slope < FLAT[0] else "rising")


SAID = {
    "law": "branches lose weight against the shortcut like 1/l in {}",
    "flat": "branches keep their weight against the shortcut in {}",
    "steep": "branches lose weight against the shortcut faster than 1/l in {}",
    "between": "branches lose weight against the shortcut, but slower than 1/l, in {}",
    "rising": "branches gain weight against the shortcut in {}",
    "none": "no stage of {} has enough units, with branches above 0, to tell how they weigh",
}


def finding(results: Results) -> Finding:
    """Whether branches weigh less and less against the shortcut, by the first stage at the first moment."""
    by_verdict: dict[str, list[str]] = {}
    for label, r in results.items():
        by_verdict.setdefault(_verdict(r), []).append(label)
    parts = [text.format(join(by_verdict[v])) for v, text in SAID.items() if v in by_verdict]
    when = moment(int(next(iter(results.values())).step[0]))
    headline = f"{capital(when)}, {'; '.join(parts)}."
    return Finding(headline, [_sentence(label, r) for label, r in results.items()])


def _sentence(label: str, r: BranchVariance) -> str:
    parts = []
    for t, step in enumerate(r.step):
        ratio = r.ratio[t].mean(0)
        slopes = []
        for stage in r.stages:
            fit = r.slope(t, stage)
            if fit.points >= ENOUGH:
                name = stage.replace("stage", "stage ")
                told = f"{fit.slope:.2f} in {name} ({fit.low:.2f} to {fit.high:.2f})"
                slopes.append(told.replace("-", "−"))
        text = (
            f"{moment(int(step))} the branch has {factor(float(ratio[0]))} times the variance of the "
            f"shortcut in the first unit and {factor(float(ratio[-1]))} times in the last"
        )
        if slopes:
            text += f"; slope of log ratio against log place: {join(slopes)}"
        growth = float(np.median(r.output[t].mean(0) / r.shortcut[t].mean(0)))
        parts.append(f"{text}; a unit multiplies the variance by {factor(growth)} in the median")
    return f"{label}: {'. '.join(map(capital, parts))}."


def table(results: Results) -> Table:
    """One row a unit, run and moment, means over batches."""
    columns = ("network", "moment", "unit", "Var(shortcut)", "Var(branch)", "ratio", "Var(output)")
    rows = []
    for label, r in results.items():
        for t, step in enumerate(r.step):
            kinds = [v[t].mean(0) for v in (r.shortcut, r.branch, r.ratio, r.output)]
            for i, unit in enumerate(r.unit):
                rows.append((label, moment(int(step)), unit, *(number(float(v[i])) for v in kinds)))
    return Table(columns, rows)


STUDY = Study(
    name="branch_variance",
    title="How much a branch weighs",
    question=(
        "How large is what a unit adds, against what it is added to? With BatchNorm in front of the branch, "
        "theory says that the share falls like 1/l at initialization, so that deep units start as near "
        "identities; without normalization it stays and the variance doubles in every unit."
    ),
    code=(
        "images, _ = run.examples('train', 8 * run.config.train.batch_size)\n"
        "resjax.analysis.branch_variances(run.network, run.initial.variables, images,\n"
        "                                 batch_size=run.config.train.batch_size)"
    ),
    result=BranchVariance,
    unsuited=_unsuited,
    run=_run,
    plot=analysis.plot,
    finding=finding,
    table=table,
    summary=lambda results: {},
)
