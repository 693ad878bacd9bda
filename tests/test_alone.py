"""One process at a time writes a workdir, and the disk holds a file before it takes its place."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import optax
import pytest
from run_helpers import tiny_run

from resjax import config as configs
from resjax.pretrained.workdirs import make_workdir
from resjax.train import train_and_evaluate
from resjax.training import loaded, loop
from resjax.training.checkpoint import Checkpoints
from resjax.training.loaded import evaluate
from resjax.training.step import TrainState
from resjax.workdir import alone as module
from resjax.workdir import atomic
from resjax.workdir.alone import alone
from resjax.workdir.writers import Writer


def test_a_second_training_of_a_workdir_is_refused_before_it_writes(tmp_path):
    config = configs.default(depth=8, widths=(2, 2, 2))
    config.data.name, config.data.train_examples, config.train.batch_size = "digits", 64, 16
    with alone(tmp_path / "run"):
        with pytest.raises(ValueError, match=f"another process is writing a run in {tmp_path}/run;"):
            train_and_evaluate(config, tmp_path / "run")
        assert list((tmp_path / "run").iterdir()) == []
        with alone(tmp_path / "other"):
            pass
    with alone(tmp_path / "run"):
        pass


def test_an_import_into_a_workdir_that_is_written_is_refused(tmp_path):
    (tmp_path / "net").touch()
    source = SimpleNamespace(
        path=tmp_path / "net", layout=SimpleNamespace(name="torchvision"), prefix="", names=()
    )
    task = SimpleNamespace(optimizer=optax.scale_by_schedule(lambda step: 1.0), ema=0)
    state = TrainState(jnp.int32(0), {}, {}, task.optimizer.init({}), jax.random.key(0))
    experiment = SimpleNamespace(create_state=lambda: state, task=task)
    variables = {"params": {}, "batch_stats": {}}
    with alone(tmp_path / "run"), pytest.raises(ValueError, match="another process is writing a run"):
        make_workdir(source, tmp_path / "run", experiment, variables=variables)
    assert list((tmp_path / "run").iterdir()) == []


def test_no_training_begins_while_an_imported_network_is_evaluated(tmp_path, monkeypatch):
    """The evaluation writes metrics.jsonl at its end, over the records of such a training."""
    experiment = SimpleNamespace(record=lambda step, sums: {"step": step, **sums})

    def measured(*_):
        with pytest.raises(ValueError, match="another process is writing a run"), alone(tmp_path):
            pass
        return {"test_error": 1.0}

    monkeypatch.setattr(loaded, "measured", measured)
    evaluate(experiment, None, tmp_path)
    before = (tmp_path / "metrics.jsonl").read_text()
    assert before.endswith('"step": 1, "test_error": 1.0}\n')
    with alone(tmp_path), pytest.raises(ValueError, match="another process is writing a run"):
        evaluate(experiment, None, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_an_import_that_fails_at_its_last_write_leaves_no_run(tmp_path, monkeypatch):
    """A configuration alone would be a run that starts from random weights."""
    saved = Checkpoints(tmp_path)

    def save(state):
        (saved.directory / "1").mkdir(parents=True)
        monkeypatch.setattr(atomic, "flush", broken)

    def broken(path):
        if path.is_dir():
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(saved, "save", save)
    imported = {"file": "net.pth", "sha256": "0", "layout": "torchvision"}
    with pytest.raises(OSError, match=r"config\.json"):
        loaded._write(tmp_path, saved, None, configs.default(), {"imported": imported})
    assert list(tmp_path.iterdir()) == []


# Without the package, whose import takes seconds.
HOLDER = """
import pathlib, runpy, sys
with runpy.run_path(sys.argv[1])["alone"](pathlib.Path(sys.argv[2])):
    print(flush=True)
    input()
"""


def test_a_killed_process_leaves_no_lock(tmp_path):
    own = [sys.executable, "-c", HOLDER, module.__file__, tmp_path]
    with subprocess.Popen(own, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        with pytest.raises(ValueError, match="another process"), alone(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
    with alone(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_file_systems_without_locks_are_written_all_the_same(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with alone(tmp_path), alone(tmp_path):
        pass


@pytest.fixture
def order(monkeypatch):
    """What was flushed and renamed, in this order: ("flush", path), ("rename", from, to)."""
    found = []
    flush, replace, rename = os.fsync, Path.replace, Path.rename

    def flushing(opened):
        found.append(("flush", Path(os.readlink(f"/proc/self/fd/{opened}"))))
        return flush(opened)

    def moving(move):
        def moved(self, target):
            found.append(("rename", self, Path(target)))
            return move(self, target)

        return moved

    monkeypatch.setattr(os, "fsync", flushing)
    monkeypatch.setattr(Path, "replace", moving(replace))
    monkeypatch.setattr(Path, "rename", moving(rename))
    return found


linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@linux
def test_a_file_is_on_the_disk_before_it_takes_its_place(tmp_path, order):
    atomic.write(tmp_path / "file", "text")
    own = tmp_path / f".file.{os.getpid()}"
    assert order == [("flush", own), ("rename", own, tmp_path / "file"), ("flush", tmp_path)]


@linux
def test_a_checkpoint_is_on_the_disk_before_older_ones_go(tmp_path, order):
    run = tiny_run(tmp_path)
    checkpoints = Checkpoints(tmp_path, keep=1)
    order.clear()
    checkpoints.save(run.newest.replace(step=jnp.int32(3)))
    folder, unfinished = checkpoints.directory / "3", checkpoints.directory / "3.incomplete"
    place = order.index(("rename", unfinished, folder))
    flushed = {what[1] for what in order[:place] if what[0] == "flush"}
    saved = {unfinished / path.relative_to(folder) for path in folder.rglob("*")}
    assert {unfinished, *saved} <= flushed and len(saved) > 8
    assert order[place + 1] == ("flush", checkpoints.directory)
    assert order[place + 2][:2] == ("rename", checkpoints.directory / "2")
    assert checkpoints.steps == [3]


@linux
def test_records_are_on_the_disk_before_their_checkpoint(tmp_path, order):
    with Writer(tmp_path, 0, 2) as writer:
        writer.write({"step": 1, "epoch": 0.5, "loss": 1.0})
        assert order == []
        writer.sync()
    assert order == [("flush", tmp_path / "metrics.jsonl")]


def test_training_waits_for_its_records_before_it_saves():
    synced = []
    writer = SimpleNamespace(sync=lambda: synced.append(True))
    reports = loop._Reports(None, None, writer, None, None)
    reports.write(loop._Found(0, 0), None)
    assert not synced
    reports.write(loop._Found(0, 0), None, saves=True)
    assert synced


def test_a_folder_that_can_not_be_flushed_is_no_error(tmp_path, monkeypatch):
    kinds = iter([errno.EINVAL, errno.EIO])

    def fail(opened):
        number = next(kinds)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    atomic.flush(tmp_path)
    with pytest.raises(OSError, match="Input/output"):
        atomic.flush(tmp_path)
