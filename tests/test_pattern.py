"""Networks whose equal units alternate with others, beside the same ones without groups, unit for unit.

Two pairs. *Blocks* alternate: a mixing unit and a two-layer unit, five times, behind a unit of another shape.
The *mixed* network has stacks of two in its periods, rows in another order, and a unit that stands alone.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network_helpers import draw

from resjax.models.layers import BatchNorm
from resjax.network import Network, Stack, Unit
from resjax.network.periods import loops

SHAPE, WIDTH, CLASSES = (4, 4, 3), 6, 3


class Mixing(Unit):
    """Mixes positions, as attention does."""

    def setup(self):
        self.norm = nn.LayerNorm()
        self.mix = nn.Dense(16)

    def split(self, x, train):
        rows = jnp.swapaxes(self.norm(x).reshape(len(x), 16, -1), 1, 2)
        return x, jnp.swapaxes(self.mix(jnp.tanh(rows)), 1, 2).reshape(x.shape)


class Layers(Unit):
    """Two layers on channels, and a BatchNorm; a ReLU follows the sum."""

    def setup(self):
        self.inner, self.norm, self.outer = nn.Dense(5), BatchNorm(), nn.Dense(WIDTH)
        self.drop = nn.Dropout(0.3)

    def split(self, x, train):
        hidden = nn.relu(self.norm(self.inner(x), train))
        return x, self.outer(self.drop(hidden, deterministic=not train))

    def merge(self, z, train):
        return nn.relu(z)


class Widening(Unit):
    def setup(self):
        self.branch, self.projection = nn.Dense(WIDTH), nn.Dense(WIDTH)

    def split(self, x, train):
        return self.projection(x), jnp.tanh(self.branch(x))


class Stem(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(4)(x)


class Head(nn.Module):
    @nn.compact
    def __call__(self, h, train):
        return nn.Dense(CLASSES)(jnp.mean(h, (1, 2)))


def blocks(count, grouped=True):
    group = ("mixing", "layers") if grouped else ("", "")
    stacks = [Stack("widening", Widening(), 1, 1)]
    for i in range(count):
        start = i if grouped else 0
        stacks += [
            Stack(f"mixing{i}", Mixing(), 1, 1, group[0], start),
            Stack(f"layers{i}", Layers(), 1, 1, group[1], start),
        ]
    return Network(Stem(), tuple(stacks), Head())


def mixed():
    """mixing ×2, layers, mixing ×2, layers, layers; rows of the layers are in another order than their units."""
    stacks = (
        Stack("widening", Widening(), 1, 1),
        Stack("a", Mixing(), 2, 1, "mixing", 0),
        Stack("b", Layers(), 1, 1, "layers", 2),
        Stack("c", Mixing(), 2, 1, "mixing", 2),
        Stack("d", Layers(), 1, 1, "layers", 0),
        Stack("e", Layers(), 1, 1, "layers", 1),
    )
    return Network(Stem(), stacks, Head())


def without_groups(network):
    stacks = tuple(dataclasses.replace(stack, group="", start=0) for stack in network.stacks)
    return dataclasses.replace(network, stacks=stacks)


def apart(network, variables):
    """Variables of ``network`` as those of ``without_groups``."""
    return {
        collection: {
            **{name: own for name, own in tree.items() if name in ("stem", "head")},
            **{
                s.name: jax.tree.map(lambda v, s=s: v[s.start : s.start + s.n], tree[s.part])
                for s in network.stacks
                if s.part in tree
            },
        }
        for collection, tree in variables.items()
    }


NETWORKS = {"blocks": blocks(3), "mixed": mixed()}
IMAGES = np.random.default_rng(1).normal(size=(6, *SHAPE)).astype(np.float32)
LABELS = np.arange(6) % CLASSES


@pytest.fixture(params=list(NETWORKS))
def pair(request):
    """(network, its variables, the same without groups, its variables)."""
    network = NETWORKS[request.param]
    variables = draw(network, SHAPE)
    return network, variables, without_groups(network), apart(network, variables)


def close(a, b, rtol=2e-5, atol=2e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def test_the_loops_are_those_of_the_periods():
    def found(network):
        return [
            [[s.name for s in place.stacks] for place in own]
            for own in loops(network.places(draw(network, SHAPE)))
        ]

    assert found(blocks(2)) == [[["widening"]], [["mixing0", "mixing1"], ["layers0", "layers1"]]]
    assert found(mixed()) == [[["widening"]], [["a", "c"], ["b", "d"]], [["e"]]]
    assert found(blocks(2, grouped=False)) == [
        [[name]] for name in ("widening", "mixing0", "layers0", "mixing1", "layers1")
    ]
    alone = dataclasses.replace(mixed(), stacks=mixed().stacks[3:4] + mixed().stacks[1:2])
    assert found(alone) == [[["c", "a"]]]


@pytest.mark.parametrize("how", ["train", "test"])
def test_apply_is_that_of_the_network_without_groups(pair, how):
    network, variables, other, own = pair
    n, train = network.num_units, how == "train"
    gates = np.linspace(0.2, 1.5, n).astype(np.float32)
    given = {"gates": gates, "train": train, "key": jax.random.key(3) if train else None}
    tap = {"tap": lambda parts: {"y": jnp.mean(parts.y), "f": jnp.std(parts.branch)}}
    out, expected = (
        jax.jit(lambda v, x, net=net: net.apply(v, x, **given, **tap))(v, IMAGES)
        for net, v in ((network, variables), (other, own))
    )
    close(out.logits, expected.logits)
    close(out.taps, expected.taps)
    assert jax.tree.structure(out.batch_stats) == jax.tree.structure(variables["batch_stats"])
    close(apart(network, {"batch_stats": out.batch_stats})["batch_stats"], expected.batch_stats)
    changed = jax.tree.map(lambda a, b: not np.allclose(a, b), out.batch_stats, variables["batch_stats"])
    assert jax.tree.all(changed) == train
