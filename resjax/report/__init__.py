"""The report: what analyses found, as words, figures and tables.

``STUDIES`` lists what ``python -m resjax.analyze`` runs, in the order of the report;
``resjax.report.study`` says what a study is, and how to add one.
"""

from resjax.report.curves import STUDY as CURVES
from resjax.report.gradients import STUDY as GRADIENTS
from resjax.report.lesion import STUDY as LESION
from resjax.report.study import Finding, Options, Study, Table

STUDIES: dict[str, Study] = {study.name: study for study in (CURVES, LESION, GRADIENTS)}

__all__ = ["STUDIES", "Finding", "Options", "Study", "Table"]
