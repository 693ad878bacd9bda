"""What a user sees who mistypes: one line that says what is wrong, and no traceback."""

import subprocess
import sys

import pytest
from script_helpers import REPOSITORY, environment

DIGITS = "--config=configs/digits.py:smoke"


def run(*arguments):
    command = [sys.executable, "-m", "resjax.train", *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((DIGITS, "--config.optimizer.learningrate=0.1"), 'Did you mean "learning_rate"'),
        (("--config=configs/digits.py:smok",), "allowed: none, or 'smoke'"),
        (("--config=configs/digit.py",), "digit.py"),
        ((DIGITS, "--config.model.depth=abc"), "abc"),
        ((DIGITS, "--config.model.depth=21"), "model.depth=21"),
        ((DIGITS, "--config.train.batch_size=5000"), "1,400 examples"),
    ],
)
def test_a_mistake_is_one_line(arguments, said, tmp_path):
    done = run(*arguments, f"--workdir={tmp_path / 'run'}")
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") <= 2
    assert not (tmp_path / "run").exists()
