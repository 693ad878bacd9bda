"""Mixup and CutMix against their definitions, and the loss against that of soft labels."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resjax.network.losses import cross_entropy
from resjax.training.mixing import Labels, box, mixed, partners

B, H, W = 16, 6, 10
PARTNERS = np.arange(B) ^ 1


@functools.partial(jax.jit, static_argnames=("mixup", "cutmix"))
def run(x, labels, key, mixup=0.0, cutmix=0.0):
    return mixed(x, labels, key, mixup=mixup, cutmix=cutmix)


def batch():
    x = np.random.default_rng(0).normal(size=(B, H, W, 2)).astype(np.float32)
    return jnp.asarray(x), jnp.arange(B, dtype=jnp.int32)


def test_mixup_is_a_weighted_mean_of_two_examples():
    x, labels = batch()
    out, mixture = run(x, labels, jax.random.key(0), mixup=0.8)
    share = float(mixture.share)
    assert 0 < share < 1
    np.testing.assert_allclose(out, share * x + (1 - share) * x[PARTNERS], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(mixture.own, labels)
    np.testing.assert_array_equal(mixture.other, labels[PARTNERS])


def test_cutmix_puts_a_box_of_another_example_in():
    x, labels = batch()
    out, mixture = run(x, labels, jax.random.key(3), cutmix=1.0)
    kept, taken = np.asarray(out == x).all((0, 3)), np.asarray(out == x[PARTNERS]).all((0, 3))
    np.testing.assert_array_equal(kept, ~taken)  # the same box in all examples
    rows, columns = taken.any(1), taken.any(0)
    np.testing.assert_array_equal(taken, rows[:, None] & columns[None])  # a box
    assert 0 < taken.sum() < H * W and float(mixture.share) == pytest.approx(kept.mean())


def test_the_box_has_the_share_of_the_area_where_it_fits():
    keys = jax.random.split(jax.random.key(0), 200)
    areas = np.asarray(jax.jit(jax.vmap(lambda key: box(0.75, key, (40, 80))))(keys)).sum((1, 2))
    assert areas.max() == 40 * 80 / 4 and areas.min() < 40 * 80 / 4  # cut off at the border


def test_one_weight_a_step_and_half_of_the_steps_each():
    """λ ~ Beta(1, 1) is uniform; CutMix's λ is a whole number of the H·W pixels."""
    x, labels = batch()
    each = jax.vmap(lambda key: mixed(x, labels, key, mixup=1.0, cutmix=1.0)[1].share)
    shares = np.asarray(jax.jit(each)(jax.random.split(jax.random.key(1), 400)))
    of_cutmix = np.isclose(shares * H * W % 1, 0, atol=1e-4) | np.isclose(shares * H * W % 1, 1, atol=1e-4)
    assert 150 < of_cutmix.sum() < 250
    of_mixup = shares[~of_cutmix]
    assert abs(of_mixup.mean() - 0.5) < 0.1 and abs(of_mixup.std() - 12**-0.5) < 0.05


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_that_of_soft_labels(smoothing):
    logits = jax.random.normal(jax.random.key(0), (B, 5))
    own, other = jnp.arange(B) % 5, jnp.arange(B)[::-1] % 5
    loss = Labels(own, other, jnp.float32(0.7)).weigh(lambda labels: cross_entropy(logits, labels, smoothing))
    soft = 0.7 * jax.nn.one_hot(own, 5) + 0.3 * jax.nn.one_hot(other, 5)
    soft = (1 - smoothing) * soft + smoothing / 5
    np.testing.assert_allclose(loss, optax.softmax_cross_entropy(logits, soft), rtol=1e-5)


def test_the_main_label_has_the_larger_weight():
    own, other = jnp.array([1, 2]), jnp.array([3, 4])
    assert Labels(own, other, jnp.float32(0.6)).main.tolist() == [1, 2]
    assert Labels(own, other, jnp.float32(0.4)).main.tolist() == [3, 4]
    assert Labels(own).main is own


def test_eight_devices_agree_with_one():
    x, labels = batch()
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]), ("data",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    given = jax.device_put(x, split), jax.device_put(labels, split), jax.random.key(2)
    spread, mixture = run(*given, mixup=1.0)
    alone, expected = run(x, labels, jax.random.key(2), mixup=1.0)
    np.testing.assert_array_equal(spread, alone)
    np.testing.assert_array_equal(mixture.other, expected.other)


def test_devices_do_not_wait_for_images_of_each_other():
    """Devices that share a CPU have one thread each: two exchanges in different orders never end."""
    x, labels = batch()
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]), ("data",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    given = jax.device_put(x, split), jax.device_put(labels, split), jax.random.key(2)
    program = run.lower(*given, mixup=1.0, cutmix=1.0).compile().as_text()
    assert not re.findall("collective-permute|all-to-all|all-gather|all-reduce", program)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_last_of_an_odd_batch_stays(size):
    exchanged = [i ^ 1 if i ^ 1 < size else i for i in range(size)]
    np.testing.assert_array_equal(partners(jnp.arange(size)), exchanged)


def test_nothing_asked_nothing_done():
    x, labels = batch()
    out, same = mixed(x, labels, jax.random.key(0), mixup=0.0, cutmix=0.0)
    assert out is x and same == Labels(labels)
