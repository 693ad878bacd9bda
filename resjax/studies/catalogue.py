"""All studies and claims, in the order of the report.

``STUDIES`` is what ``python -m resjax.analyze`` runs, ``CLAIMS`` what ``python -m resjax.claims`` runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from resjax.studies import style
from resjax.studies.paths import path_exact, path_sampled
from resjax.studies.result import Result
from resjax.studies.study import Claim, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MODULES: dict[str, tuple[str, ...]] = {
    "Training": ("curves", "signals.norms_over_training"),
    "Lesions": (
        "lesions.lesion",
        "lesions.recalibrate",
        "lesions.deletions",
        "lesions.pairs",
        "lesions.pruning",
        "cutting.cut",
        "lesions.reorder",
        "lesions.interventions",
        "lesions.looping",
    ),
    "Paths": (
        "paths.path_counts",
        "paths.paths",
        "paths.path_growth",
        "paths.path_parameters",
        "paths.forward_depth",
        "paths.committee",
    ),
    "Gradients and signal": (
        "signals.gradients",
        "signals.backward_signal",
        "signals.jacobians",
        "signals.branch_variance",
        "units.responses",
    ),
    "What a unit does": ("units.identity", "units.influence", "units.surgery"),
    "Why convolution works": ("convolution.connections", "convolution.equivariance"),
    "Why residual networks train": (
        "signals.vanishing",
        "signals.shattering",
        "signals.rank_collapse",
        "units.learns_identity",
        "units.weight_decay",
        "units.decay_in_training",
        "units.added_layers",
        "lesions.skip_length",
    ),
    "Why convolution may help": (
        "convolution.edges",
        "convolution.sharing",
        "convolution.sample_size",
        "convolution.equal_parameters",
        "convolution.sharing_by_layer",
        "convolution.activations",
    ),
}
"""{chapter of the report: modules of ``resjax.studies``}; a new study is one line here."""


_ALL: list[tuple[str, Study]] = [
    (chapter, importlib.import_module(f"resjax.studies.{module}").STUDY)
    for chapter, modules in _MODULES.items()
    for module in modules
]
STUDIES = {study.name: study for _, study in _ALL if not isinstance(study, Claim)}
CLAIMS = {study.name: study for _, study in _ALL if isinstance(study, Claim)}
GROUPS = {study.name: chapter for chapter, study in _ALL}
"""{name: chapter of the report}."""


def plot(results: Result | Mapping[str, Any], study: str | None = None) -> Figure:
    """The figure of one result, or of several of one kind by label, on white, in the style of the report.

    Args:
      results: one result, or {label: result}.
      study: the study whose figure it is, or 'path_exact' or 'path_sampled', the halves of ``paths``; None
        for the first one whose results are of this class.

    Raises:
      ValueError: no result, results of a class that has no figure, or an unknown study.
    """
    some = dict(results) if isinstance(results, Mapping) else {"": results}
    figures = {name: (own.result, own.plot) for name, own in {**STUDIES, **CLAIMS}.items()}
    figures["path_exact"] = (path_exact.PathSpectrum, path_exact.plot)
    figures["path_sampled"] = (path_sampled.PathSample, path_sampled.plot)
    if study is not None and study not in figures:
        raise ValueError(f"study={study!r}; allowed: {', '.join(figures)}")
    kind = type(next(iter(some.values()), None))
    drawing = [draw for name, (own, draw) in figures.items() if own is kind and study in (None, name)]
    if not drawing:
        name = "nothing" if kind is type(None) else kind.__name__
        raise ValueError(
            f"{name} has no figure{f' in {study}' if study else ''}; docs/analyses shows all figures"
        )
    with style.theme():
        figure = drawing[0](some)
        figure.set_facecolor("white")
        figure.draw_without_rendering()  # drawing creates the ticks, in the style of that moment
    return figure
