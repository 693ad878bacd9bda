"""Analyses of images and variables that lie on many devices: the numbers are those of one device."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from network_helpers import draw

from resjax.analysis import branch_variance, lesion, path_spectrum
from resjax.models.resnet import resnet

SHAPE, CLASSES = (6, 6, 1), 3


@pytest.fixture(scope="module")
def example():
    """(network, variables, images, labels), on no device yet."""
    network = resnet(image_shape=SHAPE, num_classes=CLASSES, stage_sizes=(2,), widths=(3,), placement="post")
    rng = np.random.default_rng(1)
    images = rng.normal(size=(16, *SHAPE)).astype(np.float32)
    return network, jax.device_get(draw(network, SHAPE)), images, rng.integers(0, CLASSES, 16)


@pytest.fixture(scope="module")
def spread(example):
    """The same, images and labels shared by eight devices and variables copied to each."""
    network, variables, images, labels = example
    mesh = Mesh(np.array(jax.devices()), ("data",))
    split, copied = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    images, labels = jax.device_put((images, labels.astype(np.int32)), split)
    assert len(images.sharding.device_set) == 8 and not images.is_fully_replicated
    return network, jax.device_put(variables, copied), images, labels


@pytest.mark.parametrize("analysis", [lesion, path_spectrum, branch_variance])
def test_eight_devices_agree_with_one(analysis, example, spread):
    count = 3 if analysis is branch_variance else 4  # it needs no labels
    results = [analysis(*given[:count], batch_size=8) for given in (example, spread)]
    for field in dataclasses.fields(results[0]):
        one, eight = (getattr(result, field.name) for result in results)
        if isinstance(one, np.ndarray | float):
            assert np.all(np.isfinite(one))
            np.testing.assert_allclose(eight, one, rtol=1e-5, atol=1e-6, err_msg=field.name)
        else:
            assert eight == one


def test_gates_on_images_of_eight_devices(example, spread):
    """What analyses call: here the batch stays where it is, eight devices compute two images each."""
    network = example[0]
    run = jax.jit(lambda v, x, gates: network.apply(v, x, gates=gates).logits)
    gates = jnp.array([1.0, 0.0])
    one, eight = (run(v, x, gates) for _, v, x, _ in (example, spread))
    assert len(eight.sharding.device_set) == 8 and len(one.sharding.device_set) == 1
    np.testing.assert_allclose(eight, one, rtol=1e-5, atol=1e-6)
