"""Benchmarks are run by hand; here they are only imported, so that no name in them is of yesterday."""

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if "torch" not in path.stem)


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_imported(name, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    importlib.import_module(name)
