"""Schedules by value, the optimizer against the recurrence written out, and the losses."""

import jax.numpy as jnp
import numpy as np
import pytest

from resjax import config as configs
from resjax.network.losses import cross_entropy, rbf_map
from resjax.training.optimizer import make_optimizer, schedule


def section(**changes):
    c = configs.default().optimizer
    for name, value in changes.items():
        c[name] = value
    return c


def test_he_2015_schedule():
    c = section(
        boundaries=("32000 steps", "48000 steps"),
        warmup="400 steps",
        warmup_shape="constant",
        warmup_from=0.1,
    )
    rate = schedule(c, 64000, 390.6)
    steps = [0, 399, 400, 31999, 32000, 47999, 48000, 63999]
    expected = [0.01, 0.01, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    np.testing.assert_allclose([float(rate(jnp.int32(s))) for s in steps], expected, rtol=1e-5)


def test_linear_warmup_then_cosine():
    rate = schedule(section(schedule="cosine", warmup="1 epochs", warmup_from=0.0), 110, 10)
    np.testing.assert_allclose(
        [float(rate(jnp.int32(s))) for s in (0, 5, 10, 60, 110)], [0, 0.05, 0.1, 0.05, 0], atol=1e-7
    )


def test_boundaries_that_do_not_increase_are_refused():
    with pytest.raises(ValueError, match="must increase"):
        schedule(section(boundaries=("20 steps", "10 steps")), 100, 10)


def run(optimizer, params, grads, steps=3):
    state = optimizer.init(params)
    for _ in range(steps):
        updates, state = optimizer.update(grads, state, params)
        params = {k: {n: v + updates[k][n] for n, v in d.items()} for k, d in params.items()}
    return params


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_the_recurrence_of_the_papers(nesterov):
    """v ← μ v + (g + λ w);  w ← w − η v, or with Nesterov w − η (μ v + g + λ w)."""
    c = section(schedule="constant", weight_decay=0.01, nesterov=nesterov)
    optimizer = make_optimizer(c, schedule(c, 10, 1))
    params = {"stem": {"kernel": jnp.array([1.0, -2.0])}}
    grads = {"stem": {"kernel": jnp.array([0.5, 0.25])}}
    w, g, v = np.array([1.0, -2.0]), np.array([0.5, 0.25]), np.zeros(2)
    for _ in range(3):
        d = g + 0.01 * w
        v = 0.9 * v + d
        w = w - 0.1 * (0.9 * v + d if nesterov else v)
    np.testing.assert_allclose(run(optimizer, params, grads)["stem"]["kernel"], w, rtol=1e-6)


def test_decay_of_kernels_only_leaves_the_rest():
    c = section(schedule="constant", weight_decay=0.1, decay="kernels", momentum=0.0)
    optimizer = make_optimizer(c, schedule(c, 10, 1))
    params = {"stem": {"kernel": jnp.ones(2), "scale": jnp.ones(2)}}
    zero = {"stem": {"kernel": jnp.zeros(2), "scale": jnp.zeros(2)}}
    after = run(optimizer, params, zero, 1)["stem"]
    np.testing.assert_allclose(after["kernel"], 0.99, rtol=1e-6)
    np.testing.assert_array_equal(after["scale"], 1)


def test_clipping_bounds_the_global_norm():
    c = section(schedule="constant", weight_decay=0.0, momentum=0.0, clip_norm=1.0)
    optimizer = make_optimizer(c, schedule(c, 10, 1))
    params = {"stem": {"kernel": jnp.zeros(2)}}
    after = run(optimizer, params, {"stem": {"kernel": jnp.array([30.0, 40.0])}}, 1)
    np.testing.assert_allclose(after["stem"]["kernel"], [-0.06, -0.08], rtol=1e-5)


def test_scalars_of_units_learn_at_their_own_rate_and_batchnorm_does_not():
    c = section(schedule="constant", weight_decay=0.0, momentum=0.0, scalar_factor=0.1)
    optimizer = make_optimizer(c, schedule(c, 10, 1))
    params = {"stage1": {"alpha": jnp.zeros(3), "bn1": {"scale": jnp.zeros(3)}}}
    grads = {"stage1": {"alpha": jnp.ones(3), "bn1": {"scale": jnp.ones(3)}}}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_allclose(updates["stage1"]["alpha"], -0.01, rtol=1e-6)
    np.testing.assert_allclose(updates["stage1"]["bn1"]["scale"], -0.1, rtol=1e-6)


def test_cross_entropy_by_hand():
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
    label = jnp.array([0])
    np.testing.assert_allclose(cross_entropy(logits, label), [np.log(2)], rtol=1e-6)
    # ε = 0.3: the label gets 0.8, the others 0.1 each.
    smooth = -(0.8 * np.log(0.5) + 0.2 * np.log(0.25))
    np.testing.assert_allclose(cross_entropy(logits, label, 0.3), [smooth], rtol=1e-6)


def test_rbf_map_is_equation_9():
    energies = np.array([[1.0, 2.0, 4.0]])
    expected = 2.0 + np.log(np.exp(-0.1) + np.exp(-1.0) + np.exp(-2.0) + np.exp(-4.0))
    np.testing.assert_allclose(rbf_map(jnp.array(-energies), jnp.array([1]), 0.1), [expected], rtol=1e-6)
