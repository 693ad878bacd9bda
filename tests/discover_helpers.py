"""What tests of discovery share: the networks of all libraries, each made and discovered once."""

import functools
import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resjax
from resjax.network.losses import cross_entropy

LIBRARIES = {"plain_jax": "jax", "linen": "flax", "nnx": "flax", "equinox": "equinox", "haiku": "haiku"}


def _collected():
    """{library: name: what makes the case}, and the parameters of a test of all."""
    makers, parameters = {}, []
    for library, package in LIBRARIES.items():
        try:
            importlib.import_module(package)
        except ModuleNotFoundError:
            absent = pytest.mark.skip(reason=f"{package} is not installed")
            parameters.append(pytest.param(library, marks=absent))
            continue
        own = importlib.import_module(f"foreign.{library}").CASES
        makers.update({f"{library}: {name}": make for name, make in own.items()})
        parameters += [f"{library}: {name}" for name in own]
    return makers, parameters


MAKERS, NAMES = _collected()
every_case = pytest.mark.parametrize("name", NAMES)
# One of each library, and of each kind that has its own way through the program.
VARIED = {
    "plain_jax: decoder with padding",
    "plain_jax: normalization behind the sum",
    "linen: ViT",
    "nnx: ResNet",
    "equinox: pre-activation ResNet",
    "haiku: decoder",
}
varied_cases_first = pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in MAKERS.keys() - VARIED else n for n in NAMES],
)


@functools.cache
def case(name, double=False):
    made = MAKERS[name]()
    return made.in_double() if double else made


@functools.cache
def found_in(name, double=False):
    own = case(name, double)
    return resjax.discover(own.fn, own.variables, own.example, train_fn=own.train_fn)


def on_device(tree):
    """JAX arrays instead of numpy's, whose own products round differently."""
    return jax.tree.map(lambda v: jnp.asarray(v) if isinstance(v, np.ndarray) else v, tree)


def jitted(function, variables, *arguments):
    """``function(variables, *arguments)`` as one program; the variables may hold more than arrays."""
    leaves, tree = jax.tree.flatten(variables)
    traced = [i for i, v in enumerate(leaves) if hasattr(v, "dtype")]

    def run(arrays, *arguments):
        own = dict(zip(traced, arrays, strict=True))
        return function(tree.unflatten([own.get(i, v) for i, v in enumerate(leaves)]), *arguments)

    return jax.device_get(jax.jit(run)([leaves[i] for i in traced], *arguments))


def paths_of(tree):
    """{path: leaf}."""
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in found}


def layers_swapped(variables):
    """The variables of a case with its first two layers in each other's place."""

    def other(match):
        return f"{match[1]}{match[2]}{1 - int(match[3])}"

    by_path, leaves = paths_of(variables), []
    for path in by_path:
        at = re.sub(r"(block|layer)(s/|)([01])(?!\d)", other, path, count=1)
        stacked = re.search(r"layers/(?!\d)", path)
        leaves.append(by_path[at][np.array([1, 0])] if stacked else by_path[at])
    return jax.tree.structure(variables).unflatten(leaves)


def layers_swapped_order(own):
    """The order of units that does the same."""
    order = np.arange(len(own.units))
    size = 2 if own.classes[1] == "b" else 1
    order[: 2 * size] = np.roll(order[: 2 * size], size)
    return order


def loss(logits, labels):
    """Of each example: the mean over its tokens, if it has several."""
    losses = cross_entropy(logits, labels)
    return losses.reshape(len(losses), -1).mean(1)


def labels_for(own):
    """A label for each example, or for each of its tokens."""
    variables = on_device(own.variables)
    shape = jax.eval_shape(lambda x: own.fn(variables, x), own.example).shape
    return np.arange(np.prod(shape[:-1])).reshape(shape[:-1]) % shape[-1]


def assert_close(found, expected, tolerance=1e-10):
    """But for rounding in float64, measured against the largest number."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape and np.all(np.isfinite(expected))
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * max(np.abs(expected).max(), 1e-30))
