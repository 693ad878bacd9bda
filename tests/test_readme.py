"""What the README shows works: its Python runs, its links lead somewhere, its table is complete."""

import re
from pathlib import Path

import matplotlib
import pytest

from resjax import config as configs
from resjax.train import train_and_evaluate

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_users_own_network_runs(capsys):
    """The block that a newcomer copies whole."""
    (block,) = [b for b in BLOCKS if "class Block(Unit)" in b]
    exec(compile(block, "README.md", "exec"), {})
    assert "[" in capsys.readouterr().out


def test_the_library_example_runs(tmp_path, monkeypatch, capsys):
    """On a run that is shorter than the demo's."""
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    c = configs.default("resnet", depth=20, widths=(4, 4, 8))
    c.data.train_examples = 64
    c.train.batch_size = 32
    c.train.duration = "2 steps"
    train_and_evaluate(c, tmp_path / "runs/demo/residual")
    names: dict = {}
    capsys.readouterr()
    for block in BLOCKS[:2]:
        exec(compile(block, "README.md", "exec"), names)
    assert "stage1/unit1" in capsys.readouterr().out
    assert (tmp_path / "lesion.png").stat().st_size > 1000
    assert not (names["intact"] == names["without_5"]).all()


@pytest.mark.parametrize("path", re.findall(r"\]\(((?!http)[^)#]+)\)", README))
def test_links_lead_somewhere(path):
    assert (REPOSITORY / path).exists()


def test_every_configuration_is_listed_and_no_other():
    there = {p.stem for p in (REPOSITORY / "configs").glob("*.py")}
    table = README[README.index("| configuration |") : README.index("Each file says")]
    assert set(re.findall(r"`([a-z0-9_]+)`", table)) == there


def test_no_placeholder_is_left():
    assert not re.findall(r"@[A-Z]+@", README)
    for path in (REPOSITORY / "configs").glob("*.py"):
        assert not re.findall(r"@[A-Z]+@", path.read_text()), path
