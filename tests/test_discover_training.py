"""Training mode: the statistics and the gradients are those of the function in training mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from discover_helpers import MAKERS, assert_close, case, found_in, jitted, labels_for, loss, paths_of

from resjax.discovery import NotFound

pytestmark = pytest.mark.usefixtures("x64_throughout", "foreign_code")

TRAINED = [name for name in MAKERS if "ResNet" in name and not name.startswith("equinox")]


@pytest.mark.parametrize("name", TRAINED)
def test_logits_and_statistics(name):
    own, found = case(name, double=True), found_in(name, double=True)
    key = jax.random.key(0)

    def network(variables, x):
        out = found.network.apply(variables, x, train=True, key=key)
        return out.logits, out.batch_stats

    logits, statistics = jitted(network, found.variables, own.example)
    expected, new = jitted(lambda v, x: own.train_fn(v, x, key), own.variables, own.example)
    assert_close(logits, expected)
    assert np.abs(logits - jitted(own.fn, own.variables, own.example)).max() > 1e-3
    home = own.statistics(found.unstack({**found.variables, "batch_stats": statistics}))
    old = paths_of(own.statistics(own.variables))
    there, here = paths_of(home), paths_of(new)
    assert there.keys() == here.keys() == old.keys()
    for path, value in here.items():
        assert_close(there[path], value)
    assert any(np.abs(old[path] - value).max() > 1e-3 for path, value in here.items())


@pytest.mark.parametrize("name", TRAINED)
def test_gradients_of_the_parameters(name):
    own, found = case(name, double=True), found_in(name, double=True)
    labels, key = labels_for(own), jax.random.key(0)

    def network(params, rest, x):
        variables = {**rest, "params": params}
        return loss(found.network.apply(variables, x, train=True, key=key).logits, labels).mean()

    def function(variables, x):
        return loss(own.train_fn(variables, x, key)[0], labels).mean()

    stacked = dict(found.variables)
    gradient = jitted(jax.grad(network), stacked.pop("params"), stacked, own.example)
    zeros = jax.tree.map(np.zeros_like, found.variables)
    there = paths_of(found.unstack({**zeros, "params": gradient}))
    here = paths_of(jitted(jax.grad(function, allow_int=True), own.variables, own.example))
    statistics = [path for path in here if here[path].dtype != np.float64 or is_statistic(own, path)]
    assert here.keys() == there.keys() and len(here) > len(statistics)
    for path in here.keys() - set(statistics):
        # A bias in front of a normalization has no gradient but rounding.
        np.testing.assert_allclose(there[path], here[path], rtol=1e-8, atol=1e-12)


def is_statistic(own, path):
    return any(path.endswith(known) for known in paths_of(own.statistics(own.variables)))


@pytest.mark.parametrize("name", ["linen: ViT", "plain_jax: ConvNeXt, NCHW"])
def test_training_mode_must_be_given(name):
    found = found_in(name)
    with pytest.raises(NotFound, match="train_fn"):
        found.network.apply(found.variables, case(name).example, train=True, key=jax.random.key(0))


def test_orders_in_training_keep_statistics_with_their_units():
    name = "linen: post-activation ResNet"
    own, found = case(name, double=True), found_in(name, double=True)

    def network(variables, x, order):
        return found.network.apply(variables, x, train=True, order=order, key=jax.random.key(0)).batch_stats

    statistics = jitted(network, found.variables, own.example, jnp.array([1, 0, 2]))
    home = found.unstack({**found.variables, "batch_stats": statistics})["batch_stats"]
    swapped = {
        c: {**tree, "block0": tree["block1"], "block1": tree["block0"]} for c, tree in own.variables.items()
    }
    _, new = jitted(lambda v, x: own.train_fn(v, x, None), swapped, own.example)
    for here, there in (("block0", "block1"), ("block1", "block0"), ("block2", "block2")):
        jax.tree.map(assert_close, home[here], new["batch_stats"][there])
