"""How translation equivariance is shown; numbers: ``resjax.studies.convolution.equivariance``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from resjax.studies.batches import Progress
from resjax.studies.convolution import equivariance as analysis
from resjax.studies.convolution.equivariance import Equivariance, equivariance_error
from resjax.studies.old_study import Finding, Options, Study, Table
from resjax.studies.run import Run
from resjax.studies.words import capital, factor, join, number, percent

Results = Mapping[str, Equivariance]

# Each is run with four moved copies, for every number of pixels.
_MOST_EXAMPLES = 256
# Rise of the error that is called none, and the relative error that is called rounding.
NO_RISE, ROUNDING = 0.01, 1e-3


def _run(run: Run, options: Options, progress: Progress | None) -> Equivariance:
    images, labels = run.examples(run.split, min(options.max_examples, _MOST_EXAMPLES))
    result = equivariance_error(
        run.network,
        run.variables,
        images,
        labels,
        most=min(4, min(run.image_shape[:2]) - 1),
        batch_size=options.batch_size,
        seed=options.seed,
        progress=progress,
    )
    result.choices["data"] = f"{len(images):,} {run.split} examples, not augmented"
    result.choices["network"] = f"the checkpoint of step {run.step:,}"
    return result


def _unsuited(run: Run) -> str | None:
    return None if min(run.image_shape[:2]) > 1 else "its images can't be moved"


def finding(results: Results) -> Finding:
    """What one pixel does to the answers, and whether features move along."""
    safe, hurt, points = [], [], []
    for label, r in results.items():
        unmoved, moved = (float(r.error[i].mean()) for i in (0, 1))
        if moved - unmoved <= NO_RISE:
            safe.append(label)
        else:
            hurt.append(f"that of {label} from {percent(unmoved)} to {percent(moved)}")
        points += _points(label, r)
    parts = []
    if hurt:
        parts.append(f"moving images by one pixel raises the error: {join(hurt)}")
    if safe:
        parts.append(f"moving images by one pixel hardly raises the error of {join(safe)}")
    headline = "; ".join(parts) + "."
    return Finding(capital(headline), points)


def _points(label: str, r: Equivariance) -> list[str]:
    known = np.flatnonzero(np.isfinite(r.whole))
    if not len(known):
        return [f"{label}: no features are maps that could move."]
    first, last = known[0], known[-1]
    along = int(np.sum(r.whole[known] < r.in_place[known]))
    points = [
        f"{label}: off by {number(r.whole[first])} of their size at {r.place[first]} and by "
        f"{number(r.whole[last])} at {r.place[last]} when the image moves by the stride there; features "
        f"are nearer to where they should have moved than to where they were at {along} of {len(known)} "
        "places."
    ]
    inner = r.interior[np.isfinite(r.interior)]
    if not len(inner):
        points.append(f"{label}: borders reach every position of every map.")
    elif inner.max() <= ROUNDING:
        points.append(
            f"{label}: where no border reaches (at {len(inner)} of {len(known)} places), features move "
            f"along, off by {factor(float(inner.max()))} of their size at most."
        )
    else:
        worst = r.place[int(np.nanargmax(r.interior))]
        points.append(
            f"{label}: even where no border reaches, features are off by {number(inner.max())} ({worst}): "
            "some layer there is no convolution, or skips pixels unseen by resjax.describe."
        )
    if r.left_out:
        points.append(f"{label}, left out: {join([f'{k} ({v})' for k, v in r.left_out.items()])}.")
    return points


def table(results: Results) -> Table:
    """One row a place, then one a shift."""
    rows = [
        (
            label,
            place,
            str(r.stride[i]),
            number(r.whole[i]),
            number(r.interior[i]),
            percent(r.interior_share[i]),
            number(r.in_place[i]),
            "",
            "",
        )
        for label, r in results.items()
        for i, place in enumerate(r.place)
    ]
    rows += [
        (
            label,
            "answers",
            str(pixels),
            number(r.logits[i]),
            "",
            "",
            "",
            percent(r.error[i].mean()),
            percent(r.agreement[i].mean()),
        )
        for label, r in results.items()
        for i, pixels in enumerate(r.shift)
    ]
    columns = (
        "network",
        "place",
        "shift (pixels)",
        "relative error",
        "interior alone",
        "share of the interior",
        "left in place",
        "error",
        "agreement",
    )
    return Table(columns, rows)


def summary(results: Results) -> dict[str, dict[str, str]]:
    """The error of images moved by one pixel."""
    return {
        label: {"error, moved by one pixel": percent(float(r.error[1].mean()))}
        for label, r in results.items()
    }


STUDY = Study(
    name="equivariance",
    title="Moving the image",
    question=(
        "If the image moves, do the features move along, and does the answer stay? A convolution treats all "
        "places alike; borders, strides and other layers do not."
    ),
    code=(
        "images, labels = run.examples(run.split, 256)\n"
        "resjax.analysis.equivariance_error(run.network, run.variables, images, labels)"
    ),
    result=Equivariance,
    unsuited=_unsuited,
    run=_run,
    plot=analysis.plot,
    finding=finding,
    table=table,
    summary=summary,
)
