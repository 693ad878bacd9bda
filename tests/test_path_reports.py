"""What the path studies say, of results made by hand: the opposite when the numbers are."""

import dataclasses

import numpy as np
import pytest
from run_helpers import run_with

from resjax import models
from resjax.report import compare
from resjax.studies.paths import path_counts, path_growth, path_parameters, paths
from resjax.studies.paths.path_exact import PathSpectrum
from resjax.studies.paths.path_growth import PathGrowth
from resjax.studies.paths.path_lengths import attenuated_shares, path_lengths
from resjax.studies.paths.path_parameters import PathParameters
from resjax.studies.paths.path_sampled import of_draws
from resjax.studies.paths.paths import Paths
from resjax.studies.words import factor

N = 20
LENGTH = path_lengths(N)


def spectrum(*attenuations, batches=3):
    """Exact norms as of one attenuation a moment; batches differ a little."""
    norms = np.array([attenuated_shares(N, g) for g in attenuations])[:, None]
    wobble = 1 + 0.01 * np.arange(batches)[:, None] * LENGTH / N
    return PathSpectrum(
        step=10 * np.arange(len(attenuations)),
        length=LENGTH,
        norm=norms * wobble,
        contribution=np.broadcast_to(norms, (len(attenuations), batches, N + 1)),
        total=np.ones((len(attenuations), batches)),
        num_residual=N,
        num_plain=0,
        batch_size=4,
        choices={"BatchNorm": "running statistics", "draws": "none"},
    )


def growth(*attenuations, **options):
    """``spectrum`` at these moments of one training."""
    fields = dataclasses.asdict(spectrum(*attenuations, **options))
    return PathGrowth(**fields, scale=np.full((len(attenuations), N), 0.8))


def sample(g, bend=0.0):
    """Eight draws around an exponential fall, or one that is bent."""
    mean = g ** LENGTH.astype(float) * np.exp(bend * (LENGTH - N / 2) ** 2)
    wobble = 1 + 0.01 * np.random.default_rng(0).normal(size=(N + 1, 8))
    choices = {"BatchNorm": "running statistics", "draws": "8 paths of each length"}
    return of_draws(
        mean[:, None] * wobble, np.ones(8), num_residual=N, num_plain=0, batch_size=4, choices=choices
    )


def gradients(g, **options):
    return Paths({"running statistics": spectrum(g)}, {"running statistics": sample(g, **options)})


@pytest.mark.parametrize(
    ("g", "kind", "words"),
    [
        (0.2, "short", "short paths"),
        (0.7, "shorter", "shorter than most"),
        (1.1, "long", "as long as most"),
    ],
)
def test_paths_say_how_long_the_paths_of_the_gradient_are(g, kind, words):
    result = gradients(g)
    assert paths.verdict(result) == kind
    finding = compare.finding(paths.STUDY, {"net": result})
    assert words in finding.headline and "net" in finding.headline
    found = result.first[1].attenuation
    assert found == pytest.approx(g, rel=0.01) and f"g = {found:.3f}" in finding.points[0]
    assert f"so it {'shrinks' if g < 1 else 'grows'} with length" in finding.points[0]
    assert "the change is exponential" in finding.points[0]
    assert compare.summary(paths.STUDY, {"net": result})["net"]["g, left by a branch"] == factor(found)


def test_paths_tell_networks_apart_and_doubt_a_bad_fit():
    results = {"a": gradients(0.2), "b": gradients(1.1, bend=0.1), "c": gradients(0.2)}
    finding = compare.finding(paths.STUDY, results)
    assert finding.headline.startswith("The gradient of a comes through short paths")
    assert "the gradient of b comes through paths as long as most" in finding.headline
    assert "the change is not exponential (R² = " in finding.points[1]
    assert len(compare.table(paths.STUDY, results).rows) == 3 * (N + 1)
    assert {len(row) for row in compare.table(paths.STUDY, results).rows} == {9}


def test_paths_without_a_gradient_or_with_one_length_say_so():
    zero = gradients(0.2)
    none = dataclasses.replace(zero.exact["running statistics"], norm=np.zeros((1, 3, N + 1)))
    finding = compare.finding(paths.STUDY, {"net": Paths({"running statistics": none}, zero.sample)})
    assert "zero or not finite" in finding.headline and not finding.points
    first = (LENGTH == 0).astype(float)
    alone = dataclasses.replace(none, norm=np.broadcast_to(first, (1, 3, N + 1)))
    norm = np.tile(first[:, None], (1, 3))
    draws = of_draws(norm, np.ones(3), num_residual=N, num_plain=0, batch_size=4, choices={})
    result = Paths({"running statistics": alone}, {"running statistics": draws})
    finding = compare.finding(paths.STUDY, {"net": result})
    assert "short paths (0 of 20 units)" in finding.headline
    assert "too few lengths" in finding.points[0]


def test_choices_are_told_once_and_by_mode_where_they_differ():
    other = dataclasses.replace(
        sample(0.3), choices={"BatchNorm": "of the batch", "draws": "9 paths", "seed": 0}
    )
    exact = dataclasses.replace(spectrum(0.3), choices={"BatchNorm": "of the batch"})
    both = Paths.join([gradients(0.2), Paths({"of the batch": exact}, {"of the batch": other})])
    assert both.choices == {
        "BatchNorm": "running statistics; of the batch",
        "draws": "8 paths of each length (running statistics); 9 paths (of the batch)",
        "seed": "0",
    }
    assert (
        "With of the batch instead of running statistics"
        in compare.finding(paths.STUDY, {"n": both}).points[0]
    )


@pytest.mark.parametrize(
    ("moments", "kind", "words"),
    [
        ((0.2, 0.3, 0.6), "longer", "are longer after training than before"),
        ((0.6, 0.3, 0.2), "shorter", "are shorter after training than before"),
        ((0.3, 0.6, 0.3), "same", "are as long after training, within half a unit"),
        ((0.3,), "none", "two moments of"),
    ],
)
def test_growth_says_which_way_and_where_it_turns(moments, kind, words):
    result = growth(*moments)
    assert path_growth.verdict(result) == kind
    finding = compare.finding(path_growth.STUDY, {"net": result})
    assert words in finding.headline
    (point,) = finding.points
    for t, step in enumerate(result.step):  # the whole course is told
        when = "at init" if step == 0 else f"after {step} steps"
        assert f"{result.mean_length[t]:.1f} (" in point and when in point
    fall = f"{result.mean_length[1] - result.mean_length[-1]:.2f}" if len(moments) > 1 else ""
    told = f"It is largest after 10 steps; from there to the last moment it falls again, by {fall} ("
    turned = told in point
    assert turned == (kind == "same")
    assert ("The mean |γ| of BatchNorm in the units is 0.80" in point) == (kind != "none")
    assert len(compare.table(path_growth.STUDY, {"net": result}).rows) == len(moments)


def test_growth_of_several_networks_cites_nobody_and_says_nothing_without_an_interval():
    finding = compare.finding(path_growth.STUDY, {"a": growth(0.2, 0.6), "b": growth(0.6, 0.2)})
    assert "of a are longer" in finding.headline and "of b are shorter" in finding.headline
    assert "Littwin" not in "".join([finding.headline, *finding.points])
    one_batch = growth(0.2, 0.6, batches=1)
    assert path_growth.verdict(one_batch) == "undecided" and not path_growth.turns(one_batch)
    finding = compare.finding(path_growth.STUDY, {"a": one_batch})
    assert "whether the paths" in finding.headline.lower() and "undecided" in finding.headline
    assert paths.verdict(gradients(0.2)) == "short"
    exact = gradients(0.2).exact["running statistics"]
    alone = dataclasses.replace(exact, norm=exact.norm[:, :1])
    assert paths.verdict(Paths({"m": alone}, {"m": sample(0.2)})) == "undecided"


def test_a_turn_must_be_known_for_all_inner_moments_together():
    """Differences whose interval holds 0 at 98.3 %, the level of three inner moments, but not at 95 %."""
    result = growth(0.3, 0.3, 0.3, 0.3, 0.3, batches=3)
    own = result.own_length
    # t is 5.8 and 11.5; 4.3 is needed at 95 %, 7.6 at 98.3 %.
    for spread, found in ((0.3, 0), (0.15, 1)):
        lengths = own.copy()
        lengths[2] += 0.3 * (1 + spread * np.array([-1, 0, 1]))
        norm = np.zeros((5, 3, N + 1))
        low = lengths.astype(int)
        np.put_along_axis(norm, low[..., None], (1 + low - lengths)[..., None], axis=2)
        np.put_along_axis(norm, low[..., None] + 1, (lengths - low)[..., None], axis=2)
        made = dataclasses.replace(result, norm=norm)
        np.testing.assert_allclose(made.own_length, lengths)
        assert made.change(0, 2).known
        assert len(path_growth.turns(made)) == found


@pytest.mark.parametrize(
    ("g", "words"), [(0.2, "shorter than most"), (1.0, "about as long"), (3.0, "longer than most")]
)
def test_parameters_say_how_long_the_paths_behind_units_are(g, words):
    norms = np.zeros((2, N, N))
    for i in range(N):
        norms[:, i, : N - i] = attenuated_shares(N - 1 - i, g) if i < N - 1 else 1
    result = PathParameters(
        unit=tuple(f"stage1/unit{i + 1}" for i in range(N)),
        length=np.arange(N),
        norm=norms,
        contribution=norms,
        total=np.ones((2, N)),
        residual=np.ones(N, bool),
        batch_size=4,
        choices={},
    )
    np.testing.assert_allclose(result.mean_length, (N - 1 - np.arange(N)) * g / (1 + g), atol=1e-9)
    finding = compare.finding(path_parameters.STUDY, {"net": result})
    assert words in finding.headline
    assert "of the 19 units behind it" in finding.points[0]
    assert len(compare.table(path_parameters.STUDY, {"net": result}).rows) == N
    empty = dataclasses.replace(result, norm=np.zeros((2, N, N)))
    assert "no finite, non-zero gradient" in compare.finding(path_parameters.STUDY, {"net": empty}).headline


def test_counts_of_a_network():
    config = models.defaults("resnet", depth=110)
    result = path_counts.path_counts(models.build(config, image_shape=(32, 32, 3), num_classes=10))
    finding = compare.finding(path_counts.STUDY, {"ResNet-110": result})
    assert finding.headline == "95 % of all paths cross 20 to 34 of 54 units in ResNet-110."
    assert "2⁵⁴ paths through 54 residual units" in finding.points[0]
    assert "Of the paths that cross 27, 50 % are left after 1 deletion" in finding.points[0]
    assert "5 to 17 units if g = 0.25" in finding.points[0]
    assert ("ResNet-110", "0.25", "5 to 17", "0.45 %") in compare.table(
        path_counts.STUDY, {"ResNet-110": result}
    ).rows


@pytest.mark.parametrize("module", [path_counts, path_growth, path_parameters, paths])
def test_a_network_with_one_path_is_unsuited(module):
    reason = module.STUDY.unsuited(run_with(residual=False))
    assert "one path only" in reason
    assert module.STUDY.unsuited(run_with(residual=True)) is None
