"""An analysis that grows while it runs, and one that fits into some minutes."""

import dataclasses
import re

import pytest
from run_helpers import tiny_run

from resjax.analysis import load_run
from resjax.analyze import analyze
from resjax.report import kept, plan, write
from resjax.report.write import read
from resjax.studies.budget import Budget
from resjax.studies.catalogue import STUDIES
from resjax.studies.costs import Speed
from resjax.studies.options import Options

RECORDS = """\
{"step": 0, "epoch": 0.0, "test_loss": 2.3, "test_error": 0.9}
{"step": 2, "epoch": 1.0, "loss": 1.5, "error": 0.5, "learning_rate": 0.1}
{"step": 2, "epoch": 1.0, "test_loss": 1.4, "test_error": 0.4}
"""


def text_of(path):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", path.read_text("utf-8")))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    tiny_run(path, stage_sizes=(2,), widths=(4,), norm=False)
    (path / "metrics.jsonl").write_text(RECORDS)
    return path


@pytest.fixture
def drawn(monkeypatch):
    """Names of the studies that are drawn; no figure is made."""
    names = []
    monkeypatch.setattr(write, "picture", lambda draw, alt, table, labels: "")
    monkeypatch.setattr(write, "save", lambda draw, directory, name: names.append(name) or [])
    return names


def test_the_report_grows_study_by_study(run, tmp_path, monkeypatch, drawn):
    """A study that is finished is drawn once, and the report names those to come."""
    found, last = [], STUDIES["path_counts"]

    def looks(bench):
        found.append(text_of(tmp_path / "report.html"))
        return last.measure(bench)

    monkeypatch.setitem(STUDIES, "path_counts", dataclasses.replace(last, measure=looks))
    path = analyze([run], ["curves", "norms_over_training", "path_counts"], tmp_path)
    to_come = f"{STUDIES['norms_over_training'].title}, {last.title}"
    assert f"Not finished yet: {to_come}." in found[0] and STUDIES["curves"].question in found[0]
    assert last.question not in found[0]
    shown = text_of(path)
    assert "Not finished yet" not in shown and last.question in shown
    assert f"{STUDIES['norms_over_training'].title}, of run: no record" in shown
    assert drawn == ["curves", "path_counts"]


def test_a_quick_look_says_what_it_measured(run, tmp_path, monkeypatch, capsys, drawn):
    """By a speed that is made up: one pass takes a second, so that 256 examples take 6 minutes."""
    monkeypatch.setattr(plan, "measure_speed", lambda run, options: Speed(1.0, 1.0, 1.0, 0.0))
    asked = Options(batch_size=32)
    path = analyze([run], ["curves", "lesion"], tmp_path, asked, budget=Budget(8))
    result = read(tmp_path / "lesion.json", STUDIES["lesion"])["run"]
    assert result.num_examples == 256 and result.unit_evaluations == 3  # of two units: 1.5 passes for each
    shown, printed = text_of(path), capsys.readouterr().err
    assert "Quick look (8 minutes)" in shown and "quick look (8 minutes): about 6 min" in printed.lower()
    for said in (shown, printed):
        assert "reaches ±3.7 points on 256 examples (lesion)" in said
    assert "--studies=lesion --max_examples=256 --batch_size=32 --full" in shown
    monkeypatch.setattr(plan, "measure_speed", lambda run, options: Speed(2.0, 2.0, 2.0, 0.0))
    analyze([run], ["curves", "lesion"], tmp_path, asked, budget=Budget(8))
    printed = capsys.readouterr().err
    assert f"{STUDIES['lesion'].title}: run (done before)" in printed and "±3.7 points" in printed
    kept_as = kept.options_of(load_run(run), STUDIES["lesion"])
    assert kept_as == dataclasses.replace(asked, max_examples=256)
