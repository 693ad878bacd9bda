"""Intervals of what is estimated from sampled paths: how often they hold the value of endless draws."""

import dataclasses
import functools
import json

import numpy as np
import pytest

from resjax.report import compare
from resjax.studies.intervals import bootstrap, reflected
from resjax.studies.paths import path_sampled
from resjax.studies.paths.path_exact import PathSpectrum
from resjax.studies.paths.path_lengths import (
    central_range,
    fit_attenuation,
    log_path_counts,
    path_lengths,
    totals,
)
from resjax.studies.paths.path_sampled import PathSample
from resjax.studies.paths.paths import STUDY, Paths

N, DRAWS, SAMPLES = 12, 40, 12
LENGTH = path_lengths(N)


def sample_of(mean, seed, draws=DRAWS):
    """Draws that spread as norms do, log-normally, by batch and by path, around means that are known."""
    rng = np.random.default_rng(seed)
    log = 0.3 * rng.normal(size=draws) + 0.6 * rng.normal(size=(N + 1, draws))
    norm = mean[:, None] * np.exp(log - (0.3**2 + 0.6**2) / 2)
    g, r_squared = fit_attenuation(norm.mean(1), LENGTH, N, 0)
    return PathSample(
        length=LENGTH,
        norm=norm,
        mean=norm.mean(1),
        median=np.median(norm, axis=1),
        mean_interval=np.stack(bootstrap(norm)),
        median_interval=np.stack(bootstrap(norm, np.median)),
        attenuation=g,
        attenuation_interval=np.array([g, g]),
        r_squared=r_squared,
        num_residual=N,
        num_plain=0,
        batch_size=4,
        choices={"seed": seed},
    )


LINE, CURVE = 0.4 ** LENGTH.astype(float), np.exp(-0.9 * LENGTH + 0.04 * LENGTH**2)


@functools.cache
def samples(straight):
    mean = LINE if straight else CURVE
    return [sample_of(mean, seed) for seed in range(SAMPLES)]


@pytest.mark.parametrize("straight", [True, False])
def test_intervals_hold_what_endless_draws_would_give(straight, monkeypatch):
    fewer = functools.partial(bootstrap, resamples=300)  # which is enough to see how often
    monkeypatch.setattr(path_sampled, "bootstrap", fewer)
    mean = LINE if straight else CURVE
    ends = np.array(central_range(LENGTH, totals(mean, N, 0)))
    _, r_squared = fit_attenuation(mean, LENGTH, N, 0)
    assert (r_squared == pytest.approx(1, abs=1e-9)) == straight
    held = np.zeros(4)
    for sample in map(dataclasses.replace, samples(straight)):
        low, high = sample.effective_interval
        assert (low <= sample.effective).all() and (sample.effective <= high).all()
        assert (low % 1 == 0).all() and (high - low).max() <= 3
        held[:2] += (low <= ends) & (ends <= high)
        low, high = sample.r_squared_interval
        held[2] += low <= r_squared + 1e-9 and r_squared - 1e-9 <= high
        low, high = sample.mean_length_interval
        held[3] += low <= totals(mean, N, 0) @ LENGTH <= high
    # At a coverage of 95 %, fewer than 9 of 12 have a probability of 0.2 %.
    assert (held >= 9).all()


def test_percentiles_of_r_squared_would_miss_a_straight_line():
    """Why that interval is the basic one: resampled means are never as straight as those that were drawn."""
    sample = samples(True)[0]
    # Private: the interval that is not taken.
    statistic = sample._over_draws(lambda m: np.array(fit_attenuation(m, LENGTH, N, 0)[1]))
    assert statistic[1] < 1 == sample.r_squared_interval[1]
    low, high = reflected(2.0, (np.array(1.5), np.array(2.1)))
    np.testing.assert_allclose([low, high], [1.9, 2.5])


def test_draws_that_are_all_alike_leave_no_doubt():
    sample = dataclasses.replace(samples(True)[0], norm=np.tile(CURVE[:, None], (1, 5)), mean=CURVE)
    sample = dataclasses.replace(sample, r_squared=fit_attenuation(CURVE, LENGTH, N, 0)[1])
    np.testing.assert_array_equal(sample.effective_interval, [sample.effective] * 2)
    np.testing.assert_allclose(sample.r_squared_interval, sample.r_squared, rtol=1e-12)
    np.testing.assert_allclose(sample.mean_length_interval, sample.mean_length, rtol=1e-12)


def test_without_a_gradient_nothing_is_known():
    sample = dataclasses.replace(samples(True)[0], norm=np.zeros((N + 1, 5)), r_squared=np.nan)
    assert np.isnan(sample.effective_interval).all() and np.isnan(sample.r_squared_interval).all()


def gradients(sample, alignment):
    """Exact norms that are this share of number × ``LINE``, equal in two batches."""
    norm = alignment * np.exp(log_path_counts(N)) * LINE
    exact = PathSpectrum(
        step=np.array([0]),
        length=LENGTH,
        norm=np.tile(norm, (1, 2, 1)),
        contribution=np.tile(norm, (1, 2, 1)),
        total=np.ones((1, 2)),
        num_residual=N,
        num_plain=0,
        batch_size=4,
        choices={},
    )
    return Paths({"running statistics": exact}, {"running statistics": sample})


def test_alignment_has_the_interval_of_the_mean_norm_below_it():
    true = np.exp(-log_path_counts(N) / 2)
    held = np.zeros(N + 1)
    for sample in samples(True):
        result = gradients(sample, true)
        low, high = result.alignment_interval("running statistics")
        estimate = result.alignment("running statistics")
        assert (low < estimate).all() and (estimate < high).all()
        held += (low <= true) & (true <= high)
    assert held.mean() >= 0.85 * SAMPLES
    few = dataclasses.replace(samples(True)[0], mean_interval=np.stack([-LINE, 2 * LINE]))
    low, high = gradients(few, true).alignment_interval("running statistics")
    np.testing.assert_allclose(low, true / 2)
    assert np.isinf(high).all()


def test_the_report_names_every_interval_and_they_outlive_a_file():
    result = gradients(samples(True)[0], np.ones(N + 1))
    (point,) = compare.finding(STUDY, {"net": result}).points
    sample = result.sample["running statistics"]
    low, high = sample.r_squared_interval
    assert f"(R² = {sample.r_squared:.3f}, {low:.3f} to {high:.3f} over draws)" in point
    low, high = sample.mean_length_interval
    assert f"(mean {sample.mean_length:.1f}, {low:.1f} to {high:.1f} over draws; " in point
    assert "; the ends are " in point and point.count("95 % interval") == 1
    back = Paths.from_json(json.loads(json.dumps(result.to_json())))
    assert compare.finding(STUDY, {"net": back}).points == [point]
