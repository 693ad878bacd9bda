"""Units that do nothing: where they can be, that they change no bit, and that they learn."""

import dataclasses
import functools
import json
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from marks import slow_but
from network_helpers import draw, equal

from resjax import models
from resjax.cpu import memory, one_thread, shared_batches
from resjax.models.layers import Conv, Dense
from resjax.models.plain import ConvUnit, DenseUnit
from resjax.models.residual import ResidualUnit
from resjax.models.shortcuts import Shortcut
from resjax.models.stem_head import Head, Stem
from resjax.network import Network, Stack
from resjax.network.losses import cross_entropy
from resjax.network.refusal import Refusal
from resjax.network.stochastic_depth import UnitDropout
from resjax.network.unit import Unit
from resjax.report import compare
from resjax.studies.units import insertion
from resjax.studies.units.insertion import insert, start_from
from resjax.studies.units.surgery import DONE, STUDY, Surgery, surgery
from resjax.training.step import Task, train_step

SHAPE, CLASSES, N = (6, 6, 2), 3, 12
KEY = jax.random.key(3)
SMALL = {"stage_sizes": (3, 2), "widths": (4, 8)}
RESIDUAL = {
    "post": {},
    "zero gamma": {"zero_gamma": True},
    "relu_pre": {"placement": "relu_pre"},
    "one layer": {"placement": "pre", "layers": ((3, 4, 1),)},
    "skipinit": {"placement": "pre", "norm": False, "branch_scale": "skipinit"},
    "fixup": {"norm": False, "branch_scale": "fixup", "depth": 3},
}
PLAIN = {
    "plain": ("veit_plain", {"depth": 6, "width": 4, "num_stages": 2}),
    "plain + BN": ("veit_plain", {"depth": 6, "width": 4, "num_stages": 2, "norm": True}),
    "twin": ("resnet", {**SMALL, "shortcut": "none", "placement": "post"}),
}


@functools.cache
def build(name="resnet", shape=SHAPE, **fields):
    if name == "resnet":
        fields = {**SMALL, **fields}
    return models.build(models.defaults(name, **fields), image_shape=shape, num_classes=CLASSES)


@functools.cache
def images(shape=SHAPE, n=N):
    return np.random.default_rng(1).normal(size=(n, *shape)).astype(np.float32)


IDENTITY = Shortcut(4, 4, 1, "pad_subsample")


def residual_unit(placement="post", shortcut=IDENTITY, layers=((3, 4, 1),) * 2, **fields):
    return ResidualUnit(shortcut, layers, placement, **fields)


def own(unit, relu=False, n=2, unit_dropout=None):
    return Network(Stem(4, relu=relu), (Stack("s", unit, n, 1),), Head(CLASSES), unit_dropout)


LABELS = np.arange(N) % CLASSES


@functools.partial(jax.jit, static_argnums=(0, 3))
def logits_of(network, variables, x, train=False):
    key = jax.random.key(0)
    return network.apply(variables, x, train=train, key=key if train else None).logits


def same_function(network, variables, deeper):
    a, b = logits_of(network, variables, images()), logits_of(*deeper, images())
    return np.array_equal(a, b)


# --- residual units ---


@pytest.mark.parametrize("after", slow_but([-1, 0, 4], 0))
def test_residual_units_anywhere_change_no_bit(after):
    network = build()
    variables = draw(network, SHAPE)
    deeper = insert(network, variables, images(), after=after, count=2, key=KEY)
    assert deeper[0].num_units == network.num_units + 2
    assert same_function(network, variables, deeper)


@pytest.mark.parametrize("name", slow_but(RESIDUAL, "post", "fixup"))
def test_residual_units_of_every_form_change_no_bit(name):
    dropout = UnitDropout("subset", 2, active=1, scale_at_test=False) if name == "post" else None
    network = own(residual_unit(**RESIDUAL[name]), relu=True, unit_dropout=dropout)
    variables = draw(network, SHAPE)
    deeper = insert(network, variables, images(), after=0, count=2, key=KEY)
    assert same_function(network, variables, deeper)


@functools.cache
def deep():
    network = build()
    variables = draw(network, SHAPE)
    return network, variables, *insert(network, variables, images(), after=1, key=KEY)


def test_the_others_stay_and_the_new_one_stands_where_it_was_asked_for():
    network, variables, deeper, changed = deep()
    units = deeper.units
    assert [u.stack.name for u in units].count("stage1") == 3
    rest = {
        c: {
            k: jax.tree.map(lambda v: np.delete(v, 1, 0), part) if k == "stage1" else part
            for k, part in tree.items()
        }
        for c, tree in changed.items()
    }
    assert equal(rest, variables)
    new = jax.tree.map(lambda v: v[1], changed["params"]["stage1"])
    assert not np.any(new["conv2"]["kernel"]) and np.all(np.asarray(new["conv1"]["kernel"]) != 0)
    assert network == build()  # what was operated on is as before


def test_new_units_are_drawn_from_the_key():
    network, variables, *_ = deep()
    (_, a), (_, b) = (insert(network, variables, images(), after=1, count=2, key=KEY) for _ in "ab")
    assert equal(a, b)
    kernels = np.asarray(a["params"]["stage1"]["conv1"]["kernel"])
    assert np.any(kernels[1] != kernels[2])


def test_gradients_of_the_others_stay_and_the_new_one_gets_one():
    network, variables, deeper, changed = deep()

    @functools.partial(jax.jit, static_argnums=0)
    def gradient(network, variables):
        def loss(params):
            out = network.apply({**variables, "params": params}, images(), train=True)
            return cross_entropy(out.logits, LABELS).mean()

        return jax.grad(loss)(variables["params"])

    before, after = gradient(network, variables), gradient(deeper, changed)
    for part, tree in before.items():
        own = after[part]
        if part == "stage1":
            assert np.all(np.asarray(own["conv2"]["kernel"][1]) != 0)
            own = jax.tree.map(lambda v: np.delete(v, 1, 0), own)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), tree, own)


def test_it_trains_on():
    network = own(residual_unit(), relu=True)
    deeper, changed = insert(network, draw(network, SHAPE), images(), after=0, key=KEY)
    task = Task(
        deeper,
        cross_entropy,
        optax.sgd(0.05, 0.9),
        optax.constant_schedule(0.05),
        DONE,
        norms_every=100,
    )
    state = start_from(task, changed)
    batch = {"image": images(), "label": LABELS.astype(np.int32), "slot": np.arange(N)}
    step = jax.jit(lambda s: train_step(s, batch, task=task))
    losses = []
    for _ in range(12):
        state, metrics = step(state)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.8 * losses[0]
    moved = jax.tree.map(
        lambda a, b: np.any(np.asarray(a[1]) != b[1]),
        state.params["s"],
        changed["params"]["s"],
    )
    assert all(jax.tree.leaves(moved))


def test_a_post_activation_unit_needs_inputs_that_are_not_negative():
    network = own(residual_unit())
    variables = draw(network, SHAPE)
    with pytest.raises(ValueError, match=r"smallest input is -.*inputs ≥ 0"):
        insert(network, variables, images(), after=-1, key=KEY)
    behind_a_relu = insert(network, variables, images(), after=0, key=KEY)
    assert same_function(network, variables, behind_a_relu)


class Closed(Unit):
    """A branch that ends with a ReLU."""

    def setup(self):
        self.conv = Conv(4)

    def split(self, x, train):
        return x, nn.relu(self.conv(x))


class Open(Closed):
    """The same without, behind a constant: no leaf alone makes it 0 but the kernel in the middle."""

    def setup(self):
        super().setup()
        self.tail = self.param("tail", nn.initializers.ones, ())

    def split(self, x, train):
        return x, jnp.tanh(self.conv(x)) * (1 + self.tail**2)


def test_units_of_ones_own():
    network = own(Open())
    variables = draw(network, SHAPE)
    deeper = insert(network, variables, images(), after=0, key=KEY)
    assert same_function(network, variables, deeper)
    new = jax.tree.map(lambda v: v[1], deeper[1]["params"]["s"])
    assert not np.any(new["conv"]["kernel"]) and new["tail"] == 1
    network = own(Closed())
    with pytest.raises(ValueError, match=r"no single leaf of Closed \(conv/kernel\).*ReLU"):
        insert(network, draw(network, SHAPE), images(), after=0, key=KEY)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"placement": "relu_before_add"}, "no single leaf"),
        ({"placement": "bn_after_add"}, "what follows its sum alters it"),
        (
            {"shortcut": Shortcut(4, 4, 1, "pad_subsample", "scale", scale=0.5)},
            "shortcut alters its input",
        ),
    ],
)
def test_residual_units_that_are_no_identity(fields, message):
    network = own(residual_unit(**fields), relu=True)
    with pytest.raises(ValueError, match=message):
        insert(network, draw(network, SHAPE), images(), after=0, key=KEY)


def test_survival_probabilities_that_depend_on_the_depth():
    network = own(residual_unit(), relu=True, unit_dropout=UnitDropout("linear", 2))
    with pytest.raises(Refusal, match="unit_scale_at_test=False"):
        insert(network, draw(network, SHAPE), images(), after=0, key=KEY)
    assert "unit_scale_at_test=False" in STUDY.unsuited(SimpleNamespace(network=network))


@pytest.mark.parametrize(
    "dropout", [UnitDropout("uniform", 2), UnitDropout("linear", 2, scale_at_test=False), None]
)
def test_survival_probabilities_that_do_not(dropout):
    network = own(residual_unit(), relu=True, unit_dropout=dropout)
    assert STUDY.unsuited(SimpleNamespace(network=network)) is None
    variables = draw(network, SHAPE)
    deeper = insert(network, variables, images(), after=0, key=KEY)
    assert same_function(network, variables, deeper)


@pytest.mark.parametrize(("after", "count"), [(-2, 1), (5, 1), (0, 0)])
def test_no_such_place(after, count):
    network = build()
    with pytest.raises(ValueError, match=f"after={after}, count={count}; allowed: −1 … 4"):
        insert(network, draw(network, SHAPE), images(), after=after, count=count, key=KEY)


def test_no_unit_that_keeps_the_shape():
    network = build(stage_sizes=(1, 1))
    with pytest.raises(ValueError, match="change the shape"):
        insert(network, draw(network, SHAPE), images(), after=1, key=KEY)


# --- plain units ---


@pytest.mark.parametrize("name", slow_but(PLAIN, "plain", "twin"))
def test_two_plain_layers_change_no_bit_in_inference(name):
    model, fields = PLAIN[name]
    network = build(model, **fields)
    variables = draw(network, SHAPE)
    deeper = insert(network, variables, images(), after=1, count=2, key=KEY)
    assert same_function(network, variables, deeper)
    if name == "plain":  # nor in training, without BatchNorm
        a = logits_of(network, variables, images(), True)
        assert np.array_equal(a, logits_of(*deeper, images(), True))
    else:  # γ has five digits, so the unit is the identity up to 3 % on the images it was made for
        h = insertion.states_of(network, variables, images())[2]
        stack = deeper[0].units[2].stack
        part = {c: tree[stack.name] for c, tree in deeper[1].items()}
        new = jax.tree.map(lambda v: v[deeper[0].units[2].position], part)
        y, _ = stack.unit.apply(new, h, train=True, mutable=["batch_stats"])
        deviation = np.abs(np.asarray(y - h)).max()
        assert 0 < deviation < 0.15 * np.abs(h).max()


def test_a_fully_connected_layer():
    class Flat(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return jnp.abs(x.reshape(len(x), -1)[:, :5])

    class Out(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return Dense(CLASSES)(x)

    network = Network(Flat(), (Stack("fc", DenseUnit(Dense(5), dropout=0.5), 1, 1),), Out())
    variables = draw(network, SHAPE)
    deeper = insert(network, variables, images(), after=0, key=KEY)
    assert same_function(network, variables, deeper)


def test_grouped_identity_kernels():
    x = jnp.abs(jax.random.normal(KEY, (2, 5, 5, 6)))
    for groups, window in ((1, (3, 3)), (2, (3, 3)), (6, (1, 5))):
        conv = Conv(6, window, groups=groups)
        # Private, here and below: models have no such groups and windows, nor so many γ.
        kernel = insertion._dirac("kernel", (*window, 6 // groups, 6))
        y = conv.apply({"params": {"kernel": jnp.asarray(kernel, jnp.float32)}}, x)
        np.testing.assert_array_equal(y, x)
    with pytest.raises(ValueError, match="maps 3 to 4 channels"):
        insertion._dirac("kernel", (3, 3, 3, 4))


def test_gamma_cancels_to_the_last_bit():
    gamma = insertion._few_digits(np.geomspace(1e-6, 1e4, 999))
    assert np.all(gamma >= 2.0**-8)
    large = np.geomspace(1e-6, 1e4, 999) > 2.0**-8
    np.testing.assert_allclose(gamma[large], np.geomspace(1e-6, 1e4, 999)[large], rtol=1 / 31)
    var = jnp.asarray(gamma**2 - 1e-5, jnp.float32)
    factor = jax.jit(lambda g, v: g * jax.lax.rsqrt(v + jnp.float32(1e-5)))(
        jnp.asarray(gamma, jnp.float32), var
    )
    np.testing.assert_array_equal(factor, 1)


LENET = (32, 32, 1)


@pytest.mark.parametrize(
    ("network", "shape", "message"),
    [
        (build(shortcut="none"), SHAPE, "the smallest input is -.*ReLU on inputs of both signs"),
        (own(ConvUnit(Conv(4), activation="tanh"), relu=True), SHAPE, "alters its input.*tanh"),
        (build("lenet5", LENET), LENET, "change the shape"),
    ],
)
def test_plain_units_that_are_no_identity(network, shape, message):
    with pytest.raises(ValueError, match=message):
        insert(network, draw(network, shape), images(shape, 3), after=1, key=KEY)


# --- the study ---


@functools.cache
def result():
    network = own(residual_unit(), relu=True, n=3)
    return surgery(
        network,
        draw(network, SHAPE),
        images(),
        LABELS,
        train=(images(), LABELS),
        steps=4,
        train_batch_size=8,
        repeats=2,
        batch_size=8,
    )


@pytest.mark.slow
def test_the_function_stays_and_both_train_on_from_it():
    r = result()
    assert r.place == ("in front of all units", "behind stage1/unit2", "behind stage1/unit3")
    assert (r.difference, r.changed, r.refused, r.residual) == (0, 0, {}, True)
    assert r.deep_loss.shape == r.untouched_loss.shape == (2, 4)
    np.testing.assert_allclose(r.deep_loss[:, 0], r.untouched_loss[:, 0], rtol=1e-5)
    assert np.any(r.deep_loss[:, 1:] != r.untouched_loss[:, 1:])
    assert np.any(r.untouched_loss[0] != r.untouched_loss[1])
    assert np.all(r.change > 0)
    gaps = (r.deep_loss - r.untouched_loss)[:, 2:].mean(1)
    np.testing.assert_allclose(r.gap, gaps.mean())
    assert r.gap_interval[0] <= r.gap <= r.gap_interval[1]


@pytest.mark.slow
def test_on_cores_two_plain_layers_change_no_bit(monkeypatch):
    """There, products replace convolutions of 16 channels: they round, also with an identity kernel."""
    monkeypatch.setattr(one_thread, "PAYS", True)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("data",))
    monkeypatch.setattr(shared_batches, "shared_cores", lambda: shared_batches.Cores(mesh))
    network = build("veit_plain", depth=6, width=16, num_stages=2)
    given = network, draw(network, SHAPE), images(), np.arange(N) % CLASSES
    train, asked = (images(), given[-1]), []
    monkeypatch.setattr("resjax.studies.units.surgery.forget_programs", asked.append)
    result = surgery(*given, train=train, places=[1], count=2, steps=2, repeats=2, train_batch_size=4)
    assert result.difference == 0 and result.changed == 0 and len(result.place) == 1
    assert asked == [memory.ENOUGH]


@pytest.mark.slow
def test_impossible_places_are_named():
    network = own(residual_unit("pre", shortcut=None), relu=True)
    variables = draw(network, SHAPE)
    options = {"train": (images(), LABELS), "steps": 2, "repeats": 2, "train_batch_size": 4}
    r = surgery(network, variables, images(), LABELS, places=(-1, 1), **options)
    assert r.place == ("in front of all units",) and not r.residual
    assert "both signs" in r.refused["behind stage1/unit2"]


def test_impossible_choices_are_refused():
    network = own(residual_unit("pre", shortcut=None), relu=True)
    variables = draw(network, SHAPE)
    options = {"train": (images(), LABELS), "steps": 2, "repeats": 2, "train_batch_size": 4}
    with pytest.raises(ValueError, match="no unit can be inserted: identity kernels"):
        surgery(network, variables, images(), LABELS, places=(1,), **options)
    with pytest.raises(ValueError, match="after=9"):
        surgery(network, variables, images(), LABELS, places=(9,), **options)
    with pytest.raises(ValueError, match="steps=1"):
        surgery(network, variables, images(), LABELS, **{**options, "steps": 1})


def test_a_reason_that_holds_everywhere_is_said_once():
    network = own(ConvUnit(Conv(4), activation="tanh"), relu=True, n=3)
    with pytest.raises(Refusal) as refusal:
        surgery(network, draw(network, SHAPE), images(), LABELS, train=(images(), LABELS))
    assert str(refusal.value).count("alters its input") == 1
    assert "in front of all units; the other places fail too" in str(refusal.value)


def test_json_and_figure():
    back = Surgery.from_json(json.loads(json.dumps(result().to_json(), allow_nan=False)))
    for field in dataclasses.fields(back):
        np.testing.assert_equal(getattr(back, field.name), getattr(result(), field.name))
    assert len(compare.table(STUDY, {"a": result()}).rows) == 2
    assert "further training is unharmed" in compare.finding(STUDY, {"a": result()}).headline
    assert len(STUDY.plot({"a": result(), "b": result(), "c": result()}).axes) == 3


@pytest.mark.slow
def test_a_place_where_no_copy_fits_is_refused_and_not_met_with_a_crash():
    """LeNet's last unit, 120 → 84, would keep 84 numbers, with another kernel."""
    network = models.build(models.defaults("lenet5"), image_shape=(28, 28, 1), num_classes=3)
    variables = jax.jit(lambda k: network.init(k, (28, 28, 1)))(jax.random.key(0))
    images = np.zeros((2, 28, 28, 1), np.float32)
    with pytest.raises(ValueError, match="no copy of the units"):
        insert(network, variables, images, after=network.num_units - 1, key=jax.random.key(1))
