"""Variances of branch and shortcut: against numpy, against theory, and what is said of them."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure
from network_helpers import draw, subject_of

from resjax import models
from resjax.report import compare
from resjax.studies.options import Options
from resjax.studies.signals import branch_variance as study
from resjax.studies.signals.branch_variance import BranchVariance, branch_variance
from resjax.studies.signals.rectifiers import rectifier_network

SHAPE, CLASSES = (6, 6, 2), 3


def build(**fields):
    config = models.defaults("resnet", **{"stage_sizes": (2, 1), "widths": (3, 4), **fields})
    return models.build(config, image_shape=SHAPE, num_classes=CLASSES)


def images(n, shape=SHAPE):
    return np.random.default_rng(1).normal(size=(n, *shape)).astype(np.float32)


@pytest.mark.parametrize("train", [False, True])
def test_equals_numpy_on_each_batch(train):
    network = build(unit_dropout="linear", shortcut="projection")
    variables, x = draw(network, SHAPE), images(9)
    result = branch_variance(network, variables, x, train=train, batch_size=4)
    assert result.shortcut.shape == (1, 2, 3)  # the ninth image fills no batch
    assert result.unit == ("stage1/unit1", "stage1/unit2", "stage2/unit1")
    assert list(result.position) == [1, 2, 1] and result.stages == ("stage1", "stage2")
    gates = np.asarray(network.unit_dropout.at_test())

    @jax.jit
    def by_hand(x):
        h, found = network.run_stem(variables, x, train=train)[0], []
        for unit in network.units:
            part = {c: tree[unit.stack.name] for c, tree in variables.items()}
            part = jax.tree.map(lambda v, u=unit: v[u.position], part)
            gate = gates[unit.index]
            parts, _ = unit.stack.unit.apply(part, h, gate, train, method="parts", mutable=["batch_stats"])
            found.append((parts.shortcut, gate * parts.branch, parts.y))
            h = parts.y
        return found

    for b in range(2):
        for i, vectors in enumerate(by_hand(x[4 * b : 4 * b + 4])):
            own = (result.shortcut, result.branch, result.output)
            for values, v in zip(own, vectors, strict=True):
                np.testing.assert_allclose(values[0, b, i], np.var(np.float64(v)), rtol=1e-4)


def at_init(norm, depth, width):
    network = rectifier_network(depth, width, shortcut=True, norm=norm)
    variables = jax.jit(lambda key: network.init(key, SHAPE))(jax.random.key(0))
    # First-layer weights are N(0, 1), so inputs are scaled to give states of variance 1.
    return branch_variance(network, variables, images(128) / np.float32(np.prod(SHAPE)) ** 0.5)


def test_without_normalization_the_ratio_stays_and_the_variance_doubles():
    """De & Smith 2020: a He-initialized branch keeps the variance, so the sum has twice as much."""
    result = at_init(norm=False, depth=6, width=512)
    np.testing.assert_allclose(result.ratio, 1, atol=0.2)
    np.testing.assert_allclose(result.output / result.shortcut, 2, rtol=0.2)
    np.testing.assert_allclose(result.shortcut[..., 1:], result.output[..., :-1], rtol=1e-6)
    assert abs(result.slope(0, "stage1").slope) < 0.3


def test_with_batchnorm_the_ratio_falls_like_one_over_l():
    result = at_init(norm=True, depth=16, width=256)
    fit = result.slope(0, "stage1")
    assert -1.3 < fit.slope < -0.7 and fit.points == 16
    assert fit.low < fit.slope < fit.high
    # Every branch has the same variance, so the shortcut's grows by equal steps.
    np.testing.assert_allclose(result.branch / result.branch.mean(), 1, atol=0.2)


def test_zero_branches_have_no_slope_and_plain_networks_no_ratio():
    network = build(branch_scale="skipinit")
    variables = draw(network, SHAPE)
    zero = jax.tree_util.tree_map_with_path(
        lambda path, v: 0 * v if path[-1].key == "alpha" else v, variables
    )
    result = branch_variance(network, zero, images(4))
    np.testing.assert_array_equal(result.ratio, 0)
    assert np.isnan(result.slope(0, "stage1").slope) and result.slope(0, "stage1").points == 0
    assert "no stage of a" in compare.finding(study.STUDY, {"a": result}).headline
    assert isinstance(study.STUDY.plot({"a": result}), Figure)
    plain = build(shortcut="none")
    with pytest.raises(ValueError, match="no unit has a shortcut"):
        branch_variance(plain, draw(plain, SHAPE), images(4))
    assert "no unit has a shortcut" in study.STUDY.unsuited(SimpleNamespace(residual=False))
    assert study.STUDY.unsuited(SimpleNamespace(residual=True)) is None


def test_bad_sizes_are_refused():
    network = build()
    with pytest.raises(ValueError, match="batch_size=0"):
        branch_variance(network, draw(network, SHAPE), images(4), batch_size=0)
    with pytest.raises(ValueError, match="no example"):
        branch_variance(network, draw(network, SHAPE), images(0))


def made(power, stages=(6, 2), steps=(0, 7)):
    """Ratios l^power in every stage."""
    position = np.concatenate([np.arange(1, n + 1) for n in stages])
    names = [f"stage{s}/unit{i}" for s, n in enumerate(stages, 1) for i in range(1, n + 1)]
    ratio = np.tile(position.astype(float) ** power, (len(steps), 3, 1))
    return BranchVariance(
        unit=tuple(names),
        position=position,
        step=np.array(steps),
        shortcut=np.ones_like(ratio),
        branch=ratio,
        output=1 + ratio,
        batch_size=4,
        choices={},
    )


def test_slope_of_a_power_law():
    fit = made(-1).slope(1, "stage1")
    np.testing.assert_allclose([fit.slope, fit.low, fit.high], -1, atol=1e-9)
    assert np.isnan(made(-1).slope(0, "stage2").low)  # two points have no spread
    assert np.isnan(made(-1, stages=(1,)).slope(0, "stage1").slope)


def test_plot_and_study():
    network = build()
    variables = draw(network, SHAPE)
    moments = {0: variables, 5: variables}
    run = subject_of(
        network,
        variables,
        lambda split, most: (images(most), np.zeros(most, int)),
        SHAPE,
        step=5,
        moments=moments,
    )
    result = study.STUDY.run(run, Options(gradient_batches=2), None)
    assert result.ratio.shape == (2, 2, 3)
    np.testing.assert_array_equal(result.ratio[0], result.ratio[1])
    back = BranchVariance.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False)))
    np.testing.assert_array_equal(back.branch, result.branch)
    assert len(study.STUDY.plot({"net": result, "other": made(-1)}).axes) == 2
