"""Schedules by value, the optimizer against the recurrence written out, and the losses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resjax import config as configs
from resjax.network.losses import cross_entropy, rbf_map
from resjax.training.optimizer import at_step, in_words, make_optimizer, schedule


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


def test_sgd_and_its_state_are_those_of_earlier_checkpoints():
    c = section(schedule="cosine", clip_norm=1.0)
    rate = schedule(c, 10, 1)
    params, grads = {"stem": {"kernel": jnp.array([1.0, -2.0])}}, {"stem": {"kernel": jnp.array([0.5, 3.0])}}
    parts = optax.clip_by_global_norm(1.0), optax.add_decayed_weights(1e-4), optax.trace(0.9, False)
    earlier, own = optax.chain(*parts, optax.scale_by_learning_rate(rate)), make_optimizer(c, rate)
    assert jax.tree.structure(own.init(params)) == jax.tree.structure(earlier.init(params))
    after, expected = (run(o, params, grads)["stem"]["kernel"] for o in (own, earlier))
    np.testing.assert_array_equal(after, expected)


def test_adamw_by_hand():
    """The first step: m̂ = g and v̂ = g², so w ← w − η (g / (|g| + ε) + λ w)."""
    c = section(name="adamw", schedule="constant", weight_decay=0.5, epsilon=1.0)
    optimizer = make_optimizer(c, schedule(c, 10, 1))
    params, grads = {"a": {"kernel": jnp.array([1.0, -2.0])}}, {"a": {"kernel": jnp.array([3.0, -1.0])}}
    after = run(optimizer, params, grads, 1)["a"]["kernel"]
    np.testing.assert_allclose(after, [1 - 0.1 * (0.75 + 0.5), -2 - 0.1 * (-0.5 - 1.0)], rtol=1e-6)


@pytest.mark.parametrize("decay", ["all", "kernels"])
def test_adamw_is_that_of_optax(decay):
    c = section(name="adamw", schedule="cosine", momentum=0.8, beta2=0.95, weight_decay=0.1, decay=decay)
    rate = schedule(c, 4, 1)
    mask = {"a": {"kernel": True, "bias": decay == "all"}}
    reference = optax.adamw(rate, 0.8, 0.95, 1e-8, weight_decay=0.1, mask=mask)
    found = []
    for optimizer in (make_optimizer(c, rate), reference):
        params = {"a": {"kernel": jnp.array([1.0, -2.0]), "bias": jnp.array([0.5])}}
        state = optimizer.init(params)
        for factor in (1.0, -3.0, 0.1):
            grads = jax.tree.map(lambda w, factor=factor: factor * w**2, params)
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        found.append(params)
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_adamw_clips_the_gradient_before_its_means():
    c = section(name="adamw", schedule="constant", weight_decay=0.0, clip_norm=1.0, epsilon=1.0)
    optimizer = make_optimizer(c, schedule(c, 10, 1))
    params, grads = {"a": {"kernel": jnp.zeros(2)}}, {"a": {"kernel": jnp.array([30.0, 40.0])}}
    after = run(optimizer, params, grads, 1)["a"]["kernel"]
    np.testing.assert_allclose(after, [-0.1 * 0.6 / 1.6, -0.1 * 0.8 / 1.8], rtol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_schedule_alone_is_put_to_a_step(name):
    """Weights that were loaded as step 1 have had no gradient: AdamW's first step is still a whole one."""
    c = section(name=name, schedule="cosine", weight_decay=0.0, momentum=0.0)
    rate = schedule(c, 10, 1)
    optimizer = make_optimizer(c, rate)
    params = {"a": {"kernel": jnp.zeros(2)}}
    grads = {"a": {"kernel": jnp.ones(2)}}
    updates, _ = optimizer.update(grads, at_step(optimizer.init(params), 5), params)
    np.testing.assert_allclose(updates["a"]["kernel"], -float(rate(5)), rtol=1e-4)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_decay_of_kernels_only_leaves_the_rest(name):
    c = section(name=name, schedule="constant", weight_decay=0.1, decay="kernels", momentum=0.0)
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


def test_words_name_the_optimizer_of_the_configuration():
    assert in_words(section()) == "SGD, momentum 0.9, weight decay 0.0001, step rate"
    other = section(name="adamw", decay="kernels", weight_decay=0.05, clip_norm=1.0, schedule="cosine")
    start = "AdamW, β₁ 0.9, β₂ 0.999, gradient norm at most 1"
    assert in_words(other) == f"{start}, weight decay 0.05 of kernels, cosine rate"
    assert in_words(other, decay=False) == f"{start}, cosine rate"
