"""How the connections of a run are shown; numbers: ``resjax.studies.convolution.connections``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from resjax.models.layer_table import layer_table
from resjax.studies.batches import Progress
from resjax.studies.convolution import connections as analysis
from resjax.studies.convolution.connections import Connections, connections_of
from resjax.studies.old_study import Finding, Options, Study, Table
from resjax.studies.run import Run
from resjax.studies.words import count, factor, join

Results = Mapping[str, Connections]

# A headline names so many odd layers; the points name all.
MOST_NAMED = 3


def _unsuited(run: Run) -> str | None:
    rows = layer_table(run.network, run.image_shape)
    return None if any("conv" in row.kind for row in rows) else "it has no convolution"


def _run(run: Run, options: Options, progress: Progress | None) -> Connections:
    del options
    result = connections_of(run.network, run.variables, run.image_shape, progress=progress)
    result.choices["network"] = f"the checkpoint of step {run.step:,}"
    return result


def odd_layers(r: Connections) -> list[str]:
    """Layers of which a row sees more than the window, or less of a whole one, or does not repeat."""
    whole = r.rows > 0
    odd = (r.seen > r.window) | (whole & (r.seen < r.window)) | (r.different > 0)
    return [name for name, is_odd in zip(r.layer, odd, strict=True) if is_odd]


def finding(results: Results) -> Finding:
    """What sharing and sparseness save, and whether the measurement agrees."""
    points: list[str] = []
    saved: dict[str, list[str]] = {}
    warnings: list[str] = []
    for label, r in results.items():
        own, unshared, dense = map(r.total, ("parameters", "locally_connected", "dense"))
        saved.setdefault(
            f"have {own:,} parameters; they would have {factor(unshared / own)} times as many if no "
            f"position shared them, and {factor(dense / own)} times as many as dense layers",
            [],
        ).append(label)
        odd, measured = odd_layers(r), int(np.sum(r.different >= 0))
        text = f"{label}: {int(r.rows.sum()):,} rows of the Jacobians of {len(r.layer)} layers. "
        if odd:
            text += f"Not what their windows say: {join(odd)}."
            named = ", ".join([*odd[:MOST_NAMED], *(["…"] if odd[MOST_NAMED:] else [])])
            warnings.append(
                f"The measured Jacobians of {count(len(odd), 'layer')} in {label} ({named}) are not what the "
                "windows say, so the count may not hold"
            )
        else:
            text += (
                "None reaches out of its window"
                + (
                    f"; in the {measured} layers with two whole windows, rows repeat bit for bit"
                    if measured
                    else ""
                )
                + "."
            )
        if hidden := int(np.sum(r.different < 0)):
            text += f" In {hidden}, maps are too small for two whole windows."
        points.append(text)
        if any(r.dense < r.locally_connected):
            points.append(
                f"{label}: where windows are wider than the map, a dense layer has fewer parameters than "
                "windows with weights of their own, some of which only ever see the padding."
            )
    parts = [f"The convolutions of {join(labels)} {text}" for text, labels in saved.items()]
    return Finding(". ".join([*warnings, *parts]) + ".", points)


def table(results: Results) -> Table:
    """One row a layer."""
    rows = [
        (
            label,
            name,
            str(r.equal[i]),
            *(f"{v[i]:,}" for v in (r.parameters, r.locally_connected, r.dense)),
            f"{r.window[i]:,} of {r.inputs[i]:,}",
            f"{r.seen[i]:,}",
            "–" if r.different[i] < 0 else f"{r.different[i]} of {r.rows[i]}",
        )
        for label, r in results.items()
        for i, name in enumerate(r.layer)
    ]
    columns = (
        "network",
        "layer",
        "equal ones",
        "parameters",
        "unshared",
        "dense",
        "window",
        "seen",
        "rows that do not repeat",
    )
    return Table(columns, rows)


STUDY = Study(
    name="connections",
    title="Sparse connections, shared weights, layer by layer",
    question=(
        "What do convolutions save in this network? Its layers are counted as they are, as if positions did "
        "not share weights, and as if everything were connected; and rows of their Jacobians are measured."
    ),
    code="resjax.analysis.connections_of(run.network, run.variables, run.image_shape)",
    result=Connections,
    unsuited=_unsuited,
    run=_run,
    plot=analysis.plot,
    finding=finding,
    table=table,
    summary=lambda results: {},
)
