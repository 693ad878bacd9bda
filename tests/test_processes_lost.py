"""Two real processes of a run, one of which is lost, fails or is missing; and the run goes on afterwards.

A fast version of most cases, with threads, is in ``test_meeting``.
"""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from run_helpers import experiment_file
from script_helpers import REPOSITORY, load_script

from resjax.training import manifest


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """The module that starts two processes, and the flags of their experiment."""
    path = experiment_file(
        tmp_path_factory.mktemp("config"),
        train__duration="60 steps",
        train__steps_per_dispatch=2,
        checkpoint__every="10 steps",
        log__every="2 steps",
        eval__every="30 steps",
    )
    return load_script("benchmarks/lost_process.py"), (f"--config={path}",)


@pytest.fixture(scope="module")
def whole(pairs, tmp_path_factory):
    """The last checkpoint of a run that was not interrupted."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    assert finish(workdir, pairs) == [0, 0]
    return arrays(workdir)


@pytest.fixture(autouse=True)
def imports(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


def finish(workdir, pairs, *flags):
    """Trains to the end; returns the statuses."""
    started = pairs[0].start(workdir, pairs[1] + flags)
    return statuses(started)


def statuses(started):
    try:
        return [process.wait(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()


def said(workdir, own, pairs):
    return pairs[0].stderr_of(workdir, own).read_text()


def arrays(workdir):
    """The arrays of the last checkpoint."""
    import jax

    from resjax import config as configs
    from resjax.train import load_experiment
    from resjax.training.checkpoint import Checkpoints

    assert manifest.damage(workdir / "checkpoints/60") is None
    state = load_experiment(configs.load(workdir)).create_state()
    state = Checkpoints(workdir).restore(state, 60)
    leaves = [x for x in jax.tree.leaves(state) if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)]
    return [np.asarray(leaf) for leaf in leaves]


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_the_other_ends_and_the_same_command_continues_bit_for_bit(lost, pairs, whole, tmp_path):
    workdir = tmp_path / "run"
    started = pairs[0].start(workdir, pairs[1])
    pairs[0].wait_for("step     22 ", workdir, started)
    started[lost].kill()
    assert statuses(started)[1 - lost] == 75
    *_, last = said(workdir, 1 - lost, pairs).splitlines()
    assert last.startswith(f"error: process {lost} of 2 on ") and " was lost. The same command on all" in last
    newest = max(int(folder.name) for folder in (workdir / "checkpoints").iterdir() if folder.name.isdigit())
    assert newest >= 20 and last.endswith(f"continues from step {newest}")
    assert "stack trace" not in said(workdir, 1 - lost, pairs)
    assert finish(workdir, pairs) == [0, 0]
    assert f"steps {newest} to 60" in said(workdir, 0, pairs)
    for a, b in zip(arrays(workdir), whole, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_sigterm_to_one_stops_all_at_the_same_step(stopped, pairs, tmp_path):
    workdir = tmp_path / "run"
    started = pairs[0].start(workdir, pairs[1])
    pairs[0].wait_for("step     22 ", workdir, started)
    started[stopped].send_signal(signal.SIGTERM)
    assert statuses(started) == [143, 143]
    steps = {said(workdir, own, pairs).split("saved at step ")[1].split()[0] for own in range(2)}
    assert len(steps) == 1 and (workdir / "checkpoints" / steps.pop()).is_dir()
    assert "SIGTERM: saved" in said(workdir, stopped, pairs)
    assert "another host was stopped: saved" in said(workdir, 1 - stopped, pairs)


@pytest.mark.slow
@pytest.mark.parametrize("failed", [0, 1])
def test_an_error_of_one_ends_both_with_its_text(failed, pairs, tmp_path):
    """The data are a relative path, and only one of the processes is in a folder that has them."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (64, 8, 8, 1), np.uint8), np.arange(64) % 10
    for folder in ("with", "without"):
        (tmp_path / folder).mkdir()
    np.savez(tmp_path / "with/data.npz", train_images=images, train_labels=labels, test_images=images,
             test_labels=labels)  # fmt: skip
    workdir = tmp_path / "run"
    command = [sys.executable, "-m", "resjax.train", *pairs[1], f"--workdir={workdir}"]
    command += ["--config.data.name=data.npz", "--config.data.train_examples=0"]
    started = [
        subprocess.Popen(
            command, env=environment, cwd=tmp_path / ("without" if own == failed else "with"),
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for own, environment in enumerate(pairs[0].environments())
    ]  # fmt: skip
    texts = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [1, 1], texts
    lines = [text.splitlines()[-1] for text in texts]
    assert lines[failed].startswith("error: data.name='data.npz': no such file")
    assert lines[1 - failed].startswith(
        f"error: process {failed} of 2 ended with an error: FileNotFoundError"
    )
    assert "stack trace" not in "".join(texts) and "Traceback" not in "".join(texts)


@pytest.mark.slow
def test_different_configurations_are_refused_before_the_training(pairs, tmp_path):
    workdir = tmp_path / "run"
    command = [sys.executable, "-m", "resjax.train", *pairs[1], f"--workdir={workdir}"]
    started = [
        subprocess.Popen(
            [*command, f"--config.train.batch_size={16 * (own + 1)}"], env=environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for own, environment in enumerate(pairs[0].environments())
    ]  # fmt: skip
    texts = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [1, 1]
    assert texts[0] == texts[1] and texts[0].count("\n") == 1
    assert "config.train.batch_size is 16 in process 0 and 32 in process 1" in texts[0]
    assert not workdir.exists() and os.listdir(tmp_path) == []
