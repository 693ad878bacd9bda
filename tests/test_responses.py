"""Layer responses: which layers, what is measured, and in which order."""

import dataclasses
import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network_helpers import draw
from run_helpers import tiny_run

from resjax import models
from resjax.network import Network, Stack
from resjax.network.unit import Unit
from resjax.report.compare import finding
from resjax.studies import style
from resjax.studies.options import Options
from resjax.studies.units.responses import STUDY, Responses, deviation_of, responses

SHAPE, CLASSES = (6, 6, 2), 3
FORMS = {
    "pre": {},
    "post": {"placement": "post", "transition": "projection"},
    "relu_pre": {"placement": "relu_pre"},
    "plain": {"shortcut": "none", "placement": "post"},
    "bare": {"norm": False},
    "dropped": {"placement": "post", "unit_dropout": "linear"},
}


def build(form, **more):
    fields = {"stage_sizes": (3, 1), "widths": (4, 8), **FORMS[form], **more}
    return models.build(models.defaults("resnet", **fields), image_shape=SHAPE, num_classes=CLASSES)


@functools.cache
def made(form):
    network = build(form)
    return network, draw(network, SHAPE)


def images_of(n=7, shape=SHAPE, seed=1):
    return np.random.default_rng(seed).normal(size=(n, *shape)).astype(np.float32)


def intermediates(module, variables, *args, method=None):
    """What each submodule returned, by Linen's own bookkeeping."""
    out, state = module.apply(
        variables, *args, method=method, capture_intermediates=True, mutable=["intermediates"]
    )
    return out, state["intermediates"]


def expected(network, variables, images, behind):
    """[(name, deviation)] in order; ``behind`` says which module's output is a layer's response."""
    gates = network.unit_dropout.at_test() if network.unit_dropout else np.ones(network.num_units)
    stem = {c: t["stem"] for c, t in variables.items() if "stem" in t}
    h, seen = intermediates(network.stem, stem, images, False)
    rows = [("stem/conv", seen[behind("stem", "conv", seen)]["__call__"][0])]
    for unit in network.units:
        name, j = unit.stack.name, unit.position
        part = {c: jax.tree.map(lambda a, j=j: a[j], t[name]) for c, t in variables.items() if name in t}
        args = (h, gates[unit.index], False)
        parts, seen = intermediates(unit.stack.unit, part, *args, method="parts")
        for layer in ("conv1", "conv2"):
            y = seen[behind(unit.name, layer, seen)]["__call__"][0]
            rows.append((f"{unit.name}/{layer}", y))
        h = parts.y
    return [(name, np.asarray(y, np.float64).std()) for name, y in rows]


def behind(form):
    def find(unit, layer, seen):
        if unit == "stem":
            return "bn" if "bn" in seen else "conv"
        if form == "pre":
            return {"conv1": "bn2", "conv2": "conv2"}[layer]
        return layer if form == "bare" else layer.replace("conv", "bn")

    return find


@pytest.mark.parametrize("form", list(FORMS))
def test_deviations_are_those_of_what_linen_captures(form):
    network, v = made(form)
    images = images_of()
    result = responses(network, v, images, batch_size=3)
    rows = expected(network, v, images, behind(form))
    assert result.layer == tuple(name for name, _ in rows)  # nothing on shortcuts, no classifier
    np.testing.assert_allclose(result.std, [std for _, std in rows], rtol=1e-4)
    known = {"pre": [True, *[True, False] * 4], "bare": [False] * 9}.get(form, [True] * 9)
    np.testing.assert_array_equal(result.normalized, known)
    assert result.num_examples == 7 and result.residual == (form != "plain")


def test_a_unit_of_ones_own_with_linens_layers():
    class Block(Unit):
        def setup(self):
            self.conv = nn.Conv(4, (3, 3))
            self.norm = nn.GroupNorm(num_groups=2)
            self.other = nn.Dense(4)

        def split(self, x, train):
            h = nn.relu(self.norm(self.conv(x)))
            return x, self.other(h)

    class Ones(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return jnp.repeat(x, 2, axis=-1)

    class Mean(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return nn.Dense(CLASSES)(x.mean((1, 2)))

    network = Network(Ones(), (Stack("blocks", Block(), 2, 1),), Mean())
    result = responses(network, draw(network, SHAPE), images_of())
    assert result.layer == tuple(f"stage1/unit{i}/{name}" for i in (1, 2) for name in ("conv", "other"))
    assert list(result.normalized) == [True, False] * 2


def test_lenet_is_answered_in_the_order_of_its_layers():
    config = models.defaults("lenet5")
    shape = (28, 28, 1)
    network = models.build(config, image_shape=shape, num_classes=10)
    result = responses(network, draw(network, shape), images_of(3, shape))
    assert [name.rpartition("/")[2] for name in result.layer] == ["conv", "conv", "conv", "dense"]
    assert not result.normalized.any() and np.all(result.std > 0)


def test_wrong_input_is_refused():
    network, v = made("pre")
    with pytest.raises(ValueError, match="no example"):
        responses(network, v, images_of(0))

    class Pass(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return x.mean((1, 2)) if self.name is None and x.ndim == 4 else x

    class Nothing(Unit):
        def split(self, x, train):
            return x, x

    empty = Network(Pass(), (Stack("s", Nothing(), 1, 1),), Pass())
    with pytest.raises(ValueError, match="kernel"):
        responses(empty, draw(empty, SHAPE), images_of())


def test_json_keeps_everything():
    network, v = made("pre")
    result = responses(network, v, images_of())
    back = Responses.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False)))
    for field in dataclasses.fields(result):
        np.testing.assert_equal(getattr(back, field.name), getattr(result, field.name))


def hand_made(std, residual=True, normalized=True):
    return Responses(
        layer=tuple(f"stage1/unit{i}/conv1" for i in range(1, len(std) + 1)),
        normalized=np.full(len(std), normalized),
        std=np.array(std, float),
        residual=residual,
        num_examples=1,
        choices={},
    )


@pytest.mark.parametrize("narrow", [False, True])
def test_plot(narrow):
    mixed = dataclasses.replace(hand_made([1, 2, 0.5]), normalized=np.array([True, False, True]))
    with style.theme(narrow=narrow):
        figure = STUDY.plot({"a": mixed, "b": hand_made([1, 3, 2])})
    order, ranked = figure.axes
    np.testing.assert_array_equal(order.lines[0].get_ydata(), [1, 0.5])
    np.testing.assert_array_equal(order.lines[1].get_xdata(), [2])
    np.testing.assert_array_equal(ranked.lines[2].get_ydata(), [3, 2, 1])


def test_every_network_is_compared_by_its_normalized_layers_if_all_have_some():
    half = dataclasses.replace(hand_made([9.0, 1, 3]), normalized=np.array([False, True, True]))
    raw = hand_made([2.0], residual=False, normalized=False)
    assert "(median deviation 3.0 in half and 2.0 in raw)" in finding(STUDY, {"half": half, "raw": raw})[0]
    twin = dataclasses.replace(raw, normalized=np.array([True]))
    assert "layers of half and twin respond alike" in finding(STUDY, {"half": half, "twin": twin})[0]


def test_the_interval_of_a_deviation_covers_that_of_all_images():
    """Images whose means and sizes differ, of which 60 are drawn."""
    rng, hits = np.random.default_rng(6), 0
    for _ in range(300):
        shift, size = rng.normal(2, 1, 60), rng.gamma(2, 1, 60)
        moments = np.stack([shift, shift**2 + size**2])[None]
        std, ((low, high),) = deviation_of(moments)
        assert std[0] == pytest.approx(np.sqrt(shift.var() + np.mean(size**2)))
        hits += low <= np.sqrt(1 + 6) <= high  # Var of the means + E size², of a gamma 2 · 3
    assert 0.9 * 300 <= hits < 300


def test_a_constant_response_and_a_single_image_have_no_error():
    std, interval = deviation_of(np.array([[[2.0, 2], [4, 4]]]))
    np.testing.assert_array_equal(std, [0])
    np.testing.assert_array_equal(interval, [[0, 0]])
    assert np.isnan(deviation_of(np.array([[[2.0], [5]]]))[1]).all()


@pytest.mark.slow
def test_the_study_shows_initialization(tmp_path):
    """Where γ = 1 and β = 0 make every normalized response 1, but for what differs between images."""
    result = STUDY.run(tiny_run(tmp_path / "run", placement="post"), Options(max_examples=64, batch_size=16))
    there = result.initial
    np.testing.assert_allclose(there.std, 1, atol=0.2)
    assert there.normalized.all() and np.abs(result.std - 1).max() > 0.3
    assert f"at initialization of median {np.median(there.std):.1f}" in STUDY.points("a", result)[0]
    shown = STUDY.plot({"a": result}).axes[0].lines
    np.testing.assert_array_equal(shown[0].get_ydata(), there.std)
    assert shown[0].get_label() == "a, at init, normalized" and shown[0].get_alpha() < 1
