"""The order of examples: a function of (seed, step) and nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resjax.data.order import batch_indices, split_indices


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 40), batch=st.integers(1, 70), steps=st.integers(1, 12), seed=st.integers(0, 9))
def test_every_epoch_sees_every_example_once(n, batch, steps, seed):
    stream = np.concatenate([batch_indices(seed, step, n, batch) for step in range(steps)])
    whole = len(stream) // n
    for epoch in stream[: whole * n].reshape(whole, n):
        assert sorted(epoch) == list(range(n))
    rest = stream[whole * n :]
    assert len(set(rest)) == len(rest)


@settings(deadline=None, max_examples=30)
@given(n=st.integers(1, 30), batch=st.integers(1, 30), seed=st.integers(0, 9))
def test_the_stream_does_not_depend_on_the_batch_size(n, batch, seed):
    parts = np.concatenate([batch_indices(seed, step, n, batch) for step in range(3)])
    np.testing.assert_array_equal(parts, batch_indices(seed, 0, n, 3 * batch))


def test_a_late_step_needs_no_earlier_one():
    late = batch_indices(3, 10**9, 50_000, 128)
    batch_indices(3, 0, 50_000, 128)
    np.testing.assert_array_equal(late, batch_indices(3, 10**9, 50_000, 128))
    # A step from a device is a 32-bit number; positions are not.
    np.testing.assert_array_equal(late, batch_indices(3, np.int32(10**9), 50_000, 128))


def test_epochs_and_seeds_differ():
    first, second = (batch_indices(0, step, 100, 100) for step in (0, 1))
    assert (first != second).any()
    assert (first != batch_indices(1, 0, 100, 100)).any()


def test_the_order_is_the_recorded_one():
    # Resumed runs and published results rest on these numbers: if they change (a new numpy?),
    # say so in the CHANGELOG.
    assert batch_indices(0, 0, 10, 12).tolist() == [4, 6, 2, 7, 3, 5, 9, 0, 8, 1, 9, 1]
    assert batch_indices(0, 0, 10, 12).dtype == np.int32


def test_the_cached_permutation_is_not_the_callers():
    batch_indices(5, 0, 8, 8)[:] = 0
    assert sorted(batch_indices(5, 0, 8, 8)) == list(range(8))


@pytest.mark.parametrize(
    "arguments", [(-1, 0, 5, 2), (0, -1, 5, 2), (0, 0, 0, 2), (0, 0, 5, 0), (0, 0, 2**31, 2)]
)
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        batch_indices(*arguments)


def test_subsets_are_nested_and_share_the_held_out_part():
    small, held = split_indices(100, 10, 20, seed=0)
    large, held_again = split_indices(100, 50, 20, seed=0)
    everything, _ = split_indices(100, 0, 20, seed=0)
    np.testing.assert_array_equal(small, large[:10])
    np.testing.assert_array_equal(held, held_again)
    assert sorted([*everything, *held]) == list(range(100))
    assert set(everything[:50]) == set(large)


def test_without_a_wish_the_stored_order_stays():
    train, held = split_indices(7, 0, 0, seed=3)
    assert train.tolist() == list(range(7)) and not len(held)


@pytest.mark.parametrize(("train", "holdout"), [(11, 0), (0, 10), (6, 5)])
def test_splits_that_do_not_fit_are_refused(train, holdout):
    with pytest.raises(ValueError, match="there are 10"):
        split_indices(10, train, holdout, seed=0)
