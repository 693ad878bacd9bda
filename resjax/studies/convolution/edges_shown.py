"""How the edge detector is shown; the numbers are those of ``resjax.studies.convolution.edges``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from resjax.data.arrays import read_digits
from resjax.studies.batches import Progress
from resjax.studies.convolution import edges
from resjax.studies.convolution.edges import EdgeMaps, edge_maps
from resjax.studies.old_study import Claim, Finding, Table
from resjax.studies.words import join, number

Results = Mapping[str, EdgeMaps]


def _run(smoke: bool, seed: int, progress: Progress | None) -> dict[str, EdgeMaps]:
    del smoke, progress  # nothing to shorten
    images = read_digits()["train_images"]
    digit = images[seed % len(images), ..., 0]
    step, mirrored = edges.STEP_IMAGE, edges.STEP_IMAGE[:, ::-1]
    return {
        "lecture": edge_maps(edges.LECTURE_IMAGE, expected=edges.LECTURE_RESULT),
        "bright, dark": edge_maps(step, expected=edges.STEP_RESULT),
        "dark, bright": edge_maps(mirrored, expected=-edges.STEP_RESULT),
        "a digit": edge_maps(digit),
    }


def finding(results: Results) -> Finding:
    """Whether the printed numbers come out, and which of both operations gives them."""
    expected = {label: r for label, r in results.items() if r.expected is not None}
    wrong = [label for label, r in expected.items() if not r.exact]
    if wrong:
        headline = f"The layer does not give the expected edge map of {join(wrong)}."
    elif expected:
        headline = (
            "The layer gives the expected edge maps to the last digit, and it does not flip the filter: "
            "it computes a cross-correlation."
        )
        if any(np.array_equal(r.flipped[0], np.asarray(r.expected)) for r in expected.values()):
            headline = "The layer gives the expected edge maps; a flipped filter would, too."
    else:
        headline = "There is no edge map to compare with."
    return Finding(headline, [_point(label, r) for label, r in results.items()])


def _point(label: str, r: EdgeMaps) -> str:
    own = r.output[0]
    text = (
        f"{label}: {'×'.join(map(str, r.image.shape))} pixels become {'×'.join(map(str, own.shape))}; "
        f"the {r.filter[0]} filter answers {number(own.min())} to {number(own.max())}"
    )
    if r.exact:
        text += ", as printed"
    elif r.expected is not None:
        text += f", up to {number(np.abs(own - r.expected).max())} from what is expected"
    return (
        text
        + f"; flipped, {number(r.flipped[0].min() + 0.0)} to {number(r.flipped[0].max() + 0.0)}."
    )


def table(results: Results) -> Table:
    """One row a row of pixels that the filters give."""
    rows = [
        (label, name, str(1 + i), " ".join(number(value + 0.0) for value in line))
        for label, r in results.items()
        for name, output in zip(r.filter, r.output, strict=True)
        for i, line in enumerate(output)
    ]
    return Table(("image", "filter", "row", "output"), rows)


CLAIM = Claim(
    name="edges",
    title="The edge detector",
    question=(
        "What does one convolution compute? A filter of nine numbers, made by hand, is moved over an "
        "image: it answers where the image changes from left to right, and is silent where nothing does. "
        "Orange is positive, violet negative."
    ),
    code=(
        "from resjax.studies.convolution import edges\n"
        "edges.edge_maps(edges.LECTURE_IMAGE, expected=edges.LECTURE_RESULT).exact"
    ),
    result=EdgeMaps,
    run=_run,
    plot=edges.plot,
    finding=finding,
    table=table,
    summary=lambda results: {},
)
