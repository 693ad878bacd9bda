"""The device never waits for the host within an epoch: the next dispatch is there before one ends."""

import threading
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback
from test_train import small_config

from resjax.train import load_experiment
from resjax.training import loop
from resjax.training.checkpoint import Checkpoints
from resjax.training.devices import Devices
from resjax.training.feed import Feed
from resjax.workdir.stopping import StopRequest
from resjax.workdir.writers import Writer


class Gated(Devices):
    """Every dispatch ends only after the host has made the next one.

    A dispatch's number of steps comes out of a callback that waits for the next dispatch. A host that waited
    for a dispatch (a metric read back, ``block_until_ready``, a print) before it made the next would wait for
    ever; here, until the callback gives up and notes the dispatch in ``late``. The last of ``dispatches`` has
    none to wait for. This holds on a CPU as well, where reading an array copies nothing, so that no transfer
    guard would see it.
    """

    def __init__(self, dispatches, patience):
        super().__init__(devices=jax.devices()[:1])
        self.dispatches, self.patience, self.made, self.late = dispatches, patience, 0, []
        self.changed, Gated.metrics = threading.Condition(), []

    def train_program(self, task):
        program = super().train_program(task)

        def lower(*arguments):
            lowered = program.lower(*arguments)
            return SimpleNamespace(compile=lambda: self.gated(lowered.compile()))

        return SimpleNamespace(lower=lower)

    def gated(self, steps):

        def wait(number, count, before):
            del before
            number = int(number)

            def next_is_made():
                return self.made > number + 1 or number + 1 == self.dispatches

            with self.changed:
                if not self.changed.wait_for(next_is_made, self.patience):
                    self.late.append(number)
            return np.int32(count)

        @jax.jit
        def gate(number, count, before):
            return io_callback(wait, jax.ShapeDtypeStruct((), jnp.int32), number, count, before)

        gate.lower(np.int32(0), np.int32(0), busy(0)).compile()

        def run(state, images, batches, start, count, teacher):
            # A CPU calls back in the thread that asks, unless an argument is still being computed: for the
            # first dispatch a second long, for the others until ``made`` is one more.
            before = state.step if self.made else busy(100_000)
            count = gate(np.int32(self.made), count, before)
            found = steps(state, images, batches, start, count, teacher)
            Gated.metrics.append(found[1])
            with self.changed:
                self.made += 1
                self.changed.notify_all()
            return found

        return run


@jax.jit
def busy(turns):
    """Zero, int32, after that many turns of the device, about 10 µs each."""
    x = jax.lax.fori_loop(0, turns, lambda i, x: jnp.sin(x) + 1, jnp.ones(3000))
    return (x.min() > 3).astype(jnp.int32)


def train(tmp_path, patience):
    """Eight dispatches in one epoch, with log lines and evaluations in between; the gate that watched."""
    config = small_config()
    config.train.duration = "16 steps"
    config.train.steps_per_dispatch = 2
    config.log.every, config.eval.every = "2 steps", "6 steps"
    config.checkpoint.every = "100 steps"
    config.data.train_examples = 400
    experiment = load_experiment(config)
    devices = Gated(8, patience)
    checkpoints = Checkpoints(tmp_path)
    with Writer(tmp_path, 0, 16) as writer:
        loop.run(experiment, devices, checkpoints, writer, StopRequest())
    assert devices.made == 8
    return devices


@pytest.mark.slow
@pytest.mark.skipif(
    jax.__version_info__ < (0, 8),
    reason="with jax 0.7 on a CPU a callback that waits holds up the next dispatch",
)
def test_no_dispatch_waits_for_the_host(tmp_path):
    assert train(tmp_path, patience=60).late == []


@pytest.mark.slow
def test_a_host_that_waits_would_be_seen(tmp_path, monkeypatch):
    """The same with a loop that reads each dispatch's loss before it prepares the next batches."""
    batches = Feed.batches

    def impatient(self, *args):
        if Gated.metrics:
            float(Gated.metrics[-1]["loss"][0])
        return batches(self, *args)

    monkeypatch.setattr(Feed, "batches", impatient)
    assert len(train(tmp_path, patience=0.5).late) == 7


@pytest.fixture(autouse=True)
def _enough_threads():
    """Callbacks wait in threads of the runtime; make sure that they end before the next test."""
    yield
    jax.effects_barrier()
