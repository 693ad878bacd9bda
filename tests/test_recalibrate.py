"""BatchNorm statistics estimated anew: of the data, of the lesioned network, whatever the momentum."""

import dataclasses
import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but
from network_helpers import draw, logits_of

from resjax import models
from resjax.network import Network, Stack
from resjax.network.unit import Unit
from resjax.studies import style
from resjax.studies.lesions.batch_statistics import reestimate
from resjax.studies.lesions.lesion import lesion
from resjax.studies.lesions.recalibrate import (
    STUDY,
    Recalibrated,
    assemble,
    plot,
    recalibrate,
    share_of_damage,
    verdict,
)
from resjax.studies.scores import Outcomes, Scores

SHAPE, CLASSES = (6, 6, 2), 3


def build(**fields):
    fields = {"stage_sizes": (2, 1), "widths": (4, 8), **fields}
    return models.build(models.defaults("resnet", **fields), image_shape=SHAPE, num_classes=CLASSES)


class Linens(Unit):
    """A unit with Linen's own BatchNorm, of another momentum."""

    momentum: float = 0.7

    def setup(self):
        self.conv = nn.Conv(4, (3, 3), use_bias=False)
        self.bn = nn.BatchNorm(momentum=self.momentum)

    def split(self, x, train):
        return x, self.bn(self.conv(x), use_running_average=not train)


class Mean(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(CLASSES)(x.mean((1, 2)))


class Widen(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Conv(4, (1, 1))(x)


@functools.cache
def made(name):
    network = {
        "pre": lambda: build(),
        "post": lambda: build(placement="post", transition="projection"),
        "plain": lambda: build(shortcut="none"),
        "dropped": lambda: build(unit_dropout="uniform", unit_survival=0.5),
        "linen": lambda: Network(Widen(), (Stack("blocks", Linens(), 2, 1),), Mean()),
    }[name]()
    return network, draw(network, SHAPE)


def examples(n=12, seed=1):
    rng = np.random.default_rng(seed)
    images = 0.5 + rng.normal(size=(n, *SHAPE)).astype(np.float32) * 2
    return images, rng.integers(0, CLASSES, n)


def error_of(logits, labels):
    return np.mean(np.asarray(logits).argmax(-1) != labels)


def stem_outputs(network, variables, images):
    """What the stem's BatchNorm normalizes, float64 [N·H·W, C]."""
    kernel = np.asarray(variables["params"]["stem"]["conv"]["kernel"], np.float64)
    padded = np.pad(images.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = [
        np.einsum("bhwc,co->bhwo", padded[:, i : i + 6, j : j + 6], kernel[i, j])
        for i in range(3)
        for j in range(3)
    ]
    return sum(rows).reshape(-1, kernel.shape[-1])


@pytest.mark.parametrize("batch_size", [12, 4, 5])
def test_the_first_statistics_are_those_of_the_data(batch_size):
    network, v = made("pre")
    images, _ = examples()
    new = reestimate(network, v, images, batch_size=batch_size)["batch_stats"]["stem"]["bn"]
    seen = stem_outputs(network, v, images)  # of 5, three batches of 4
    np.testing.assert_allclose(new["mean"], seen.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(new["var"], seen.var(0), rtol=1e-4)
    assert new["var"].dtype == v["batch_stats"]["stem"]["bn"]["var"].dtype


def test_images_beyond_equal_batches_are_left():
    network, v = made("pre")
    images, _ = examples(11)
    new = reestimate(network, v, images, batch_size=4)["batch_stats"]["stem"]["bn"]  # 3 · 3
    seen = stem_outputs(network, v, images[:9])
    np.testing.assert_allclose(new["mean"], seen.mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", slow_but(["pre", "post", "plain", "dropped", "linen"], "post", "linen"))
def test_on_one_batch_evaluation_is_then_what_training_saw(name):
    """Every layer's statistics at once: normalizing by them is normalizing by the batch's own."""
    network, v = made(name)
    images, _ = examples()
    gates = np.ones(network.num_units, np.float32)
    for deleted in (None, 1):
        if deleted is not None:
            gates[deleted] = 0
        new = reestimate(network, v, images, gates=gates)
        assert jax.tree.structure(new) == jax.tree.structure(dict(v))
        actual = logits_of(network, new, images, gates=gates)
        every = dataclasses.replace(network, unit_dropout=None)
        own = gates * (network.unit_dropout.at_test() if network.unit_dropout else 1)
        expected = logits_of(every, v, images, gates=own, train=True)
        np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=2e-4)
        stale = logits_of(network, v, images, gates=gates)
        assert np.abs(stale - expected).max() > 0.01


def test_many_batches_follow_the_law_of_total_variance():
    network, v = made("linen")
    images, _ = examples()
    new = reestimate(network, v, images, batch_size=4)["batch_stats"]["blocks"]["bn"]
    own = [reestimate(network, v, images[i : i + 4])["batch_stats"]["blocks"]["bn"] for i in range(0, 12, 4)]
    mean, var = (np.stack([np.asarray(s[k], np.float64) for s in own]) for k in ("mean", "var"))
    np.testing.assert_allclose(new["mean"], mean.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(new["var"], var.mean(0) + mean.var(0), rtol=1e-5)


@functools.cache
def result_of(name):
    network, v = made(name)
    reference, _ = examples(10, seed=2)
    return recalibrate(network, v, *examples(), reference=reference, batch_size=5)


@pytest.mark.parametrize("name", slow_but(["pre", "plain"], "pre"))
def test_rows_are_deletions_with_old_and_with_new_statistics(name):
    network, v = made(name)
    images, labels = examples()
    result = result_of(name)
    old = lesion(network, v, images, labels)
    np.testing.assert_array_equal(result.error[0], old.error)
    np.testing.assert_allclose(result.kl[0], old.kl, rtol=1e-4, atol=1e-6)
    assert result.intact_error[0] == old.intact_error
    assert result.left_out == old.left_out
    assert result.num_reference == 10
    reference, _ = examples(10, seed=2)
    run = jax.jit(lambda v, gates: logits_of(network, v, images, gates=gates))
    for i in np.flatnonzero(old.deletable):
        gates = np.ones(network.num_units, np.float32)
        gates[i] = 0
        logits = run(reestimate(network, v, reference, gates=gates, batch_size=5), gates)
        assert result.error[1, i] == error_of(logits, labels)


def scores(wrong):
    """Of outcomes [networks, images]: an error rate and nothing else."""
    wrong = np.array(wrong, bool)
    rest = np.zeros(wrong.shape, np.float32)
    return Scores(Outcomes(wrong, rest, rest, rest), np.zeros(wrong.shape[1], int), CLASSES)


def assembled(old, new):
    """Of three units, the second can't be deleted; rows: intact, first, third."""
    network, allowed = build(), np.array([True, False, True])
    return assemble(network, allowed, {"stage1/unit2": "why"}, (scores(old), scores(new)), 9, 3)


def first(count, of=400):
    """The first ``count`` of the images are wrong."""
    return np.arange(of) < count


def test_shares_and_intervals_by_hand():
    old = [first(40), first(120), first(42)]  # rises of 20 and of 0.5 points
    made = assembled(old, [first(40), first(60), first(50)])  # of 5 and of 2.5
    np.testing.assert_allclose(made.error, [[0.3, np.nan, 0.105], [0.15, np.nan, 0.125]])
    assert share_of_damage(made) == pytest.approx(1 - 7.5 / 20.5)
    np.testing.assert_array_equal(made.intact_change, [0, 0])  # the same images are wrong
    # A ratio of sums over images, 30 ÷ 82: its standard error by the delta method is √36.6 ÷ 82.
    expected = 1 - 30 / 82 + 1.96 * np.array([-1, 1]) * np.sqrt(36.6) / 82
    np.testing.assert_allclose(made.removed, expected, atol=0.03)
    assert verdict(made) == "better"
    np.testing.assert_array_equal(made.spared[:, 0], 0)
    assert np.isnan(made.spared[:, 1]).all() and made.spared[0, 2] > 0.85 > 0.2 > made.spared[1, 2]


@pytest.mark.parametrize(("new", "said"), [(46, "unusable"), (42, "better"), (34, "better")])
def test_there_is_no_verdict_where_the_intact_network_gets_worse_beyond_its_interval(new, said):
    """Six more errors and no fewer are clear (p = 1/64), two are not."""
    made = assembled([first(40), first(120), first(42)], [first(new), first(60), first(new)])
    assert verdict(made) == said
    low, high = made.intact_change
    assert low <= (new - 40) / 400 <= high and (low > 0) == (said == "unusable")
    told = STUDY.points("a", made)[0]
    assert ("worst deletion" in told) == (said != "unusable")
    assert ("had not converged" in told) == (new == 34)


def test_a_share_within_the_noise_is_undecided():
    rng = np.random.default_rng(0)
    old = [first(40), rng.permutation(first(46)), first(40)]
    new = [first(40), rng.permutation(first(44)), first(40)]
    assert verdict(assembled(old, new)) == "undecided"
    assert verdict(assembled(old, old)) == "same"
    assert verdict(assembled([first(40)] * 3, new)) == "harmless"


@pytest.mark.parametrize(
    ("removed", "said"),
    [
        ((-0.05, 0.05), "same"),
        ((-0.4, 0.5), "undecided"),
        ((0.05, 0.6), "undecided"),
        ((0.2, 0.6), "better"),
        ((-0.6, -0.2), "worse"),
        (None, "undecided"),
    ],
)
def test_the_whole_interval_decides_that_the_damage_hardly_changes(removed, said):
    """Whatever the point estimate, 0 or three quarters."""
    ends = removed if removed is None else np.array(removed)
    for new in (60, 120):
        made = assembled([first(40), first(120), first(40)], [first(40), first(new), first(40)])
        point = share_of_damage(made)
        assert point == pytest.approx({60: 0.75, 120: 0.0}[new])
        assert verdict(dataclasses.replace(made, removed=ends)) == said


def test_wrong_input_is_refused():
    network, v = made("pre")
    bare = build(norm=False)
    with pytest.raises(ValueError, match="no BatchNorm"):
        reestimate(bare, draw(bare, SHAPE), examples()[0])
    with pytest.raises(ValueError, match="no example"):
        reestimate(network, v, examples(0)[0])
    with pytest.raises(ValueError, match="batch_size=0"):
        reestimate(network, v, examples()[0], batch_size=0)
    strange = {**v, "batch_stats": {"stem": {"sigma": jnp.ones(())}}}
    with pytest.raises(ValueError, match="'sigma'"):
        reestimate(network, strange, examples()[0])
    frozen = Network(Widen(), (Stack("blocks", Linens(momentum=1.0), 2, 1),), Mean())
    with pytest.raises(ValueError, match="do not change in training"):
        reestimate(frozen, draw(frozen, SHAPE), examples()[0])


def test_json_keeps_everything():
    result = result_of("plain")
    back = Recalibrated.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False)))
    for field in dataclasses.fields(result):
        np.testing.assert_equal(getattr(back, field.name), getattr(result, field.name))


@pytest.mark.parametrize("narrow", [False, True])
def test_plot(narrow):
    with style.theme(narrow=narrow):
        figure = plot({"a": result_of("pre"), "b": result_of("plain")})
    (ax,) = figure.axes
    np.testing.assert_allclose(ax.lines[0].get_ydata(), 100 * result_of("pre").error[0])
    assert len(figure.legends[0].get_texts()) == 4
