"""The product of factors: against automatic differentiation, against closed forms, and what is said of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from resjax.studies.options import ClaimOptions
from resjax.studies.signals import vanishing as study
from resjax.studies.signals.vanishing import ACTIVATIONS, vanishing

JAX = {"sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh, "relu": jax.nn.relu}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("shortcut", "scaled"), [(False, False), (True, False), (True, True)])
def test_the_ratio_is_that_of_automatic_differentiation(x64, activation, shortcut, scaled):
    depth, width, seeds, gain = 6, 5, 2, 1.3
    found = vanishing(
        activation, shortcut=shortcut, scaled=scaled, gain=gain, depths=(depth,), width=width, seeds=seeds
    )
    rng = np.random.default_rng((0, depth))
    weights = rng.standard_normal((depth, seeds, width, width)) * gain / np.sqrt(width)
    start, end = rng.standard_normal((2, seeds, width))
    beta = depth**-0.5 if scaled else 1.0
    for i in range(seeds):

        def last(x, i=i):
            for w in jnp.asarray(weights[:, i]):
                x = shortcut * x + beta * (w @ JAX[activation](x))
            return end[i] @ x

        gradient = jax.grad(last)(jnp.asarray(start[i]))
        ratio = np.linalg.norm(gradient) / np.linalg.norm(end[i])
        np.testing.assert_allclose(10 ** found.log_ratio[i, 0], ratio, rtol=1e-12)


def test_a_plain_sigmoid_vanishes_beyond_single_precision():
    """A slope of at most 1/4 a layer: at least 60 orders of magnitude in 100 layers."""
    found = vanishing("sigmoid", depths=(10, 100), seeds=5, width=60)
    assert (found.log_ratio < -np.array([10, 100]) * np.log10(4)).all()
    np.testing.assert_allclose(found.log_ratio[:, 1].mean(), -63, atol=1)
    np.testing.assert_allclose(found.log_product.mean(0), found.log_ratio.mean(0), rtol=0.02)


def test_the_factors_of_rectifiers_in_closed_form():
    """Half of the rectifiers pass: σ/√2 a layer without shortcuts, √(1 + β²σ²/2) with them."""
    given = {"depths": (30,), "width": 150, "seeds": 6}
    for gain in (1.0, np.sqrt(2), 2.0):
        plain = vanishing("relu", gain=gain, **given)
        np.testing.assert_allclose(plain.log_ratio.mean() / 30, np.log10(gain / np.sqrt(2)), atol=0.02)
    residual = vanishing("relu", gain=np.sqrt(2), shortcut=True, **given)
    np.testing.assert_allclose(residual.log_ratio.mean() / 30, 0.5 * np.log10(2), atol=0.01)
    scaled = vanishing("relu", gain=np.sqrt(2), shortcut=True, scaled=True, **given)
    np.testing.assert_allclose(scaled.log_ratio.mean(), 15 * np.log10(1 + 1 / 30), atol=0.03)


def test_slopes_are_derivatives():
    z = np.array([-3.0, -0.2, 0.4, 30.0])
    for act, slope in ACTIVATIONS.values():
        np.testing.assert_allclose(slope(z), (act(z + 1e-6) - act(z - 1e-6)) / 2e-6, atol=1e-8)
    np.testing.assert_allclose(ACTIVATIONS["sigmoid"][1](z), expit(z) * (1 - expit(z)), atol=1e-12)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="activation='gelu'; allowed: 'sigmoid', 'tanh', 'relu'"):
        vanishing("gelu")
    with pytest.raises(ValueError, match="scaled=True needs shortcut=True"):
        vanishing("tanh", scaled=True)
    with pytest.raises(ValueError, match=r"seeds=1, gain=1\.0; allowed: depths and width from 1"):
        vanishing("tanh", seeds=1)


def test_the_small_form_has_every_kind():
    results = study.measure(ClaimOptions(smoke=True), None)
    assert len(results) == sum(map(len, study.GAINS.values())) + 2 * len(study.GAINS)
    assert study.plot(results).axes
