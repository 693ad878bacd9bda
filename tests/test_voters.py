"""Intervals over voters: how often they hold the value of all voters, of a population that is known."""

import functools
import tracemalloc

import numpy as np
import pytest

from resjax.studies.paths.voters import (
    committee_interval,
    diversity_intervals,
    diversity_of,
    draw_committees,
    refill,
    voter_interval,
    wrong_answers,
)

CLASSES, N, ALL, V, DRAWS, SIZES, SAMPLES = 4, 60, 300, 12, 20, (1, 3, 5), 40
LABELS = np.arange(N) % CLASSES


@functools.cache
def population():
    """int [ALL, N]: answers of voters of unequal skill to examples of unequal difficulty."""
    rng = np.random.default_rng(0)
    skill, ease = rng.normal(size=(ALL, 1)), 1.5 * rng.normal(size=N)
    right = rng.random((ALL, N)) < 1 / (1 + np.exp(-0.7 - 0.6 * skill - ease))
    return np.where(right, LABELS, (LABELS + rng.integers(1, CLASSES, (ALL, N))) % CLASSES)


def errors_of(weights, answers):
    votes = np.eye(CLASSES, dtype=np.float32)[answers].swapaxes(1, 2)
    return wrong_answers(np.tensordot(weights, votes, 1), LABELS) / N


@functools.cache
def intervals():
    """Of many draws of V voters from all: [sample, what, end] of D, unlike, κ, one voter, each size."""
    made = []
    for seed in range(SAMPLES):
        rng = np.random.default_rng(seed)
        answers = population()[rng.choice(ALL, V, replace=False)]
        members = draw_committees((seed,), V, SIZES, DRAWS)
        again = np.stack([errors_of(weights, answers) for weights in refill(members, seed)])
        voters = voter_interval(np.mean(answers != LABELS, axis=1), ALL)
        of_size = committee_interval(errors_of(members, answers), again, V, ALL)
        made.append([*diversity_intervals(answers, LABELS, ALL, seed), voters, *of_size])
    return np.array(made)


@functools.cache
def truth():
    """The same numbers of all voters, and of many committees of any of them."""
    many = draw_committees((99,), ALL, SIZES, 400)
    sizes = [np.mean([errors_of(row[None, None], population())[0, 0] for row in m]) for m in many]
    return np.array([*diversity_of(population(), LABELS), np.mean(population() != LABELS), *sizes])


def test_intervals_hold_the_value_of_all_voters():
    low, high = np.moveaxis(intervals(), -1, 0)
    held = np.mean((low <= truth()) & (truth() <= high), axis=0)
    # Of 40 at a coverage of 95 %, fewer than 34 have a probability of 0.3 %.
    assert (held >= 0.85).all(), held
    assert np.mean(held) <= 0.995, held  # and they are not merely wide


def test_where_all_voters_are_there_only_committees_are_drawn():
    answers = population()[:V]
    np.testing.assert_array_equal(
        diversity_intervals(answers, LABELS, V), np.array([diversity_of(answers, LABELS)] * 2).T
    )
    error = np.mean(answers != LABELS, axis=1)
    np.testing.assert_allclose(voter_interval(error, V), error.mean())
    members = draw_committees((0,), V, SIZES, DRAWS)
    again = np.stack([errors_of(weights, answers) for weights in refill(members)])
    errors = errors_of(members, answers)
    low, high = committee_interval(errors, again, V, V).T
    half = 2.093 * errors.std(-1, ddof=1) / np.sqrt(DRAWS)  # t of 19 degrees
    np.testing.assert_allclose((high - low) / 2, half, rtol=1e-3)


def test_one_pair_has_no_interval_and_equal_voters_leave_no_doubt():
    assert np.isnan(diversity_intervals(population()[:2], LABELS, ALL)).all()
    same = np.tile(population()[:1], (5, 1))
    found = diversity_intervals(same, LABELS, ALL)
    np.testing.assert_allclose(found, [[0, 0], [0, 0], [1, 1]], atol=1e-7)
    right = diversity_intervals(np.tile(LABELS, (5, 1)), LABELS, ALL)
    assert np.isnan(right[2]).all() and not right[:2].any()


def test_places_are_refilled_from_the_voters_and_sizes_stay():
    members = draw_committees((0,), V, SIZES, DRAWS)
    filled = refill(members, seed=1)
    np.testing.assert_array_equal(
        filled.sum(-1), np.broadcast_to(np.array(SIZES)[:, None], filled.shape[:-1])
    )
    # One filling puts the same voter into a place in every committee.
    first = np.flatnonzero(members[0, 0])[0]
    twin = [d for d in range(10) if members[0, d, first]]
    for r in filled:
        assert len({tuple(r[0, d]) for d in twin}) == 1
    assert filled.mean((0, 1, 2)) == pytest.approx(np.full(V, 3 / V), rel=0.35)


def test_more_draws_begin_with_the_same_committees():
    few, many = (draw_committees((3, 1), V, SIZES, draws) for draws in (4, 30))
    np.testing.assert_array_equal(many[:, :4], few)
    one = draw_committees((3, 1), V, SIZES[-1:], 4)  # whatever the other sizes
    np.testing.assert_array_equal(one[0], few[-1])
    assert (draw_committees((3, 2), V, SIZES, 4) != few).any()


def test_memory_does_not_grow_with_the_number_of_classes():
    """Predictions of 17 voters, of 2 and of 200 classes: 1 MB of them for one class at a time."""
    rng, peaks = np.random.default_rng(0), []
    for classes in (2, 200):
        answers = rng.integers(0, classes, (17, 8000))
        tracemalloc.start()
        diversity_of(answers, np.zeros(8000, int))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
