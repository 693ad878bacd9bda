"""Networks whose equal units alternate with others, each beside the same one without groups.

``blocks`` alternate: a mixing unit and a two-layer unit, behind a unit of another shape. ``mixed`` has a
stack of two in its periods, rows in another order, and a unit behind the periods. ``Masked`` networks read a
mask of their input beside the state, and share the weights of stem and head.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from resjax.models.layers import BatchNorm
from resjax.network import Network, Stack, Unit

SHAPE, WIDTH, CLASSES = (4, 4, 3), 6, 3


class Mixing(Unit):
    """Mixes positions, as attention does; of those that a mask leaves, where there is one."""

    def setup(self):
        self.norm = nn.LayerNorm()
        self.mix = nn.Dense(16)

    def split(self, x, train):
        seen = self.norm(x)
        if self.has_variable("context", "mask"):
            seen = seen * self.get_variable("context", "mask")
        rows = jnp.swapaxes(seen.reshape(len(x), 16, -1), 1, 2)
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
    """Behind it, the weights that ``Masked`` ties to the stem's, where there are some."""

    @nn.compact
    def __call__(self, h, train):
        logits = nn.Dense(CLASSES)(jnp.mean(h, (1, 2)))
        if self.has_variable("context", "tied"):
            logits = logits + jnp.mean(h, (1, 2))[:, :4] @ self.get_variable("context", "tied").T
        return logits


@dataclasses.dataclass(frozen=True)
class Masked(Network):
    def bound(self, variables, x):
        mask = (x[..., :1] > 0).astype(x.dtype)
        context = {"head": {"tied": variables["params"]["stem"]["Dense_0"]["kernel"]}}
        for part in {stack.part for stack in self.stacks if isinstance(stack.unit, Mixing)}:
            n = len(jax.tree.leaves(variables["params"][part])[0])
            context[part] = {"mask": jnp.broadcast_to(mask, (n, *mask.shape))}
        return {**variables, "context": context}


def masked(network):
    return Masked(network.stem, network.stacks, network.head)


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
    """mixing ×2, layers, mixing ×2, layers, layers; the layers have their rows in another order."""
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
    """The same network, in which every stack has variables of its own."""
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


IMAGES = np.random.default_rng(1).normal(size=(6, *SHAPE)).astype(np.float32)
LABELS = np.arange(6) % CLASSES


def close(a, b, rtol=2e-5, atol=2e-6):
    """Same tree, and the same numbers up to rounding."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)
