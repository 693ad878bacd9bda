"""What is said of the measures of an iterative estimation: intervals of sizes."""

import dataclasses

import numpy as np
import pytest
from golden_cases.identity import CASES

from resjax.studies.units.identity_shown import points, size_of


@pytest.mark.parametrize(
    ("ends", "of_size"),
    [((0.2, 0.5), (0.2, 0.5)), ((-0.5, -0.2), (0.2, 0.5)), ((-0.3, 0.1), (0, 0.3)), ((-0.1, 0.3), (0, 0.3))],
)
def test_the_size_of_a_number_that_may_be_0_may_be_0(ends, of_size):
    np.testing.assert_allclose(size_of(np.array(ends)), of_size)


def test_a_size_without_interval_has_none():
    assert np.isnan(size_of(np.full(2, np.nan))).all()


def test_the_largest_mean_is_told_with_the_interval_of_its_size():
    r = next(r for results in CASES.values() for r in results.values() if np.isfinite(r.bias).any())
    ends = np.tile([-0.3, 0.1], (len(r.unit), 1))
    text = " ".join(points("deep", dataclasses.replace(r, bias_interval=ends)))
    assert "(0 to 0.30) of it" in text
