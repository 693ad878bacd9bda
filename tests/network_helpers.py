"""What tests of networks share."""

import functools
import types

import jax
import numpy as np

from resjax.network.example import one_example
from resjax.network.initial import variable_shapes
from resjax.network.losses import cross_entropy, share_wrong
from resjax.studies.subject import Subject


def draw(network, shape):
    """Variables far from their initial values, so that no unit is an identity by chance.

    In numpy: JAX would compile each index of them.
    """
    rng = np.random.default_rng(0)

    def leaf(path, v):
        noise = rng.normal(size=v.shape).astype(np.float32)
        name = path[-1].key
        if name in ("scale", "var"):
            return np.exp(np.float32(0.3) * noise)
        fan_in = np.prod(v.shape[-4:-1]) if name == "kernel" else 100
        return noise * np.float32(fan_in**-0.5)

    variables = variable_shapes(network, shape)
    return jax.tree_util.tree_map_with_path(leaf, variables)


def initial(network, example, seed=0):
    """Initial variables, made by one program: otherwise, each operation of the forward pass would be one."""
    zeros = jax.tree.map(lambda v: np.zeros(v.shape, v.dtype), one_example(example))
    return _init(network, jax.random.key(seed), zeros)


_init = jax.jit(lambda network, key, example: network.init(key, example), static_argnums=0)


@functools.partial(jax.jit, static_argnums=0, static_argnames="train")
def logits_of(network, variables, images, train=False, **changes):
    """Logits, with ``gates`` and the like as changes; compiled once a network for all tests of a file."""
    return network.apply(variables, images, train=train, **changes).logits


def programs(run) -> int:
    """How many programs a jitted function has. What users call has none of its own, so tests that count give
    the private function behind it; and JAX has no public count."""
    return run._cache_size()


def equal(a, b) -> bool:
    """Same tree, same bits (up to the sign of zero)."""
    same = jax.tree.map(lambda x, y: np.array_equal(x, y), a, b)
    return jax.tree.all(same)


def on_stack(variables, name, change):
    """``variables`` with ``change`` applied to every leaf of one stack."""
    return {
        c: {k: jax.tree.map(change, v) if k == name else v for k, v in tree.items()}
        for c, tree in variables.items()
    }


def subject_of(network, variables, give, example, **more):
    """What a study needs of a run; ``give(split, most)`` are inputs and labels, ``more`` other attributes."""
    own = {
        "network": network,
        "variables": variables,
        "examples": give,
        "example": one_example(example),
        "split": "test",
        "count": lambda split: 10_000,
        "step": 7,
        "moments": {7: variables},
        "loss": cross_entropy,
        "metric": share_wrong,
        "train_batch_size": 4,
        "has_training_examples": True,
        "as_they_are": "not augmented",
        "told": "as made",
        "deletable": network.deletable(variables, one_example(example)),
        "once": functools.partial(Subject.once, types.SimpleNamespace(_shared={})),
    }
    return types.SimpleNamespace(**own | more)
