"""The report: what analyses found, as words, figures and tables.

``STUDIES`` lists what ``python -m resjax.analyze`` runs, ``CLAIMS`` what ``python -m resjax.claims`` runs,
both in the order of the report; ``resjax.report.study`` says what they are, and how to add one.
"""

from resjax.report.curves import STUDY as CURVES
from resjax.report.gradients import STUDY as GRADIENTS
from resjax.report.lesion import STUDY as LESION
from resjax.report.study import Claim, Finding, Options, Presentation, Study, Table

_STUDIES: dict[str, tuple[Study, ...]] = {
    "Training": (CURVES,),
    "Lesions": (LESION,),
    "Gradients and signal": (GRADIENTS,),
}
_CLAIMS: dict[str, tuple[Claim, ...]] = {}

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
