"""Shortcuts over several layers: the networks differ in nothing else, and the same layers are deleted."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from golden_cases.skip_length import made
from marks import slow_but
from network_helpers import initial, logits_of

from resjax import models
from resjax.report import compare
from resjax.studies.lesions import skip_length as study
from resjax.studies.lesions.skip_length import SkipLength, label_of, runs_of, sides, skip_length
from resjax.studies.options import ClaimOptions
from resjax.studies.small_training import digits_recipe


def network(length, plain=False, widths=(2, 3, 4), layers=12):
    fields = {
        "depth": layers * len(widths) + 2,
        "widths": widths,
        "block_layers": length,
        "placement": "post",
    }
    own = models.defaults("resnet", **fields, shortcut="none" if plain else "identity")
    return models.build(own, image_shape=(8, 8, 1), num_classes=10)


def parameters(of):
    variables = jax.eval_shape(lambda key: of.init(key, (8, 8, 1)), jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.slow
def test_all_lengths_have_the_same_parameters():
    lengths, how = (1, 2, 3, 4, 6, 12), {"widths": (2, 3)}
    counts = {parameters(network(n, **how)) for n in lengths} | {parameters(network(6, plain=True, **how))}
    assert len(counts) == 1


def layers_of(tree, length):
    """The variables of a stack of units of ``length`` layers, as a stack of units of one layer."""
    names = {name.rstrip("0123456789") for name in tree}
    return {
        f"{name}1": jax.tree.map(
            lambda *v: np.stack(v, 1).reshape(-1, *v[0].shape[1:]),
            *(tree[f"{name}{j + 1}"] for j in range(length)),
        )
        for name in names
    }


@pytest.mark.parametrize("length", slow_but([2, 3, 6], 3))
def test_without_shortcuts_all_lengths_are_the_same_function(length):
    """So the plain network is the control of them all."""
    long, single = (network(n, plain=True, widths=(4,), layers=6) for n in (length, 1))
    variables = jax.device_get(initial(long, (8, 8, 1)))
    other = {
        collection: {**tree, "stage1": layers_of(tree["stage1"], length)}
        for collection, tree in variables.items()
    }
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32)
    expected = logits_of(long, variables, x)
    np.testing.assert_allclose(logits_of(single, other, x), expected, rtol=1e-5, atol=1e-5)
    # With shortcuts the same variables are another function.
    residual = network(1, widths=(4,), layers=6)
    assert np.abs(logits_of(residual, other, x) - expected).max() > 1e-2


@pytest.mark.parametrize("length", [1, 2, 3, 6])
def test_the_same_six_layers_are_deleted(length):
    own = network(length)
    runs = runs_of(own, length)
    layers = np.repeat(runs, length, axis=1)  # [run, layer]
    expected = np.zeros((4, 36), bool)
    for run, start in enumerate((0, 6, 18, 30)):  # not 12 to 17 and 24 to 29: the first changes the shape
        expected[run, start : start + 6] = True
    np.testing.assert_array_equal(layers, expected)


@functools.cache
def results():
    seen = []
    c = digits_recipe(20, depth=14, widths=(4,))
    c.data.train_examples = 64
    found = skip_length(c, (0, 6), rates=(0.05,), seeds=2, progress=lambda *a: seen.append(a))
    return found, seen


@pytest.mark.slow
def test_shapes_and_ranges():
    found, seen = results()
    assert list(found) == ["plain", "over 6 layers"]
    assert [r.num_layers for r in found.values()] == [12, 12]
    assert [r.error.shape for r in found.values()] == [(2, 12), (2, 2)]
    for r in found.values():
        assert r.train_loss.shape == (2, 10) and r.run_error.shape == (2, 2)
        for values in (r.error, r.run_error, r.intact_error, r.train_error):
            assert ((values >= 0) & (values <= 1)).all()
        assert (r.train_loss[:, -1] < r.train_loss[:, 0]).all()
    # Here each unit of six layers is one of the runs.
    np.testing.assert_array_equal(found["over 6 layers"].error, found["over 6 layers"].run_error)
    assert seen[0] == (0, 4) and seen[-1] == (4, 4) and seen == sorted(seen)


def test_damage_by_hand():
    r = made(2, [1.0, 1.0, 1.0], [0.3, 0.3, 0.3])
    np.testing.assert_allclose(r.of_run, 0.3)
    r = dataclasses.replace(r, intact_error=np.full(3, 0.1), error=np.tile([0.12, np.nan, 0.3, 0.2], (3, 1)))
    np.testing.assert_allclose(r.per_layer, 0.05)  # rises of 2, 20 and 10 points, by 2 layers


def test_networks_are_compared_by_paired_intervals():
    some = {
        "plain": made(0, [1.0, 1.5, 2.0], [0.1] * 3),
        "lower": made(1, [0.9, 1.4, 1.9], [0.1] * 3),
        "higher": made(3, [1.1, 1.7, 2.2], [0.1] * 3),
        "unclear": made(6, [0.5, 1.5, 2.4], [0.1] * 3),
    }
    found = sides(some, lambda r: r.final_loss, "plain")
    assert found == ([1], [3], [6])


@pytest.mark.parametrize("change", [{"lengths": (0, 4)}, {"lengths": ()}, {"lengths": (-1,)}, {"seeds": 1}])
def test_impossible_options(change):
    given = {"lengths": (0, 2), **change}
    with pytest.raises(ValueError, match="allowed: 0 and divisors of 6, and 2 seeds or more"):
        skip_length(digits_recipe(10), given.pop("lengths"), **given)


@pytest.mark.slow
def test_the_claim_and_json(monkeypatch):
    def short(recipe, **how):
        assert (recipe.seed, recipe.model.depth, how["lengths"]) == (4, 38, (0, 2, 6))
        return results()[0]

    monkeypatch.setattr(study, "skip_length", short)
    found = study.STUDY.measure(ClaimOptions(smoke=True, seed=4), None)
    assert len(compare.table(study.STUDY, found).rows) == 2
    one = found[label_of(6)]
    back = SkipLength.from_json(json.loads(json.dumps(one.to_json(), allow_nan=False)))
    for field in dataclasses.fields(back):
        np.testing.assert_equal(getattr(back, field.name), getattr(one, field.name))
