"""Random orders of equal units in training (LayerShuffle)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pattern_helpers import mixed

from resjax import config as configs
from resjax import models
from resjax.network.losses import cross_entropy
from resjax.network.shuffle import check, shuffled
from resjax.training.devices import Devices
from resjax.training.diagnosis import first_nonfinite
from resjax.training.experiment import load_experiment
from resjax.training.feed import Feed
from resjax.training.step import train_step, training_input


def network_of(name, **fields):
    return models.build(configs.default(name, **fields).model, image_shape=(8, 8, 1), num_classes=10)


@pytest.fixture(scope="module")
def vit():
    return network_of("vit", size="digits", depth=3)


def orders(network, kind, draws=120):
    keys = jax.random.split(jax.random.key(0), draws)
    return np.asarray(jax.jit(jax.vmap(lambda key: shuffled(key, network, kind)))(keys))


@pytest.mark.parametrize("kind", ["units", "layers"])
def test_only_equal_units_move_and_each_runs_once(vit, kind):
    drawn = orders(vit, kind)
    np.testing.assert_array_equal(np.sort(drawn, 1), np.broadcast_to(np.arange(6), drawn.shape))
    assert (drawn % 2 == np.arange(6) % 2).all()  # attention at the places of attention
    apart = (drawn[:, 1::2] != drawn[:, ::2] + 1).any(1)
    assert not apart.any() if kind == "layers" else apart.mean() > 0.5
    # Each of the 3! orders is missed with probability 3e-10.
    assert len({tuple(order) for order in drawn[:, ::2].tolist()}) == 6


def test_layers_of_several_equal_units_move_together():
    drawn = orders(mixed(), "layers", 60)  # mixing ×2 and a unit of layers, twice; then one more
    there, swapped = [0, 1, 2, 3, 4, 5, 6, 7], [0, 4, 5, 6, 1, 2, 3, 7]
    assert {tuple(order) for order in drawn.tolist()} == {tuple(there), tuple(swapped)}


def test_the_same_key_gives_the_same_order(vit):
    key = jax.random.key(5)
    np.testing.assert_array_equal(shuffled(key, vit, "layers"), shuffled(key, vit, "layers"))


def test_units_of_a_resnet_stay_in_their_stage():
    network = network_of("resnet", depth=20, widths=(4, 4, 8), transition="pad_subsample")
    drawn = orders(network, "units", 60)
    for own in network.classes:
        np.testing.assert_array_equal(np.sort(drawn[:, own], 1), np.broadcast_to(own, drawn[:, own].shape))
    moved = (drawn != np.arange(network.num_units)).any(0)
    assert moved.tolist() == [len(c) > 1 for u in range(network.num_units) for c in network.classes if u in c]


def test_a_network_without_equal_units_is_refused():
    network = models.build(configs.default("lenet5").model, image_shape=(32, 32, 1), num_classes=10)
    with pytest.raises(ValueError, match=r"train\.shuffle='units'.*no two units"):
        check(network, "units")
    check(network, "none")


@pytest.mark.slow
def test_a_step_runs_the_units_in_the_order_that_was_drawn():
    c = configs.default("vit", size="digits", depth=2, width=8, heads=2, mlp_width=8)
    c.data.name, c.data.train_examples, c.train.batch_size, c.train.shuffle = "digits", 16, 16, "units"
    experiment = load_experiment(c)
    task, state = experiment.task, experiment.create_state()
    # A key whose order is none that layers could have.
    keys = jax.random.split(jax.random.key(0), 64)
    drawn = jax.jit(jax.vmap(lambda key: _order(state, key, task)))(keys).tolist()
    state = state.replace(key=keys[drawn.index([2, 1, 0, 3])])
    batch = Feed(c, experiment.dataset, Devices(), 0).whole_batch(0)
    x, labels, *_ = training_input(state, batch, task=task)
    logits = task.network.apply(state.variables, x, order=[2, 1, 0, 3]).logits
    _, metrics = jax.jit(lambda state, batch: train_step(state, batch, task=task))(state, batch)
    np.testing.assert_allclose(metrics["loss"], cross_entropy(logits, labels.own).mean(), rtol=1e-5)
    straight = dataclasses.replace(task, shuffle="none")
    _, other = jax.jit(lambda state, batch: train_step(state, batch, task=straight))(state, batch)
    assert abs(other["loss"] - metrics["loss"]) > 1e-6

    params = jax.tree.map(lambda a: a, state.params)
    kernel = params["attention"]["branch"]["out"]["kernel"]
    params["attention"]["branch"]["out"]["kernel"] = kernel.at[1].set(jnp.nan)  # of unit 2, which runs first
    where = first_nonfinite(state.replace(params=params), batch, task=task)
    assert where == f"the output of {task.network.units[2].name}"


def _order(state, key, task):
    image, label = jnp.zeros((1, 8, 8, 1), jnp.uint8), jnp.zeros(1, jnp.int32)
    batch = {"image": image, "label": label, "slot": jnp.zeros(1, jnp.int32)}
    return training_input(state.replace(key=key), batch, task=task).order
