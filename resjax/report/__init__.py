"""The report: what analyses found, as words, figures and tables.

``STUDIES`` lists what ``python -m resjax.analyze`` runs, ``CLAIMS`` what ``python -m resjax.claims`` runs,
both in the order of the report; ``resjax.report.study`` says what they are, and how to add one.
"""

from resjax.report.curves import STUDY as CURVES
from resjax.report.gradients import STUDY as GRADIENTS
from resjax.report.lesion import STUDY as LESION
from resjax.report.study import Claim, Finding, Options, Presentation, Study, Table

STUDIES: dict[str, Study] = {study.name: study for study in (CURVES, LESION, GRADIENTS)}
CLAIMS: dict[str, Claim] = {}

__all__ = [
    "CLAIMS",
    "STUDIES",
    "Claim",
    "Finding",
    "Options",
    "Presentation",
    "Study",
    "Table",
]
