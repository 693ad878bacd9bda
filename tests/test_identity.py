"""How near to the identity units are, against loops in float64."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from marks import slow_but
from network_helpers import draw, on_stack
from run_helpers import tiny_run

from resjax import models
from resjax.network.losses import cross_entropy
from resjax.report import compare
from resjax.studies import style
from resjax.studies.lesions.lesion import lesion
from resjax.studies.options import Options
from resjax.studies.ranks import spearman
from resjax.studies.units import over_images
from resjax.studies.units.identity import STUDY, against, identity
from resjax.studies.units.identity_result import GIVEN, Identity
from resjax.studies.units.identity_shown import downhill, faster, near_0, openings, refining

SHAPE, CLASSES = (6, 6, 2), 3
FORMS = {
    "pre": {},
    "post": {"placement": "post", "transition": "projection"},
    "plain": {"shortcut": "none"},
    "dropped": {"unit_dropout": "linear"},
}


def build(form, **more):
    fields = {"stage_sizes": (3, 2), "widths": (4, 8), **FORMS[form], **more}
    return models.build(models.defaults("resnet", **fields), image_shape=SHAPE, num_classes=CLASSES)


@functools.cache
def made(form):
    network = build(form)
    return network, draw(network, SHAPE)


def examples(n=7, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, *SHAPE)).astype(np.float32), rng.integers(0, CLASSES, n)


def loop(network, variables, images, labels):
    """Every measure, unit by unit and example by example."""
    gates = network.unit_dropout.at_test() if network.unit_dropout else np.ones(network.num_units)

    def forward(moved):
        """The loss; of each unit: input plus its ``moved``, shortcut, what is added, output."""
        h, _ = network.run_stem(variables, images)
        seen = []
        for unit, gate, step in zip(network.units, gates, moved, strict=True):
            stack, j = unit.stack, unit.position
            part = {c: jax.tree.map(lambda a, j=j: a[j], t[stack.name]) for c, t in variables.items()}
            bound, x = stack.unit.bind(part), h + step
            s, f = bound.split(x, False)
            added = gate * f if bound.residual else (None if s is None else f - s)
            h = bound.merge(s + gate * f if bound.residual else f, False)
            seen.append((x, s, added, h))
        return cross_entropy(network.run_head(variables, h)[0], labels).sum(), seen

    unmoved = [0.0] * network.num_units
    unmoved = [np.zeros(x.shape) for x, *_ in jax.eval_shape(forward, unmoved)[1]]
    gradients, seen = jax.jit(jax.grad(forward, has_aux=True))(unmoved)
    stages = np.array([unit.stack.stage for unit in network.units])
    rows = []
    for i, (x, s, added, y) in enumerate(seen):
        gradient = np.asarray(gradients[i])
        last = seen[np.flatnonzero(stages == stages[i])[-1]][-1]
        x, y, last = (np.asarray(v) for v in (x, y, last))
        error = y - last
        row = {
            "estimation_mean": error.mean(),
            "estimation_std": error.std(),
            "scale": np.sqrt((last**2).mean()),
        }
        if added is not None:
            added, s = np.asarray(added), np.asarray(s)
            ratio, cosine, novelty = [], [], []
            for b in range(len(x)):
                size = np.linalg.norm(added[b])
                ratio.append(size / np.linalg.norm(x[b]))
                along = (added[b] * s[b]).sum() / np.linalg.norm(s[b]) ** 2 * s[b]
                novelty.append(np.linalg.norm(added[b] - along) ** 2 / size**2)
                if added.shape == x.shape:
                    product = (added[b] * gradient[b]).sum()
                    cosine.append(product / size / np.linalg.norm(gradient[b]))
            row |= {"ratio": np.mean(ratio), "novelty": np.mean(novelty)}
            if cosine:
                row["cosine"] = np.mean(cosine)
        rows.append(row)
    return rows


@pytest.mark.parametrize("form", slow_but(["pre", "post", "plain", "dropped"], "post"))
def test_every_measure_equals_a_loop(form, x64):
    network = build(form, dtype="float64")
    v = jax.tree.map(lambda a: a.astype(jnp.float64), draw(build(form), SHAPE))
    images, labels = examples()
    images = images.astype(np.float64)
    result = identity(network, v, images, labels, batch_size=3)
    expected = loop(network, v, images, labels)
    assert result.num_examples == 7
    for i, row in enumerate(expected):
        for name in ("ratio", "cosine", "novelty", "scale", "estimation_mean"):
            actual = getattr(result, name)[i]
            np.testing.assert_allclose(actual, row.get(name, np.nan), rtol=1e-8, err_msg=name)
        # A difference of squares has half the digits.
        np.testing.assert_allclose(result.estimation_std[i], row["estimation_std"], atol=1e-7)
    names = [unit.name for unit in network.units]
    changes = names.index("stage2/unit1")
    assert np.isnan(result.cosine[changes])
    assert np.isnan(result.ratio[changes]) == (form == "plain")
    assert result.estimation[2] == result.estimation[4] == 0


def test_a_zero_branch_has_a_size_and_no_direction():
    network, v = made("pre")
    v = {**v, "params": {**v["params"]}}
    v = on_stack(v, "stage1", jnp.zeros_like)
    result = identity(network, v, *examples())
    assert list(result.ratio[1:3]) == [0, 0]
    assert np.isnan(result.cosine[1:3]).all() and np.isnan(result.novelty[1:3]).all()
    assert result.estimation_std[1] == 0 and result.estimation_mean[0] == 0


def test_tiny_losses_have_a_direction():
    network, v = made("pre")
    images, labels = examples()

    def tiny(logits, labels):
        return 1e-28 * cross_entropy(logits, labels)

    usual = identity(network, v, images, labels)
    small = identity(network, v, images, labels, loss=tiny)
    np.testing.assert_allclose(small.cosine, usual.cosine, rtol=1e-4)


def test_spearman_counts_ranks_and_says_nothing_of_constants():
    assert spearman(np.array([1.0, 2.0, 9.0]), np.array([-3.0, 0.0, 0.1])) == pytest.approx(1)
    # ρ = 1 − 6 Σd² / (n(n² − 1)), with d = 0, 1, −1, 0
    assert spearman(np.arange(4), np.array([0, 2, 1, 3])) == pytest.approx(1 - 6 * 2 / 60)
    assert np.isnan(spearman(np.arange(3), np.ones(3)))
    x, y = np.random.default_rng(0).integers(0, 6, (2, 20))  # with ties
    assert spearman(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-12)


def test_a_partial_correlation_is_that_of_what_a_fit_leaves():
    x, y, z = np.random.default_rng(1).normal(size=(3, 30)) + np.linspace(0, 3, 30)
    xy, xz, yz = spearman(x, y), spearman(x, z), spearman(y, z)
    # Kendall 1942
    expected = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert spearman(x, y, [z]) == pytest.approx(expected, abs=1e-12)
    assert spearman(x, y, [z, z, np.ones(30)]) == pytest.approx(expected, abs=1e-9)
    ranks = [scipy.stats.rankdata(v) for v in (x, y, z)]
    fit = np.stack([np.ones(30), ranks[2], np.arange(30) < 12], -1)
    left = [r - fit @ np.linalg.lstsq(fit, r, rcond=None)[0] for r in ranks[:2]]
    expected = np.corrcoef(*left)[0, 1]
    assert spearman(x, y, [z, np.arange(30) < 12]) == pytest.approx(expected, abs=1e-12)


def test_nothing_is_left_of_series_that_follow_the_given_one():
    place = np.arange(10)
    assert np.isnan(spearman(place**2, -place, [place])) and spearman(place**2, -place) == -1


def result_with(sizes, **fields):
    """Six numbers a unit, of which some are given."""
    n = sum(sizes)
    stage = np.repeat(np.arange(len(sizes)), sizes)
    usual = {name: np.ones(n) for name in ("ratio", "cosine", "novelty", "estimation_mean", "scale")}
    usual |= {"estimation_std": np.ones(n), "num_examples": 1, "measure": ("ratio",)}
    usual |= {f"{k}_interval": np.full((len(sizes), 2), np.nan) for k in ("lead", "remaining")}
    usual |= {"interval": np.full((4, n, 2), np.nan), "bias_interval": np.full((n, 2), np.nan)}
    usual["below_interval"] = np.full(2, np.nan)
    names = tuple(f"stage{s + 1}/unit{i}" for i, s in enumerate(stage))
    return Identity(unit=names, stage=stage, residual=np.ones(n, bool), **{**usual, **fields})


@pytest.mark.slow
def test_held_fixed_the_place_explains_what_only_follows_it():
    """Ratio and damage fall along every stage, and have nothing else in common."""
    rng, place = np.random.default_rng(2), np.tile(np.arange(100), 3)
    noise = rng.normal(size=(2, 300))
    place_only = result_with((100,) * 3, ratio=np.exp(-0.02 * place + 0.3 * noise[0]))
    found = against(place_only, np.exp(-0.01 * place + 0.2 * noise[1]))
    raw, fixed, both = found.correlation[:, 0]
    assert raw > 0.6 and abs(fixed) < 0.15 and abs(both) < 0.15
    assert found.low[0, 0] > 0.5 and found.low[1, 0] < 0 < found.high[1, 0]
    # Stages that differ, and units within them that do not.
    stage = np.repeat([1.0, 5.0, 2.0], 100)
    found = against(dataclasses.replace(place_only, ratio=stage + noise[0]), stage + noise[1])
    raw, fixed, both = found.correlation[:, 0]
    assert raw > 0.5 and fixed > 0.5 and abs(both) < 0.15
    # What has nothing to do with the place stays.
    found = against(dataclasses.replace(place_only, ratio=noise[0] - place), 2 * noise[0] - place)
    assert found.correlation[2, 0] > 0.8


@functools.cache
def result_of(form):
    network, v = made(form)
    lesions = lesion(network, v, *examples())
    return identity(network, v, *examples(), lesions=lesions), lesions


@pytest.mark.slow
def test_correlations_are_over_the_units_that_have_both():
    result, lesions = result_of("pre")
    np.testing.assert_array_equal(result.damage, lesions.kl)
    for name, rho in zip(result.measure, result.correlation[0], strict=True):
        pair = np.stack([getattr(result, name), lesions.kl])
        use = {"cosine": [0, 1, 2, 4], "estimation": [0, 1, 3]}.get(name, list(range(5)))
        if len(use) < 4:
            assert np.isnan(rho)
            continue
        expected = scipy.stats.spearmanr(*pair[:, use]).statistic
        np.testing.assert_allclose(rho, expected, rtol=1e-12)
    known = np.isfinite(result.correlation)
    assert np.all(result.low[known] <= result.high[known])
    # Six units allow one series to be held fixed, ten allow three.
    assert result.given == GIVEN and not known[1:].any()
    assert identity(*made("pre"), *examples()).correlation is None


def test_wrong_input_is_refused():
    network, v = made("pre")
    with pytest.raises(ValueError, match="no example"):
        identity(network, v, *examples(0))
    other = build("pre", stage_sizes=(2, 2))
    with pytest.raises(ValueError, match="delete its own units"):
        identity(other, draw(other, SHAPE), *examples(), lesions=result_of("pre")[1])


@pytest.mark.parametrize("form", ["pre", "plain"])
def test_json_keeps_everything(form):
    result, _ = result_of(form)
    back = Identity.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False)))
    for field in dataclasses.fields(result):
        np.testing.assert_equal(getattr(back, field.name), getattr(result, field.name))


@pytest.mark.parametrize("narrow", [False, True])
def test_plot(narrow):
    results = {"a": result_of("pre")[0], "b": result_of("plain")[0]}
    with style.theme(narrow=narrow):
        figure = STUDY.plot(results)
        alone = STUDY.plot({"a": dataclasses.replace(results["a"], correlation=None)})
    assert len(figure.axes) == 5 and len(alone.axes) == 4
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), results["a"].ratio)


def test_older_files_are_read():
    result, _ = result_of("pre")
    data = json.loads(json.dumps(result.to_json()))
    new = ("interval", "bias_interval", "below_interval", "lead_interval", "remaining_interval")
    older = {k: v for k, v in data.items() if k not in (*new, "given", "initial")}
    older |= {k: data[k][0] for k in ("correlation", "low", "high")}
    older["cosine_error"] = np.full(5, 0.25).tolist()
    back = Identity.from_json(older)
    np.testing.assert_array_equal(back.correlation, result.correlation[:1])
    np.testing.assert_allclose(back.interval[1, :, 1], result.cosine + 1.96 * 0.25)
    assert back.given == ("nothing",) and near_0(back) == "undecided"
    assert "undecided" in " ".join(STUDY.points("a", back))


def of_examples(units=3, n=200, seed=3):
    """Measures of each example, as ``additions`` returns them: one stage, cosines around −0.1, 0.1 and 0."""
    rng = np.random.default_rng(seed)
    cosine = np.array([-0.1, 0.1, 0.0])[:units, None] + 0.3 * rng.normal(size=(units, n))
    ratio = np.array([2.0, 1.0, 0.5])[:units, None] + rng.normal(size=(units, n))
    error = np.array([0.3, 0.1, 0.0])[:units, None] + 0.1 * rng.normal(size=(units, n))
    deviation = np.array([4.0, 1.0, 0.0])[:units, None]
    names = {"ratio": ratio, "cosine": cosine, "novelty": ratio, "estimation": error}
    return {**names, "square": error**2 + deviation**2, "last": np.full((units, n), 25.0)}


def test_intervals_are_those_of_other_images():
    stage, of_each = np.ones(3), of_examples()
    ends = over_images.intervals(of_each, stage, seed=0)
    mean, error = of_each["cosine"].mean(1), of_each["cosine"].std(1) / np.sqrt(200)
    np.testing.assert_allclose(ends["cosine"], mean[:, None] + [-1.96, 1.96] * error[:, None], atol=0.006)
    assert ends["cosine"][0, 1] < 0 < ends["cosine"][1, 0]
    # One unit of three is negative, one is positive, and one depends on the images.
    np.testing.assert_allclose(ends["below"], [1 / 3, 2 / 3])
    once = over_images.averages(of_each, np.ones((1, 200)))
    said = {name: values[..., 0] for name, values in over_images.statistics(once, stage).items()}
    assert said["lead"][0] == pytest.approx(of_each["ratio"][0].mean() / of_each["ratio"][1].mean())
    assert said["remaining"][0] == pytest.approx(said["estimation_std"][1] / said["estimation_std"][0])
    assert said["bias"][0] == pytest.approx(of_each["estimation"][0].mean() / said["estimation_std"][0])
    for name in ("lead", "remaining"):
        assert ends[name][0, 0] < said[name][0] < ends[name][0, 1]


def test_intervals_cover_the_mean_of_all_images(monkeypatch):
    """Of a skewed population, of which 100 images are drawn."""
    monkeypatch.setattr(over_images, "RESAMPLES", 200)
    rng, hits = np.random.default_rng(4), 0
    for seed in range(200):
        ratio = rng.gamma(0.5, size=(2, 100))
        of_each = dict.fromkeys(("ratio", "cosine", "novelty", "estimation", "square", "last"), ratio)
        low, high = over_images.intervals(of_each, np.ones(2), seed)["ratio"][0]
        hits += low <= 0.5 <= high
    assert hits >= 0.9 * 200


@pytest.mark.slow
def test_the_interval_of_the_share_below_0_covers_that_of_all_images(monkeypatch):
    """Units whose mean cosines differ by about as much as 256 images tell apart."""
    monkeypatch.setattr(over_images, "RESAMPLES", 200)
    rng, hits, points = np.random.default_rng(7), 0, 0
    for seed in range(100):
        true = rng.normal(size=25) / 16
        cosine = true[:, None] + rng.normal(size=(25, 256))
        of_each = dict.fromkeys(("ratio", "novelty", "estimation", "square", "last"), np.ones((25, 256)))
        low, high = over_images.intervals({**of_each, "cosine": cosine}, np.ones(25), seed)["below"]
        hits += low <= np.mean(true < 0) <= high
        points += np.mean(cosine.mean(1) < 0) == np.mean(true < 0)
    assert hits >= 0.9 * 100 > points


def test_examples_without_a_direction_are_left_out():
    of_each = of_examples()
    of_each["cosine"][0, :150] = np.nan
    of_each["cosine"][1] = np.nan
    mean = over_images.averages(of_each, np.ones((1, 200)))["cosine"][:, 0]
    assert mean[0] == pytest.approx(of_each["cosine"][0, 150:].mean()) and np.isnan(mean[1])
    ends = over_images.intervals(of_each, np.ones(3), 0)["cosine"]
    assert np.isfinite(ends[[0, 2]]).all() and np.isnan(ends[1]).all()


def test_equal_additions_in_directions_of_their_own_leave_two_thirds():
    n, size = 40, 3000
    steps = np.random.default_rng(5).normal(size=(n, size))
    state = np.cumsum(steps, 0)
    deviation = (state - state[-1]).std(1)
    i = np.arange(2, n)
    expected = np.mean(np.sqrt((n - i) / (n - 1)))
    assert over_images.remaining(np.ones(n), deviation)[0] == pytest.approx(expected, abs=0.02)
    assert expected == pytest.approx(2 / 3, abs=0.01)


def hand_made(ratio, cosine, estimation, mean=0.0):
    """Five units in two stages; each interval reaches 0.02 to both sides."""
    cosine, deviation = np.array(cosine), np.array(estimation, float)
    fields = {
        "ratio": np.array(ratio),
        "cosine": cosine,
        "estimation_std": deviation,
        "estimation_mean": mean * deviation,
    }
    r = result_with((3, 2), **fields)
    ends = np.array([-0.02, 0.02])
    around = {name: getattr(r, name)[..., None] + ends for name in ("bias", "lead", "remaining")}
    interval = np.stack([cosine[:, None] + ends] * 4)
    changes = {f"{name}_interval": values for name, values in around.items()}
    return dataclasses.replace(r, interval=interval, below_interval=r.below + ends, **changes)


def test_findings_follow_the_numbers():
    near = hand_made([0.3, 0.2, 0.1, 0.2, 0.1], [-0.1, -0.2, -0.1, np.nan, -0.015], [3, 2, 0, 1, 0])
    far = hand_made([1.0, 2.0, 3.0, 2.0, 1.0], [0.1, 0.2, 0.1, np.nan, 0.1], [1, 2, 0, 1, 0])
    assert (downhill(near), downhill(far)) == ((3, 4), (0, 4))
    assert (openings(near), openings(far)) == ((1, 1), (0, 1))
    assert (refining(near), refining(far)) == ((1, 1), (0, 1))
    found = compare.finding(STUDY, {"near": near, "far": far})
    assert "unit of near adds 0.20 times" in found.headline


@pytest.mark.parametrize(
    ("middle", "word"), [(1.5, "faster"), (2.5, "slower"), (1.98, "undecided"), (np.nan, "undecided")]
)
def test_shrinking_is_judged_against_initialization(middle, word):
    there = hand_made([1.0] * 5, [0.1] * 5, [3, 2, 0, 1, 0])
    r = dataclasses.replace(hand_made([1.0] * 5, [0.1] * 5, [3, middle, 0, 1, 0]), initial=there)
    assert faster(r)[0] == {"faster": 1, "slower": -1, "undecided": 0}[word]
    if np.isfinite(middle):
        text = " ".join(STUDY.points("a", r))
        assert f"{word} in 1" in text or f"{word} than there in 1 of 1" in text


@pytest.mark.parametrize(
    ("mean", "word"),
    [
        (0.05, "met"),
        (-0.05, "met"),
        (0.09, "undecided"),
        (-0.11, "undecided"),
        (-0.13, "missed"),
        (0.13, "missed"),
    ],
)
def test_the_mean_is_near_0_within_a_tenth_of_the_deviation(mean, word):
    assert near_0(hand_made([1.0] * 5, [0.1] * 5, [3, 2, 0, 1, 0], mean)) == word


def test_a_zero_branch_at_initialization_can_be_told():
    """Units whose branches start at 0 have no direction, no novelty, and no distance that could shrink."""
    nothing = np.full(5, np.nan)
    there = hand_made([0.0] * 5, nothing, [0] * 5)
    there = dataclasses.replace(there, novelty=nothing)
    r = dataclasses.replace(hand_made([1.0] * 5, [0.1] * 5, [3, 2, 0, 1, 0]), initial=there)
    text = " ".join(STUDY.points("a", r))
    assert "(at init 0)" in text and "nan" not in text


@pytest.mark.slow
def test_progress_covers_the_deletions_and_the_initialization(tmp_path):
    run = tiny_run(tmp_path / "run")
    seen = []
    result = STUDY.run(run, Options(max_examples=8, batch_size=4), lambda done, of: seen.append(done / of))
    assert seen[0] == 0 and seen[-1] == 1 and seen == sorted(seen)
    for quarter in range(4):
        assert sum(quarter / 4 < share <= (quarter + 1) / 4 for share in seen) > 1
    assert result.initial.correlation is not None
