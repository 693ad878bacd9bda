"""Soft targets of a teacher: the loss, the step that learns from them, and devices around it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from network_helpers import draw, programs

from resjax import config as configs
from resjax.data import statistics
from resjax.network.losses import distillation
from resjax.training.devices import Devices
from resjax.training.diagnosis import first_nonfinite
from resjax.training.experiment import load_experiment
from resjax.training.feed import Feed
from resjax.training.step import Teacher, train_step, training_input


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def by_hand(z, teacher, temperature):
    """T² Σ p (log p − log q), in float64."""
    p, q = (softmax(np.asarray(a, np.float64) / temperature) for a in (teacher, z))
    return temperature**2 * np.sum(p * (np.log(p) - np.log(q)), -1)


@pytest.fixture(scope="module")
def logits():
    """(of the network, of the teacher), float32 [5, 7]."""
    return np.random.default_rng(0).normal(0, 3, (2, 5, 7)).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_loss_on_soft_targets(logits, temperature):
    own, teacher = logits
    np.testing.assert_allclose(
        distillation(own, teacher, temperature), by_hand(own, teacher, temperature), rtol=1e-4
    )
    np.testing.assert_allclose(distillation(own, own + 3, temperature), np.zeros(5), atol=1e-4)


def test_its_gradient_is_that_of_the_cross_entropy_with_soft_targets(logits):
    """T (softmax(z / T) − softmax(v / T)); for a large T, of logits with mean 0, (z − v) / classes."""
    own, teacher = (z - z.mean(-1, keepdims=True) for z in logits)
    gradient = jax.jit(jax.grad(lambda z, t: jnp.sum(distillation(z, teacher, t))))
    for temperature in (0.7, 4.0):
        expected = temperature * (softmax(own / temperature) - softmax(teacher / temperature))
        np.testing.assert_allclose(gradient(own, temperature), expected, rtol=1e-3, atol=1e-5)
    # Hinton, Vinyals & Dean 2015, Eq. 4, times T².
    np.testing.assert_allclose(gradient(own, 300.0), (own - teacher) / 7, rtol=0.05, atol=5e-3)


def test_it_is_finite_for_certain_teachers_and_computed_in_float32(logits):
    own, teacher = 100 * logits
    assert np.all(np.isfinite(distillation(own, teacher, 0.1)))
    half = distillation(own.astype(jnp.bfloat16), teacher.astype(jnp.bfloat16), 4.0)
    assert half.dtype == jnp.float32


def config_of(**model):
    c = configs.default("resnet", **{"stage_sizes": (1,), "widths": (3,), **model})
    c.data.train_examples = 64
    c.data.pad, c.data.flip, c.data.pad_with = 1, True, "black"
    c.train.batch_size = 16
    c.train.steps_per_dispatch = 2
    c.optimizer.momentum = c.optimizer.weight_decay = 0.0
    c.optimizer.schedule = "constant"
    return c


@pytest.fixture(scope="module")
def experiment():
    return load_experiment(config_of())


@pytest.fixture(scope="module")
def batch(experiment):
    return Feed(experiment.config, experiment.dataset, Devices(), 0).whole_batch(0)


@pytest.fixture(scope="module")
def teacher(experiment):
    """A wider network, whose images have other constants."""
    wide = load_experiment(config_of(widths=(5,)))
    info = dataclasses.replace(experiment.dataset.info, mean=(0.1,), std=(0.7,))
    constants = statistics(dataclasses.replace(experiment.dataset, info=info), "channel", "black")
    variables = draw(wide.task.network, info.image_shape)
    return jax.tree.map(jnp.asarray, Teacher(variables, constants, wide.task.network, 3.0, 0.8))


@pytest.fixture(scope="module")
def step(experiment):
    return jax.jit(functools.partial(train_step, task=experiment.task))


def images_of_the_teacher(x, task, teacher):
    """The same pixels, borders included, with the teacher's constants: an affine map."""
    ours, theirs = task.constants, teacher.constants
    return (x * ours.std + ours.mean - theirs.mean) / theirs.std


@pytest.mark.slow
def test_a_step_is_that_of_the_loss_by_hand(experiment, batch, teacher, step):
    task, state = experiment.task, experiment.create_state()
    x, _, key, _ = training_input(state, batch, task=task)
    seen = images_of_the_teacher(x, task, teacher)
    assert np.abs(seen - x).max() > 0.5
    targets = jax.nn.softmax(teacher.network.apply(teacher.variables, seen).logits / 3)

    def loss(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        z = task.network.apply(variables, x, train=True, key=key).logits
        soft = jnp.sum(targets * (jnp.log(targets) - jax.nn.log_softmax(z / 3)), -1)
        labels = optax.softmax_cross_entropy_with_integer_labels(z, batch["label"])
        return jnp.mean(0.2 * labels + 0.8 * 9 * soft)

    value, gradient = jax.jit(jax.value_and_grad(loss))(state.params)
    new, metrics = step(state, batch, teacher)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, gradient)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), new.params, expected)


def test_the_variables_of_a_teacher_are_arguments_of_the_program(experiment, batch, teacher, step):
    state, before = experiment.create_state(), programs(step)
    other = teacher.replace(variables=jax.tree.map(lambda v: v * 1.5, teacher.variables))
    losses = [float(step(state, batch, own)[1]["loss"]) for own in (teacher, other)]
    assert abs(losses[0] - losses[1]) > 1e-3 and programs(step) == before + (before == 0)


@pytest.mark.slow
def test_a_weight_of_0_is_a_step_without_a_teacher(experiment, batch, teacher, step):
    state = experiment.create_state()
    alone, found = step(state, batch)
    ignored, same = step(state, batch, teacher.replace(weight=0.0))
    np.testing.assert_allclose(found["loss"], same["loss"], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), alone.params, ignored.params)


def test_a_network_that_equals_its_teacher_learns_nothing(batch):
    """Without BatchNorm, whose inference mode differs. The teacher sees the network's crops and flips."""
    plain = load_experiment(config_of(norm=False, branch_scale="skipinit"))
    task, state = plain.task, plain.create_state()
    drawn = jax.tree.map(jnp.asarray, draw(task.network, plain.dataset.info.image_shape))
    state = state.replace(params=drawn["params"])
    own = Teacher(state.variables, task.constants, task.network, 4.0, 1.0)
    new, metrics = jax.jit(functools.partial(train_step, task=task))(state, batch, own)
    assert abs(float(metrics["loss"])) < 1e-5
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), new.params, state.params)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_eight_devices_agree_with_one(teacher, mode):
    """Under pmap where there is no BatchNorm, which would see the shares."""
    model = {} if mode == "jit" else {"norm": False, "branch_scale": "skipinit"}
    experiment = load_experiment(config_of(**model))
    found = []
    for devices in (Devices(devices=jax.devices()[:1]), Devices(mode)):
        feed = Feed(experiment.config, experiment.dataset, devices, 0)
        state, own = devices.copy((experiment.create_state(), teacher))
        run, count = devices.train_program(experiment.task), jnp.int32(2)
        new, metrics = run(state, feed.images, feed.batches(0, 2), jnp.int32(0), count, own)
        found.append(jax.device_get((metrics["loss"], new.params)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4), *found)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_network_in_half_precision_has_a_loss_in_float32(batch, teacher, dtype):
    half = load_experiment(config_of(dtype=dtype))
    run = functools.partial(train_step, task=half.task)
    new, metrics = jax.eval_shape(run, half.state_shapes, batch, teacher)
    assert metrics["loss"].dtype == jnp.float32
    shapes = [jax.tree.map(lambda a: (a.shape, a.dtype), s) for s in (new, half.state_shapes)]
    assert shapes[0] == shapes[1]


def test_what_is_not_finite_is_traced_to_the_teacher(experiment, batch, teacher):
    state = experiment.create_state()
    broken = teacher.replace(variables=jax.tree.map(lambda v: v * jnp.nan, teacher.variables))
    said = first_nonfinite(state, batch, broken, task=experiment.task)
    assert said == "the output of the teacher"
