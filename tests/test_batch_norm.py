"""BatchNorm's derivatives, of which one leaves out what is 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax.models.layers import BatchNorm

pytestmark = pytest.mark.usefixtures("x64_throughout")


def loss(x, weights, layer):
    return jnp.sum(jnp.sin(layer(x) * weights))


def own(x):
    module = BatchNorm(dtype=jnp.float64)
    variables = module.init(jax.random.key(0), x, train=False)
    return module.apply(variables, x, train=True, mutable=["batch_stats"])[0]


def plain(x):
    mean = jnp.mean(x, (0, 1, 2))[None, None, None]
    var = jnp.mean(jnp.square(x - mean), (0, 1, 2))[None, None, None]
    return (x - mean) / jnp.sqrt(var + 1e-5)


@pytest.mark.parametrize(
    "derivative", [jax.grad, jax.jacfwd, jax.hessian], ids=["reverse", "forward", "second"]
)
def test_derivatives_are_those_of_the_formula(derivative):
    rng = np.random.default_rng(0)
    # A mean far from 0, so that a forgotten term shows.
    x, weights = (
        jnp.asarray(3 + rng.standard_normal((2, 3, 2, 2))),
        rng.standard_normal((2, 3, 2, 2)),
    )
    actual, expected = (
        jax.jit(derivative(lambda x, layer=layer: loss(x, weights, layer)))(x)
        for layer in (own, plain)
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-10)
