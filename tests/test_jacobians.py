"""Singular values of unit Jacobians: against dense decompositions, closed forms, and what is said of them."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from network_helpers import draw, subject_of
from scipy import stats

from resjax import models
from resjax.network import Network, Stack
from resjax.network.losses import cross_entropy
from resjax.network.unit import Unit
from resjax.studies.options import Options
from resjax.studies.signals import jacobians as study
from resjax.studies.signals.jacobians import Jacobians, jacobians

SHAPE, CLASSES = (4, 4, 2), 3


def build(**fields):
    config = models.defaults("resnet", **{"stage_sizes": (2, 1), "widths": (2, 3), **fields})
    return models.build(config, image_shape=SHAPE, num_classes=CLASSES)


def examples(n):
    rng = np.random.default_rng(1)
    return rng.normal(size=(n, *SHAPE)).astype(np.float32), rng.integers(0, CLASSES, n)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"placement": "post", "shortcut": "none", "stage_sizes": (2,), "widths": (2,)},
    ],
    ids=["pre", "plain"],
)
def test_equals_dense_singular_values(fields):
    """With this project's convolution on CPU, which has no forward-mode derivative."""
    network = build(**fields)
    variables, (images, labels) = draw(network, SHAPE), examples(2)
    result = jacobians(network, variables, images, labels, iterations=300, probes=256)

    @jax.jit
    def by_hand(image, label):
        """Per unit: dense ∂y/∂x and ∂f/∂x; and ∂L/∂x_n."""
        x, found = network.run_stem(variables, image[None])[0][0], []
        for unit in network.units:
            part = {c: tree[unit.stack.name] for c, tree in variables.items()}
            part = jax.tree.map(lambda v, u=unit: v[u.position], part)

            def parts(x, unit=unit, part=part):
                return unit.stack.unit.apply(part, x[None], None, False, method="parts")

            whole = jax.jacrev(lambda x, parts=parts: parts(x).y[0])(x)
            branch = jax.jacrev(lambda x, parts=parts: parts(x).branch[0])(x)
            y = parts(x).y[0]
            found.append([j.reshape(y.size, x.size) for j in (whole, branch)])
            x = y
        loss = jax.grad(lambda h: cross_entropy(network.run_head(variables, h)[0], label[None])[0])
        return found, loss(x[None])

    squares = []
    for e in range(2):
        found, gradient = jax.tree.map(np.float64, by_hand(images[e], labels[e]))
        largest = [np.linalg.norm(whole, 2) for whole, _ in found]
        np.testing.assert_allclose(result.largest[0, e], largest, rtol=1e-3)
        if network.stacks[0].unit.residual:  # nothing follows the sum in a pre-activation unit
            branch = [np.linalg.norm(branch, 2) for _, branch in found]
            np.testing.assert_allclose(result.branch[0, e], branch, rtol=1e-3)
        else:
            np.testing.assert_array_equal(result.branch, result.largest)
        lengths = [np.linalg.norm(gradient := gradient.ravel())]
        for whole, _ in found[::-1]:
            lengths.append(np.linalg.norm(gradient := whole.T @ gradient))
        actual = np.array(lengths)[:0:-1] / lengths[0]
        np.testing.assert_allclose(result.actual[0, e], actual, rtol=1e-3)
        squares.append([np.sum(whole**2) / len(whole) for whole, _ in found])
    probes = result.mean_square[0]
    error = 5 * probes.std(0) / np.sqrt(len(probes)) + 1e-5
    assert np.all(np.abs(probes.mean(0) - np.mean(squares, 0)) < error)
    assert result.change < 1e-3


class Scaling(Unit):
    """y = x + a·x: every singular value is 1 + a."""

    def setup(self):
        self.a = self.param("a", nn.initializers.zeros, ())

    def split(self, x, train):
        return x, self.a * x


class Flat(nn.Module):
    classes: int = 0

    @nn.compact
    def __call__(self, x, train):
        x = x.reshape(len(x), -1)
        return nn.Dense(self.classes)(x) if self.classes else x


def test_factors_that_lengthen_every_gradient_alike():
    network = Network(Flat(), (Stack("units", Scaling(), 6, 1),), Flat(CLASSES))
    variables = draw(network, SHAPE)
    factors = np.linspace(0.1, 0.6, 6, dtype=np.float32)
    variables["params"]["units"]["a"] = factors
    seen = []
    result = jacobians(network, variables, *examples(5), batch_size=2, progress=lambda *a: seen.append(a))
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert result.largest.shape == (1, 5, 6) and result.residual.all()
    for values, one in ((result.largest, 1 + factors), (result.gain, 1 + factors)):
        np.testing.assert_allclose(values, np.tile(one, (1, 5, 1)), rtol=1e-5)
    np.testing.assert_allclose(result.branch, np.tile(factors, (1, 5, 1)), rtol=1e-5)
    np.testing.assert_allclose(result.mean_square, np.tile((1 + factors) ** 2, (1, 8, 1)), rtol=1e-5)
    product = np.cumprod(1 + factors[::-1])[::-1]
    for values in (result.bound, result.typical, result.actual):
        np.testing.assert_allclose(values[0], np.tile(product, (values.shape[1], 1)), rtol=1e-4)
    back = Jacobians.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False)))
    np.testing.assert_array_equal(back.largest, result.largest)


@pytest.mark.parametrize("options", [{"iterations": 0}, {"probes": 1}, {"batch_size": 0}])
def test_bad_numbers_are_refused(options):
    network = build()
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        jacobians(network, draw(network, SHAPE), *examples(3), **options)


def test_centre_is_a_geometric_mean_and_leaves_out_what_has_no_logarithm():
    values = np.array([[1.0, 4.0], [4.0, 4.0], [np.nan, 4.0], [0.0, 4.0]])
    mean, low, high = study.centre(values)
    np.testing.assert_allclose(mean, [2, 4])
    # Student's t of the logarithms 0 and ln 4, with one degree of freedom.
    factor = np.exp(stats.t.ppf(0.975, 1) * np.log(4) / 2)
    np.testing.assert_allclose([low[0], high[0]], [2 / factor, 2 * factor])
    assert np.isnan(study.centre(values[2:])).all()


def test_plot_and_study():
    network = build(stage_sizes=(2,), widths=(2,))
    variables = draw(network, SHAPE)
    moments = {0: variables, 5: jax.tree.map(lambda v: jnp.asarray(1.1) * v, variables)}
    more = {"step": 5, "moments": moments, "train_batch_size": 12}
    run = subject_of(network, variables, lambda split, most: examples(most), SHAPE, **more)
    result = study.STUDY.run(run, Options(), None)
    assert result.largest.shape == (2, study.EXAMPLES, 2)
    assert "12" in result.choices["statistics of BatchNorm"]
    figure = study.STUDY.plot({"net": result})
    assert isinstance(figure, Figure) and len(figure.axes) == 4
