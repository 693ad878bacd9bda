"""Single deletions: what is measured, what is counted, and what is refused."""

import dataclasses
import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but
from network_helpers import programs

from resjax import models
from resjax.network import Network, Stack
from resjax.network.initial import variable_shapes
from resjax.network.losses import cross_entropy
from resjax.network.stochastic_depth import UnitDropout
from resjax.network.unit import Unit
from resjax.studies.catalogue import plot
from resjax.studies.lesions.lesion import Lesion, lesion
from resjax.studies.lesions.single_deletions import _lesion_batch  # for its number of compilations

SHAPE, CLASSES = (8, 8, 1), 4
# Units 0 and 3 stand alone, 1 and 2 are a stack, 4 stands alone and keeps its shape.
SMALL = {"stage_sizes": (3, 2), "widths": (4, 8)}
POST = {**SMALL, "placement": "post", "transition": "projection"}
PLAIN = {**SMALL, "shortcut": "none"}


def build(**fields):
    config = models.defaults("resnet", **fields)
    return models.build(config, image_shape=SHAPE, num_classes=CLASSES)


def variables_of(network, seed=0):
    """Random numbers of the right shapes: a fresh BatchNorm or a zero bias would hide mistakes."""
    shapes = variable_shapes(network, SHAPE)
    rng = np.random.default_rng(seed)
    return jax.tree_util.tree_map_with_path(
        # Variances are positive.
        lambda path, v: (
            (0.5 + rng.random(v.shape, v.dtype))
            if path[-1].key == "var"
            else 0.4 * rng.standard_normal(v.shape, v.dtype)
        ),
        shapes,
    )


def examples(n, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, *SHAPE)).astype(np.float32), rng.integers(0, CLASSES, n)


class Flatten(nn.Module):
    """A stem or head for networks of vectors."""

    classes: int = 0

    @nn.compact
    def __call__(self, x, train):
        x = x.reshape(len(x), -1)
        return nn.Dense(self.classes)(x) if self.classes else x


class Counting(Unit):
    """A linear unit that counts how often it is traced and how often it is run."""

    has_stand_in: bool = True
    is_residual: bool = True

    @property
    def residual(self):
        return self.is_residual

    def setup(self):
        self.dense = nn.Dense(64)

    def split(self, x, train):
        COUNTS["traced"] += 1
        jax.debug.callback(_count_run)
        return (x if self.has_stand_in else None), self.dense(x)


COUNTS = {"traced": 0, "run": 0}


def _count_run():
    COUNTS["run"] += 1


def counting_network(*sizes, drop=None, **fields):
    stacks = tuple(Stack(f"stage{i}", Counting(**fields), n, i) for i, n in enumerate(sizes, 1))
    return Network(Flatten(), stacks, Flatten(CLASSES), drop)


@functools.cache
def lesions_of(name):
    """(network, its variables, images, labels, result), made once for all tests."""
    fields = {"pre": SMALL, "post": POST, "plain": PLAIN}.get(name)
    network = build(**fields) if fields else counting_network(2, 1, drop=UnitDropout("linear", 3))
    variables, (images, labels) = variables_of(network), examples(11)
    result = lesion(network, variables, images, labels, batch_size=4)
    return network, variables, images, labels, result


@pytest.mark.parametrize(
    "name", slow_but(["pre", "post", "plain", "stochastic depth"], "post", "stochastic depth")
)
def test_equals_running_the_network_with_a_gate_of_zero(name):
    network, variables, images, labels, result = lesions_of(name)
    n = network.num_units

    @jax.jit
    def log_probabilities(gates):
        return jax.nn.log_softmax(network.apply(variables, images, gates=gates).logits)

    p = np.asarray(log_probabilities(np.ones(n, np.float32)), np.float64)
    np.testing.assert_allclose(result.intact_loss, -p[np.arange(11), labels].mean(), rtol=1e-5)
    assert result.intact_error == np.mean(p.argmax(-1) != labels)
    assert result.unit == tuple(unit.name for unit in network.units)
    assert result.deletable.sum() >= 3
    for i in np.flatnonzero(result.deletable):
        q = np.asarray(log_probabilities(1 - np.eye(n, dtype=np.float32)[i]), np.float64)
        assert result.error[i] == np.mean(q.argmax(-1) != labels)
        assert result.agreement[i] == np.mean(q.argmax(-1) == p.argmax(-1))
        np.testing.assert_allclose(result.loss[i], -q[np.arange(11), labels].mean(), rtol=1e-4)
        kl = (np.exp(p) * (p - q)).sum(-1).mean()
        np.testing.assert_allclose(result.kl[i], kl, rtol=1e-3, atol=1e-6)


def test_a_plain_unit_that_changes_the_shape_is_left_out_and_named():
    *_, result = lesions_of("plain")
    assert set(result.left_out) == {"stage2/unit1"}
    assert "shape" in result.left_out["stage2/unit1"]
    np.testing.assert_array_equal(np.isnan(result.error), ~result.deletable)
    assert not result.residual.any()


@pytest.mark.parametrize("position", [0, 1])
def test_deleting_equals_a_network_built_without_the_unit(position):
    network, variables, images, labels, result = lesions_of("pre")
    stack = network.stacks[1]
    assert stack.n == 2
    one = dataclasses.replace(stack, n=1)
    stacks = (network.stacks[0], one, *network.stacks[2:])
    kept = {
        collection: {
            **parts,
            stack.name: jax.tree.map(lambda v: np.delete(v, position, 0), parts[stack.name]),
        }
        for collection, parts in variables.items()
    }
    smaller = dataclasses.replace(network, stacks=stacks)
    logits = jax.jit(smaller.apply)(kept, images).logits
    assert np.mean(np.argmax(logits, -1) != labels) == result.error[1 + position]
    loss = cross_entropy(logits, labels).mean()
    np.testing.assert_allclose(loss, result.loss[1 + position], rtol=1e-5)


def test_every_example_counts_once_whatever_the_batch_size():
    network, variables, images, labels, parts = lesions_of("pre")
    seen = []
    whole = lesion(network, variables, images, labels, progress=lambda *a: seen.append(a))
    assert seen == [(0, 1), (1, 1)]
    assert whole.num_examples == parts.num_examples == 11
    np.testing.assert_array_equal(whole.error, parts.error)
    np.testing.assert_array_equal(whole.agreement, parts.agreement)
    np.testing.assert_allclose(whole.loss, parts.loss, rtol=1e-5)
    np.testing.assert_allclose(parts.error * 11, np.round(parts.error * 11), rtol=1e-12)


@pytest.mark.slow
def test_errors_of_each_class_on_request():
    network, variables, images, labels, whole = lesions_of("plain")
    assert whole.class_error is None
    labels = np.where(labels == 2, 0, labels)  # a class without example
    result = lesion(network, variables, images, labels, batch_size=4, per_class=True)
    assert result.class_error.shape == (network.num_units, CLASSES)
    assert result.to_json()["axes"]["class_error"] == ["unit", "class"]
    run = jax.jit(lambda gates: network.apply(variables, images, gates=gates).logits)
    for i in range(network.num_units):
        choice = np.asarray(run(jnp.ones(network.num_units).at[i].set(0))).argmax(-1)
        for c in range(CLASSES):
            among = labels == c
            known = among.any() and result.deletable[i]
            expected = np.mean(choice[among] != c) if known else np.nan
            np.testing.assert_equal(result.class_error[i, c], expected)
    share = np.bincount(labels, minlength=CLASSES) / len(labels)
    total = np.nansum(result.class_error * share, -1)[result.deletable]
    np.testing.assert_allclose(total, result.error[result.deletable], rtol=1e-12)
    back = Lesion.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False)))
    np.testing.assert_array_equal(back.class_error, result.class_error)


def counted(network, n_examples, batch_size):
    variables = variables_of(network)
    network.deletable(variables, SHAPE)
    jax.effects_barrier()
    before = programs(_lesion_batch)
    COUNTS.update(traced=0, run=0)
    result = lesion(network, variables, *examples(n_examples), batch_size=batch_size)
    jax.effects_barrier()
    assert programs(_lesion_batch) == before + 1
    return result, dict(COUNTS)


def test_deleting_a_zero_branch_changes_no_bit():
    network = counting_network(3, 1)
    variables = variables_of(network)
    for name in ("stage1", "stage2"):
        variables["params"][name] = jax.tree.map(jnp.zeros_like, variables["params"][name])
    result = lesion(network, variables, *examples(6))
    np.testing.assert_array_equal(result.kl, 0)
    np.testing.assert_array_equal(result.agreement, 1)
    np.testing.assert_array_equal(result.loss, result.intact_loss)
    np.testing.assert_array_equal(result.error, result.intact_error)


def test_half_of_the_work_of_whole_passes_in_one_compilation():
    result, counts = counted(counting_network(5, 1, 2), n_examples=7, batch_size=3)
    n = 8
    assert result.unit_evaluations == n + n * (n - 1) // 2
    assert counts["run"] == 3 * result.unit_evaluations  # three batches
    assert result.unit_evaluations <= (n + 1) * n / 2


def test_tracing_does_not_grow_with_depth():
    few = counted(counting_network(3), 4, 4)[1]["traced"]
    many = counted(counting_network(12), 4, 4)[1]["traced"]
    assert few == many


def test_no_deletable_unit_is_an_error():
    network = counting_network(2, has_stand_in=False, is_residual=False)
    with pytest.raises(ValueError, match="none of the 2 units can be deleted"):
        lesion(network, variables_of(network), *examples(3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[:0], y[:0]), "no example"),
        (lambda x, y: (x, y[:-1]), r"labels of shape \[5\]"),
        (lambda x, y: (x, y + CLASSES), "labels must lie in 0 … 3"),
        (lambda x, y: ((255 * x).astype(np.uint8), y), "standardized"),
        (lambda x, y: (x[0], y), r"\[N, H, W, C\]"),
        (
            lambda x, y: (x.repeat(3, -1), y),
            r"shape \[B, 192\], .*dense/kernel .*\[192, 64\]; the variables have \[64, 64\]",
        ),
    ],
)
def test_bad_examples_are_refused(change, message):
    network = counting_network(2)
    variables = variables_of(network)
    with pytest.raises(ValueError, match=message):
        lesion(network, variables, *change(*examples(5)))


def test_bad_batch_size_is_refused():
    network = counting_network(2)
    with pytest.raises(ValueError, match="batch_size=0"):
        lesion(network, variables_of(network), *examples(2), batch_size=0)


def test_json_keeps_everything_even_what_is_not_finite():
    *_, result = lesions_of("plain")
    text = json.dumps(result.to_json(), allow_nan=False)
    back = Lesion.from_json(json.loads(text))
    for field in dataclasses.fields(result):
        np.testing.assert_equal(getattr(back, field.name), getattr(result, field.name))
    assert json.loads(text)["axes"]["error"] == ["unit"]
    with pytest.raises(ValueError, match="missing"):
        Lesion.from_json({"unit": []})


def test_plot_shows_each_network_its_intact_error_and_chance():
    *_, result = lesions_of("pre")
    figure = plot({"deep": result, "other": result})
    (ax,) = figure.axes
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    deleted = "one unit deleted"
    assert labels == [
        f"deep, {deleted}",
        "deep, intact",
        f"other, {deleted}",
        "other, intact",
    ]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), 100 * result.error)
    assert any("chance" in text.get_text() for text in ax.texts)


def test_plot_names_the_cross_where_there_is_one():
    plain, whole = lesions_of("plain")[-1], lesions_of("pre")[-1]

    def entries(results):
        return [text.get_text() for text in plot(results).legends[0].get_texts()]

    assert entries({"a": whole, "b": plain})[-1] == "can't be deleted"
    assert entries({"a": plain, "b": plain}).count("can't be deleted") == 1
    assert "can't be deleted" not in entries({"a": whole})


def test_plot_names_stages_unless_their_names_would_overlap():
    *_, result = lesions_of("pre")

    def above(*stages):
        units = tuple(f"{stage}/unit{i}" for i, stage in enumerate(stages))
        result_with = dataclasses.replace(result, unit=units)
        return [
            text.get_text() for text in plot({"a": result_with}).axes[0].texts if text.get_text() != "chance"
        ]

    assert above("layer0", "layer0", "layer1", "layer1", "layer2") == ["layer0", "layer1", "layer2"]
    assert above(*(f"a_very_long_name_of_layer_{i}" for i in range(5))) == []
