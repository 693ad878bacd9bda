"""What the path studies say, of results made by hand: the opposite when the numbers are."""

import dataclasses
import types

import numpy as np
import pytest

from resjax import models
from resjax.report import compare
from resjax.studies.paths import path_counts, path_growth, path_parameters, paths
from resjax.studies.paths.path_exact import PathSpectrum
from resjax.studies.paths.path_lengths import attenuated_shares, path_lengths
from resjax.studies.paths.path_parameters import PathParameters
from resjax.studies.paths.path_sampled import PathSample
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


def sample(g, r_squared=0.99):
    mean = g ** LENGTH.astype(float)
    return PathSample(
        length=LENGTH,
        norm=np.stack([0.9 * mean, 1.1 * mean], axis=1),
        mean=mean,
        median=mean,
        mean_interval=np.stack([0.9 * mean, 1.1 * mean]),
        median_interval=np.stack([0.9 * mean, 1.1 * mean]),
        attenuation=g,
        attenuation_interval=np.array([0.99 * g, 1.01 * g]),
        r_squared=r_squared,
        num_residual=N,
        num_plain=0,
        batch_size=4,
        choices={"BatchNorm": "running statistics", "draws": "2 paths of each length"},
    )


def gradients(g, **options):
    return Paths({"running statistics": spectrum(g)}, {"running statistics": sample(g, **options)})


@pytest.mark.parametrize(
    ("g", "kind", "words"),
    [
        (0.2, "short", "short paths"),
        (0.7, "shorter", "though not short"),
        (1.1, "long", "as long as most"),
    ],
)
def test_paths_say_how_long_the_paths_of_the_gradient_are(g, kind, words):
    result = gradients(g)
    assert paths.verdict(result) == kind
    finding = compare.finding(paths.STUDY, {"net": result})
    assert words in finding.headline and "net" in finding.headline
    assert f"g = {g:.3f}" in finding.points[0]
    assert ("shrinks" if g < 1 else "grows") in finding.points[0]
    assert "the change is exponential" in finding.points[0]
    assert compare.summary(paths.STUDY, {"net": result})["net"]["g, left by a branch"] == factor(g)


def test_paths_tell_networks_apart_and_doubt_a_bad_fit():
    results = {"a": gradients(0.2), "b": gradients(1.1, r_squared=0.5), "c": gradients(0.2)}
    finding = compare.finding(paths.STUDY, results)
    assert finding.headline.startswith("The gradient of a comes through short paths")
    assert "the gradient of b comes through paths as long as most" in finding.headline
    assert "not exponential (R² = 0.500, " in finding.points[1]
    assert len(compare.table(paths.STUDY, results).rows) == 3 * (N + 1)
    assert {len(row) for row in compare.table(paths.STUDY, results).rows} == {9}


def test_paths_without_a_gradient_or_with_one_length_say_so():
    zero = gradients(0.2)
    none = dataclasses.replace(zero.exact["running statistics"], norm=np.zeros((1, 3, N + 1)))
    finding = compare.finding(paths.STUDY, {"net": Paths({"running statistics": none}, zero.sample)})
    assert "zero or not finite" in finding.headline and not finding.points
    first = (LENGTH == 0).astype(float)
    alone = dataclasses.replace(none, norm=np.broadcast_to(first, (1, 3, N + 1)))
    draws = dataclasses.replace(sample(0.5), mean=first, attenuation=np.nan)
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
        "draws": "2 paths of each length (running statistics); 9 paths (of the batch)",
        "seed": "0",
    }
    assert (
        "With of the batch instead of running statistics"
        in compare.finding(paths.STUDY, {"n": both}).points[0]
    )


@pytest.mark.parametrize(
    ("moments", "kind", "words"),
    [
        ((0.2, 0.3, 0.6), "longer", "grow longer during training, as Littwin"),
        ((0.6, 0.3, 0.2), "shorter", "grow shorter during training, against"),
        ((0.3, 0.6, 0.3), "same", "stay about as long"),
        ((0.3,), "none", "two moments of"),
    ],
)
def test_growth_says_which_way(moments, kind, words):
    result = spectrum(*moments)
    assert path_growth.verdict(result) == kind
    finding = compare.finding(path_growth.STUDY, {"net": result})
    assert words in finding.headline
    assert "at init" in finding.points[0]
    assert ("The mean length is largest after 10 steps" in finding.points[0]) == (kind == "same")
    assert len(compare.table(path_growth.STUDY, {"net": result}).rows) == len(moments)


def test_growth_of_several_networks_that_disagree_cites_nobody():
    finding = compare.finding(path_growth.STUDY, {"a": spectrum(0.2, 0.6), "b": spectrum(0.6, 0.2)})
    assert "a grow longer" in finding.headline and "b grow shorter" in finding.headline
    assert "Littwin" not in finding.headline
    one_batch = spectrum(0.2, 0.6, batches=1)  # no interval, and no claim but by the means
    assert path_growth.verdict(one_batch) == "longer"
    assert "over batches" not in compare.finding(path_growth.STUDY, {"a": one_batch}).points[0]


@pytest.mark.parametrize(
    ("g", "words"), [(0.2, "shorter than most"), (1.0, "about as long"), (3.0, "longer than most")]
)
def test_parameters_say_how_long_the_paths_behind_units_are(g, words):
    norms = np.zeros((1, N, N))
    for i in range(N):
        norms[0, i, : N - i] = attenuated_shares(N - 1 - i, g) if i < N - 1 else 1
    result = PathParameters(
        unit=tuple(f"stage1/unit{i + 1}" for i in range(N)),
        length=np.arange(N),
        norm=norms,
        contribution=norms,
        total=np.ones((1, N)),
        residual=np.ones(N, bool),
        batch_size=4,
        choices={},
    )
    np.testing.assert_allclose(result.mean_length, (N - 1 - np.arange(N)) * g / (1 + g), atol=1e-9)
    finding = compare.finding(path_parameters.STUDY, {"net": result})
    assert words in finding.headline
    assert "of the 19 units behind it" in finding.points[0]
    assert len(compare.table(path_parameters.STUDY, {"net": result}).rows) == N
    empty = dataclasses.replace(result, norm=np.zeros((1, N, N)))
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
    reason = module.STUDY.unsuited(types.SimpleNamespace(residual=False))
    assert "one path only" in reason
    assert module.STUDY.unsuited(types.SimpleNamespace(residual=True)) is None
