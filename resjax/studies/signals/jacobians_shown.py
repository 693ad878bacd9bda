"""How unit Jacobians are shown; the numbers are those of ``resjax.studies.signals.jacobians``."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np

from resjax.network import Variables
from resjax.studies.batches import Progress
from resjax.studies.lesions.batch_statistics import reestimate
from resjax.studies.moments import at_moments
from resjax.studies.old_study import Finding, Options, Study, Table
from resjax.studies.run import Run
from resjax.studies.signals import jacobians
from resjax.studies.signals.gradients import moment
from resjax.studies.signals.jacobians import JacobianNorms, centre, jacobian_norms
from resjax.studies.signals.near_one_shown import ALIKE, places
from resjax.studies.words import capital, factor, join, number

Results = Mapping[str, JacobianNorms]

# Power iteration costs some eighty backward passes a unit, and examples differ little.
EXAMPLES = 8


def _run(run: Run, options: Options, progress: Progress | None) -> JacobianNorms:
    images, labels = run.examples("train", run.config.train.batch_size)

    def measure(step: int, variables: Variables, tell: Progress) -> JacobianNorms:
        if jax.tree.leaves(variables["batch_stats"]):
            variables = reestimate(
                run.network, variables, images, batch_size=len(images), seed=options.seed
            )
        return jacobian_norms(
            run.network,
            variables,
            images[:EXAMPLES],
            labels[:EXAMPLES],
            loss=run.loss,
            batch_size=EXAMPLES,
            step=step,
            seed=options.seed,
            progress=tell,
        )

    result = at_moments(sorted({0, run.step}), run.at, measure, progress)
    result.choices["data"] = f"the first {len(result.gain[0]):,} training examples, not augmented"
    result.choices["statistics of BatchNorm"] = f"of the first {len(images):,} training examples"
    return result


def whole(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and interval of a product over all units, from [draw, unit]."""
    mean, low, high = centre(values)
    return float(mean[0]), float(low[0]), float(high[0])


def a_unit(values: np.ndarray) -> float:
    """Geometric mean over the units of ``whole``: the factor that, in every unit, gives the product."""
    return float(whole(values)[0] ** (1 / values.shape[-1]))


def finding(results: Results) -> Finding:
    """Whose product of Jacobians stays near 1 at the first moment, for a random gradient."""
    typical = {label: whole(r.typical[0])[0] for label, r in results.items()}
    points = [_sentence(label, r) for label, r in results.items()]
    when = moment(int(next(iter(results.values())).step[0]))
    text = {
        label: f"{factor(typical[label])} ({factor(a_unit(r.typical[0]))} a unit)"
        for label, r in results.items()
    }
    verdict, near, far, low, high = places(typical)
    if verdict == "none":
        said = f"no random gradient keeps a finite length above 0 through all units of {join(list(text))}"
    elif len(results) == 1:
        said = f"all units of {near} together {_way(typical[near])} by a factor of {text[near]}"
    elif verdict == "alike":
        said = "the products of the units' Jacobians are alike in these networks"
    elif verdict == "apart":
        said = (
            f"the product of the units' Jacobians is nearer to 1 in {near} than in {far}: a random gradient "
            f"changes by a factor of {text[near]} against {text[far]}"
        )
    else:
        said = (
            f"the products of the units' Jacobians are about as far from 1 in these networks, but not on one "
            f"side: a random gradient changes by a factor of {text[high]} in {high}, {text[low]} in {low}"
        )
    return Finding(f"{capital(when)}, {said}.", points)


def _way(product: float) -> str:
    if 1 / ALIKE <= product <= ALIKE:
        return "keep the length of a random gradient: they change it"
    return (
        "lengthen a random gradient" if product > 1 else "shorten a random gradient: they change it"
    )


def _sentence(label: str, r: JacobianNorms) -> str:
    parts = []
    for t, step in enumerate(r.step):
        actual, low, high = whole(r.actual[t])
        text = (
            f"{moment(int(step))} the actual gradient changes by a factor of {factor(actual)} from the head "
            f"to the first unit ({factor(low)} to {factor(high)}), a random one by "
            f"{factor(whole(r.typical[t])[0])}, and no gradient by more than about "
            f"{factor(whole(r.bound[t])[0])}, the product of the largest singular values "
            f"({factor(a_unit(r.bound[t]))} a unit"
        )
        if r.residual.any():
            own = centre(r.branch[t][:, r.residual])[0]
            text += f"; of the branches alone, {factor(float(np.median(own)))} in the median"
        parts.append(text + ")")
    return f"{label}: {'; '.join(parts)}."


def table(results: Results) -> Table:
    """One row a unit, run and moment."""
    columns = (
        "network", "moment", "unit", "gain of the gradient", "root mean square", "largest singular value",
        "of the branch alone",
    )  # fmt: skip
    rows = []
    for label, r in results.items():
        for t, step in enumerate(r.step):
            kinds = (r.gain[t], np.sqrt(r.mean_square[t]), r.largest[t], r.branch[t])
            means = [centre(v) for v in kinds]
            for i, unit in enumerate(r.unit):
                cells = (
                    f"{number(float(m[i]))} ({number(float(low[i]))} to {number(float(high[i]))})"
                    for m, low, high in means
                )
                rows.append((label, moment(int(step)), unit, *cells))
    return Table(columns, rows)


STUDY = Study(
    name="jacobians",
    title="Products of Jacobians",
    question=(
        "Back-propagation multiplies the gradient by one matrix a unit. How long do these matrices make it: "
        "at most, in a random direction, and in fact? A little above 1 in each unit explodes in a deep "
        "network, a little below vanishes."
    ),
    code=(
        "images, labels = run.examples('train', 8)\n"
        "resjax.analysis.jacobian_norms(run.network, run.variables, images, labels, loss=run.loss)"
    ),
    result=JacobianNorms,
    unsuited=lambda run: None,
    run=_run,
    plot=jacobians.plot,
    finding=finding,
    table=table,
    summary=lambda results: {},
)
