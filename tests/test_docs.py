"""The pages of docs: their Python runs, indexes are complete, links and pictures are there."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

from resjax import analysis
from resjax import config as configs
from resjax.studies.catalogue import CLAIMS, STUDIES
from resjax.train import train_and_evaluate

REPOSITORY = Path(__file__).parent.parent
INDEX = REPOSITORY / "docs/analyses/README.md"
PAGES = sorted(set((REPOSITORY / "docs/analyses").glob("*.md")) - {INDEX})
ALL_PAGES = sorted(
    [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")],
    key=lambda page: page.relative_to(REPOSITORY),
)


def test_every_study_and_claim_has_a_page():
    text = " ".join(page.read_text() for page in PAGES)
    for name in STUDIES:
        assert re.search(rf"--studies=[\w,]*\b{name}\b", text), name
    for name in CLAIMS:
        assert re.search(rf"--names=[\w,]*\b{name}\b", text), name


def test_the_index_has_a_line_and_a_picture_for_every_study_and_claim():
    text = INDEX.read_text("utf-8")
    listed = re.findall(r'^\| <img src="([^"]+)"[^|]*\| \[`(\w+)`\]\((\w+\.md)\) \|', text, re.M)
    assert [name for _, name, _ in listed] == [*STUDIES, *CLAIMS]
    for picture, name, page in listed:
        assert (INDEX.parent / picture).exists(), name
        text = (INDEX.parent / page).read_text("utf-8")
        assert re.search(rf"--(studies|names)=[\w,]*\b{name}\b", text), name


def test_every_configuration_is_listed_and_no_other():
    there = {p.stem for p in (REPOSITORY / "configs").glob("*.py")}
    page = (REPOSITORY / "docs/configurations.md").read_text("utf-8")
    table = page[page.index("| configuration |") : page.index("Each file has a small form")]
    assert set(re.findall(r"`([a-z0-9_]+)`", table)) == there


def anchors(page: Path) -> set[str]:
    """Names of the headings of a page, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S), re.M)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page):
    text = page.read_text("utf-8")
    for target in re.findall(r"\]\(((?!http)[^)]+)\)|src=\"((?!http)[^\"]+)\"", text):
        path, _, anchor = "".join(target).partition("#")
        there = page.parent / path if path else page
        assert there.exists(), path
        assert not anchor or anchor in anchors(there), f"{path}#{anchor}"


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_files_and_modules_that_a_page_names_are_there(page):
    text = page.read_text("utf-8")
    if page.name == "CHANGELOG.md":  # names what was there before
        text = text[text.index("### Added") :]
    for path in re.findall(r"`((?:resjax|tests|benchmarks|launch|configs|docs)/[\w/.]+\.\w+)`", text):
        assert "NAME" in path or (REPOSITORY / path).exists(), path
    for name in set(re.findall(r"\bresjax(?:\.\w+)+", text)):
        module, names = REPOSITORY / "resjax", name.split(".")[1:]
        while names and (module / names[0]).is_dir():
            module /= names.pop(0)
        if names and (module / f"{names[0]}.py").exists():
            module /= f"{names.pop(0)}.py"
        source = module if module.is_file() else module / "__init__.py"
        assert not names or names[0] in source.read_text("utf-8"), name


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


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    """With the tools of this environment, or of the one that ``make docs`` has made."""
    own = REPOSITORY / ".venv-docs/bin/python"
    python = sys.executable if importlib.util.find_spec("mkdocs") or not own.exists() else str(own)
    if python == sys.executable:
        pytest.importorskip("mkdocs")
        pytest.importorskip("mkdocstrings")
    command = [python, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "one deep function" in (tmp_path / "index.html").read_text("utf-8")
    reference = (tmp_path / "api/analysis.html").read_text("utf-8")
    for name in analysis.__all__:
        assert f'id="resjax.analysis.{name}"' in reference, name
    pages = " ".join(page.read_text("utf-8") for page in tmp_path.rglob("*.html"))
    assert not re.findall(r'(?:src|<link[^>]*href)="https?://', pages), "nothing comes from other hosts"


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
