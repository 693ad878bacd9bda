"""How near to the identity units are, against loops in float64."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from network_helpers import draw, on_stack
from run_helpers import tiny_run

from resjax import models
from resjax.network.losses import cross_entropy
from resjax.report import compare
from resjax.studies import style
from resjax.studies.lesions.lesion import lesion
from resjax.studies.options import Options
from resjax.studies.ranks import spearman
from resjax.studies.units.identity import (
    STUDY,
    Identity,
    downhill,
    identity,
    openings,
    refining,
)

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
                row["cosine_error"] = np.std(cosine) / np.sqrt(len(cosine))
        rows.append(row)
    return rows


@pytest.mark.parametrize("form", ["pre", "post", "plain", "dropped"])
def test_every_measure_equals_a_loop(form, x64):
    network = build(form, dtype="float64")
    v = jax.tree.map(lambda a: a.astype(jnp.float64), draw(build(form), SHAPE))
    images, labels = examples()
    images = images.astype(np.float64)
    result = identity(network, v, images, labels, batch_size=3)
    expected = loop(network, v, images, labels)
    assert result.num_examples == 7
    for i, row in enumerate(expected):
        for name in ("ratio", "cosine", "cosine_error", "novelty", *("scale", "estimation_mean")):
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


@functools.cache
def result_of(form):
    network, v = made(form)
    lesions = lesion(network, v, *examples())
    return identity(network, v, *examples(), lesions=lesions), lesions


def test_correlations_are_over_the_units_that_have_both():
    result, lesions = result_of("pre")
    np.testing.assert_array_equal(result.damage, lesions.kl)
    for name, rho in zip(result.measure, result.correlation, strict=True):
        pair = np.stack([getattr(result, name), lesions.kl])
        use = {"cosine": [0, 1, 2, 4], "estimation": [0, 1, 3]}.get(name, list(range(5)))
        if len(use) < 4:
            assert np.isnan(rho)
            continue
        expected = scipy.stats.spearmanr(*pair[:, use]).statistic
        np.testing.assert_allclose(rho, expected, rtol=1e-12)
    known = np.isfinite(result.correlation)
    assert np.all(result.low[known] <= result.high[known])
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


def hand_made(ratio, cosine, estimation, low):
    result, _ = result_of("pre")
    return dataclasses.replace(
        result,
        ratio=np.array(ratio),
        cosine=np.array(cosine),
        cosine_error=np.full(5, 0.01),
        estimation_std=np.array(estimation),
        scale=np.ones(5),
        correlation=np.array([0.9, -0.1, 0.1, np.nan]),
        low=np.array([low, -0.5, -0.3, np.nan]),
        high=np.array([1.0, 0.5, 0.6, np.nan]),
    )


def test_findings_follow_the_numbers():
    near = hand_made([0.3, 0.2, 0.1, 0.2, 0.1], [-0.1, -0.2, -0.1, np.nan, -0.015], [3, 2, 0, 1, 0], 0.5)
    far = hand_made([1.0, 2.0, 3.0, 2.0, 1.0], [0.1, 0.2, 0.1, np.nan, 0.1], [1, 2, 0, 1, 0], -0.5)
    assert (downhill(near), downhill(far)) == ((3, 4), (0, 4))
    assert (openings(near), openings(far)) == ((1, 1), (0, 1))
    assert (refining(near), refining(far)) == ((1, 1), (0, 1))
    found = compare.finding(STUDY, {"near": near, "far": far})
    assert "unit of near adds 0.20 times" in found.headline
    assert "The damage rises with the size" in found.points[0]
    assert "None of them predicts the damage" in found.points[1]


def test_progress_covers_the_deletions_and_the_initialization(tmp_path):
    run = tiny_run(tmp_path / "run")
    seen = []
    result = STUDY.run(run, Options(max_examples=8, batch_size=4), lambda done, of: seen.append(done / of))
    assert seen[0] == 0 and seen[-1] == 1 and seen == sorted(seen)
    for quarter in range(4):
        assert sum(quarter / 4 < share <= (quarter + 1) / 4 for share in seen) > 1
    assert result.initial.correlation is not None
