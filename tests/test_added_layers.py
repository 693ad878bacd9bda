"""Two more layers: what is inserted, what is compared, and what is said."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from golden_cases.added_layers import made

from resjax.report import compare
from resjax.studies.options import ClaimOptions
from resjax.studies.small_training import digits_recipe, examples, train
from resjax.studies.units import added_layers as study
from resjax.studies.units.added_layers import AddedLayers, added_layers, differences, effects, fits
from resjax.studies.units.insertion import insert

CASES = ("untouched", "middle, identity", "middle, initialized", "end, identity", "end, initialized")


def recipe(steps=10, shortcut="identity"):
    c = digits_recipe(steps, depth=6, widths=(4,), shortcut=shortcut)
    c.data.train_examples = 64
    return c


@functools.cache
def still(shortcut):
    """Everything without a learning rate: only running statistics change."""
    seen = []
    how = {"rates": (0.0,), "seeds": 2, "tries": 1, "progress": lambda *a: seen.append(a)}
    return added_layers(recipe(shortcut=shortcut), **how), seen


@pytest.mark.slow
@pytest.mark.parametrize("shortcut", ["identity", "none"])
def test_the_identity_starts_as_the_same_function_and_initial_values_do_not(shortcut):
    r, seen = still(shortcut)
    assert r.case == CASES and r.num_units == 2 and r.num_test == 397
    # A zero branch adds nothing in training either; a plain unit normalizes by each batch.
    tolerance = {"rtol": 1e-4} if shortcut == "identity" else {"atol": 0.1}
    for case in (1, 3):
        np.testing.assert_allclose(r.test_loss[case], r.test_loss[0], **tolerance)
        np.testing.assert_allclose(r.train_loss[case], r.train_loss[0], **tolerance)
    for case in (2, 4):
        assert (np.abs(r.train_loss[case] - r.train_loss[0]) > 1e-3).all()
    assert seen[0] == (0, 12) and seen[-1] == (12, 12) and seen == sorted(seen)


@pytest.mark.slow
def test_training_on_lowers_the_loss_from_where_it_was():
    r = added_layers(recipe(40), rates=(0.05,), seeds=2, tries=1)
    assert (r.train_loss[[0, 1, 3]] < r.before_loss).all()
    assert not np.array_equal(r.test_loss[0], r.test_loss[1])
    for values in (r.test_error, r.before_error):
        assert ((values >= 0) & (values <= 1)).all()


def test_a_unit_as_initialized_is_new_and_the_others_stay():
    (one,) = train([recipe()])
    images = examples(recipe()).train[0][:8]
    places = {"after": 0, "key": jax.random.key(5)}
    network, same = insert(one.network, one.variables, images, **places)
    other, changed = insert(one.network, one.variables, images, **places, identity=False)
    assert network == other and network.num_units == 3
    own = {name: tree["stage1"] for name, tree in changed.items()}
    old = {name: tree["stage1"] for name, tree in one.variables.items()}
    jax.tree.map(lambda new, v: np.testing.assert_array_equal(np.delete(new, 1, 0), v), own, old)
    inserted = jax.tree.map(lambda v: v[1], own["params"])
    zeroed = jax.tree.map(lambda v: v[1], same["params"]["stage1"])
    assert np.all(inserted["bn2"]["scale"] == 1) and not np.any(zeroed["bn2"]["scale"])
    np.testing.assert_array_equal(inserted["conv1"]["kernel"], zeroed["conv1"]["kernel"])

    def logits(network, variables):
        return network.apply(variables, images).logits

    np.testing.assert_array_equal(logits(network, same), logits(one.network, one.variables))
    assert np.abs(logits(other, changed) - logits(network, same)).max() > 1e-3


def test_effects_are_decided_by_the_interval_of_paired_differences():
    r = made([(-0.02, -0.001), (0.001, 0.02), (-0.005, 0.0099), (-0.005, 0.0101)])
    _, low, high = differences(r)
    np.testing.assert_allclose(low[1:], [-0.02, 0.001, -0.005, -0.005])
    np.testing.assert_allclose(high[1:], [-0.001, 0.02, 0.0099, 0.0101])
    assert list(effects(r).values()) == ["helps", "hurts", "does not hurt", "undecided"]
    assert list(fits(r).values()) == ["lower", "higher", "unclear", "unclear"]


def test_one_seed_has_no_interval():
    with pytest.raises(ValueError, match="seeds=1; allowed: 2 or more"):
        added_layers(recipe(), seeds=1)


@pytest.mark.slow
def test_the_claim_has_both_networks_and_json_keeps_everything(monkeypatch):
    def short(given, **how):
        assert (given.seed, given.model.depth, how["seeds"], how["tries"]) == (4, 14, 2, 1)
        return still(given.model.shortcut)[0]

    monkeypatch.setattr(study, "added_layers", short)
    results = study.STUDY.measure(ClaimOptions(smoke=True, seed=4), None)
    assert list(results) == ["residual", "plain"]
    assert len(compare.table(study.STUDY, results).rows) == 10
    one = results["plain"]
    back = AddedLayers.from_json(json.loads(json.dumps(one.to_json(), allow_nan=False)))
    for field in dataclasses.fields(back):
        np.testing.assert_equal(getattr(back, field.name), getattr(one, field.name))
