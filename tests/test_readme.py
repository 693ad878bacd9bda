"""What the README shows works: its Python runs, and it stays short; test_docs.py follows its links."""

import io
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import matplotlib
import numpy as np
import pytest
from rich.console import Console

from resjax import config as configs
from resjax import demo, models
from resjax.analysis import path_counts
from resjax.analyze import print_findings
from resjax.cut import costs
from resjax.report import compare
from resjax.report.compare import Finding
from resjax.studies.catalogue import STUDIES
from resjax.train import train_and_evaluate

REPOSITORY = Path(__file__).parent.parent
CONFIGS, RECORDS = REPOSITORY / "configs", REPOSITORY / "docs/results/demo"
README = (REPOSITORY / "README.md").read_text("utf-8")


def python_of(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)


BLOCKS = python_of(REPOSITORY / "README.md")


def test_the_users_own_network_is_found(capsys):
    """The block that a newcomer copies whole, and what it is said to print."""
    (block,) = [b for b in BLOCKS if "resjax.discover" in b]
    exec(compile(block, "README.md", "exec"), {})
    (shown,) = re.findall(r"```\n(\d+ residual units.*?)```", README, re.DOTALL)
    printed = capsys.readouterr().out
    assert printed.startswith(shown)
    assert len(re.findall(r"[01]\.\d*", printed.removeprefix(shown))) == 2  # the errors


def shorter_demo(folder, monkeypatch, **model):
    """A run of a small network in the demo's place, of two steps."""
    monkeypatch.chdir(folder)
    matplotlib.use("Agg")
    c = configs.default("resnet", **model)
    c.data.train_examples = 64
    c.train.batch_size = 32
    c.train.duration = "2 steps"
    train_and_evaluate(c, folder / "runs/demo/residual")


def test_the_example_on_a_run_runs(tmp_path, monkeypatch):
    shorter_demo(tmp_path, monkeypatch, depth=6, widths=(4, 8))
    (block,) = [b for b in BLOCKS if "load_run" in b]
    exec(compile(block, "README.md", "exec"), {})
    assert (tmp_path / "lesion.png").stat().st_size > 1000


@pytest.mark.slow
def test_the_library_examples_run(tmp_path, monkeypatch, capsys):
    shorter_demo(tmp_path, monkeypatch, depth=20, widths=(4, 4, 8))
    names: dict = {}
    for block in python_of(REPOSITORY / "docs/library.md"):
        exec(compile(block, "library.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "stage1/unit1" in printed and "Layer_2/mlp" in printed
    assert not (names["intact"] == names["without_5"]).all()
    jax.tree.map(np.testing.assert_array_equal, names["back"], names["variables"])


def recorded_demo() -> str:
    """What the demo prints of the results that are recorded in docs/results/demo."""
    findings: list[Finding] = []
    summaries: dict[str, dict[str, str]] = {}
    for name in demo.STUDIES:
        study = STUDIES[name]
        if name == "path_counts":  # exact, so not recorded
            fields = {label: configs.load_file(name) for label, name in demo.TWINS.items()}
            results = {
                label: path_counts(models.build(c.model, image_shape=(8, 8, 1), num_classes=10))
                for label, c in fields.items()
            }
            results = {k: r for k, r in results.items() if r.num_residual}
        else:
            record = json.loads((RECORDS / f"{name}.json").read_text("utf-8"))
            results = {k: study.result.from_json(r["result"]) for k, r in record["runs"].items()}
        findings.append(compare.finding(study, results))
        for label, rows in compare.summary(study, results).items():
            summaries.setdefault(label, {}).update(rows)
    console = Console(file=io.StringIO(), width=120, highlight=False)
    print_findings(SimpleNamespace(summary=summaries, findings=findings, failed=[]), console)
    saved = costs.in_one_sentence("residual", json.loads((RECORDS / "costs.json").read_text("utf-8")))
    console.print(f"• {saved}", markup=False)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def test_the_demo_prints_what_the_readme_shows():
    """RESJAX_WRITE_GOLDENS=1 writes that part of the README anew, where a text was changed on purpose."""
    wanted = recorded_demo()
    (shown,) = re.findall(r"ends like this:\n\n```\n(.*?)\n```", README, re.DOTALL)
    if os.environ.get("RESJAX_WRITE_GOLDENS"):
        (REPOSITORY / "README.md").write_text(README.replace(shown, wanted), "utf-8")
        shown = wanted
    assert shown == wanted


def test_it_stays_short():
    """Configurations, data, speed and studies have pages of their own."""
    assert len(README.split()) <= 1000


def test_no_placeholder_is_left():
    for page in (REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")):
        assert not re.findall(r"@[A-Z]+@", page.read_text("utf-8")), page
    for path in (REPOSITORY / "configs").glob("*.py"):
        assert not re.findall(r"@[A-Z]+@", path.read_text()), path
