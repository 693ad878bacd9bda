"""A network of one's own: some thirty lines give it gates, orders and stacked variables."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network_helpers import draw, equal, on_stack

from resjax import models
from resjax.models.layers import BatchNorm, Conv, Dense
from resjax.models.residual import ResidualUnit
from resjax.models.shortcuts import Shortcut
from resjax.models.stem_head import Stem
from resjax.network import Network, Stack
from resjax.network.unit import Unit

SHAPE = (6, 6, 3)


class GatedBlock(Unit):
    """tanh units beside an identity, whose sum is normalized."""

    features: int

    def setup(self):
        self.conv = Conv(self.features)
        self.bn = BatchNorm()

    def split(self, x, train):
        return x, jnp.tanh(self.conv(x))

    def merge(self, z, train):
        return self.bn(z, train)


class MeanHead(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, h, train):
        return Dense(self.classes)(jnp.mean(h, (1, 2)))


def test_gates_and_orders():
    x = jax.random.normal(jax.random.key(1), (4, *SHAPE))
    own = Network(Stem(4), (Stack("blocks", GatedBlock(4), 3, 1),), MeanHead(3))
    v = draw(own, SHAPE)
    run = jax.jit(lambda v, g, o: own.apply(v, x, gates=g, order=o).logits)
    gates, order = jnp.array([1.0, 0.0, 0.5]), jnp.array([2, 0, 1])
    permuted = on_stack(v, "blocks", lambda a: a[order])
    assert equal(run(v, gates, order), run(permuted, gates[order], jnp.arange(3)))
    gradient = jax.jit(jax.grad(lambda g: run(v, g, order).sum()))(gates)
    assert gradient.shape == (3,) and np.all(np.asarray(gradient) != 0)
    assert own.deletable(v, SHAPE).all()


def test_a_unit_must_say_what_it_does():
    class Silent(Unit):
        pass

    network = Network(Stem(4), (Stack("s", Silent(), 1, 1),), MeanHead(3))
    with pytest.raises(NotImplementedError, match=r"Silent must define split"):
        draw(network, SHAPE)


# --- float64: where two ways differ in float32 by rounding, here they must not ---


def test_loops_agree_with_one_another_and_with_a_python_loop_in_float64(x64):
    """Gradients of scan, of the unrolled loop and of a plain Python loop over the units, to 1e-12."""
    unit = ResidualUnit(
        Shortcut(4, 4, 1, "pad_subsample", dtype=jnp.float64),
        ((3, 4, 1),),
        dtype=jnp.float64,
    )
    stack = Stack("units", unit, 2, 1)
    own = Network(Stem(4), (stack,), MeanHead(3))
    v = draw(own, SHAPE)
    v = jax.tree.map(lambda a: a.astype(jnp.float64), v)
    h = jax.random.normal(jax.random.key(1), (3, 6, 6, 4), jnp.float64)
    gates = jnp.array([0.1, 0.7])

    def by_stack(v, gates, network):
        return network.run_stack(stack, v, h, gates=gates, train=True)[0]

    def by_hand(v, gates):
        y = h
        for i in range(2):
            part = {c: jax.tree.map(lambda a, i=i: a[i], v[c]["units"]) for c in v}
            y, _ = unit.apply(part, y, gates[i], True, mutable=["batch_stats"])
        return y

    def value_and_gradients(f):
        return jax.jit(jax.value_and_grad(lambda v, g: jnp.mean(jnp.sin(f(v, g))), (0, 1)))(v, gates)

    expected = value_and_gradients(by_hand)
    assert expected[0].dtype == jnp.float64
    for unroll in (1, 99):
        network = dataclasses.replace(own, unroll=unroll)
        got = value_and_gradients(functools.partial(by_stack, network=network))
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            assert a.dtype == jnp.float64
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_a_builder_is_found_by_its_path(tmp_path, monkeypatch):
    """What a user writes in a module of their own is a model like any other."""
    (tmp_path / "my_networks.py").write_text(
        "from resjax.models import resnet\n\n"
        "def tiny(*, image_shape, num_classes, width=4):\n"
        "    return resnet(image_shape=image_shape, num_classes=num_classes, depth=8, widths=(width,) * 3)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = models.defaults("my_networks:tiny", width=2)
    shared = {"cut": (), "map": "none", "map_rank": 8, "cut_again": ()}
    assert config.to_dict() == {"name": "my_networks:tiny", "width": 2, **shared}
    network = models.build(config, image_shape=(8, 8, 1), num_classes=10)
    assert network.num_units == 3


@pytest.mark.parametrize("name", ["mine", "no_such_module:tiny", "resjax.models:no_such_builder"])
def test_a_builder_that_is_not_there_is_refused(name):
    with pytest.raises(ValueError, match=r"package\.module:function"):
        models.build({"name": name}, image_shape=(8, 8, 1), num_classes=10)


def test_units_without_parameters_run_in_a_loop():
    class Halve(Unit):
        def split(self, x, train):
            return x, -x / 2

    network = Network(Stem(4), (Stack("halves", Halve(), 3, 1),), MeanHead(3))
    v = draw(network, SHAPE)
    x = jax.random.normal(jax.random.key(1), (2, *SHAPE))
    h, _ = network.run_stem(v, x)
    assert equal(network.apply(v, x).logits, network.run_head(v, h / 8)[0])
