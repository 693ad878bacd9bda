"""What every study shows of results made by hand, against a text file: ``goldens/NAME.txt``.

``golden_cases/NAME.py`` holds ``CASES``, {case: {label: result}}. Where a change of the text is wanted, write
the files anew with

    RESJAX_WRITE_GOLDENS=1 python -m pytest tests/test_goldens.py

and read the diff before it is committed: every changed line is a line that users see.
"""

import importlib
import os
from pathlib import Path

import pytest
from golden_text import shown

from resjax.studies.catalogue import CLAIMS, STUDIES

FOLDER = Path(__file__).parent / "goldens"
SHOWN = {**STUDIES, **CLAIMS}


@pytest.mark.parametrize("name", SHOWN)
def test_a_study_shows_what_it_showed(name):
    cases = importlib.import_module(f"golden_cases.{name}").CASES
    text = "\n".join(f"=== {case}\n{shown(SHOWN[name], r)}" for case, r in cases.items())
    path = FOLDER / f"{name}.txt"
    if os.environ.get("RESJAX_WRITE_GOLDENS"):
        path.write_text(text, "utf-8")
    wanted = path.read_text("utf-8").splitlines()
    assert text.splitlines() == wanted, "see the docstring of this file where the change is wanted"


def test_there_is_no_golden_without_a_study():
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(SHOWN)
