"""The mean error by the number of deleted units: its line, its intervals, and the sum of single rises."""

import itertools

import numpy as np
import pytest
from network_helpers import initial

from resjax import models
from resjax.studies.lesions.deletions import deletions, verdict
from resjax.studies.lesions.deletions_result import Deletions
from resjax.studies.lesions.lesion import lesion
from resjax.studies.lesions.proportion import (
    additive,
    complete_numbers,
    halfway,
    line_of,
    single_rises,
    sum_of_rises,
    without_worst,
    worst_units,
)
from resjax.studies.lesions.subsets import random_subsets


def made(error, n=12, draws=40, intact=0.04, seed=0, left_out=0):
    """All single deletions and random sets: ``intact + error(deleted units)``, KL half of the rise."""
    allowed = np.arange(n) >= left_out
    sets = random_subsets(allowed, range(1, n - left_out + 1), draws, seed)
    rise = np.array([error(np.flatnonzero(row)) for row in sets])
    return Deletions(
        unit=tuple(f"u{i}" for i in range(n)),
        deleted=sets,
        error=intact + rise,
        loss=rise,
        kl=rise / 2,
        agreement=1 - rise,
        left_out={f"u{i}": "no shortcut" for i in range(left_out)},
        intact_error=intact,
        intact_loss=0.0,
        num_examples=1000,
        num_classes=10,
    )


RISES = np.array([0.1, 0.06, 0.02, *[0.01] * 9])


def test_rises_that_add_up_are_predicted_and_on_a_line():
    result = made(lambda units: RISES[units].sum())
    np.testing.assert_allclose(single_rises(result), RISES)
    np.testing.assert_allclose(sum_of_rises(result, RISES), result.error)
    np.testing.assert_allclose(sum_of_rises(result, RISES / 2, "kl"), result.kl)
    sums = additive(result, RISES)
    assert sums.rank == pytest.approx(1)
    np.testing.assert_allclose(sums.rank_interval, 1)
    assert sums.number_interval[1] < 0.99
    # All sets of a size: the mean is E(0) + k · mean(rise), whichever units do the harm.
    whole = made(lambda units: RISES[units].sum(), draws=10_000)
    assert complete_numbers(whole) == list(range(1, 13))
    line = line_of(whole)
    np.testing.assert_allclose(line.mean, 0.04 + np.arange(13) * RISES.mean())
    np.testing.assert_allclose([line.slope, *line.slope_interval], RISES.mean())
    np.testing.assert_allclose([line.r2, *line.r2_interval], 1)
    assert line.up_to == line.range == 12
    assert verdict(whole) == "proportional"


def test_rises_that_do_not_add_up_are_neither():
    def only_together(units):
        return 0.012 * max(len(units) - 2, 0) ** 1.8

    result = made(only_together)
    rises = single_rises(result)
    np.testing.assert_allclose(rises, 0)
    assert sum_of_rises(result, rises).max() == result.intact_error < result.error.max()
    assert np.isnan(additive(result, rises).rank)  # the prediction is constant
    line = line_of(result)
    assert line.r2_interval[1] < 0.95
    assert verdict(result) == "curved"


def test_line_and_r2_by_hand():
    # Means 0.1, 0.2, 0.2, 0.5 at 0, 1, 2, 3 units: slope (0.1 + 0.2 + 1.2)/14 from the first point.
    result = made(lambda units: {1: 0.1, 2: 0.1, 3: 0.4}[len(units)], n=3, intact=0.1)
    line = line_of(result)
    assert line.slope == pytest.approx(1.5 / 14)
    left = (0.1 - 1.5 / 14) ** 2 + (0.1 - 3 / 14) ** 2 + (0.4 - 4.5 / 14) ** 2
    assert line.r2 == pytest.approx(1 - left / (0.15**2 + 0.05**2 + 0.05**2 + 0.25**2))
    assert (halfway(result), line.up_to, line.range) == (3, 3, 0)


def test_the_line_ends_half_of_the_way_to_chance():
    result = made(lambda units: 0.1 * len(units), n=8, intact=0.1)  # half of the way: 0.5
    assert halfway(result) == line_of(result).up_to == 4
    beyond = made(lambda units: 0.101 * len(units), n=8, intact=0.1)
    assert halfway(beyond) == 3
    assert np.isnan(line_of(made(lambda units: 0.17 * len(units), n=5, intact=0.1)).slope)  # two numbers


def test_a_line_of_means_may_come_from_the_worst_units_alone():
    def error(units):
        hit = np.sum(units < 3)
        return 0.2 * hit + 0.0004 * (len(units) - hit) ** 3

    result = made(error, draws=200)  # with 60, the interval reaches down to 0.94
    line = line_of(result)
    assert line.r2_interval[0] >= 0.95
    worst, without = without_worst(result)
    assert set(worst) == {0, 1, 2}
    k = without.amount[1:]
    np.testing.assert_allclose(without.mean[1:], 0.04 + 0.0004 * k**3)
    assert without.r2_interval[1] < 0.95
    assert verdict(result) == "few"


def test_the_worst_are_at_most_three_and_a_quarter_and_never_left_out():
    assert worst_units(made(lambda units: 0.01, n=4), np.array([0.1, 0.3, 0.2, 0])).tolist() == [1]
    assert worst_units(made(lambda units: 0.01, n=13, left_out=1), np.arange(13) / 9).tolist() == [12, 11, 10]
    rises = np.array([np.nan, 0.1, *[0.0] * 6])
    result = made(lambda units: 0.01, n=8, left_out=1)
    assert worst_units(result, rises).tolist() == [1]
    assert np.isnan(single_rises(result)).tolist() == [True, *[False] * 7]
    assert without_worst(made(lambda units: 0.01, n=3)) is None


def test_without_all_single_deletions_nothing_is_predicted():
    result = made(lambda units: RISES[units].sum(), draws=5)
    assert single_rises(result) is None
    assert without_worst(result) is None
    assert line_of(result).slope > 0


def test_reflected_intervals_of_r2_hold_the_truth():
    """Skewed errors whose true means leave the line: R² of the true means is 0.948."""
    k = np.arange(13)
    true = 0.04 + 0.4 * (k / 12) ** 1.5
    rise = true - true[0]
    slope = rise @ k / (k @ k)
    r2 = 1 - np.sum((rise - slope * k) ** 2) / np.sum((true - true.mean()) ** 2)
    held, noisy = 0, 0
    for seed in range(60):
        rng = np.random.default_rng(seed)

        def error(units, rng=rng):  # sizes of which all sets are taken have no noise
            noise = 0.1 * (rng.exponential() - 1) * (1 < len(units) < 11)
            return true[len(units)] - true[0] + noise

        result = made(error, draws=30, seed=seed)
        line = line_of(result)
        held += line.r2_interval[0] <= r2 <= line.r2_interval[1]
        noisy += line.r2 < r2
    assert held >= 0.85 * 60
    assert noisy > 0.6 * 60  # noise lowers R², which is what reflecting corrects


def test_intervals_of_means_are_over_sets_and_exact_ones_have_none():
    result = made(lambda units: RISES[units].sum(), draws=40)
    line = line_of(result)
    for k, low, mean, high in zip(line.amount, line.low, line.mean, line.high, strict=True):
        exact = k in (0, 1, 11, 12)
        assert (low == mean == high) == exact, k
    own = result.error[result.number == 6]
    half = 1.96 * own.std(ddof=1) / np.sqrt(len(own))
    assert line.high[6] - line.low[6] == pytest.approx(2 * half, rel=0.15)


def test_a_lone_set_of_several_is_shown_but_not_fitted():
    sets = [{0}, {1}, {2}, {3}, {4}, {0, 1}, {1, 2}, {0, 1, 2}, {0, 1, 2, 3}, {0, 1, 2, 4}]
    deleted = np.array([[u in s for u in range(5)] for s in sets])
    error = 0.02 + 0.05 * deleted.sum(1)
    error[7] = 0.3  # the only set of three
    base = made(lambda units: 0.0, n=5)
    result = Deletions(
        **{**base.__dict__, "deleted": deleted, "error": error, "kl": error, "intact_error": 0.02}
    )
    line = line_of(result)
    assert line.mean[3] == pytest.approx(0.3)
    assert np.isnan(line.low[3])
    assert line.slope == pytest.approx(0.05)
    assert line.r2 == pytest.approx(1)


@pytest.mark.slow
def test_every_single_unit_is_deleted():
    fields = models.defaults("resnet", stage_sizes=(2, 1), widths=(4, 6))
    network = models.build(fields, image_shape=(6, 6, 1), num_classes=3)
    variables = initial(network, (6, 6, 1))
    x = np.random.default_rng(0).normal(size=(4, 6, 6, 1)).astype(np.float32)
    y = np.arange(4) % 3
    result = deletions(network, variables, x, y, ks=(1, 2), draws=2)
    assert result.deleted[result.number == 1].sum(0).tolist() == [1, 1, 1]
    assert np.sum(result.number == 2) == 2
    alone = lesion(network, variables, x, y)
    np.testing.assert_allclose(single_rises(result), alone.error - alone.intact_error)
    np.testing.assert_allclose(single_rises(result, "kl"), alone.kl, rtol=1e-4, atol=1e-6)
    assert not (deletions(network, variables, x, y, ks=(2,), draws=2).number == 1).any()


def test_steps_are_judged_with_their_intervals():
    base = made(lambda units: 0.0, n=6)
    sets = np.array([[u in s for u in range(6)] for s in itertools.combinations(range(6), 2)])

    def of(two):
        one = np.full(6, 0.05)
        deleted = np.concatenate([np.eye(6, dtype=bool), sets[: len(two)]])
        error = np.concatenate([one, two])
        return Deletions(**{**base.__dict__, "deleted": deleted, "error": error, "kl": error})

    assert verdict(of(np.full(6, 0.3))) == "jump"
    assert verdict(of(np.array([0.1, 0.1, 0.15, 0.3, 0.3, 0.5]))) == "undecided"
    assert verdict(of(np.full(6, 0.19))) == "smooth"  # two numbers of units: no line is fitted
