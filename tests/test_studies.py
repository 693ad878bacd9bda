"""What holds for every study: one name everywhere, and measuring apart from drawing and words."""

import dataclasses
import importlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import resjax.analysis
from resjax.report import fingerprint
from resjax.report.fingerprint import code_fingerprint, reached
from resjax.studies.catalogue import CLAIMS, STUDIES
from resjax.studies.options import Options
from resjax.studies.result import Result
from resjax.studies.run import Run

ALL = {**STUDIES, **CLAIMS}
PAGES = Path(__file__).parent.parent / "docs/analyses"


@pytest.mark.parametrize("name", ALL)
def test_a_study_has_one_name(name):
    study = ALL[name]
    module = importlib.import_module(study.measure.__module__)
    assert module.STUDY is study
    assert module.__name__.rpartition(".")[2] == name
    assert getattr(module, name) is getattr(resjax.analysis, name)  # its public function
    assert f"{name}(" in study.code or name == "curves"
    assert (PAGES / f"{name}.md").read_text("utf-8").splitlines()[0] == f"# {study.title}"


@pytest.mark.parametrize("name", ALL)
def test_what_measures_reaches_nothing_that_draws_or_words(name):
    covered = reached(ALL[name].measure)
    modules = {entry.partition(":")[0] for entry in covered}
    assert not modules & {"resjax.studies.style", "resjax.studies.marks", "resjax.studies.words"}
    shown = {f"{ALL[name].measure.__module__}:{part}" for part in ("plot", "points", "table", "STUDY")}
    assert not set(covered) & shown
    assert "resjax.network.network" in covered or name in ("curves", "edges", "sharing")


@pytest.mark.parametrize("statistics", [{}, {"mean": 0.0}])
def test_choices_about_batch_norm_are_of_networks_that_have_it(statistics):
    told = {"BatchNorm": "running statistics", "BatchNorm elsewhere": "the same", "draws": 2}
    study = dataclasses.replace(STUDIES["curves"], measure=lambda bench: Result(choices=dict(told)))
    run = SimpleNamespace(step=1, variables={"batch_stats": statistics})
    assert study.run(run, Options()).choices == (told if statistics else {"draws": 2})


@pytest.mark.slow
def test_all_studies_are_imported_without_matplotlib():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import resjax.analysis\n"
        "from resjax.studies.catalogue import STUDIES, CLAIMS\n"
        "print(len(STUDIES) + len(CLAIMS))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(ALL)


def of_lesion():
    """The fingerprints of ``lesion`` and of the runs that it is measured on."""
    return code_fingerprint(STUDIES["lesion"].measure), code_fingerprint(Run)


def changed(monkeypatch, module, old, new):
    """``of_lesion`` after one replacement in the text of a module."""
    read = fingerprint.source_of

    def source_of(name):
        text = read(name)
        if name == module:
            assert old in text
            text = text.replace(old, new)
        return text

    monkeypatch.setattr(fingerprint, "source_of", source_of)
    fingerprint.forget()
    found = of_lesion()
    monkeypatch.undo()
    fingerprint.forget()
    return found


LESION = "resjax.studies.lesions.lesion"


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        (LESION, "at a cost of at most one", "for at most one"),
        (LESION, '"deleted unit"', '"unit"'),
        (LESION, "*Question.*", "*The question.*"),
        ("resjax.studies.verdicts", "LEARNED = 0.8", "LEARNED = 0.7"),
        ("resjax.studies.words", "100 * share", "99 * share"),
        ("resjax.studies.style", "3.6", "3.7"),
        ("resjax.studies.lesions.deletions", "draws: int = 30", "draws: int = 31"),
    ],
)
def test_results_are_kept_where_words_pictures_or_other_studies_change(monkeypatch, module, old, new):
    before = of_lesion()
    assert changed(monkeypatch, module, old, new) == before


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("resjax.studies.lesions.single_deletions", "lesioned.at[before].set", "lesioned.at[before - 1].set"),
        ("resjax.studies.scores", "log_p - log_q", "log_q - log_p"),
        # The share of resamples in which a unit may go is measured with this line.
        ("resjax.studies.verdicts", "MAY_GO = 0.01", "MAY_GO = 0.02"),
        ("resjax.studies.study", "min(there, most)", "max(there, most)"),
        ("resjax.network.unit", "z = s + z", "z = s - z"),
        ("resjax.models.layers", "class BatchNorm", "class Batchnorm"),
    ],
)
def test_results_are_computed_again_where_the_measurement_changes(monkeypatch, module, old, new):
    before = of_lesion()
    assert changed(monkeypatch, module, old, new) != before
