"""BatchNorm's statistics, around their mean or one value, and their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax.models.layers import BatchNorm, _variance

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


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize(
    "derivative", [jax.grad, jax.jacfwd, jax.hessian], ids=["reverse", "forward", "second"]
)
def test_derivatives_are_those_of_the_formula(derivative, backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    rng = np.random.default_rng(0)
    # A mean far from 0, so that a forgotten term shows.
    x, weights = (
        jnp.asarray(3 + rng.standard_normal((2, 3, 2, 2))),
        rng.standard_normal((2, 3, 2, 2)),
    )
    actual, expected = (
        jax.jit(derivative(lambda x, layer=layer: loss(x, weights, layer)))(x) for layer in (own, plain)
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_statistics_far_from_the_running_mean(backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    x = 1e3 + np.random.default_rng(0).standard_normal((8, 4, 4, 2)).astype(np.float32)
    module = BatchNorm()
    variables = module.init(jax.random.key(0), x, train=False)  # running mean 0
    y, new = module.apply(variables, x, train=True, mutable=["batch_stats"])
    wide = x.astype(np.float64)
    mean, var = wide.mean((0, 1, 2)), wide.var((0, 1, 2))
    np.testing.assert_allclose(new["batch_stats"]["var"], 0.9 + 0.1 * var, rtol=1e-4)
    np.testing.assert_allclose(y, (wide - mean) / np.sqrt(var + 1e-5), atol=1e-3)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_statistics_of_a_batch_do_not_depend_on_the_running_ones(backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    x = 1e3 + np.random.default_rng(0).standard_normal((8, 4, 4, 2)).astype(np.float32)

    def train(start):  # 2^20 is where reestimate starts from
        stats = {"mean": jnp.full(2, start), "var": jnp.full(2, start)}
        variables = {"params": {"scale": jnp.ones(2), "bias": jnp.zeros(2)}, "batch_stats": stats}
        return BatchNorm().apply(variables, x, train=True, mutable=["batch_stats"])[0]

    np.testing.assert_allclose(train(np.float32(2**20)), train(np.float32(0)), atol=1e-3)


def test_equal_values_have_no_negative_variance(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    x = jnp.full((8, 4, 4, 2), 33.3, jnp.float32)  # without a bound the variance is -0.0016
    y = BatchNorm().apply(
        {
            "params": {"scale": jnp.ones(2), "bias": jnp.zeros(2)},
            "batch_stats": {"mean": jnp.zeros(2), "var": jnp.ones(2)},
        },
        x,
        train=True,
        mutable=["batch_stats"],
    )[0]
    assert np.all(np.abs(y) < 0.1)
    # Private: in the layer's output, epsilon hides a small negative variance.
    assert np.all(_variance(x, jnp.mean(x, (0, 1, 2)), jnp.zeros(2)) >= 0)
