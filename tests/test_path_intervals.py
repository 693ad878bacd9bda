"""Intervals of path lengths: how often they hold the value of endless batches, or of endless draws."""

import dataclasses
import functools
import json

import numpy as np
import pytest
from script_helpers import load_script

from resjax.report import compare
from resjax.studies.intervals import bootstrap, jackknife, of_mean, of_positive_mean
from resjax.studies.paths.path_exact import PathSpectrum
from resjax.studies.paths.path_growth import PathGrowth
from resjax.studies.paths.path_lengths import (
    attenuated_shares,
    central_range,
    central_range_interval,
    fit_attenuation,
    log_path_counts,
    path_lengths,
    shares,
    totals,
)
from resjax.studies.paths.path_parameters import PathParameters, ratios
from resjax.studies.paths.path_sampled import of_draws
from resjax.studies.paths.paths import STUDY, Paths

N, DRAWS, SAMPLES = 12, 40, 12
LENGTH = path_lengths(N)
TRIALS = 200


# --- batches whose norms have a long tail, and whose paths are longer where norms are larger ---


def population(size=2000, seed=0):
    """Norms [batch, length]. The largest sum of norms is hundreds of times the median one; its logarithm and
    the mean length correlate at 0.7, as in a trained network with statistics of the batch."""
    rng = np.random.default_rng(seed)
    loud, own = rng.normal(size=(2, size))
    attenuation = 0.35 * np.exp(0.15 * (0.7 * loud + 0.7 * own))
    norms = np.stack([attenuated_shares(N, g) for g in attenuation])
    return np.exp(1.7 * loud)[:, None] * norms


def batches_of(norms, count, trial):
    """``count`` random batches of the population, in each of two moments that differ for each batch alike."""
    rng = np.random.default_rng(trial)
    rows = rng.integers(0, len(norms), count)
    later = norms[rows] * np.exp(0.06 * LENGTH + 0.01 * rng.normal(size=(count, 1)) * LENGTH)
    both = np.stack([norms[rows], later])
    return PathGrowth(
        step=np.array([0, 100]),
        length=LENGTH,
        norm=both,
        contribution=shares(both),
        total=both.sum(-1),
        num_residual=N,
        num_plain=0,
        batch_size=4,
        scale=np.ones((2, N)),
    )


@pytest.mark.parametrize("count", [4, 8, 16])
def test_mean_effective_lengths_hold_their_value_where_norms_have_a_long_tail(count):
    norms = population()
    sums = norms.sum(1)
    assert sums.max() > 100 * np.median(sums)
    own = shares(norms) @ LENGTH
    assert 0.6 < np.corrcoef(np.log(sums), own)[0, 1] < 0.8
    everyone = shares(norms).mean(0)
    mean, ends = everyone @ LENGTH, np.array(central_range(LENGTH, everyone))
    change = np.mean(shares(norms * np.exp(0.06 * LENGTH)) @ LENGTH - own)
    held = np.zeros(4)
    for trial in range(TRIALS):
        found = batches_of(norms, count, trial)
        low, high = found.mean_length_interval
        held[0] += low[0] <= mean <= high[0]
        low, high = found.effective_interval[:, 0]
        held[1:3] += (low <= ends) & (ends <= high)
        held[3] += found.change(0, 1).low <= change <= found.change(0, 1).high
    # At a coverage of 95 %, less than 90 % of 200 has a probability of 0.1 %.
    assert (held / TRIALS >= 0.9).all(), held / TRIALS


@pytest.mark.parametrize("count", [4, 8])
def test_norms_that_are_summed_before_they_are_divided_would_not(count):
    """Why batches count alike: loud batches decide such a mean, and its bootstrap does not know it."""
    norms, held = population(), 0
    mean = shares(norms.mean(0)) @ LENGTH
    for trial in range(TRIALS):
        own = batches_of(norms, count, trial).norm[0]
        low, high = bootstrap(own.T, lambda v, axis: shares(v.mean(axis)) @ LENGTH, resamples=100)
        held += low <= mean <= high
    assert held / TRIALS < 0.7


def test_a_change_is_known_better_than_both_lengths():
    """Differences of the same batches: what makes the paths of a batch long at both moments cancels."""
    found = batches_of(population(), 8, 0)
    change = found.change(0, 1)
    low, high = found.mean_length_interval
    assert low[1] < high[0]  # intervals of both moments overlap
    assert change.known and change.low > 0
    assert change.mean == pytest.approx(found.mean_length[1] - found.mean_length[0])
    differences = found.own_length[1] - found.own_length[0]
    half = 2.3646 * differences.std(ddof=1) / np.sqrt(8)  # Student's t of 7 degrees of freedom
    np.testing.assert_allclose([change.low, change.high], change.mean + half * np.array([-1, 1]), rtol=1e-4)
    wider = found.change(0, 1, level=0.99)
    assert wider.low < change.low and wider.high > change.high
    alone = dataclasses.replace(found, norm=found.norm[:, :1])
    assert np.isnan(alone.change(0, 1).low) and not alone.change(0, 1).known


def test_ratios_of_parameters_hold_their_value_too():
    norms, held = population(400), 0
    units = 4
    placed = np.zeros((len(norms), units, N + 1))
    for i in range(units):  # each unit has the same paths behind it, so the ratio is known
        placed[:, i] = norms
    of_all = PathParameters(
        unit=tuple("abcd"),
        length=LENGTH,
        norm=placed,
        contribution=placed,
        total=placed.sum(-1),
        residual=np.ones(units, bool),
        batch_size=4,
    )
    true = ratios(of_all).mean()
    expected = of_all.own_length[:, :2] / of_all.expected_length[:2]
    assert true == pytest.approx(np.median(expected, axis=1).mean())
    for trial in range(TRIALS):
        rows = np.random.default_rng(trial).integers(0, len(norms), 16)
        some = dataclasses.replace(of_all, norm=placed[rows])
        low, high = of_mean(ratios(some), 0)
        held += low <= true <= high
    assert held / TRIALS >= 0.9


def test_all_batches_count_alike():
    """By hand: one batch a thousand times as loud as the other, lengths 0 and 1."""
    norm = np.array([[[1.0, 1.0], [0.0, 1000.0]]])
    found = PathSpectrum(
        step=np.array([0]),
        length=np.array([0, 1]),
        norm=norm,
        contribution=shares(norm),
        total=norm.sum(-1),
        num_residual=1,
        num_plain=0,
        batch_size=4,
    )
    np.testing.assert_allclose(found.share, [[0.25, 0.75]])
    np.testing.assert_allclose(found.own_length, [[0.5, 1]])
    np.testing.assert_allclose(found.mean_length, [0.75])
    # Student's t of one degree of freedom is 12.7: two batches say nothing, and no length is beyond 0 and 1.
    np.testing.assert_array_equal(np.ravel(found.mean_length_interval), [0, 1])
    np.testing.assert_array_equal(found.effective_interval, [[[0, 0]], [[1, 1]]])
    one = dataclasses.replace(found, norm=norm[:, :1])
    assert np.isnan(one.mean_length_interval).all() and np.isnan(one.effective_interval).all()
    silent = dataclasses.replace(found, norm=norm * [[[1], [0]]])
    assert np.isnan(silent.mean_length).all() and np.isnan(silent.effective).all()


def test_ends_of_a_range_are_where_an_interval_reaches_the_tail():
    low = np.array([0.00, 0.02, 0.30, 0.90, 0.96, 1.0])
    high = np.array([0.01, 0.04, 0.60, 0.98, 0.99, 1.0])
    # 2.5 % is first reached at 1 by the upper ends, at 2 by the lower; 97.5 % at 3 and at 5.
    np.testing.assert_array_equal(central_range_interval(np.arange(6), (low, high)), [[1, 3], [2, 5]])
    nothing = np.full((2, 6), np.nan)
    assert np.isnan(central_range_interval(np.arange(6), (nothing[0], nothing[1]))).all()


# --- means with a long tail, and functions of means ---


def test_the_interval_of_a_positive_mean_stays_positive_and_holds_it_more_often():
    values = np.exp(1.2 * np.random.default_rng(0).normal(size=(2000, 10)) - 0.72)  # mean 1
    low, high = of_positive_mean(values, 1)
    assert (low > 0).all() and (of_mean(values, 1)[0] < 0).any()
    held = [np.mean((a <= 1) & (b >= 1)) for a, b in ((low, high), of_mean(values, 1))]
    assert held[0] > 0.84 and held[0] > held[1] + 0.03
    np.testing.assert_allclose(low * high, values.mean(1) ** 2)
    # Where values hardly differ, both are the same.
    close = 1 + 1e-4 * np.array([[-1.0, 0, 1]])
    np.testing.assert_allclose(of_positive_mean(close, 1), of_mean(close, 1), rtol=1e-7)
    np.testing.assert_array_equal(of_positive_mean(np.zeros((1, 3)), 1), np.zeros((2, 1)))


def test_the_jackknife_of_a_mean_is_students_t_and_of_a_square_has_no_bias():
    values = np.random.default_rng(1).normal(size=(3, 7))
    np.testing.assert_allclose(jackknife(values, lambda mean: mean), of_mean(values, 1))
    low, high = jackknife(values, lambda mean: mean**2)
    unbiased = values.mean(1) ** 2 - values.var(1, ddof=1) / 7
    np.testing.assert_allclose((low + high) / 2, unbiased)
    with pytest.raises(ValueError, match="1 draw has no interval"):
        jackknife(values[:, :1], lambda mean: mean)


# --- single paths ---


def sample_of(mean, seed, draws=DRAWS, loud=1.5):
    """Draws that spread log-normally by path, and batches whose gradients spread far more."""
    rng = np.random.default_rng(seed)
    norm = mean[:, None] * np.exp(0.6 * rng.normal(size=(N + 1, draws)) - 0.6**2 / 2)
    total = np.exp(loud * rng.normal(size=draws))
    # The exponent of loud batches is smaller: their norms fall more slowly.
    louder = np.exp(0.05 * np.log(total) * LENGTH[:, None])
    return of_draws(
        norm * total * louder,
        total,
        num_residual=N,
        num_plain=0,
        batch_size=4,
        choices={"seed": seed},
    )


def true_mean(mean, loud=1.5):
    """The mean of ``sample_of`` over endless draws, relative to the whole gradient."""
    return mean * np.exp((0.05 * loud * LENGTH) ** 2 / 2)


LINE, CURVE = 0.4 ** LENGTH.astype(float), np.exp(-0.9 * LENGTH + 0.04 * LENGTH**2)


@functools.cache
def samples(straight):
    mean = LINE if straight else CURVE
    return [sample_of(mean, seed, loud=0.0) for seed in range(SAMPLES)]


@pytest.mark.parametrize("draws", [6, pytest.param(30, marks=pytest.mark.slow)])
def test_intervals_of_draws_hold_what_endless_draws_would_give(draws):
    mean, trials = true_mean(CURVE), 100
    g, r_squared = fit_attenuation(mean, LENGTH, N, 0)
    ends, middle = np.array(central_range(LENGTH, totals(mean, N, 0))), totals(mean, N, 0) @ LENGTH
    held = np.zeros(6)
    for seed in range(trials):
        sample = sample_of(CURVE, seed, draws)
        low, high = sample.attenuation_interval
        held[0] += low <= g <= high
        low, high = sample.r_squared_interval
        held[1] += low <= r_squared <= high
        low, high = sample.mean_length_interval
        held[2] += low <= middle <= high
        low, high = sample.effective_interval
        assert (low % 1 == 0).all() and (low <= high).all()
        held[3:5] += (low <= ends) & (ends <= high)
        low, high = sample.mean_interval
        held[5] += np.mean((low <= mean) & (mean <= high))
    # At a coverage of 95 %, less than 88 % of 100 has a probability of 0.3 %.
    assert (held / trials >= 0.88).all(), held / trials


@pytest.mark.parametrize("draws", [pytest.param(16, marks=pytest.mark.slow), 100])
def test_draws_that_share_a_batch_count_once(draws):
    """Draws of one batch may be equal, as at length 0, so a hundred of 16 batches know no more than 16."""
    held, trials, batches = 0, 40, 16
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        of_batch = np.exp(0.5 * rng.normal(size=(N + 1, batches)) - 0.5**2 / 2)
        norm = CURVE[:, None] * of_batch[:, np.arange(draws) % batches]
        given = {"num_residual": N, "num_plain": 0, "batch_size": 4, "choices": {}}
        low, high = of_draws(norm, np.ones(draws), batches=batches, **given).mean_interval
        held += np.mean((low <= CURVE) & (high >= CURVE))
    assert held / trials >= 0.88


def test_a_straight_line_is_within_the_interval_of_r_squared():
    """Noise makes it less straight, always; so percentiles of noisy means would miss it."""
    held = [sample.r_squared_interval[1] > 1 - 1e-3 for sample in samples(True)]
    assert sum(held) >= 10 and all(sample.r_squared < 1 for sample in samples(True))


def test_draws_that_are_all_alike_leave_no_doubt():
    sample = of_draws(
        np.tile(CURVE[:, None], (1, 5)), np.ones(5), num_residual=N, num_plain=0, batch_size=4, choices={}
    )
    np.testing.assert_array_equal(sample.effective_interval, [sample.effective] * 2)
    np.testing.assert_allclose(sample.r_squared_interval, sample.r_squared, rtol=1e-10)
    np.testing.assert_allclose(sample.mean_length_interval, sample.mean_length, rtol=1e-10)
    np.testing.assert_allclose(sample.attenuation_interval, sample.attenuation, rtol=1e-10)
    # Draws of a batch that is a thousand times as loud are the same, relative to its gradient.
    loud = np.array([1, 1000, 1, 1, 20])
    again = of_draws(sample.norm * loud, loud, num_residual=N, num_plain=0, batch_size=4, choices={})
    np.testing.assert_allclose(again.mean, sample.mean)
    np.testing.assert_allclose(again.attenuation_interval, sample.attenuation, rtol=1e-10)


def test_without_a_gradient_nothing_is_known():
    nothing = np.zeros((N + 1, 5)), np.zeros(5)
    sample = of_draws(*nothing, num_residual=N, num_plain=0, batch_size=4, choices={})
    assert np.isnan(sample.effective_interval).all() and np.isnan(sample.r_squared_interval).all()
    assert np.isnan(sample.attenuation) and np.isnan(sample.attenuation_interval).all()


def gradients(sample, alignment, spread=0.0):
    """Exact norms that are this share of number × ``LINE``, in eight batches whose gradients differ."""
    loud = np.exp(2 * np.random.default_rng(5).normal(size=8))[:, None]
    wobble = np.exp(spread * np.linspace(-1, 1, 8))[:, None]
    norm = (loud * wobble * alignment * np.exp(log_path_counts(N)) * LINE)[None]
    exact = PathSpectrum(
        step=np.array([0]),
        length=LENGTH,
        norm=norm,
        contribution=norm,
        total=loud[:, 0][None],
        num_residual=N,
        num_plain=0,
        batch_size=4,
        choices={},
    )
    return Paths({"running statistics": exact}, {"running statistics": sample})


def test_alignment_has_the_intervals_of_both_norms():
    true = np.exp(-log_path_counts(N) / 2)
    held = np.zeros(N + 1)
    for sample in samples(True):
        result = gradients(sample, true)
        low, high = result.alignment_interval("running statistics")
        estimate = result.alignment("running statistics")
        assert (low < estimate).all() and (estimate < high).all() and (low > 0).all()
        held += (low <= true) & (true <= high)
        more = gradients(sample, true, spread=0.3).alignment_interval("running statistics")
        assert (more[0] < low).all() and (more[1] > high).all()
    assert held.mean() >= 0.88 * SAMPLES


def test_the_report_names_every_interval_and_they_outlive_a_file():
    result = gradients(samples(True)[0], np.ones(N + 1), spread=0.1)
    (point,) = compare.finding(STUDY, {"net": result}).points
    exact, sample = result.first
    low, high = sample.r_squared_interval
    assert f"(R² = {sample.r_squared:.3f}, {low:.3f} to {high:.3f} over draws)" in point
    low, high = sample.mean_length_interval
    assert f"(mean {sample.mean_length:.1f}, {low:.1f} to {high:.1f} over draws; " in point
    low, high = np.ravel(exact.mean_length_interval)
    assert f"(mean {exact.mean_length[0]:.1f}, {low:.1f} to {high:.1f} over batches; " in point
    assert point.count("the ends are ") == 2 and point.count("95 % interval") == 1
    back = Paths.from_json(json.loads(json.dumps(result.to_json())))
    assert compare.finding(STUDY, {"net": back}).points == [point]


# --- scripts of docs/results ---


def test_old_files_are_divided_by_the_gradients_of_their_batches():
    """Draw d of an old file used batch d of the exact part, in turn."""
    script = load_script("docs/results/path_weights.py")
    exact = gradients(samples(True)[0], np.ones(N + 1)).exact["running statistics"]
    total = exact.total[0][np.arange(DRAWS) % 8]
    given = {"num_residual": N, "num_plain": 0, "batch_size": 4, "batches": 8, "choices": {"seed": 2}}
    new = of_draws(samples(True)[0].norm * total, total, **given)
    old = {name: value for name, value in new.to_json().items() if name not in ("total", "batches")}
    old["choices"] = {"seed": 2, "batches": "8 of 4 examples, in turn"}
    record = {"exact": {"mode": exact.to_json()}, "sample": {"mode": old}}
    made = Paths.from_json(script.recompute(record)).sample["mode"]
    np.testing.assert_allclose(made.total, new.total)
    np.testing.assert_allclose(made.mean, new.mean)
    np.testing.assert_allclose(made.attenuation_interval, new.attenuation_interval)
    assert script.recompute(script.recompute(record)) == script.recompute(record)
    old["choices"]["batches"] = "16 of 4 examples, in turn"
    with pytest.raises(ValueError, match="draws on 16 of 4 examples, in turn, but exact sums of 8"):
        script.recompute(record)


def test_the_script_of_coverage_finds_what_is_known(monkeypatch):
    script = load_script("docs/results/path_coverage.py")
    for name, value in {"SAMPLES": 60, "FEWER": 12, "RESAMPLES": 60, "BATCHES": (4,), "DRAWS": (8,)}.items():
        monkeypatch.setattr(script, name, value)
    rng = np.random.default_rng(0)
    found = script.of_batches(population(300), LENGTH, rng)
    assert found["before"]["mean length"][0] < 0.7 < 0.85 < found["now"]["mean length"][0]
    sample = sample_of(LINE, 0, draws=60)
    found = script.of_paths(sample.norm, sample.total, LENGTH, rng)
    assert found["before"]["g"][0] < found["now"]["g"][0]
