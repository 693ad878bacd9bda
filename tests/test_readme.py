"""What the README shows works: its Python runs, and it stays short; test_docs.py follows its links."""

import re
from pathlib import Path

import matplotlib

from resjax import config as configs
from resjax.train import train_and_evaluate

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text("utf-8")


def python_of(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)


BLOCKS = python_of(REPOSITORY / "README.md")


def test_the_users_own_network_runs(capsys):
    """The block that a newcomer copies whole."""
    (block,) = [b for b in BLOCKS if "class Block(Unit)" in b]
    exec(compile(block, "README.md", "exec"), {})
    assert "[" in capsys.readouterr().out


def test_the_library_example_runs(tmp_path, monkeypatch, capsys):
    """And those of docs/library.md, on a run that is shorter than the demo's."""
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    c = configs.default("resnet", depth=20, widths=(4, 4, 8))
    c.data.train_examples = 64
    c.train.batch_size = 32
    c.train.duration = "2 steps"
    train_and_evaluate(c, tmp_path / "runs/demo/residual")
    capsys.readouterr()
    exec(compile(BLOCKS[0], "README.md", "exec"), {})
    assert "stage1/unit1" in capsys.readouterr().out
    assert (tmp_path / "lesion.png").stat().st_size > 1000
    names: dict = {}
    for block in python_of(REPOSITORY / "docs/library.md"):
        exec(compile(block, "library.md", "exec"), names)
    assert not (names["intact"] == names["without_5"]).all()


def test_it_stays_short():
    """Configurations, data, speed and studies have pages of their own."""
    assert len(README.split()) <= 1000


def test_no_placeholder_is_left():
    for page in (REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")):
        assert not re.findall(r"@[A-Z]+@", page.read_text("utf-8")), page
    for path in (REPOSITORY / "configs").glob("*.py"):
        assert not re.findall(r"@[A-Z]+@", path.read_text()), path
