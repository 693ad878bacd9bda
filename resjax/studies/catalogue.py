"""The report: what analyses found, as words, figures and tables.

``STUDIES`` lists what ``python -m resjax.analyze`` runs, ``CLAIMS`` what ``python -m resjax.claims`` runs,
both in the order of the report; ``resjax.studies.study`` says what they are, and how to add one.
"""

from resjax.studies import curves_shown as curves
from resjax.studies.convolution import connections_shown as connections
from resjax.studies.convolution import edges_shown as edges
from resjax.studies.convolution import equivariance_shown as equivariance
from resjax.studies.convolution import sample_size_shown as sample_size
from resjax.studies.convolution import sharing_shown as sharing
from resjax.studies.lesions import deletions_shown as deletions
from resjax.studies.lesions import interventions_shown as interventions
from resjax.studies.lesions import lesion_shown as lesion
from resjax.studies.lesions import pairs_shown as pairs
from resjax.studies.lesions import pruning_shown as pruning
from resjax.studies.lesions import recalibrate_shown as recalibrate
from resjax.studies.lesions import reorder_shown as reorder
from resjax.studies.paths import committee_shown as committee
from resjax.studies.paths import path_counts_shown as path_counts
from resjax.studies.paths import path_growth_shown as path_growth
from resjax.studies.paths import path_parameters_shown as path_parameters
from resjax.studies.paths import paths_shown as paths
from resjax.studies.signals import backward_signal_shown as signal
from resjax.studies.signals import branch_variance_shown as branch_variance
from resjax.studies.signals import gradients_shown as gradients
from resjax.studies.signals import jacobians_shown as jacobians
from resjax.studies.signals import norms_over_training_shown as norms_over_training
from resjax.studies.signals import shattering_shown as shattering
from resjax.studies.study import Claim, Finding, Options, Presentation, Study, Table
from resjax.studies.units import identity_shown as identity
from resjax.studies.units import responses_shown as responses
from resjax.studies.units import surgery_shown as surgery
from resjax.studies.units import weight_decay_shown as weight_decay

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
