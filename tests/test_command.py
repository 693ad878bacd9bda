"""What a user sees who mistypes: one line that says what is wrong, and no traceback."""

from script_helpers import REPOSITORY, run_each

DIGITS = "--config=configs/digits.py:smoke"
MISTAKES = [
    ((DIGITS, "--config.optimizer.learningrate=0.1"), 'Did you mean "learning_rate"'),
    (("--config=configs/digits.py:smok",), "allowed: none, or 'smoke'"),
    (("--config=configs/digit.py",), "digit.py"),
    ((DIGITS, "--config.model.depth=abc"), "abc"),
    ((DIGITS, "--config.model.depth=21"), "model.depth=21"),
    ((DIGITS, "--config.train.batch_size=5000"), "1,400 examples"),
]


def test_a_mistake_is_one_line(tmp_path):
    run = f"--workdir={tmp_path / 'run'}"
    commands = [("resjax.train", *arguments, run) for arguments, _ in MISTAKES]
    ended = run_each(commands, tmp_path, cwd=REPOSITORY)
    for (arguments, said), done in zip(MISTAKES, ended, strict=True):
        assert done.returncode in (1, 2), arguments
        assert said in done.stderr
        assert done.stderr.startswith("error: ")
        assert "Traceback" not in done.stderr
        assert done.stderr.count("\n") <= 2
    assert not (tmp_path / "run").exists()
