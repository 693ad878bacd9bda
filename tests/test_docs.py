"""The pages of docs: their Python runs, every study and claim has one, links and pictures are there."""

import re
from pathlib import Path

import matplotlib
import pytest

from resjax import config as configs
from resjax.studies.catalogue import CLAIMS, STUDIES
from resjax.train import train_and_evaluate

REPOSITORY = Path(__file__).parent.parent
PAGES = sorted((REPOSITORY / "docs/analyses").glob("*.md"))


def test_every_study_and_claim_has_a_page():
    text = " ".join(page.read_text() for page in PAGES)
    for name in STUDIES:
        assert re.search(rf"--studies=[\w,]*\b{name}\b", text), name
    for name in CLAIMS:
        assert re.search(rf"--names=[\w,]*\b{name}\b", text), name


@pytest.mark.parametrize(
    "page",
    [*PAGES, *(REPOSITORY / "docs").glob("*.md"), *(REPOSITORY / "docs/results").glob("*.md")],
    ids=lambda p: p.stem,
)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(((?!http)[^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_tests_behind_the_claims_are_there():
    file, found = "", 0
    claims = (REPOSITORY / "docs/results/claims.md").read_text()
    for path, name in re.findall(r"`(tests/\w+\.py)?(?:::(\w+))?`", claims):
        file = path or file
        if file:
            text = (REPOSITORY / file).read_text()
            assert not name or f"def {name}(" in text, f"{file}::{name}"
            found += 1
    assert found > 10


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with two short runs where the demo would have left its own."""
    root = tmp_path_factory.mktemp("docs")
    for name, shortcut in {"residual": "identity", "plain": "none"}.items():
        c = configs.default("resnet", depth=20, widths=(4, 4, 8), shortcut=shortcut)
        c.data.train_examples = 600
        c.train.batch_size = 32
        c.train.duration = "4 steps"
        c.log.every = "2 steps"
        train_and_evaluate(c, root / "runs/demo" / name)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_the_python_runs(page, here, monkeypatch):
    monkeypatch.chdir(here)
    matplotlib.use("Agg")
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(compile(block, page.name, "exec"), names)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*STUDIES, *CLAIMS])
def test_the_code_that_the_report_shows_runs(name, here, monkeypatch):
    import resjax

    monkeypatch.chdir(here)
    run = resjax.analysis.load_run("runs/demo/residual")
    shown = {**STUDIES, **CLAIMS}[name].code
    exec(compile(shown, name, "exec"), {"run": run, "resjax": resjax})
