"""The average of the variables: its closed form, and that it is what is evaluated and analyzed."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from network_helpers import equal

from resjax import config as configs
from resjax.analysis import load_run
from resjax.studies.catalogue import STUDIES
from resjax.studies.options import Options
from resjax.train import train_and_evaluate
from resjax.training.devices import Devices
from resjax.training.experiment import load_experiment
from resjax.training.feed import Evaluation, Feed
from resjax.training.step import AveragedState, TrainState, train_step
from resjax.workdir.writers import read_records


def recipe(**train):
    c = configs.default("convmixer", width=4, depth=2, kernel=3, patch=2)  # with BatchNorm
    c.data.name, c.data.train_examples = "digits", 64
    c.train.batch_size, c.train.steps_per_dispatch = 16, 2
    c.optimizer.name, c.optimizer.learning_rate = "adamw", 0.01
    for field, value in train.items():
        c.train[field] = value
    return c


def test_the_average_is_its_closed_form():
    """a_2 = d² θ_0 + d (1 − d) θ_1 + (1 − d) θ_2, of parameters and of BatchNorm's statistics."""
    experiment = load_experiment(recipe(ema=0.8))
    step = jax.jit(lambda state, batch: train_step(state, batch, task=experiment.task)[0])
    feed = Feed(experiment.config, experiment.dataset, Devices(), 0)
    states = [experiment.create_state()]
    for t in range(2):
        states.append(step(states[-1], feed.whole_batch(t)))
    assert equal(states[0].variables, {"params": states[0].params, "batch_stats": states[0].batch_stats})

    def closed(*values):
        return 0.64 * values[0] + 0.16 * values[1] + 0.2 * values[2]

    expected = jax.tree.map(closed, *({"params": s.params, "batch_stats": s.batch_stats} for s in states))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), states[2].variables, expected
    )
    # Training itself goes on as without an average.
    plain = dataclasses.replace(experiment.task, ema=0.0)
    first = experiment.create_state()
    bare = TrainState(first.step, first.params, first.batch_stats, first.opt_state, first.key)
    after, _ = jax.jit(lambda state, batch: train_step(state, batch, task=plain))(bare, feed.whole_batch(0))
    assert type(after) is TrainState and equal(after.params, states[1].params)


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A run with all that a training can draw."""
    folder = tmp_path_factory.mktemp("run")
    c = recipe(ema=0.7, mixup=0.8, cutmix=1.0, shuffle="units", label_smoothing=0.1, duration="4 steps")
    c.data.randaugment = 1
    c.checkpoint.every = "2 steps"
    c.checkpoint.keep = 3
    return c, folder, train_and_evaluate(c, folder)


def test_the_average_is_saved_evaluated_and_analyzed(everything):
    c, folder, state = everything
    assert isinstance(state, AveragedState)
    run = load_run(folder)
    assert equal(run.variables, jax.device_get(state.average))
    assert not equal(run.variables["params"], jax.device_get(state.params))
    sums = Evaluation(run.experiment.task, run.experiment.dataset, Devices(), c.eval.batch_size)(state)
    logged = [r["test_loss"] for r in read_records(folder) if "test_loss" in r]
    assert logged[-1] == pytest.approx(float(sums["loss"] / sums["count"]), rel=1e-5)
    choices = STUDIES["curves"].run(run, Options()).choices
    assert choices["training images"] == "RandAugment (1, 9), mixup, CutMix"


def test_a_run_that_continues_ends_as_one_that_was_not_stopped(everything, tmp_path):
    c, folder, state = everything
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    shutil.rmtree(again / "checkpoints/4")
    continued = train_and_evaluate(c, again)
    assert equal(jax.device_get(continued.replace(key=None)), jax.device_get(state.replace(key=None)))
