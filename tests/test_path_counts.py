"""Numbers of paths: closed forms against the papers' numbers, brute force and one another."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from resjax import models
from resjax.network import Network, Stack
from resjax.studies.paths.path_counts import PathCounts, path_counts, plot
from resjax.studies.paths.path_lengths import (
    attenuated_shares,
    central_range,
    fit_attenuation,
    log_path_counts,
    path_lengths,
    path_shares,
    share_between,
    surviving_share,
    totals,
)


def network(*sizes, **fields):
    config = models.defaults("resnet", stage_sizes=sizes, widths=(4, 8)[: len(sizes)], **fields)
    return models.build(config, image_shape=(8, 8, 1), num_classes=4)


def test_the_papers_numbers():
    """Veit et al. 2016: 5 to 17 of 54 units are 0.45 % of all paths; 19 to 35 are more than 95 %."""
    assert share_between(54, 5, 17) == pytest.approx(0.0045367, abs=1e-6)
    assert share_between(54, 19, 35) == pytest.approx(0.9802, abs=5e-5)
    assert share_between(54, 20, 34) == pytest.approx(0.9598, abs=5e-5)
    assert path_shares(54) @ path_lengths(54) == pytest.approx(27, rel=1e-12)
    # §5: 23 of 54 units a batch give paths around 11.5.
    assert path_shares(23) @ path_lengths(23) == pytest.approx(11.5, rel=1e-12)
    assert share_between(23, 5, 17) == pytest.approx(0.993, abs=5e-4)


@pytest.mark.parametrize(
    ("deleted", "length", "left"),
    [
        *((1, 5, 0.907), (1, 17, 0.685), (1, 27, 0.5)),
        *((10, 5, 0.343), (10, 11, 0.080), (10, 17, 0.0146), (10, 27, 3.5e-4)),
        *((20, 5, 0.088), (20, 11, 0.0030), (20, 17, 5e-5)),
    ],
)
def test_deletion_removes_long_paths(deleted, length, left):
    assert surviving_share(54, deleted)[length] == pytest.approx(left, rel=0.06)
    exact = math.comb(54 - deleted, length) / math.comb(54, length)
    assert surviving_share(54, deleted)[length] == exact


@pytest.mark.parametrize(("g", "low", "high"), [(0.2, 4, 15), (0.25, 5, 17), (0.3, 7, 19), (0.4, 9, 22)])
def test_one_attenuation_gives_the_effective_range(g, low, high):
    found = central_range(path_lengths(54), attenuated_shares(54, g))
    assert np.abs(np.subtract(found, (low, high))).max() <= 1
    if g == 0.25:
        assert found == (5, 17)
        assert attenuated_shares(54, g) @ path_lengths(54) == pytest.approx(10.8)


def test_brute_force_over_all_paths_of_a_mixed_network():
    residual, plain, deleted = 5, 2, 2
    paths = list(itertools.product((0, 1), repeat=residual))
    lengths = [plain + sum(path) for path in paths]
    alive = [plain + sum(path) for path in paths if not any(path[:deleted])]
    for k, share, left in zip(
        path_lengths(residual, plain),
        path_shares(residual, plain),
        surviving_share(residual, deleted, plain),
        strict=True,
    ):
        assert share == lengths.count(k) / len(paths)
        assert left == alive.count(k) / lengths.count(k)
        inside = share_between(residual, k, k + 1, plain)
        assert inside == (lengths.count(k) + lengths.count(k + 1)) / len(paths)


@given(st.integers(1, 200), st.integers(0, 5), st.floats(0.0, 3.0))
def test_shares_are_distributions(residual, plain, g):
    for shares in (path_shares(residual, plain), attenuated_shares(residual, g, plain)):
        np.testing.assert_allclose(shares.sum(), 1, rtol=1e-9)
        assert (shares >= 0).all()
    lengths = path_lengths(residual, plain)
    np.testing.assert_allclose(
        attenuated_shares(residual, 1.0, plain), path_shares(residual, plain), atol=1e-12
    )
    low, high = central_range(lengths, attenuated_shares(residual, g, plain))
    inside = (lengths >= low) & (lengths <= high)
    assert attenuated_shares(residual, g, plain)[inside].sum() >= 0.95 - 1e-9
    assert plain <= low <= high <= plain + residual


@given(st.integers(4, 400), st.floats(0.1, 1.5), st.integers(0, 3))
def test_paths_that_attenuate_evenly_are_recognized(residual, g, plain):
    """Number × gᵏ is the binomial of g, and the fit finds g, in networks of any depth."""
    lengths = path_lengths(residual, plain)
    means = 3.0 * g ** lengths.astype(float)
    assume(means.min() > 1e-300)
    found, r_squared = fit_attenuation(means, lengths, residual, plain)
    assert found == pytest.approx(g, rel=1e-6) and r_squared == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(
        totals(means, residual, plain), attenuated_shares(residual, g, plain), atol=1e-9
    )


def test_what_cannot_be_fitted_or_ranged_is_nan():
    lengths = path_lengths(6)
    assert np.isnan(fit_attenuation(np.eye(7)[0], lengths, 6, 0)).all()
    assert np.isnan(central_range(lengths, np.zeros(7))).all()
    assert np.isnan(totals(np.zeros(7), 6, 0)).all()
    assert np.isnan(share_between(6, np.nan, np.nan))
    assert fit_attenuation(np.ones(7), lengths, 6, 0) == pytest.approx((1, 1))


def test_numbers_of_paths_do_not_overflow():
    logs = log_path_counts(2000)
    assert np.isfinite(logs).all() and logs.max() > 1000
    assert path_shares(2000).sum() == pytest.approx(1)


def test_of_networks():
    result = path_counts(network(6, 3))
    assert (result.num_residual, result.num_plain) == (9, 0)
    np.testing.assert_array_equal(result.share, path_shares(9))
    np.testing.assert_array_equal(result.deleted, [1, 2, 3])
    np.testing.assert_array_equal(result.surviving[1], surviving_share(9, 2))
    assert result.central == (2, 7)
    plain = path_counts(network(6, 3, shortcut="none"), deleted=[0])
    np.testing.assert_array_equal(plain.length, [9])
    np.testing.assert_array_equal(plain.share, [1])
    with pytest.raises(ValueError, match="deleted=1; allowed: 0 … 0"):
        path_counts(network(6, 3, shortcut="none"), deleted=[1])


def test_of_a_mixed_network():
    residual, plain = network(2), network(2, shortcut="none")
    more = Stack("plain", plain.stacks[-1].unit, 3, 1)
    mixed = Network(residual.stem, (*residual.stacks, more), residual.head)
    result = path_counts(mixed)
    assert (result.num_residual, result.num_plain) == (2, 3)
    np.testing.assert_array_equal(result.length, [3, 4, 5])
    np.testing.assert_array_equal(result.share, [0.25, 0.5, 0.25])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: path_lengths(0, 0),
        lambda: path_lengths(-1, 3),
        lambda: surviving_share(5, 6),
        lambda: surviving_share(5, -1),
        lambda: attenuated_shares(5, -0.1),
        lambda: attenuated_shares(5, math.nan),
    ],
)
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match="allowed"):
        wrong()


def test_json_and_plot():
    result = path_counts(network(6, 3))
    back = PathCounts.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False)))
    for field in dataclasses.fields(result):
        np.testing.assert_equal(getattr(back, field.name), getattr(result, field.name))
    figure = plot({"deep": result})
    assert isinstance(figure, Figure)
    left, right = figure.axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), 100 * path_shares(9))
    np.testing.assert_allclose(right.lines[2].get_ydata(), 100 * surviving_share(9, 3))
