"""Intervals of counts: exact shares, pairing, and how often they cover the true number."""

import numpy as np
import pytest
from marks import slow_but
from scipy import stats

from resjax.studies import counts


def outcomes(count, new, intact=0, both=0):
    """wrong [1, N] and intact [N]: errors of the changed network alone, of the other alone, and of both."""
    wrong, before = np.zeros((1, count), bool), np.zeros(count, bool)
    wrong[0, :new] = True
    before[new : new + intact] = True
    wrong[0, -both or count :] = before[-both or count :] = True
    return wrong, before


@pytest.mark.parametrize(("new", "allowed"), [(1, 2), (3, 2), (6, 2)])
def test_the_share_of_one_network_is_a_binomial_probability(new, allowed):
    """Of 200 images at most 2 may be new errors, and each resample holds a binomial number of them."""
    share = counts.spared_share(*outcomes(200, new))
    expected = stats.binom.cdf(allowed, 200, new / 200)
    np.testing.assert_allclose(share, [expected], atol=4 * np.sqrt(0.25 / counts.RESAMPLES))


def test_only_images_that_change_count():
    """The intact network is compared on the same images: errors of both leave no doubt."""
    assert counts.spared_share(*outcomes(200, 0, both=90)) == [1.0]
    assert counts.spared_share(*outcomes(200, 150)) == [0.0]
    alone = counts.spared_share(*outcomes(200, 3))
    np.testing.assert_array_equal(counts.spared_share(*outcomes(200, 3, both=90)), alone)
    assert counts.spared_share(*outcomes(200, 3, intact=3)) > alone


def test_rises_are_those_of_the_given_images_in_the_mean():
    rng = np.random.default_rng(1)
    wrong, intact = rng.random((4, 300)) < 0.3, rng.random(300) < 0.2
    rises = counts.resampled_rises(wrong, intact)
    assert rises.shape == (counts.RESAMPLES, 4)
    np.testing.assert_allclose(rises.mean(0), wrong.mean(1) - intact.mean(), atol=4 * 0.04 / np.sqrt(2000))
    share = (rises <= 0.01 + 1e-9).mean(0)
    np.testing.assert_allclose(counts.spared_share(wrong, intact), share, atol=5 * np.sqrt(0.5 / 2000))
    deviation = (wrong.astype(float) - intact).std(1) / np.sqrt(300)
    np.testing.assert_allclose(rises.std(0), deviation, rtol=0.1)


def test_ends_are_counts_of_what_is_sure_and_of_what_is_possible():
    share = np.array([1.0, 0.95, 0.94, 0.5, 0.05, 0.04, 0.0, np.nan])
    assert counts.ends(np.sum, share) == (2, 5)
    assert counts.ends(lambda harmless: int(np.argmin(harmless)), share) == (2, 5)
    assert counts.ends(np.sum, None) is None
    assert (counts.between((2, 5)), counts.between(None)) == (" (2 to 5)", "")


def test_shares_of_positions_are_resampled_as_errors_are():
    """Changes with more values than counts of positions have: the mean is normal, by the central limit."""
    rng = np.random.default_rng(2)
    intact = rng.random(400)
    wrong = np.clip(intact + rng.normal([[0.0], [0.012], [0.05]], 0.1, (3, 400)), 0, 1)
    changes = wrong - intact
    expected = stats.norm.cdf((0.01 - changes.mean(1)) / (changes.std(1) / 20))
    np.testing.assert_allclose(counts.spared_share(wrong, intact), expected, atol=0.04)
    missing = counts.spared_share(np.vstack([wrong[:1], np.full(400, np.nan)]), intact)
    assert missing[0] == counts.spared_share(wrong[:1], intact)[0] and np.isnan(missing[1])


def test_a_network_that_was_not_measured_has_no_share():
    wrong, intact = outcomes(50, 1)
    share = counts.spared_share(np.vstack([wrong, np.full(50, np.nan)]), intact)
    assert np.isfinite(share[0]) and np.isnan(share[1])


# True rises of 27 units: like the demo's; around the line; all at half of what is allowed.
RISES = {
    "mixed": [*np.linspace(0, 0.008, 20), 0.012, 0.014, 0.02, 0.03, 0.06, 0.2, 0.5],
    "near the line": np.linspace(0.004, 0.018, 27),
    "all below": np.full(27, 0.005),
}


def drawn(rises, count, rng):
    """Outcomes on ``count`` images of networks with these true rises, 1 % of them wrong when intact."""
    intact = rng.random(count) < 0.01
    healed = rng.random((len(rises), count)) < 0.1
    new = rng.random((len(rises), count)) < (np.asarray(rises)[:, None] + 0.001) / 0.99
    return np.where(intact, ~healed, new), intact


@pytest.mark.parametrize("count", slow_but([128, 397], 128))
@pytest.mark.parametrize("name", RISES)
def test_the_interval_covers_the_true_number(name, count):
    """In at least 88 of 100 test sets (expected: 92 or more). The percentiles of the resampled counts cover
    it in a few, where all units are near the line on one side."""
    rises, rng = RISES[name], np.random.default_rng(0)
    true = np.sum(np.asarray(rises) <= 0.01)
    covered = percentiles = 0
    for _ in range(100):
        wrong, intact = drawn(rises, count, rng)
        low, high = counts.ends(np.sum, counts.spared_share(wrong, intact))
        covered += low <= true <= high
        made = counts.resampled_rises(wrong, intact, 200) <= 0.01 + 1e-9
        low, high = np.quantile(made.sum(1), (0.025, 0.975))
        percentiles += low <= true <= high
    assert covered >= 88
    if name == "all below":
        assert percentiles <= 10
