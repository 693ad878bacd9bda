"""Rows of stacked arrays: each number has one place, and one gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import resjax

X = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
VARIABLES = {
    "layers": np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32) / 3,
    "head": np.random.default_rng(2).normal(size=(8, 5)).astype(np.float32),
}


def nested(variables, x):
    """Layers in a scan in a scan, scaled by a number that is made of a whole row of the outer one."""

    def outer(x, group):
        scale = jnp.tanh(group.sum())
        return lax.scan(lambda x, w: (x + jnp.tanh(x @ w) * scale, None), x, group)

    return lax.scan(outer, jnp.asarray(x), variables["layers"])[0] @ variables["head"]


def cast(variables, x):
    """The parameters in half precision, before the scans."""
    layers = jnp.asarray(variables["layers"]).astype(jnp.bfloat16)

    def outer(x, group):
        return lax.scan(lambda x, w: (x + jnp.tanh(x @ w), None), x, group)

    return lax.scan(outer, x.astype(jnp.bfloat16), layers)[0].astype(jnp.float32) @ variables["head"]


def cast_rows(variables, x):
    """The same in a Python loop."""
    x, layers = x.astype(jnp.bfloat16), jnp.asarray(variables["layers"]).astype(jnp.bfloat16)
    for group in layers:
        for w in group:
            x = x + jnp.tanh(x @ w)
    return x.astype(jnp.float32) @ variables["head"]


@pytest.mark.parametrize(("fn", "atol"), [(nested, 1e-4), (cast, 0.1), (cast_rows, 0.1)])
def test_gradients(fn, atol):
    found = resjax.discover(fn, VARIABLES, X)
    assert len(found.units) == 6
    np.testing.assert_allclose(found.apply(VARIABLES, X), fn(VARIABLES, X), atol=atol)
    ours = jax.grad(lambda v: found.network.apply(v, X).logits.sum())(found.variables)
    wanted = jax.grad(lambda v: fn(v, X).sum())(VARIABLES)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), found.unstack(ours), wanted)


@pytest.mark.parametrize("fn", [cast, cast_rows])
def test_rows_of_parameters_in_another_dtype_are_parameters(fn):
    found = resjax.discover(fn, VARIABLES, X)
    assert {unit.parameters for unit in found.units} == {64}
    assert len({unit.part for unit in found.network.units}) == 1
    assert not any(unit.notes for unit in found.units)
