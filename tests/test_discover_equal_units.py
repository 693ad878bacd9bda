"""Units are of one class only if they compute the same, derivatives and functions inside included."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resjax
from resjax.discovery import NotFound

X = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)


def drawn(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32) / 3)


VARIABLES = {"blocks": [drawn(i, 8, 8) for i in range(3)], "head": drawn(9, 8, 5)}


def of_vjp(scale):
    """The identity with a gradient of ``scale``."""

    @jax.custom_vjp
    def f(x):
        return x * 1.0

    f.defvjp(lambda x: (f(x), None), lambda _, g: (g * scale,))
    return f


def of_jvp(scale):
    @jax.custom_jvp
    def f(x):
        return x * 1.0

    f.defjvp(lambda primals, tangents: (f(*primals), tangents[0] * scale))
    return f


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def with_scale(x, scale):
    return x * 1.0


with_scale.defvjp(lambda x, scale: (x * 1.0, None), lambda scale, _, g: (g * scale,))

MAKERS = {
    "custom_vjp": of_vjp,
    "custom_jvp": of_jvp,
    "argument": lambda scale: lambda x: with_scale(x, scale),
    "array": lambda scale: of_vjp(np.full((1, 8), scale, np.float32)),
}


def network_of(own, variables, x):
    for f, block in zip(own, variables["blocks"], strict=True):
        x = x + f(jnp.tanh(x @ block))
    return x @ variables["head"]


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(("scales", "classes"), [((1.0, 2.0, 3.0), 3), ((2.0, 3.0, 2.0), 2), ((2.0,) * 3, 1)])
def test_derivatives_tell_units_apart(name, scales, classes):
    fn = functools.partial(network_of, list(map(MAKERS[name], scales)))
    found = resjax.discover(fn, VARIABLES, X)
    assert len({unit.part for unit in found.network.units}) == classes
    ours = jax.grad(lambda v: found.network.apply(v, X).logits.sum())(found.variables)
    wanted = jax.grad(lambda v: fn(v, X).sum())(VARIABLES)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found.unstack(ours), wanted)


def test_callbacks_are_equal_to_themselves_alone():
    def scaled(i):
        shape = jax.ShapeDtypeStruct
        return lambda x: jax.pure_callback(
            lambda v: np.asarray(v) * i, shape(x.shape, x.dtype), x, vmap_method="sequential"
        )

    fn = functools.partial(network_of, [scaled(np.float32(i + 1)) for i in range(3)])
    found = resjax.discover(fn, VARIABLES, X)
    np.testing.assert_allclose(found.network.apply(found.variables, X).logits, fn(VARIABLES, X), atol=1e-6)


def test_units_that_differ_at_another_batch_size_are_refused():
    def fn(variables, x):
        own = [lambda v, i=i: v * (i + 1 if len(x) == 4 else 1) for i in range(3)]
        return network_of(own, variables, x)

    found = resjax.discover(fn, VARIABLES, X)
    np.testing.assert_allclose(
        found.network.apply(found.variables, X[:3]).logits, fn(VARIABLES, X[:3]), atol=1e-6
    )
    with pytest.raises(NotFound, match="equal with the example's batch size"):
        found.network.apply(found.variables, X)
