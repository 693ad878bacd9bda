"""Several units deleted at once: which sets, what is left, what is run for it, and what is said of it."""

import dataclasses
import functools
import itertools
import json
import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import slow_but
from network_helpers import draw, logits_of, programs, subject_of

from resjax import models
from resjax.network.losses import cross_entropy
from resjax.studies.catalogue import STUDIES, plot
from resjax.studies.lesions import prefixes
from resjax.studies.lesions.deletions import by_number, deletions
from resjax.studies.lesions.deletions_result import Deletions
from resjax.studies.lesions.lesion import lesion
from resjax.studies.lesions.pairs import interaction, longest_run, pair_matrix, pairs, run_matrix
from resjax.studies.lesions.prefixes import measure_places
from resjax.studies.lesions.proportion import line_of
from resjax.studies.lesions.sets import delete_subsets
from resjax.studies.lesions.subsets import (
    candidates,
    default_numbers,
    pairs_and_runs,
    random_subsets,
)
from resjax.studies.options import Options
from resjax.studies.spread import spread
from resjax.studies.variants import measure, with_gates

SHAPE, CLASSES = (6, 6, 1), 4
# One size of batches in all tests: compilation is most of their time.
BATCH = 4
# Unit 0 stands alone, 1 to 3 are a stack, 4 changes the shape.
SIZES = {"stage_sizes": (4, 1), "widths": (4, 6)}
KINDS = {
    "pre": {},
    "post": {"placement": "post", "transition": "projection"},
    "plain": {"shortcut": "none"},
    "stochastic depth": {"unit_dropout": "linear", "unit_survival": 0.6},
}


@functools.cache
def network_of(kind):
    config = models.defaults("resnet", **SIZES, **KINDS[kind])
    network = models.build(config, image_shape=SHAPE, num_classes=CLASSES)
    return network, draw(network, SHAPE)


def examples(n=BATCH, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, *SHAPE)).astype(np.float32), rng.integers(0, CLASSES, n)


@functools.cache
def all_subsets_of(kind):
    """Every set of units that can go, the empty one first."""
    network, variables = network_of(kind)
    allowed, _ = candidates(network, variables, examples()[0])
    subsets = random_subsets(allowed, range(int(allowed.sum()) + 1), 100, 0)
    assert len(subsets) == 2 ** allowed.sum()
    return delete_subsets(network, variables, *examples(11), subsets, batch_size=BATCH)


@pytest.mark.parametrize("kind", slow_but(KINDS, "pre", "stochastic depth"))
def test_every_set_equals_the_network_with_gates_of_zero(kind):
    network, variables = network_of(kind)
    result = all_subsets_of(kind)
    gates = 1 - result.deleted.astype(np.float32)
    scores, intact = measure(network, variables, *examples(11), with_gates, gates, batch_size=BATCH)
    np.testing.assert_array_equal(result.error, scores.error)
    np.testing.assert_array_equal(result.agreement, scores.agreement)
    np.testing.assert_allclose(result.loss, scores.loss, rtol=1e-5)
    np.testing.assert_allclose(result.kl, scores.kl, rtol=1e-4, atol=1e-6)
    assert result.intact_error == intact.error[0]
    assert len(np.unique(result.loss)) > 8


@pytest.mark.parametrize("kind", slow_but(KINDS, "pre", "stochastic depth"))
def test_deleting_nothing_changes_no_bit(kind):
    network, variables = network_of(kind)
    places = np.arange(network.num_units)[None]
    by_places, _ = measure_places(network, variables, *examples(), places, batch_size=BATCH)
    gates = np.ones_like(places, np.float32)
    _, whole = measure(network, variables, *examples(), with_gates, gates, batch_size=BATCH)
    # Two programs; one that knows all gates may round s + gate · f once instead of twice.
    rtol = 2e-5 if kind == "stochastic depth" else 3e-7
    np.testing.assert_allclose(by_places.loss, whole.loss, rtol=rtol)
    result = all_subsets_of(kind)
    assert not result.deleted[0].any()
    assert (result.kl[0], result.agreement[0], result.loss[0]) == (0, 1, result.intact_loss)


def test_equals_a_network_built_without_the_units():
    network, variables = network_of("pre")
    stack = network.stacks[1]
    assert stack.n == 3
    stacks = (network.stacks[0], dataclasses.replace(stack, n=1), *network.stacks[2:])
    kept = {
        collection: {**parts, stack.name: jax.tree.map(lambda v: v[1:2], parts[stack.name])}
        for collection, parts in variables.items()
    }
    x, y = examples(11)
    logits = logits_of(dataclasses.replace(network, stacks=stacks), kept, x)
    result = all_subsets_of("pre")
    (row,) = np.flatnonzero((result.deleted == [False, True, False, True, False]).all(1))
    assert result.error[row] == np.mean(np.asarray(logits).argmax(-1) != y)
    np.testing.assert_allclose(result.loss[row], cross_entropy(logits, y).mean(), rtol=1e-5)


def test_only_what_differs_is_run_in_two_programs_a_stack(monkeypatch):
    network, variables = network_of("pre")
    # What runs, and how often it is compiled, is visible nowhere else.
    run, before, times = prefixes.run_unit, programs(prefixes.run_unit), []
    monkeypatch.setattr(prefixes, "run_unit", lambda *a: times.append(1) or run(*a))
    x, y = examples()
    result = pairs(network, variables, x, y)
    rows = np.where(result.deleted, ~np.arange(5), np.arange(5))
    beginnings = {tuple(row[: i + 1]) for row in [np.arange(5), *rows] for i in range(5)}
    assert len(times) == sum(begin[-1] >= 0 for begin in beginnings)
    assert len(times) < 0.5 * 5 * len(rows)
    assert programs(run) <= before + len(network.stacks)
    deletions(network, variables, x, y, draws=3)
    assert programs(run) <= before + len(network.stacks)


@given(
    allowed=st.lists(st.booleans(), min_size=1, max_size=7).filter(any),
    draws=st.integers(1, 12),
    seed=st.integers(0, 3),
)
@settings(deadline=None, max_examples=30)
def test_random_sets_are_of_their_size_allowed_and_different(allowed, draws, seed):
    pool = sum(allowed)
    subsets = random_subsets(np.array(allowed), range(pool + 1), draws, seed)
    assert len(np.unique(subsets, axis=0)) == len(subsets)
    assert not subsets[:, ~np.array(allowed)].any()
    counts = [min(draws, math.comb(pool, k)) for k in range(pool + 1)]
    np.testing.assert_array_equal(np.bincount(subsets.sum(1)), counts)
    alone = random_subsets(np.array(allowed), [pool // 2], draws, seed)
    np.testing.assert_array_equal(alone, subsets[subsets.sum(1) == pool // 2])


def test_the_passes_that_are_stated_are_those_that_are_run(monkeypatch):
    network, variables = network_of("pre")
    # What runs is visible nowhere else.
    ran, original = [], prefixes.run_unit
    monkeypatch.setattr(prefixes, "run_unit", lambda *args: ran.append(args[1]) or original(*args))
    out = np.array([[0, 0, 0, 1, 0], [0, 1, 0, 0, 0], [0, 1, 0, 1, 0], [1, 1, 1, 1, 1]], bool)
    result = delete_subsets(network, variables, *examples(), out, batch_size=BATCH)
    # 5 of the intact one; then units 4; 2, 3, 4; 4 again behind the shared 0, 2; and none.
    assert len(ran) == 5 + 1 + 3 + 1
    places = np.where(out, ~np.arange(5), np.arange(5))
    assert prefixes.count_passes(places) == len(ran) / 5
    assert result.choices["forward passes"].startswith("2.0 instead of 5,")


def test_every_number_of_units_as_in_the_paper():
    everything = np.ones(54, bool)
    sets = random_subsets(everything, range(1, 21), 30, 0)
    np.testing.assert_array_equal(sets.sum(1), np.repeat(np.arange(1, 21), 30))
    places = np.where(sets, ~np.arange(54), np.arange(54))
    kept = (~sets).sum() / 54  # passes without what is deleted, but with nothing shared
    assert prefixes.count_passes(places) < 0.75 * kept < 0.65 * len(sets)
    options = Options(max_examples=BATCH, batch_size=BATCH, draws=2, delete_up_to=3)
    network, variables = network_of("pre")
    run = subject_of(network, variables, lambda split, most: examples(), SHAPE)
    result = STUDIES["deletions"].run(run, options, None)
    assert set(result.number) == {1, 2, 3}
    more = STUDIES["deletions"].run(run, dataclasses.replace(options, delete_up_to=20), None)
    assert set(more.number) == {1, 2, 3, 4, 5}


def test_random_sets_are_uniform():
    subsets = random_subsets(np.ones(40, bool), [10], 3000, 0)
    # Each unit is in a quarter of them; five standard errors.
    np.testing.assert_allclose(subsets.mean(0), 0.25, atol=5 * np.sqrt(0.25 * 0.75 / 3000))


def test_default_numbers_reach_the_paper_s_and_all():
    assert default_numbers(54) == (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 54)
    assert default_numbers(1) == (1,)
    assert default_numbers(3) == (1, 2, 3)


def test_pairs_and_runs_are_complete():
    allowed = np.array([True, True, False, True, True, True])
    subsets = {tuple(np.flatnonzero(s).tolist()) for s in pairs_and_runs(allowed)}
    singles = {(i,) for i in (0, 1, 3, 4, 5)}
    assert subsets == singles | set(itertools.combinations((0, 1, 3, 4, 5), 2)) | {(3, 4, 5)}
    assert len(pairs_and_runs(allowed)) == len(subsets)


def test_pairs_are_symmetric_and_single_deletions_on_the_diagonal():
    network, variables = network_of("plain")
    result = pairs(network, variables, *examples(11), batch_size=BATCH)
    single = lesion(network, variables, *examples(11), batch_size=BATCH)
    error, together, run = pair_matrix(result), interaction(result, "loss"), run_matrix(result)
    np.testing.assert_array_equal(error, error.T)
    np.testing.assert_array_equal(together, together.T)
    np.testing.assert_array_equal(np.diag(error), single.error)
    np.testing.assert_array_equal(np.diag(run), single.error)
    np.testing.assert_array_equal(np.diag(run, 1), np.diag(error, 1))
    assert np.isnan(run[np.tril_indices(5, -1)]).all()
    assert np.isnan(error[4]).all()  # it changes the shape and has no shortcut
    loss = pair_matrix(result, "loss")
    expected = loss[0, 2] - loss[0, 0] - loss[2, 2] + result.intact_loss
    np.testing.assert_allclose(together[0, 2], expected, rtol=1e-12)
    everything = all_subsets_of("plain")
    (row,) = np.flatnonzero((everything.deleted == [False, True, True, True, False]).all(1))
    assert run[1, 3] == everything.error[row]


def test_transitions_can_be_excluded_and_left_out_units_are_named():
    network, variables = network_of("pre")
    all_units, none = candidates(network, variables, examples()[0])
    assert all_units.all()
    assert not none
    result = deletions(network, variables, *examples(), draws=2, transitions=False)
    assert set(result.left_out) == {"stage2/unit1"}
    assert not result.deleted[:, 4].any()
    assert result.number.max() == 4
    assert result.choices["units that change the shape"] == "not deleted"
    plain = all_subsets_of("plain")
    assert set(plain.left_out) == {"stage2/unit1"}
    assert "differ in shape" in plain.left_out["stage2/unit1"]


def test_medians_have_intervals_and_complete_sets_have_none():
    network, variables = network_of("pre")
    seen = []
    result = deletions(
        network, variables, *examples(), ks=(1, 2), draws=6, progress=lambda *a: seen.append(a)
    )
    curve = by_number(result)
    np.testing.assert_array_equal(curve.amount, [0, 1, 2])
    np.testing.assert_array_equal(curve.draws, [1, 5, 6])
    assert curve.median[0] == result.intact_error
    assert curve.low[1] == curve.median[1] == curve.high[1]
    assert curve.low[2] <= curve.median[2] <= curve.high[2]
    assert curve.median[2] == np.median(result.error[result.number == 2])
    assert seen[-1] == (44, 44)  # 11 networks on 4 examples
    assert seen == sorted(seen)
    assert np.isnan(spread(np.array([1]), np.array([0.5]), 0.0).low[1])


def test_many_draws_narrow_the_interval():
    rng = np.random.default_rng(0)
    values = rng.normal(size=500)
    few = spread(np.ones(20, int), values[:20], 0.0)
    many = spread(np.ones(500, int), values, 0.0)
    assert many.high[1] - many.low[1] < 0.5 * (few.high[1] - few.low[1])
    assert many.low[1] < 0 < many.high[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ks": (9,)}, "the 5 units that can be deleted"),
        ({"ks": ()}, "one or more sizes"),
        ({"draws": 0}, "1 draw or more"),
    ],
)
def test_impossible_draws_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        deletions(*network_of("pre"), *examples(), **change)


@pytest.mark.parametrize(
    ("subsets", "message"),
    [
        (np.zeros((2, 4), bool), r"bool \[m, 5\]"),
        (np.zeros((0, 5), bool), "m ≥ 1"),
        (np.zeros((1, 5)), "float64"),
        (np.eye(5, dtype=bool), "stage2/unit1: no shortcut"),
    ],
)
def test_impossible_sets_are_refused(subsets, message):
    with pytest.raises(ValueError, match=message):
        delete_subsets(*network_of("plain"), *examples(), subsets)


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (np.array([[0, 4, 2, 3, 1]]), "puts unit 4 at place 1 .*there, 1 to 3"),
        (np.array([[0, 1, 2, 3, 9]]), "puts unit 9"),
        (np.zeros((1, 5)), "integers"),
        (np.array([[0, 1, 2, 3, ~4]]), "Network.deletable"),
    ],
)
def test_impossible_places_are_refused(places, message):
    with pytest.raises(ValueError, match=message):
        measure_places(*network_of("plain"), *examples(), places)


def test_no_deletable_unit_and_no_example_are_refused():
    config = models.defaults("lenet5")
    lenet = models.build(config, image_shape=(28, 28, 1), num_classes=CLASSES)
    variables = jax.eval_shape(lambda k: lenet.init(k, (28, 28, 1)), jax.random.key(0))
    x = np.zeros((2, 28, 28, 1), np.float32)
    with pytest.raises(ValueError, match="none of the"):
        deletions(lenet, variables, x, np.zeros(2, int))
    with pytest.raises(ValueError, match="no example"):
        deletions(*network_of("pre"), *examples(0))


def test_json_keeps_everything():
    result = all_subsets_of("plain")
    back = Deletions.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False)))
    for field in dataclasses.fields(result):
        np.testing.assert_equal(getattr(back, field.name), getattr(result, field.name))


def made(error, intact=0.05, examples=100):
    """A network of 12 units with ``error(set of deleted units)`` for random sets, pairs and runs."""
    allowed = np.ones(12, bool)
    subsets = np.concatenate([random_subsets(allowed, range(1, 13), 9, 0), pairs_and_runs(allowed)])
    subsets = np.unique(subsets, axis=0)
    values = np.array([error(np.flatnonzero(s)) for s in subsets])
    return Deletions(
        unit=tuple(f"stage1/unit{i}" for i in range(1, 13)),
        deleted=subsets,
        error=values,
        loss=2 * values,
        kl=values,
        agreement=1 - values,
        left_out={},
        intact_error=intact,
        intact_loss=0.1,
        num_examples=examples,
        num_classes=10,
        choices={},
    )


def test_the_longest_run_that_may_go_is_counted():
    assert longest_run(made(lambda s: 0.05 if min(s) >= 8 else 0.3)) == 4
    assert longest_run(made(lambda s: 0.9)) == 0


@pytest.mark.parametrize("study", [STUDIES["deletions"], STUDIES["pairs"]], ids=lambda s: s.name)
def test_a_study_runs(study):
    network, variables = network_of("pre")
    run = subject_of(network, variables, lambda split, most: examples(min(most, 9)), SHAPE)
    assert study.unsuited(run) is None
    result = study.run(run, Options(draws=2, max_examples=BATCH), None)
    assert result.num_examples == BATCH
    assert "4 test examples" in result.choices["data"]


def test_plots_show_medians_and_matrices():
    result = all_subsets_of("pre")
    figure = plot({"a": result, "b": result})
    left, right = figure.axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), 100 * by_number(result).median)
    np.testing.assert_allclose(right.lines[0].get_ydata(), 100 * line_of(result).mean)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["a", "b"]
    figure = plot({"a": result, "b": result}, "pairs")
    images = [ax.images[0].get_array() for ax in figure.axes if ax.images]
    np.testing.assert_allclose(images[0].filled(np.nan), 100 * interaction(result))
    np.testing.assert_allclose(images[1].filled(np.nan), 100 * run_matrix(result).T)
