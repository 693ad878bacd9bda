"""The report: what analyses found, as words, figures and tables.

``STUDIES`` lists what ``python -m resjax.analyze`` runs, ``CLAIMS`` what ``python -m resjax.claims`` runs,
both in the order of the report; ``resjax.report.study`` says what they are, and how to add one.
"""

from resjax.report import curves
from resjax.report.convolution import connections, edges, equivariance, sample_size, sharing
from resjax.report.lesions import (
    deletions,
    interventions,
    lesion,
    pairs,
    pruning,
    recalibrate,
    reorder,
)
from resjax.report.paths import committee, path_counts, path_growth, path_parameters, paths
from resjax.report.signals import (
    branch_variance,
    gradients,
    jacobians,
    norms_over_training,
    shattering,
    signal,
)
from resjax.report.study import Claim, Finding, Options, Presentation, Study, Table
from resjax.report.units import identity, responses, surgery, weight_decay

_STUDIES: dict[str, tuple[Study, ...]] = {
    "Training": (curves.STUDY, norms_over_training.STUDY),
    "Lesions": (
        lesion.STUDY,
        recalibrate.STUDY,
        deletions.STUDY,
        pairs.STUDY,
        pruning.STUDY,
        reorder.STUDY,
        interventions.STUDY,
    ),
    "Paths": (
        path_counts.STUDY,
        paths.STUDY,
        path_growth.STUDY,
        path_parameters.STUDY,
        committee.STUDY,
    ),
    "Gradients and signal": (
        gradients.STUDY,
        signal.STUDY,
        jacobians.STUDY,
        branch_variance.STUDY,
        responses.STUDY,
    ),
    "What a unit does": (identity.STUDY, surgery.STUDY),
    "Why convolution works": (connections.STUDY, equivariance.STUDY),
}
_CLAIMS: dict[str, tuple[Claim, ...]] = {
    "Why residual networks train": (shattering.CLAIM, weight_decay.CLAIM),
    "Why convolution may help": (edges.CLAIM, sharing.CLAIM, sample_size.CLAIM),
}

STUDIES = {study.name: study for group in _STUDIES.values() for study in group}
CLAIMS = {claim.name: claim for group in _CLAIMS.values() for claim in group}
GROUPS = {
    shown.name: title
    for groups in (_STUDIES, _CLAIMS)
    for title, group in groups.items()
    for shown in group
}
"""{name: the chapter of the report}."""

__all__ = [
    "CLAIMS",
    "GROUPS",
    "STUDIES",
    "Claim",
    "Finding",
    "Options",
    "Presentation",
    "Study",
    "Table",
]
