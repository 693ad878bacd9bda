"""How layer responses are shown; the numbers are those of ``resjax.studies.units.responses``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from resjax.studies.batches import Progress
from resjax.studies.old_study import Finding, Options, Study, Table
from resjax.studies.run import Run
from resjax.studies.units import responses
from resjax.studies.units.responses import Responses, layer_responses, layers_of
from resjax.studies.words import count, factor, join, number

Results = Mapping[str, Responses]

# Levels that differ by a smaller factor are called alike.
ALIKE = 1.1


def _unsuited(run: Run) -> str | None:
    if layers_of(run.network, run.variables, run.image_shape):
        return None
    return "neither its stem nor its units have a layer with a parameter of the name 'kernel'"


def _run(run: Run, options: Options, progress: Progress | None) -> Responses:
    images, _ = run.examples(run.split, options.max_examples)
    result = layer_responses(
        run.network, run.variables, images, batch_size=options.batch_size, progress=progress
    )
    result.choices["data"] = f"{len(images):,} {run.split} examples, not augmented"
    result.choices["network"] = f"the checkpoint of step {run.step:,}"
    return result


def comparable(results: Results) -> bool:
    """Whether every network has normalized responses, so that those alone are compared."""
    return all(r.normalized.any() for r in results.values())


def level(result: Responses, normalized: bool) -> float:
    """The median deviation, of all layers or of the normalized ones."""
    return float(np.median(result.std[result.normalized] if normalized else result.std))


def finding(results: Results) -> Finding:
    """Whose layers respond more weakly."""
    same = comparable(results)
    levels = {label: level(r, same) for label, r in results.items()}
    points = [_point(label, r) for label, r in results.items()]
    if not same and any(r.normalized.any() for r in results.values()):
        points.append(
            "Not all of these networks normalize, so all layers are compared; without normalization the "
            "size of a response depends on the scale of the weights."
        )
    what = "normalized layers" if same else "layers"
    (label, *others) = levels
    if not others:
        return Finding(
            f"Half of the {what} of {label} respond with a deviation of {factor(levels[label])} or more.",
            points,
        )
    sides = {
        kind: [levels[k] for k, r in results.items() if r.residual == kind]
        for kind in (True, False)
    }
    small, large = min(levels, key=levels.__getitem__), max(levels, key=levels.__getitem__)
    if levels[large] <= ALIKE * levels[small]:
        text = f"The {what} of {join(list(levels))} respond alike (median deviation {factor(levels[small])})"
        text += (
            ", unlike in the post-activation networks of He et al. 2015."
            if all(sides.values())
            else "."
        )
        return Finding(text, points)
    if sides[True] and sides[False]:
        if max(sides[True]) < min(sides[False]):
            verb = "more weakly than the plain, as in He et al. 2015"
        elif min(sides[True]) > max(sides[False]):
            verb = "more strongly than the plain, unlike in He et al. 2015"
        else:
            verb = "neither more weakly nor more strongly than the plain"
        headline = f"The {what} of the residual networks respond {verb}"
    else:
        headline = f"The {what} of {small} respond more weakly than those of {large}"
    medians = join([f"{factor(value)} in {k}" for k, value in levels.items()])
    return Finding(f"{headline} (median deviation {medians}).", points)


def _point(label: str, r: Responses) -> str:
    parts = []
    for which, name in ((r.normalized, "normalized"), (~r.normalized, "not normalized")):
        if which.any():
            std = r.std[which]
            low, middle, high = np.percentile(std, (0, 50, 100))
            parts.append(
                f"{count(len(std), f'{name} response')} of median {factor(middle)} ({factor(low)} to "
                f"{factor(high)}, largest in {r.layer[np.flatnonzero(which)[std.argmax()]]})"
            )
    return f"{label}: {'; '.join(parts)}."


def table(results: Results) -> Table:
    """One row a layer and run."""
    rows = [
        (label, layer, "yes" if r.normalized[i] else "no", number(r.std[i]))
        for label, r in results.items()
        for i, layer in enumerate(r.layer)
    ]
    return Table(("network", "layer", "normalized", "deviation"), rows)


def summary(results: Results) -> dict[str, dict[str, str]]:
    """The median deviation."""
    same = comparable(results)
    return {label: {"response, median": factor(level(r, same))} for label, r in results.items()}


STUDY = Study(
    name="responses",
    title="How strongly each layer responds",
    question=(
        "How much does each layer change? Shown is the standard deviation of what each convolution or dense "
        "layer puts out, after normalization and before the ReLU or the sum: a residual network whose units "
        "are near the identity needs small ones."
    ),
    code=(
        "images, _ = run.examples(run.split, 10_000)\n"
        "resjax.analysis.layer_responses(run.network, run.variables, images)"
    ),
    result=Responses,
    unsuited=_unsuited,
    run=_run,
    plot=responses.plot,
    finding=finding,
    table=table,
    summary=summary,
)
