"""Which evaluation examples a study sees: spread evenly over the set, and fewer are part of more."""

import numpy as np
import pytest
from run_helpers import tiny_run

from resjax.studies import run as run_module
from resjax.studies.examples import evenly_spread


@pytest.mark.parametrize("total", [1, 2, 7, 397, 10_000])
def test_every_beginning_is_spread_evenly(total):
    order = evenly_spread(total)
    assert sorted(order) == list(range(total))
    for count in (2, 5, 64, 100, 512):
        if 4 * count <= total:
            places = np.sort(order[:count])
            gaps = np.diff([*places, places[0] + total])
            assert gaps.max() / gaps.min() < 3.1  # 2.6 on a line without rounding


def test_a_subset_has_all_classes_of_a_sorted_set():
    labels = np.repeat(np.arange(10), 100)
    often = np.bincount(labels[evenly_spread(1_000)[:100]], minlength=10)
    assert often.min() >= 9 and often.max() <= 11


def test_fewer_examples_are_the_first_of_more_and_the_most_are_read_once(tmp_path, monkeypatch):
    run, read = tiny_run(tmp_path), []
    own = run_module._read
    monkeypatch.setattr(run_module, "_read", lambda *args: read.append(args[2]) or own(*args))
    found = {count: run.examples("test", count) for count in (3, 50, 7, 50, 10_000, 64)}
    assert read == [3, 50, 10_000]
    images, labels = found[10_000]
    assert len(labels) == run.count("test") == 397
    for count in (3, 7, 50, 64):
        np.testing.assert_array_equal(found[count][0], images[:count])
        np.testing.assert_array_equal(found[count][1], labels[:count])
    assert list(run._examples) == [("test", 10_000, False)]
    # Training examples have their own order, and a subset of them is not taken from others.
    assert run.examples("train", 4)[1].shape == (4,) and len(run._examples) == 2
