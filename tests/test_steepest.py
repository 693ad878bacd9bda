"""The fastest rise of the median over several deletions: at which level it is judged."""

import numpy as np
import pytest
from golden_cases.deletions import of_sets
from scipy import stats

from resjax.studies.intervals import bootstrap
from resjax.studies.lesions.deletions import steepest_at_least, verdict
from resjax.studies.lesions.subsets import random_subsets


def of_draws(errors):
    """Random sets of 1, 2, … of 40 units, with these errors of each size."""
    deleted = random_subsets(np.ones(40, bool), range(1, len(errors) + 1), len(errors[0]), 0)
    return of_sets(deleted, np.concatenate(errors))


def test_the_fastest_of_many_steps_is_judged_at_bonferroni_s_level():
    """A step of 20.7 ± 4.5 points, beyond 15: a jump as one of two, undecided as the fastest of 20."""
    low = np.full(30, 0.1)
    high = low + 0.207 + stats.norm(0, 0.1).ppf((np.arange(30) + 0.5) / 30)
    assert verdict(of_draws([low, high])) == "jump"
    assert verdict(of_draws([*[low] * 9, high, *[low + 0.207] * 10])) == "undecided"


def test_the_level_is_that_of_the_number_of_steps():
    rng = np.random.default_rng(0)
    few, many = rng.normal(0.1, 0.02, 30), rng.normal(0.6, 0.1, 30)
    (_, high), (low, _) = (
        bootstrap(values, np.median, level=0.975, resamples=2000) for values in (few, many)
    )
    by_hand = np.median(many) - np.median(few) - np.hypot(np.median(many) - low, high - np.median(few))
    assert steepest_at_least(of_draws([few, many])) == pytest.approx(by_hand)
