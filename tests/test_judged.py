"""Verdicts on numbers that are known within an interval."""

import numpy as np
import pytest

from resjax.studies.intervals import bootstrap
from resjax.studies.judged import all_of, judged


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1, 2, "met"),
        (0, 3, "met"),  # the ends of the range are allowed
        (-1, 1, "undecided"),
        (2, 4, "undecided"),
        (-1, 4, "undecided"),
        (3.1, 4, "missed"),
        (-2, -0.1, "missed"),
        (np.nan, np.nan, "undecided"),
        (2, np.nan, "undecided"),
        (4, 4, "missed"),
    ],
)
def test_an_interval_that_crosses_an_end_decides_nothing(low, high, verdict):
    assert judged(low, high, least=0, most=3) == verdict


def test_ends_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match="interval 2 … 1, allowed 0 … 3; the lower end comes first"):
        judged(2, 1, least=0, most=3)


def test_all_of_several_criteria():
    assert all_of(["met", "met"]) == "met"
    assert all_of(["met", "undecided"]) == "undecided"
    assert all_of(["undecided", "missed"]) == "missed"
    assert all_of([]) == "undecided"


def test_a_value_on_the_bound_is_seldom_decided_by_mistake():
    """A point estimate would call half of these met and half missed."""
    draws = np.random.default_rng(0).standard_normal((2000, 10))
    verdicts = [judged(*ends, most=0.0) for ends in zip(*bootstrap(draws), strict=True)]
    assert 0.93 < verdicts.count("undecided") / len(verdicts) < 0.97
