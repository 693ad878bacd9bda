"""Shattered gradients: exact correlations, the laws that theory names, and what is said of them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from network_helpers import draw

from resjax import models
from resjax.report import compare
from resjax.studies.options import ClaimOptions
from resjax.studies.signals import shattering as study
from resjax.studies.signals.rectifiers import rectifier_network
from resjax.studies.signals.shattering import Shattering, gradients_along_line, shattering


def test_correlation_is_the_cosine_of_the_states_derivatives():
    """Against finite differences of the whole function, whose pieces are linear."""
    network = rectifier_network(3, 8, shortcut=True, norm=True, beta=0.5)
    variables = draw(network, (1, 1, 1))
    grid = np.linspace(-2, 2, 5, dtype=np.float32)[:, None, None, None]
    # Private: a claim's own networks are at initialization, these variables are any.
    found = study._cosines(network, (1, 3), variables, grid)
    assert found.shape == (2, 5, 5)
    run = jax.jit(lambda x: network.apply(variables, x).logits)
    step = 1e-3
    slopes = (np.float64(run(grid + step)) - np.float64(run(grid - step))) / (2 * step)
    slopes /= np.linalg.norm(slopes, axis=1, keepdims=True)
    np.testing.assert_allclose(found[1], slopes @ slopes.T, atol=5e-3)


def test_a_vector_of_zeros_is_like_no_other():
    found = study.cosines(jnp.array([[3.0, 0.0], [0.0, 0.0], [1.0, 1.0]]))
    expected = [[1, 0, 0.5**0.5], [0, 0, 0], [0.5**0.5, 0, 1]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.fixture(scope="module")
def normed():
    """With BatchNorm, without and with shortcuts."""
    size = {"seeds": 8, "depths": (1, 2, 3, 4, 6, 12), "shown_depth": 12}
    return {s: shattering(shortcut=s, norm=True, **size) for s in (False, True)}


@pytest.mark.slow
def test_plain_networks_with_batchnorm_halve_the_correlation_in_every_layer(normed):
    plain = normed[False]
    rate, fit = plain.exponential()
    assert abs(rate / np.log(2) - 1) < 0.25 and fit > 0.98
    assert not plain.resolved[-1]  # 2⁻¹² is below the noise
    assert plain.correlation.shape == (8, 6) and plain.by_distance.shape == (8, 256)
    np.testing.assert_allclose(plain.by_distance[:, 0], 1, rtol=1e-5)
    assert not np.any(np.abs(plain.by_distance.mean(0)[8:128]) > 0.1)  # white noise
    back = Shattering.from_json(json.loads(json.dumps(plain.to_json(), allow_nan=False)))
    np.testing.assert_array_equal(back.correlation, plain.correlation)


def test_shortcuts_keep_gradients_alike(normed):
    times, at_least = study.ratio(normed[True], normed[False])
    assert times > 10 and at_least
    assert normed[True].resolved.all()
    # Neighbours most of all: brown noise, not white.
    assert normed[True].by_distance.mean(0)[1] > 0.8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": (2, 1), "shown_depth": 1}, "rising"),
        ({"depths": (1, 2), "shown_depth": 3}, "shown_depth=3"),
        ({"seeds": 1}, "seeds=1"),
        ({"points": 1}, "points=1"),
    ],
)
def test_bad_numbers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        shattering(shortcut=True, norm=True, **options)


def test_gradients_along_a_line_of_a_users_network():
    config = models.defaults("resnet", stage_sizes=(1, 1), widths=(2, 4))
    network = models.build(config, image_shape=(6, 6, 1), num_classes=3)
    variables = draw(network, (6, 6, 1))
    start, end = np.random.default_rng(0).normal(size=(2, 6, 6, 1)).astype(np.float32)
    found = gradients_along_line(network, variables, start, end, output=2, points=4)

    @jax.jit
    @jax.vmap
    @jax.grad
    def gradient(x):
        return network.apply(variables, x[None]).logits[0, 2]

    shares = np.arange(4)[:, None, None, None] / 3
    each = np.asarray(gradient(((1 - shares) * start + shares * end).astype(np.float32)))
    each = np.float64(each).reshape(4, -1)
    each /= np.linalg.norm(each, axis=1, keepdims=True)
    np.testing.assert_allclose(found, each @ each.T, atol=1e-4)
    with pytest.raises(ValueError, match="labels must lie in 0 … 2"):
        gradients_along_line(network, variables, start, end, output=3)
    with pytest.raises(ValueError, match="points=1"):
        gradients_along_line(network, variables, start, end, output=0, points=1)


def made(correlation, residual=False, norm=True, beta=1.0, noise=0.01):
    """Four networks around the given correlations, at depths 1 … n."""
    mean = np.asarray(correlation, float)
    rows = mean * (1 + noise * np.array([-1, -0.5, 0.5, 1]))[:, None]
    return Shattering(
        depth=np.arange(1, len(mean) + 1),
        correlation=rows,
        shown_depth=len(mean),
        distance=np.linspace(0, 4, 5),
        by_distance=np.tile([1.0, 0.5, 0.2, 0.1, 0.0], (4, 1)),
        residual=residual,
        norm=norm,
        beta=beta,
        choices={},
    )


DEPTH = np.arange(1, 9)


def test_laws_are_recognized():
    rate, fit = made(np.exp(-0.4 * DEPTH)).exponential()
    np.testing.assert_allclose([rate, fit], [0.4, 1], rtol=1e-9)
    power, fit = made(DEPTH**-1.5).power()
    np.testing.assert_allclose([power, fit], [1.5, 1], rtol=1e-9)
    noise = made([0.5, 0.2, 0.0, 0.1, 0.1])
    noise.correlation[:, 2] = [-1, 1, -1, 1]
    assert list(noise.resolved) == [True, True, False, False, False]
    assert np.isnan(noise.exponential()).all()


def test_claim_runs_small_and_is_drawn():
    seen = []
    results = study.STUDY.measure(ClaimOptions(smoke=True), lambda *a: seen.append(a))
    assert list(results) == list(study.NETWORKS)
    assert seen[0] == (0, 20) and seen[-1] == (20, 20)
    assert compare.finding(study.STUDY, results).headline
    figure = study.STUDY.plot(results)
    assert isinstance(figure, Figure) and len(figure.axes) == 2
