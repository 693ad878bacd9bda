"""Weight decay in training: what is measured of the units, and what is said of it."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from golden_cases.decay_in_training import made

from resjax.network.refusal import Refusal
from resjax.studies.options import ClaimOptions
from resjax.studies.small_training import Trained, digits_recipe, train, with_numbers
from resjax.studies.units import decay_in_training as study
from resjax.studies.units.decay_in_training import (
    DecayInTraining,
    _size,  # alone, on weights made by hand
    changes,
    decay_in_training,
    judged,
    verdict,
)


def recipe(steps=12, **model):
    c = digits_recipe(steps, **({"depth": 6, "widths": (4,)} | model))
    c.data.train_examples = 64
    return c


@functools.cache
def trained(norm):
    seen = []
    result = decay_in_training(
        recipe(norm=norm),
        decays=(0.0, 3.0),
        rates=(0.02,),
        seeds=2,
        progress=lambda *a: seen.append(a),
    )
    return result, seen


@pytest.mark.slow
@pytest.mark.parametrize("norm", [True, False])
def test_without_a_learning_rate_nothing_changes(norm):
    r = decay_in_training(recipe(10, norm=norm), decays=(0.0, 1.0), rates=(0.0,), seeds=2)
    np.testing.assert_array_equal(r.kernel, 1)
    np.testing.assert_array_equal(r.bias, 0)
    np.testing.assert_array_equal(r.intact_error[0], r.intact_error[1])
    if not norm:  # running statistics change without any step
        np.testing.assert_allclose(r.branch, np.tile(r.initial_branch, (2, 1)), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("norm", [True, False])
def test_decay_shrinks_kernels_and_all_numbers_have_their_ranges(norm):
    r, seen = trained(norm)
    assert (r.kernel[1] < 0.9 * r.kernel[0]).all() and (r.kernel > 0).all()
    assert r.norm is norm and r.error.shape == (2, 2, 2) and (r.bias > 0).all()
    for values in (r.error, r.intact_error, r.train_error):
        assert ((values >= 0) & (values <= 1)).all()
    expected = (r.error <= r.intact_error[..., None] + 0.01 + 1e-9).sum(-1)
    np.testing.assert_array_equal(r.may_go, expected)
    assert seen[0] == (0, 2)
    assert seen == sorted(seen, key=lambda a: a[0] / a[1]) and seen[-1][0] == seen[-1][1]


@pytest.mark.slow
def test_it_is_the_training_of_the_configuration_with_paired_seeds():
    r, _ = trained(True)
    one = train([with_numbers(recipe(norm=True), seed=1, learning_rate=0.02, weight_decay=3.0)])[0]
    start = one._replace(variables=one.initial)
    np.testing.assert_allclose(r.kernel[1, 1], _size(one, "kernel") / _size(start, "kernel"), rtol=1e-5)
    np.testing.assert_allclose(r.bias[1, 1], _size(one, "bias"), rtol=1e-5)


def test_the_norm_covers_the_units_only():
    """Kernels of 1 in all units, and others elsewhere: the norm is the root of their number."""
    (one,) = train([recipe(10)])
    params = jax.tree.map(np.ones_like, one.variables["params"])
    params = {**params, "stem": jax.tree.map(lambda v: 7 * v, params["stem"])}
    by_hand = Trained(one.network, one.initial, {"params": params}, one.loss, one.error)
    # Two units of two 3×3 convolutions of 4 channels, and a β of 4 channels in each of the four BatchNorms.
    assert _size(by_hand, "kernel") == np.sqrt(2 * 2 * 9 * 4 * 4)
    assert _size(by_hand, "bias") == np.sqrt(4 * 4)


@pytest.mark.slow
def test_divergence_is_marked():
    """A decay of 10³⁰ multiplies weights by −2·10²⁸ in each step."""
    r = decay_in_training(recipe(norm=False), decays=(0.0, 1e30), rates=(0.02,), seeds=2)
    for name in ("kernel", "bias", "branch", "train_error", "intact_error", "error", "may_go"):
        assert np.isnan(getattr(r, name)[1]).all() and np.isfinite(getattr(r, name)[0]).all()
    assert np.isfinite(r.initial_branch).all()
    unfit = np.full((2, 2), np.nan)
    assert verdict(dataclasses.replace(r, train_error=unfit, intact_error=unfit)) == "unfit"
    with pytest.raises(Refusal, match="no learning rate of 3e"):
        decay_in_training(recipe(norm=False), decays=(0.0, 0.1), rates=(3e38,), seeds=2)


@pytest.mark.parametrize(
    "change", [{"decays": (1e-3, 1e-2)}, {"decays": (0.0,)}, {"decays": (0.0, -1.0)}, {"seeds": 1}]
)
def test_impossible_options(change):
    with pytest.raises(ValueError, match="allowed: two or more, the first 0; 2 seeds or more"):
        decay_in_training(recipe(), **change)


def test_changes_are_paired_geometric_means():
    mean, low, high = changes(np.array([[1.0, 10.0], [0.5, 5.0], [0.25, 40.0]]))
    np.testing.assert_allclose(mean, [1, 0.5, 1])  # ¼ and 4
    np.testing.assert_allclose((low[1], high[1]), 0.5)  # both seeds say the same
    assert low[2] < 0.01 and high[2] > 100


def test_the_largest_decay_that_still_fits_is_judged():
    assert judged(made([1, 0.5, 0.2], [1, 1, 1], errors=[0.0, 0.01, 0.0101])) == 1
    assert judged(made([1, 0.5, 0.2], [1, 1, 1], errors=[0.3, 0.1, 0.2])) == 2
    assert judged(made([1, 0.5, 0.2], [1, 1, 1], errors=[0.0, 0.4, 0.4])) == 0


def test_the_claim_has_both_networks_and_json_keeps_everything(monkeypatch):
    def short(given, **how):
        assert (given.seed, given.model.depth, how["seeds"]) == (4, 8, 2)
        return dataclasses.replace(trained(given.model.norm)[0], choices={})

    monkeypatch.setattr(study, "decay_in_training", short)
    results = study.STUDY.measure(ClaimOptions(smoke=True, seed=4), None)
    assert [r.norm for r in results.values()] == [True, False]
    one = results["with BatchNorm"]
    back = DecayInTraining.from_json(json.loads(json.dumps(one.to_json(), allow_nan=False)))
    for field in dataclasses.fields(back):
        np.testing.assert_equal(getattr(back, field.name), getattr(one, field.name))
