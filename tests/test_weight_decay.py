"""Weight decay and the identity: closed forms, exactly, and what BatchNorm makes of them."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from marks import slow_but
from network_helpers import draw

from resjax.models.layers import BatchNorm
from resjax.models.residual import ResidualUnit
from resjax.models.shortcuts import Shortcut
from resjax.models.stem_head import Head, Stem
from resjax.network import Network, Stack
from resjax.report import compare
from resjax.studies.options import ClaimOptions
from resjax.studies.units.weight_decay import (
    CASES,
    POWERS,
    STUDY,
    WeightDecay,
    _optimizer,  # alone, without the study's losses
    left,
    moment,
    weight_decay,
)

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (5, 4, 4, 3))


def unit_of(placement, norm=False, **fields):
    shortcut = Shortcut(3, 3, 1, "pad_subsample")
    return ResidualUnit(shortcut, ((3, 3, 1),) * 2, placement, norm=norm, **fields)


# --- a block whose W and b are 0 ---


@pytest.mark.parametrize("norm", [False, True])
def test_zero_weights_make_a_post_activation_unit_the_identity_on_what_is_not_negative(norm):
    unit = unit_of("post", norm)
    variables = unit.init(KEY, X, train=False)
    variables = {**variables, "params": jax.tree.map(jnp.zeros_like, variables["params"])}
    positive = jnp.abs(X)
    np.testing.assert_array_equal(unit.apply(variables, positive, train=False), positive)
    y = unit.apply(variables, X, train=False)
    assert not np.array_equal(y, X)
    np.testing.assert_array_equal(y, jnp.maximum(X, 0))


@pytest.mark.parametrize("norm", [False, True])
def test_zero_weights_make_a_pre_activation_unit_the_identity_everywhere(norm):
    unit = unit_of("pre", norm)
    variables = unit.init(KEY, X, train=False)
    variables = {**variables, "params": jax.tree.map(jnp.zeros_like, variables["params"])}
    np.testing.assert_array_equal(unit.apply(variables, X, train=False), X)


# --- decay ---


def test_without_a_gradient_weights_decay_geometrically():
    params = {"kernel": jnp.array([1.0, -2.0]), "scale": jnp.array([3.0])}
    zero = jax.tree.map(jnp.zeros_like, params)
    for what, power in (("all", 20), ("kernels", 0)):
        optimizer = _optimizer(0.1, 0.5, what)
        state, now = optimizer.init(params), params
        for _ in range(20):
            updates, state = optimizer.update(zero, state, now)
            now = optax.apply_updates(now, updates)
        np.testing.assert_allclose(now["kernel"], params["kernel"] * 0.95**20, rtol=1e-5)
        np.testing.assert_allclose(now["scale"], params["scale"] * 0.95**power, rtol=1e-5)


@pytest.mark.parametrize("placement", POWERS)
@pytest.mark.parametrize("case", range(len(CASES)))
def test_the_powers_are_exact_where_batchnorm_has_no_epsilon(placement, case, monkeypatch, x64):
    """For any γ, in float64: scaling what decays by ρ scales the branch by ρ to the power."""
    monkeypatch.setattr(BatchNorm, "epsilon", 0.0)
    _, norm, what = CASES[case]
    x = jnp.abs(jnp.asarray(np.asarray(X), jnp.float64))
    unit = unit_of(placement, norm, dtype=jnp.float64)
    variables = unit.init(KEY, x, train=False)
    rng = np.random.default_rng(0)
    # Biases of convolutions are 0; those of BatchNorm may be anything that decays with γ, or is kept.
    variables = jax.tree_util.tree_map_with_path(
        lambda path, v: jnp.asarray(rng.normal(size=v.shape)) * (norm or path[-1].key != "bias"),
        variables,
    )

    def branch(factor):
        def scaled(path, v):
            return v * (factor if what == "all" or path[-1].key == "kernel" else 1)

        params = jax.tree_util.tree_map_with_path(scaled, variables["params"])
        own = {**variables, "params": params}
        parts, _ = unit.apply(own, x, None, True, method="parts", mutable=["batch_stats"])
        return parts.branch

    rho = 0.3
    expected = rho ** POWERS[placement][case] * branch(1.0)
    np.testing.assert_allclose(branch(rho), expected, rtol=1e-10, atol=1e-13)


@functools.cache
def result(placement):
    return weight_decay(placement, steps=100, every=20, width=4, size=4, batch_size=8, draws=3)


@pytest.mark.parametrize("placement", slow_but(POWERS, "pre"))
def test_the_experiment_follows_the_closed_form_while_epsilon_is_small(placement):
    r = result(placement)
    np.testing.assert_array_equal(r.step, [0, 20, 40, 60, 80, 100])
    np.testing.assert_allclose(r.kernel[0], 0.99**r.step, rtol=1e-4)
    np.testing.assert_allclose(r.kernel, np.tile(r.kernel[:1], (3, 1)), rtol=1e-4)
    np.testing.assert_allclose(r.branch[0], r.closed_form[0], rtol=1e-4)  # no BatchNorm: exact
    np.testing.assert_allclose(r.branch[1:], r.closed_form[1:], rtol=0.02)
    assert np.all(r.branch_interval[..., 0] <= r.branch * (1 + 1e-9))
    assert np.all(r.branch_interval[..., 1] >= r.branch * (1 - 1e-9))


@pytest.mark.slow
def test_epsilon_ends_it_in_the_long_run():
    r = weight_decay("post", decay=1.0, steps=60, every=20, width=2, size=3, batch_size=4, draws=2)
    kept = r.branch[1] / r.branch[1, 0]
    assert kept[1] > 0.9 and kept[3] < 0.5  # of the kernels, 12 % and 0.2 % are left


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"placement": "bn_after_add"}, "allowed: post, pre"),
        ({"rate": 0.0}, "rate × decay = 0"),
        ({"rate": 2.0, "decay": 1.0}, "rate × decay = 2"),
        ({"steps": 5, "every": 10}, "steps ≥ every"),
        ({"draws": 1}, "draws=1"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ValueError, match=message):
        weight_decay(**options)


def test_a_network_of_decayed_units_is_one_without():
    """What is left of a network whose residual units have decayed: stem and head."""
    network = Network(Stem(3), (Stack("s", unit_of("post", True), 3, 1),), Head(2))
    variables = draw(network, (4, 4, 1))
    decayed = {**variables["params"], "s": jax.tree.map(jnp.zeros_like, variables["params"]["s"])}
    image = jax.random.normal(KEY, (2, 4, 4, 1))
    h, _ = network.run_stem(variables, image)
    expected, _ = network.run_head(variables, h)
    got = network.apply({**variables, "params": decayed}, image).logits
    np.testing.assert_array_equal(got, expected)


# --- what is said and drawn ---


def made(shares):
    """A result whose branches have ``shares`` of their size left when kernels have 1 %."""
    shares = np.array(shares)[:, None]
    branch = 2 * np.concatenate([np.ones((3, 1)), shares], 1)
    return WeightDecay(
        placement="post",
        case=("a", "b", "c"),
        step=np.array([0, 10]),
        branch=branch,
        branch_interval=np.stack([branch, branch], -1),
        closed_form=branch,
        power=np.array([2, 0, 1]),
        kernel=np.array([[1, 0.01]] * 3),
        rate=0.1,
        decay=0.1,
        choices={},
    )


def test_the_moment_is_when_kernels_are_small():
    assert moment(made([1, 1, 1])) == 1
    np.testing.assert_allclose(left(made([0.5, 1, 0.1])), [0.5, 1, 0.1])


@pytest.mark.slow
def test_the_claim_measures_both_units_and_json_keeps_everything(monkeypatch):
    def short(placement, seed, draws, width, size):
        assert (seed, draws, width, size) == (4, 2, 4, 4)
        return result(placement)

    monkeypatch.setattr("resjax.studies.units.weight_decay.weight_decay", short)
    seen = []
    results = STUDY.measure(ClaimOptions(smoke=True, seed=4), lambda *a: seen.append(a))
    assert list(results) == ["post-activation unit", "pre-activation unit"] and seen[-1] == (2, 2)
    assert len(compare.table(STUDY, results).rows) == 6
    assert "stays away from the identity" in compare.finding(STUDY, results).headline
    assert len(STUDY.plot(results).axes) == 2
    one = result("pre")
    back = WeightDecay.from_json(json.loads(json.dumps(one.to_json(), allow_nan=False)))
    for field in dataclasses.fields(back):
        np.testing.assert_equal(getattr(back, field.name), getattr(one, field.name))
