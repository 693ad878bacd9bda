"""Units in another order: which orders, how far from the true one, and what they do."""

import dataclasses
import functools
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import slow_but
from network_helpers import draw, on_stack, subject_of
from scipy import stats

from resjax import models
from resjax.studies.catalogue import STUDIES, plot
from resjax.studies.lesions.orders import kendall_tau, neighbour_swaps, reverse, shuffled, swapped
from resjax.studies.lesions.prefixes import measure_places
from resjax.studies.lesions.reorder import KINDS, Reordering, by_swaps, reorder
from resjax.studies.options import Options
from resjax.studies.variants import measure, with_order

SHAPE, CLASSES, BATCH = (6, 6, 1), 4, 4


def classes_of(sizes):
    return np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])


# 54 units: the two that change the shape stand alone.
SIZES = (18, 1, 17, 1, 17)
PAPER = classes_of(SIZES)
TAU = {
    1: 0.984,
    2: 0.970,
    3: 0.955,
    5: 0.930,
    8: 0.899,
    10: 0.878,
    15: 0.840,
    20: 0.809,
    30: 0.769,
}


@pytest.mark.parametrize(("k", "tau"), TAU.items())
def test_tau_falls_with_swaps_as_expected(k, tau):
    orders = swapped(PAPER, k, 400, np.random.default_rng(k))
    assert kendall_tau(orders).mean() == pytest.approx(tau, abs=0.01)


def test_tau_of_one_swap_a_shuffle_and_the_reversal():
    pairs = sum(n * (n - 1) // 2 for n in SIZES)
    assert pairs == 425
    assert kendall_tau(reverse(PAPER))[0] == pytest.approx(1 - 4 * pairs / (54 * 53), rel=1e-12)
    assert kendall_tau(reverse(PAPER))[0] == pytest.approx(0.406, abs=5e-4)
    shuffles = kendall_tau(shuffled(PAPER, 400, np.random.default_rng(0)))
    assert shuffles.mean() == pytest.approx(1 - 2 * pairs / (54 * 53), abs=0.01)
    # Two units of a stack of s, swapped over a distance d: 2 d − 1 pairs run in the wrong order.
    wrong = [2 * d - 1 for n in SIZES for d in range(1, n) for _ in range(n - d)]
    exact = 1 - 4 * np.mean(wrong) / (54 * 53)
    one = kendall_tau(swapped(PAPER, 1, 3000, np.random.default_rng(0)))
    assert one.mean() == pytest.approx(exact, abs=1e-3)


@given(st.permutations(range(9)))
@settings(deadline=None)
def test_tau_is_scipy_s(order):
    expected = stats.kendalltau(np.arange(9), order).statistic
    assert kendall_tau(np.array([order]))[0] == pytest.approx(expected, abs=1e-12)


def test_tau_ends():
    np.testing.assert_array_equal(kendall_tau(np.array([[0, 1, 2], [2, 1, 0]])), [1, -1])
    assert kendall_tau(np.zeros((1, 1), int)) == 1


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4).filter(lambda s: max(s) > 1),
    k=st.integers(1, 9),
    seed=st.integers(0, 9),
)
@settings(deadline=None)
def test_units_stay_in_their_stack(sizes, k, seed):
    rng = np.random.default_rng(seed)
    orders = [
        swapped(classes_of(sizes), k, 5, rng),
        shuffled(classes_of(sizes), 5, rng),
        neighbour_swaps(classes_of(sizes)),
        reverse(classes_of(sizes)),
    ]
    stack = np.repeat(np.arange(len(sizes)), sizes)
    for order in np.concatenate(orders):
        np.testing.assert_array_equal(np.sort(order), np.arange(len(stack)))
        np.testing.assert_array_equal(stack[order], stack)
    assert len(orders[2]) == sum(sizes) - len(sizes)
    np.testing.assert_array_equal((orders[2] != np.arange(len(stack))).sum(1), 2)


def test_classes_that_alternate():
    """Attention (even) and MLP (odd): only pairs of one class count as wrong."""
    classes = [np.array([0, 2, 4]), np.array([1, 3])]
    np.testing.assert_array_equal(
        neighbour_swaps(classes), [[2, 1, 0, 3, 4], [0, 1, 4, 3, 2], [0, 3, 2, 1, 4]]
    )
    np.testing.assert_array_equal(reverse(classes), [[4, 3, 2, 1, 0]])
    assert kendall_tau(reverse(classes), classes)[0] == pytest.approx(1 - 4 * (3 + 1) / (5 * 4))
    np.testing.assert_allclose(kendall_tau(neighbour_swaps(classes), classes), 1 - 4 / (5 * 4))
    rng = np.random.default_rng(0)
    for order in np.concatenate([swapped(classes, 3, 9, rng), shuffled(classes, 9, rng)]):
        for own in classes:
            np.testing.assert_array_equal(np.sort(order[own]), own)


@functools.cache
def network_of(shortcut="identity"):
    """Unit 0 stands alone, 1 to 3 are a stack, 4 changes the shape, 5 and 6 are a stack."""
    config = models.defaults("resnet", stage_sizes=(4, 3), widths=(4, 6), shortcut=shortcut)
    network = models.build(config, image_shape=SHAPE, num_classes=CLASSES)
    return network, draw(network, SHAPE)


def examples(n=11, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, *SHAPE)).astype(np.float32), rng.integers(0, CLASSES, n)


@functools.cache
def reordered():
    network, variables = network_of()
    return reorder(network, variables, *examples(), swaps=(1, 4), draws=5, batch_size=BATCH, seed=3)


@pytest.mark.parametrize("shortcut", slow_but(["identity", "none"], "identity"))
def test_equals_the_network_with_a_traced_order(shortcut):
    network, variables = network_of(shortcut)
    orders = np.array([[0, 3, 1, 2, 4, 6, 5], [0, 1, 3, 2, 4, 5, 6], [0, 1, 2, 3, 4, 6, 5]])
    places, _ = measure_places(network, variables, *examples(), orders, batch_size=BATCH)
    scores, _ = measure(network, variables, *examples(), with_order, orders, batch_size=BATCH)
    np.testing.assert_array_equal(places.error, scores.error)
    np.testing.assert_allclose(places.loss, scores.loss, rtol=1e-5)
    np.testing.assert_allclose(places.kl, scores.kl, rtol=1e-4, atol=1e-6)
    assert len(set(places.loss)) == 3


def test_equals_a_network_with_permuted_variables():
    network, variables = network_of()
    order = np.array([[0, 3, 1, 2, 4, 6, 5]])
    x, y = examples()
    scores, _ = measure_places(network, variables, x, y, order, batch_size=BATCH)
    first, second = network.stacks[1].name, network.stacks[3].name
    moved = on_stack(variables, first, lambda v: v[np.array([2, 0, 1])])
    moved = on_stack(moved, second, lambda v: v[np.array([1, 0])])
    _, whole = measure_places(network, moved, x, y, order, batch_size=BATCH)
    np.testing.assert_array_equal(scores.loss, whole.loss)
    np.testing.assert_array_equal(scores.class_error, whole.class_error)


def test_the_true_order_changes_no_bit():
    network, variables = network_of()
    scores, intact = measure_places(network, variables, *examples(), np.arange(7)[None], batch_size=BATCH)
    assert (scores.kl[0], scores.agreement[0]) == (0, 1)
    assert scores.loss[0] == intact.loss[0] == reordered().intact_loss


def test_all_kinds_of_orders_are_there():
    result = reordered()
    counts = {kind: int(result.of_kind(kind).sum()) for kind in KINDS}
    assert counts == {"swaps": 10, "neighbours": 3, "layers": 0, "shuffle": 5, "reversal": 1}
    np.testing.assert_array_equal(result.order[-1], [0, 3, 2, 1, 4, 6, 5])
    np.testing.assert_array_equal(result.tau, kendall_tau(result.order))
    np.testing.assert_array_equal(np.bincount(result.swaps), [6, 8, 0, 0, 5])
    assert result.fixed == ("stage1/unit1", "stage2/unit1")
    assert "all 7 units" in result.choices["Kendall's tau"]
    curve = by_swaps(result)
    np.testing.assert_array_equal(curve.amount, [0, 1, 4])
    assert (curve.low <= curve.median).all()
    assert (curve.median <= curve.high).all()
    assert by_swaps(result, "tau").median[0] == 1


def test_the_seed_decides_and_sizes_do_not_depend_on_each_other():
    network, variables = network_of()
    other = reorder(network, variables, *examples(), swaps=(4,), draws=5, batch_size=BATCH, seed=3)
    again = reordered()
    np.testing.assert_array_equal(
        other.order[other.of_kind("swaps")],
        again.order[again.of_kind("swaps") & (again.swaps == 4)],
    )


def test_a_network_without_equal_units_is_refused():
    lenet = models.build(models.defaults("lenet5"), image_shape=(28, 28, 1), num_classes=CLASSES)
    variables = jax.eval_shape(lambda k: lenet.init(k, (28, 28, 1)), jax.random.key(0))
    x = np.zeros((2, 28, 28, 1), np.float32)
    with pytest.raises(ValueError, match="all different, and only equal units"):
        reorder(lenet, variables, x, np.zeros(2, int))
    assert "only equal ones" in STUDIES["reorder"].unsuited(SimpleNamespace(network=lenet))


@pytest.mark.parametrize("change", [{"swaps": ()}, {"swaps": (0, 1)}, {"draws": 0}])
def test_impossible_wishes_are_refused(change):
    with pytest.raises(ValueError, match="allowed: numbers from 1"):
        reorder(*network_of(), *examples(), **change)


def test_json_keeps_everything():
    result = reordered()
    back = Reordering.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False)))
    for field in dataclasses.fields(result):
        np.testing.assert_equal(getattr(back, field.name), getattr(result, field.name))


def test_the_study_runs():
    network, variables = network_of()
    run = subject_of(network, variables, lambda split, most: examples(min(most, 9)), SHAPE)
    assert STUDIES["reorder"].unsuited(run) is None
    result = STUDIES["reorder"].run(run, Options(draws=2, max_examples=BATCH), None)
    assert result.num_examples == BATCH
    assert "4 test examples" in result.choices["data"]


def test_plot_shows_medians_and_neighbours():
    result = reordered()
    figure = plot({"a": result, "b": result})
    left, right = figure.axes
    np.testing.assert_allclose(left.lines[0].get_xdata(), by_swaps(result, "tau").median)
    np.testing.assert_allclose(left.lines[0].get_ydata(), 100 * by_swaps(result).median)
    assert left.get_xlim()[0] > left.get_xlim()[1]
    np.testing.assert_array_equal(right.lines[0].get_xdata(), [2.5, 3.5, 6.5])
    assert len(figure.legends[0].get_texts()) == 2
