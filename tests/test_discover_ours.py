"""Our own networks, given as functions, are found as what they are, with the same results."""

import functools

import jax
import numpy as np
import pytest
from marks import slow_but
from network_helpers import draw, equal

import resjax
from resjax import analysis, models
from resjax.discovery import NotFound
from resjax.studies.lesions.lesion import lesion
from resjax.studies.lesions.reorder import reorder
from resjax.studies.paths.path_exact import path_spectrum
from resjax.studies.units.responses import responses

SHAPE, CLASSES, BATCH = (6, 6, 2), 3, 4
SMALL = {"stage_sizes": (3, 2), "widths": (2, 3), "dtype": "float64"}
NETWORKS = {
    "post-activation": {"placement": "post"},
    "pre-activation, projection": {"placement": "pre", "transition": "projection"},
    "bottlenecks": {"block": "bottleneck", "stage_sizes": (3,), "widths": (2,)},
    "normalization behind the sum": {"placement": "bn_after_add", "stage_sizes": (2,), "widths": (2,)},
}

pytestmark = pytest.mark.usefixtures("x64_throughout")
each = pytest.mark.parametrize("name", NETWORKS)


@functools.cache
def case(name):
    """(our network, its variables, what was found in its function, images, labels)."""
    fields = {**SMALL, **NETWORKS[name]}
    network = models.build(models.defaults("resnet", **fields), image_shape=SHAPE, num_classes=CLASSES)
    variables = jax.tree.map(np.float64, draw(network, SHAPE))
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(BATCH, *SHAPE)), rng.integers(0, CLASSES, BATCH)

    def train_fn(variables, x, key):
        out = network.apply(variables, x, train=True, key=key)
        return out.logits, {"batch_stats": out.batch_stats}

    def fn(variables, x):
        return network.apply(variables, x).logits

    return network, variables, resjax.discover(fn, variables, images[:1], train_fn=train_fn), images, labels


def assert_same_results(found, expected, *names):
    for name in names:
        there, here = np.asarray(getattr(found, name)), np.asarray(getattr(expected, name))
        assert there.dtype == here.dtype and here.size
        np.testing.assert_allclose(there, here, rtol=1e-9, atol=1e-12)


@each
def test_units_are_those_of_the_network(name):
    network, variables, found, _, _ = case(name)
    assert len(found.units) == network.num_units
    for there, here in zip(found.network.units, network.units, strict=True):
        assert there.stack.stage == here.stack.stage
    assert equal(found.unstack(found.variables), variables)
    for collection in ("params", "batch_stats"):
        ours, theirs = (
            sum(v.size for v in jax.tree.leaves(tree[collection])) for tree in (variables, found.variables)
        )
        assert ours == theirs


@pytest.mark.parametrize("name", slow_but(NETWORKS, "post-activation"))
def test_lesions(name):
    network, variables, found, images, labels = case(name)
    there = lesion(found.network, found.variables, images, labels)
    here = lesion(network, variables, images, labels)
    assert_same_results(there, here, "error", "loss", "kl", "agreement", "intact_error")


@pytest.mark.parametrize("name", slow_but(NETWORKS, "pre-activation, projection"))
def test_spectrum(name):
    network, variables, found, images, labels = case(name)
    there = path_spectrum(found.network, found.variables, images, labels, batch_size=2)
    here = path_spectrum(network, variables, images, labels, batch_size=2)
    assert_same_results(there, here, "norm", "contribution", "total", "length")


@pytest.mark.parametrize("name", slow_but(NETWORKS, "post-activation", "bottlenecks"))
def test_responses(name):
    network, variables, found, images, _ = case(name)
    there = responses(found.network, found.variables, images, batch_size=3)
    here = responses(network, variables, images, batch_size=3)
    ends = [[layer.rpartition("/")[2] for layer in result.layer] for result in (there, here)]
    assert ends[0] == ends[1] and len(set(there.layer)) == len(there.layer)
    assert there.normalized.tolist() == here.normalized.tolist()
    assert_same_results(there, here, "std", "interval")


@pytest.mark.parametrize("name", ["post-activation", "bottlenecks"])
def test_orders(name):
    network, variables, found, images, labels = case(name)
    there = reorder(found.network, found.variables, images, labels)
    here = reorder(network, variables, images, labels)
    assert len(there.fixed) == len(here.fixed)
    assert_same_results(there, here, "order", "error", "loss", "kl", "intact_error")


@pytest.mark.parametrize("name", slow_but(NETWORKS, "post-activation", "normalization behind the sum"))
def test_training_mode(name):
    network, variables, found, images, _ = case(name)
    key = jax.random.key(0)

    @functools.partial(jax.jit, static_argnums=0)
    def train(network, variables):
        out = network.apply(variables, images, train=True, key=key)
        return out.logits, out.batch_stats

    logits, statistics = train(network, variables)
    there, found_statistics = train(found.network, found.variables)
    np.testing.assert_allclose(there, logits, rtol=1e-9)
    home = found.unstack({**found.variables, "batch_stats": found_statistics})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), home["batch_stats"], statistics)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["post-activation", "pre-activation, projection"])
def test_signals_in_training(name):
    network, variables, found, images, labels = case(name)
    ours, theirs = (network, variables, images), (found.network, found.variables, images)
    backward = [analysis.backward_signal(*own, labels, batch_size=2) for own in (theirs, ours)]
    assert_same_results(*backward, "total", "shortcut", "rest", "cosine")
    variance = [analysis.branch_variance(*own, batch_size=2) for own in (theirs, ours)]
    assert_same_results(*variance, "shortcut", "branch", "output", "position")
    gradient = [analysis.gradients(*own, labels, batch_size=2) for own in (theirs, ours)]
    assert_same_results(*gradient, "loss", "activation")
    np.testing.assert_allclose(*(np.sort(own.norm[0]) for own in gradient), rtol=1e-9)
    assert {own.choices["BatchNorm"] for own in gradient} == {"statistics of the batch"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["post-activation", "pre-activation, projection"])
def test_statistics_are_estimated_again(name):
    network, variables, found, images, labels = case(name)
    reference = np.random.default_rng(1).normal(size=(8, *SHAPE))
    there, here = (
        analysis.recalibrate(*own, images, labels, reference=reference, batch_size=4)
        for own in ((found.network, found.variables), (network, variables))
    )
    assert_same_results(there, here, "error", "loss", "kl", "agreement", "intact_loss")
    subsets = np.tri(network.num_units, dtype=bool)
    there, here = (
        analysis.delete_subsets(*own, images, labels, subsets, recalibrate_on=reference, batch_size=4)
        for own in ((found.network, found.variables), (network, variables))
    )
    assert_same_results(there, here, "error", "loss", "kl", "agreement", "intact_loss")


@pytest.mark.parametrize("model", ["vgg", "alexnet", "lenet5"])
def test_networks_without_shortcuts_are_refused(model):
    shape = (64, 64, 3) if model == "alexnet" else (32, 32, 3)
    network = models.build(models.defaults(model), image_shape=shape, num_classes=CLASSES)
    variables = jax.eval_shape(lambda key: network.init(key, shape), jax.random.key(0))
    example = jax.ShapeDtypeStruct((2, *shape), np.float32)
    with pytest.raises(NotFound, match=r"no residual units.*without shortcuts"):
        resjax.discover(lambda v, x: network.apply(v, x).logits, variables, example)
