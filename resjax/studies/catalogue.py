"""All studies and claims, in the order of the report.

``STUDIES`` is what ``python -m resjax.analyze`` runs, ``CLAIMS`` what ``python -m resjax.claims`` runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from resjax.studies import style
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
        "lesions.reorder",
        "lesions.interventions",
    ),
    "Paths": (
        "paths.path_counts",
        "paths.paths",
        "paths.path_growth",
        "paths.path_parameters",
        "paths.committee",
    ),
    "Gradients and signal": (
        "signals.gradients",
        "signals.backward_signal",
        "signals.jacobians",
        "signals.branch_variance",
        "units.responses",
    ),
    "What a unit does": ("units.identity", "units.surgery"),
    "Why convolution works": ("convolution.connections", "convolution.equivariance"),
    "Why residual networks train": ("signals.shattering", "units.weight_decay"),
    "Why convolution may help": (
        "convolution.edges",
        "convolution.sharing",
        "convolution.sample_size",
    ),
}
"""{chapter of the report: modules of ``resjax.studies``}; a new study is one line here."""


def _load(module: str) -> Study:
    own = importlib.import_module(f"resjax.studies.{module}")
    if not hasattr(own, "STUDY"):
        own = importlib.import_module(f"resjax.studies.{module}_shown")
    found: Study = own.STUDY if hasattr(own, "STUDY") else own.CLAIM
    return found


_ALL = [(chapter, _load(module)) for chapter, own in _MODULES.items() for module in own]
_IS_CLAIM = {id(s): isinstance(s, Claim) or type(s).__name__ == "Claim" for _, s in _ALL}

STUDIES: dict[str, Study] = {s.name: s for _, s in _ALL if not _IS_CLAIM[id(s)]}
CLAIMS: dict[str, Claim] = {s.name: s for _, s in _ALL if _IS_CLAIM[id(s)]}  # type: ignore[misc]
GROUPS = {study.name: chapter for chapter, study in _ALL}
"""{name: chapter of the report}."""


def plot(results: Result | Mapping[str, Any], study: str | None = None) -> Figure:
    """The figure of a result, or of several of one kind by label; on white, in the style of the report.

    Args:
      results: one result, or {label: result}.
      study: the study that draws; None for the first one whose results are of this class.

    Raises:
      ValueError: no result, results of a class that no study has, or an unknown study.
    """
    some = dict(results) if isinstance(results, Mapping) else {"": results}
    known = {**STUDIES, **CLAIMS}
    if study is not None and study not in known:
        raise ValueError(f"study={study!r}; allowed: {', '.join(known)}")
    kind = type(next(iter(some.values()), None))
    fitting = [s for s in known.values() if s.result is kind and study in (None, s.name)]
    if not fitting:
        name = "nothing" if kind is type(None) else kind.__name__
        raise ValueError(
            f"{name} has no figure{f' in {study}' if study else ''}; docs/analyses shows what has"
        )
    with style.theme():
        figure = fitting[0].plot(some)
        figure.set_facecolor("white")
        figure.draw_without_rendering()  # ticks are made when they are drawn, in the style of that moment
    return figure
