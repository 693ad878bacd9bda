"""Learning y = x with one block: by hand, at the identity, and what is said of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_cases.learns_identity import CASES

from resjax.studies.options import ClaimOptions
from resjax.studies.units import learns_identity as study
from resjax.studies.units.identity_fit import WIDTH, block, first, fit, steps_to
from resjax.studies.units.learns_identity import learns_identity


def test_a_residual_block_with_weights_0_is_the_identity_and_a_plain_one_is_0():
    params = jax.tree.map(jnp.zeros_like, first(jax.random.key(0), 8))
    x = jnp.abs(jax.random.normal(jax.random.key(1), (5, WIDTH)))
    np.testing.assert_array_equal(block(params, x, True), x)
    np.testing.assert_array_equal(block(params, x, False), 0 * x)


def test_a_block_by_hand():
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda v: rng.standard_normal(v.shape), first(jax.random.key(0), 3))
    x = rng.standard_normal((4, WIDTH))
    hidden = np.maximum(x @ params["w1"] + params["b1"], 0)
    out = hidden @ params["w2"] + params["b2"]
    np.testing.assert_allclose(block(params, x, False), np.maximum(out, 0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(block(params, x, True), np.maximum(out + x, 0), rtol=1e-5, atol=1e-5)


def test_steps_are_counted_to_the_first_time():
    error = np.array([[0.5, 0.2, 0.009, 0.3], [0.5, 0.4, 0.3, 0.2], [0.01, 0.1, 0.1, 0.1]])
    np.testing.assert_array_equal(steps_to(error, 0.01), [2, np.inf, 0])


@pytest.mark.slow
def test_a_residual_block_needs_fewer_steps_and_a_penalty_alone_makes_it_the_identity():
    given = {"rates": (0.1,), "steps": 150, "hidden": 32, "seeds": 6, "tries": 1, "enough": 0.01}
    residual, plain = (fit(kind, 0.0, **given).error for kind in (True, False))
    assert steps_to(residual, 0.01).max() < 100 < np.median(steps_to(plain, 0.01))
    # Before training both are far from the identity: nothing is given away by the initial weights.
    assert residual[:, 0].min() > 0.3 and plain[:, 0].min() > 0.3


def test_the_rate_is_that_of_the_fewest_steps_of_other_blocks():
    given = {"steps": 60, "hidden": 32, "seeds": 3, "tries": 3, "enough": 0.01}
    tuned = fit(True, 0.0, rates=(1e-4, 0.1, 30.0), **given)  # too slow, good, diverges
    assert tuned.rate == 0.1
    np.testing.assert_array_equal(tuned.error, fit(True, 0.0, rates=(0.1,), **given).error)


def test_the_interval_of_the_median_covers_it():
    """Order statistics: exact for any distribution, also where some blocks never learn."""
    rng, result = np.random.default_rng(0), CASES["one kind"]["residual"]
    inside = []
    for _ in range(400):
        steps = rng.lognormal(3, 1, (1, 20))
        steps[steps > np.exp(3.5)] = np.inf
        _, low, high = study.dataclasses.replace(result, steps=steps).median(0)
        inside.append(low <= np.exp(3) <= high)
    assert 0.93 < np.mean(inside) < 0.985


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"decays=\(0.1,\), seeds=20"):
        learns_identity(True, decays=(0.1,))


@pytest.mark.slow
def test_the_small_form_has_both_kinds():
    results = study.measure(ClaimOptions(smoke=True), None)
    assert [r.residual for r in results.values()] == [True, False]
    for r in results.values():
        assert r.error.shape == (2, 4, len(r.point)) and (r.initial_ratio > 0).all()
    # At initialization a plain unit is as far from the identity as its output is from its input.
    assert results["plain"].initial_ratio.min() > 0.5
    assert study.plot(results).axes
