"""A training that is stopped anywhere and started again has the records and the state of one that was not."""

import os
import signal
import threading

import pytest
from test_train import assert_equal, small_config

from resjax import train
from resjax.train import train_and_evaluate
from resjax.training import loop
from resjax.training.checkpoint import Checkpoints
from resjax.training.feed import Evaluation, Feed
from resjax.workdir.stopping import Stopped, stoppable
from resjax.workdir.writers import Writer, read_records


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(records without times, last state) of a whole run."""
    run = tmp_path_factory.mktemp("whole") / "run"
    return timeless(run, train_and_evaluate(small_config(), run))


def timeless(run, state):
    return [{k: v for k, v in r.items() if k != "images_per_second"} for r in read_records(run)], state


def signalled(monkeypatch, owner, name, call):
    """The ``call``-th call of a function, from 1, gets a signal before it works."""
    original, calls = getattr(owner, name), []

    def work(*args, **kwargs):
        calls.append(args)
        if len(calls) == call:
            signal.raise_signal(signal.SIGTERM)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, work)


# {where: (owner, function, which call of it, what the line says)}
PLACES = {
    "first batches": (Feed, "batches", 1, "while the first batches were read: the run is at step 0 of 8"),
    "compiling": (loop, "prepare", 1, "while the training was compiled: the run is at step 0 of 8"),
    "first evaluation": (Evaluation, "__call__", 1, "while the training was compiled"),
    "batches": (Feed, "batches", 3, ": saved at step 4 of 8"),
    "evaluation": (Evaluation, "__call__", 2, ": saved at step 4 of 8"),
    "last evaluation": (Evaluation, "__call__", 3, ": saved at step 8 of 8"),
    "recording": (Writer, "write", 2, ": saved at step 4 of 8"),
    "saving": (Checkpoints, "save", 1, ": saved at step 4 of 8"),
    "last save": (Checkpoints, "save", 2, ": the work was just finished and is saved"),
}


def test_while_data_are_read_nothing_is_begun(tmp_path, monkeypatch):
    signalled(monkeypatch, train, "load_experiment", 1)
    with pytest.raises(Stopped, match="SIGTERM while the data were read: nothing had to be saved; the same"):
        train_and_evaluate(small_config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_stopped_and_started_again_nothing_is_missing(whole, tmp_path, monkeypatch, place):
    owner, function, call, said = PLACES[place]
    run = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Stopped, match=f"SIGTERM ?{said}"):
        signalled(patch, owner, function, call)
        train_and_evaluate(small_config(), run)
    records, state = timeless(run, train_and_evaluate(small_config(), run))
    assert records == whole[0]
    assert_equal(state, whole[1])


def test_the_compilation_of_an_evaluation_does_not_hold_up_a_stop(monkeypatch):
    """Python handles no signal during a call of the compiler, so this is made in another thread."""
    ended = threading.Event()

    class Lowered:
        def lower(self, *args):
            return self

        def compile(self):
            os.kill(os.getpid(), signal.SIGTERM)
            assert ended.wait(30), "the main thread waited for the compiler"

    measure = object.__new__(Evaluation)
    measure._run, measure._program = Lowered(), None
    with pytest.raises(Stopped), stoppable():
        measure._sums({}, {})
    ended.set()
