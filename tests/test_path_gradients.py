"""Path gradients in float64 against autodiff along every single path, path by path."""

import dataclasses
import functools
import itertools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from network_helpers import draw, programs
from run_helpers import tiny_run

from resjax import models
from resjax.models.layers import BatchNorm, Conv, Dense
from resjax.models.stem_head import Stem
from resjax.network import Network, Stack
from resjax.network.losses import cross_entropy
from resjax.network.unit import Unit
from resjax.studies import moments
from resjax.studies.batches import whole_batches
from resjax.studies.options import Options
from resjax.studies.paths import path_exact, path_sampled, single_paths
from resjax.studies.paths.path_exact import path_spectrum
from resjax.studies.paths.path_growth import STUDY as GROWTH
from resjax.studies.paths.path_growth import PathGrowth, path_growth, unit_scales
from resjax.studies.paths.path_growth import plot as plot_growth
from resjax.studies.paths.path_parameters import PathParameters, path_parameters
from resjax.studies.paths.path_parameters import plot as plot_parameters
from resjax.studies.paths.path_sampled import path_norms, sample_paths
from resjax.studies.paths.path_walk import Probe
from resjax.studies.paths.paths import Paths, paths, plot

SHAPE, CLASSES, BATCH = (6, 6, 2), 3, 3
SMALL = {"stage_sizes": (2, 1), "widths": (2, 3), "placement": "post"}
BOTH, BRANCH, SHORTCUT = 0, 1, 2


pytestmark = pytest.mark.usefixtures("x64_throughout")


# --- networks ---


def in_float64(module):
    """The same Linen module, and the modules that it is given, computing in float64."""
    changes = {}
    for field in dataclasses.fields(module):
        value = getattr(module, field.name, None)
        if field.name == "dtype":
            changes["dtype"] = jnp.float64
        elif isinstance(value, nn.Module) and field.name != "parent":
            changes[field.name] = in_float64(value)
    return module.clone(**changes)


def in_float32(**fields):
    config = models.defaults("resnet", **fields)
    return models.build(config, image_shape=SHAPE, num_classes=CLASSES)


def build(**fields):
    net = in_float32(**fields)
    stacks = tuple(dataclasses.replace(s, unit=in_float64(s.unit)) for s in net.stacks)
    return dataclasses.replace(net, stem=in_float64(net.stem), stacks=stacks, head=in_float64(net.head))


class GatedBlock(Unit):
    """A user's unit: tanh beside an identity, dropout in the branch, a normalization behind the sum."""

    features: int

    def setup(self):
        self.conv = Conv(self.features, dtype=jnp.float64)
        self.bn = BatchNorm(dtype=jnp.float64)
        self.dropout = nn.Dropout(0.5)

    def split(self, x, train):
        return x, self.dropout(jnp.tanh(self.conv(x)), deterministic=not train)

    def merge(self, z, train):
        return self.bn(z, train)


class PlainBlock(GatedBlock):
    """The same without a shortcut: the input only stands in."""

    @property
    def residual(self):
        return False


class MeanHead(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, h, train):
        return Dense(self.classes, dtype=jnp.float64)(jnp.mean(h, (1, 2)))


def mixed():
    """Residual and plain units of a user's own, in turn."""
    stacks = (
        Stack("a", GatedBlock(3), 2, 1),
        Stack("b", PlainBlock(3), 2, 1),
        Stack("c", GatedBlock(3), 1, 1),
    )
    return Network(Stem(3, dtype=jnp.float64), stacks, MeanHead(CLASSES))


def own():
    """Three equal units of a user's own."""
    return Network(Stem(3, dtype=jnp.float64), (Stack("a", GatedBlock(3), 3, 1),), MeanHead(CLASSES))


NETWORKS = {
    "own": own,
    "mixed": mixed,
    "resnet-20": lambda: build(depth=20, widths=(2, 3, 4)),
    "post": lambda: build(**SMALL, transition="projection", unit_dropout="linear"),
    "pre": lambda: build(**{**SMALL, "placement": "pre"}, shortcut="projection"),
    "bn_after_add": lambda: build(**{**SMALL, "placement": "bn_after_add"}),
    "gate": lambda: build(**SMALL, shortcut="exclusive_gate", gate_bias=0.0),
    "plain": lambda: build(**SMALL, shortcut="none"),
}
FAST = [("mixed", True), ("post", False)]
REST = [(name, train) for name in NETWORKS for train in (False, True) if (name, train) not in FAST]


def in_double(tree):
    return jax.tree.map(lambda v: np.asarray(v, np.float64), tree)


@functools.cache
def case(name):
    """(network, variables, images, labels), made once."""
    network = NETWORKS[name]()
    rng = np.random.default_rng(1)
    images, labels = rng.normal(size=(BATCH, *SHAPE)), rng.integers(0, CLASSES, BATCH)
    return network, in_double(draw(network, SHAPE)), images, labels


# --- the oracle: autodiff with the other way cut off ---


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def by_autodiff(network, train, wrt, variables, images, labels, ways):
    """d mean loss / d (parameters, images)[wrt], where unit i lets gradients through ``ways[path, i]``."""
    cut = lax.stop_gradient
    names = ["stem", *(s.name for s in network.stacks), "head"]
    root = jax.random.fold_in(jax.random.key(0), 0)
    keys = {name: jax.random.fold_in(root, i) for i, name in enumerate(names)}
    gates = network.unit_dropout.at_test() if network.unit_dropout else jnp.ones(network.num_units)

    def run(module, part, x, key, method=None):
        out = module.apply(part, x, train, rngs={"dropout": key}, method=method, mutable=["batch_stats"])
        return out[0]

    def part_of(variables, name):
        return {c: tree[name] for c, tree in variables.items() if name in tree}

    def loss_of(params, images, ways):
        v = {**variables, "params": params}
        h = run(network.stem, part_of(v, "stem"), images, keys["stem"])
        for unit in network.units:
            name, i = unit.stack.name, unit.position
            part = jax.tree.map(lambda a, i=i: a[i], part_of(v, name))
            key = jax.random.split(keys[name], unit.stack.n)[i]
            s, f = run(unit.stack.unit, part, h, key, "split")
            way = ways[unit.index]
            z = gates[unit.index].astype(f.dtype) * f
            if unit.stack.unit.residual:
                z = jnp.where(way == SHORTCUT, cut(z), z) + jnp.where(way == BRANCH, cut(s), s)
            h = run(unit.stack.unit, part, z, key, "merge")
        return jnp.mean(cross_entropy(run(network.head, part_of(v, "head"), h, keys["head"]), labels))

    return lax.map(lambda w: jax.grad(loss_of, wrt)(variables["params"], images, w), ways)


def residual_of(network):
    return np.array([u.stack.unit.residual for u in network.units])


def all_paths(network):
    """ways [paths, units] of every path, and the length of each."""
    options = [(BRANCH, SHORTCUT) if r else (BRANCH,) for r in residual_of(network)]
    ways = np.array(list(itertools.product(*options)))
    return ways, (ways == BRANCH).sum(1)


@functools.cache
def enumerated(name, train=False):
    """Image gradients [paths, B, H, W, C] of all paths, their ways, lengths, and the true gradient."""
    network, variables, images, labels = case(name)
    ways, lengths = all_paths(network)
    with_whole = np.concatenate([ways, np.full((1, network.num_units), BOTH)])
    each = np.asarray(by_autodiff(network, train, 1, variables, images, labels, with_whole))
    return each[:-1], ways, lengths, each[-1]


@pytest.mark.parametrize(
    ("name", "train"), FAST + [pytest.param(*one, marks=pytest.mark.slow) for one in REST]
)
def test_exact_and_single_paths_equal_every_path_enumerated(name, train):
    network, variables, images, labels = case(name)
    each, ways, lengths, true = enumerated(name, train)
    scale = np.linalg.norm(true)
    np.testing.assert_allclose(each.sum(0), true, atol=1e-12 * scale)
    probe = Probe(train=train)
    found = path_spectrum(network, variables, images, labels, probe=probe)
    np.testing.assert_array_equal(found.length, np.unique(lengths))
    np.testing.assert_allclose(found.total, [[scale]], rtol=1e-10)
    for k, size, part in zip(found.length, found.norm[0, 0], found.contribution[0, 0], strict=True):
        together = each[lengths == k].sum(0)
        np.testing.assert_allclose(size, np.linalg.norm(together), rtol=1e-10)
        np.testing.assert_allclose(part, np.sum(together * true) / scale**2, atol=1e-10)
    np.testing.assert_allclose(found.contribution.sum(), 1, rtol=1e-12)
    single = path_norms(network, variables, images, labels, ways == BRANCH, probe=probe)
    np.testing.assert_allclose(single, np.linalg.norm(each.reshape(len(each), -1), axis=1), rtol=1e-10)


def test_all_lengths_sum_to_the_gradient_of_the_network_as_it_is_trained():
    """Not the oracle above, but what training differentiates: Network.apply."""
    network, variables, images, labels = case("post")

    def loss_of(x):
        return jnp.mean(cross_entropy(network.apply(variables, x).logits, labels))

    true = np.linalg.norm(jax.jit(jax.grad(loss_of))(images))
    found = path_spectrum(network, variables, images, labels)
    np.testing.assert_allclose(found.total[0, 0], true, rtol=1e-12)


def test_single_precision_finds_the_same_sums():
    _, variables, images, labels = case("resnet-20")
    network = in_float32(depth=20, widths=(2, 3, 4))
    variables, images = jax.tree.map(np.float32, (variables, images))
    found = path_spectrum(network, variables, images, labels)
    exact = path_spectrum(*case("resnet-20"))
    assert found.norm.shape == exact.norm.shape and np.any(found.norm != exact.norm)
    np.testing.assert_allclose(found.norm, exact.norm, rtol=1e-4)
    np.testing.assert_allclose(found.total, exact.total, rtol=1e-4)
    np.testing.assert_allclose(found.contribution, exact.contribution, atol=1e-4)


def test_draws_agree_with_the_512_paths_of_resnet_20():
    network, variables, images, labels = case("resnet-20")
    each, _, lengths, true = enumerated("resnet-20")
    assert len(each) == 512
    single = np.linalg.norm(each.reshape(512, -1), axis=1)
    mean = np.array([single[lengths == k].mean() for k in range(10)])
    spread = np.array([single[lengths == k].std() for k in range(10)])
    sampled = sample_paths(network, variables, images, labels, draws=100, seed=3)
    whole = np.linalg.norm(true)
    np.testing.assert_allclose(sampled.total, whole * np.ones(100), rtol=1e-10)
    np.testing.assert_allclose(sampled.mean, sampled.norm.mean(1) / whole, rtol=1e-10)
    # Five standard errors; lengths 0 and 9 have one path, which every draw must find exactly.
    np.testing.assert_array_less(np.abs(sampled.norm.mean(1) - mean), 5 * spread / 10 + 1e-10 * mean)
    np.testing.assert_allclose(sampled.norm[[0, 9]], mean[[0, 9], None] * np.ones(100), rtol=1e-10)
    for k in range(10):  # no draw is anything but a path of that length, and all are found
        nearest = np.abs(sampled.norm[k][:, None] / single[lengths == k][None] - 1).min(0)
        assert np.sum(nearest < 1e-9) >= min(40, np.sum(lengths == k)) - 3
    again = sample_paths(network, variables, images, labels, draws=3, seed=3)
    np.testing.assert_array_equal(again.norm, sampled.norm[:, :3])
    assert np.any(sample_paths(network, variables, images, labels, draws=3, seed=4).norm != again.norm)


def test_units_that_start_as_the_identity_pass_the_gradient_by_their_shortcuts_alone():
    """SkipInit, α = 0: only length 0 has a gradient."""
    network = build(stage_sizes=(3,), widths=(2,), norm=False, branch_scale="skipinit")
    _, _, images, labels = case("own")
    variables = in_double(draw(network, SHAPE))
    for name, units in variables["params"].items():
        if "alpha" in units:
            units["alpha"] = 0 * units["alpha"]
            assert name.startswith("stage")
    found = path_spectrum(network, variables, images, labels)
    np.testing.assert_array_equal(found.norm[0, 0] > 0, [True, False, False, False])
    np.testing.assert_allclose(found.contribution[0, 0], [1, 0, 0, 0], atol=1e-12)
    np.testing.assert_array_equal(found.effective, [[0, 0]])


def test_a_plain_network_has_one_path():
    network, variables, images, labels = case("plain")
    found = path_spectrum(network, variables, images, labels)
    np.testing.assert_array_equal(found.length, [3])
    np.testing.assert_allclose(found.contribution, [[[1]]])
    np.testing.assert_allclose(found.norm[0, 0], found.total[0])


# --- parameters ---


@pytest.mark.parametrize(
    "name", ["mixed", *(pytest.param(name, marks=pytest.mark.slow) for name in ("post", "pre"))]
)
def test_parameters_by_the_length_behind_them(name):
    network, variables, images, labels = case(name)
    found = path_parameters(network, variables, images, labels)
    n = network.num_units
    assert found.norm.shape == found.contribution.shape == (1, n, n)
    # Units in front of unit i and itself are left whole: the gradient of its weights has passed neither.
    paths = all_paths(network)[0]
    ways = [np.unique(np.where(np.arange(n) > i, paths, BOTH), axis=0) for i in range(n)]
    whole = np.full((1, n), BOTH)
    args = variables, images, labels, np.concatenate([*ways, whole])
    grads = jax.tree.map(np.asarray, by_autodiff(network, False, 0, *args))
    first = 0
    for i, unit in enumerate(network.units):
        leaves = jax.tree.leaves(grads[unit.stack.name])
        flat = np.concatenate([v[:, unit.position].reshape(len(v), -1) for v in leaves], axis=1)
        each, true = flat[first : first + len(ways[i])], flat[-1]
        first += len(ways[i])
        lengths = (ways[i] == BRANCH).sum(1)
        sums = np.stack([each[lengths == k].sum(0) for k in range(n)])
        np.testing.assert_allclose(found.total[0, i], np.linalg.norm(true), rtol=1e-10)
        sizes = np.linalg.norm(sums, axis=1)
        np.testing.assert_allclose(found.norm[0, i], sizes, rtol=1e-10, atol=1e-14)
        parts = sums @ true / np.sum(true**2)
        np.testing.assert_allclose(found.contribution[0, i], parts, atol=1e-10)
    np.testing.assert_allclose(found.contribution.sum(-1), 1, rtol=1e-12)
    behind = np.array([residual_of(network)[i + 1 :].sum() for i in range(n)])
    plain = n - 1 - np.arange(n) - behind
    np.testing.assert_allclose(found.expected_length, plain + behind / 2)


# --- what is a choice ---


def test_choices_change_what_they_name():
    network, variables, images, labels = case("own")
    usual, other, at, train = (
        path_spectrum(network, variables, images, labels, probe=probe)
        for probe in (
            Probe(),
            Probe(reduction="sum", norm="example"),
            Probe(at="first unit"),
            Probe(train=True),
        )
    )
    each = [path_spectrum(network, variables, images[i : i + 1], labels[i : i + 1]) for i in range(BATCH)]
    own = np.stack([one.norm[0, 0] for one in each])
    np.testing.assert_allclose(other.norm[0, 0], own.mean(0), rtol=1e-10)
    np.testing.assert_allclose(usual.norm[0, 0], np.sqrt((own**2).sum(0)) / BATCH, rtol=1e-10)
    np.testing.assert_allclose(other.contribution, usual.contribution, atol=1e-12)
    assert {k for k, v in other.choices.items() if v != usual.choices[k]} == {"loss", "norm"}
    for result, name in ((at, "gradient at"), (train, "BatchNorm")):
        assert np.all(np.abs(result.norm / usual.norm - 1) > 1e-6)
        assert {k for k, v in result.choices.items() if v != usual.choices[k]} == {name}
    # The rest of the network as a network of its own.
    h, _ = network.run_stem(variables, images)
    rest = dataclasses.replace(network, stem=Identity())
    np.testing.assert_allclose(
        at.norm, path_spectrum(rest, variables, np.asarray(h), labels).norm, rtol=1e-10
    )


class Identity(nn.Module):
    def __call__(self, x, train):
        return x.astype(jnp.float64)


def test_batches_are_whole_and_in_order():
    network, variables, images, labels = case("own")
    seen = []
    found = path_spectrum(
        network, variables, images, labels, batch_size=1, progress=lambda *a: seen.append(a)
    )
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert found.norm.shape == (1, 3, 4) and found.batch_size == 1
    second = path_spectrum(network, variables, images[1:2], labels[1:2])
    np.testing.assert_allclose(found.norm[:, 1:2], second.norm, rtol=1e-12)
    four = whole_batches(network, variables, np.tile(images, (3, 1, 1, 1)), [0] * 9, 4)
    assert [len(x) for x, _ in four.pairs] == [4, 4]  # the ninth example is left
    low, high = found.mean_length_interval
    assert low < found.mean_length < high
    assert np.isnan(second.mean_length_interval).all()
    sample = sample_paths(network, variables, images, labels, draws=4, batch_size=1)
    first = path_norms(network, variables, images[:1], labels[:1], np.zeros((1, 3), bool))
    np.testing.assert_allclose(sample.norm[0, [0, 3]], np.repeat(first, 2), rtol=1e-12)
    assert sample.norm[0, 1] != sample.norm[0, 0]


# --- cost ---

COUNTS = {"backward": 0}


def _count(*_):
    COUNTS["backward"] += 1


@jax.custom_vjp
def counting(x):
    return jnp.sin(x)


def _counting_backward(x, c):
    jax.debug.callback(_count)
    return (jnp.cos(x) * c,)


counting.defvjp(lambda x: (jnp.sin(x), x), _counting_backward)


class CountingBlock(Unit):
    """A branch that counts its backward passes."""

    def setup(self):
        self.scale = self.param("scale", nn.initializers.ones, ())

    def split(self, x, train):
        return x, counting(self.scale * x)


def counted(f):
    jax.effects_barrier()
    COUNTS["backward"] = 0
    result = f()
    jax.effects_barrier()
    return result, COUNTS["backward"]


def test_half_of_n_backward_passes_in_one_compilation(monkeypatch):
    n = 8
    stacks = (Stack("a", CountingBlock(), 5, 1), Stack("b", CountingBlock(), 3, 2))
    network = Network(Stem(2, dtype=jnp.float64), stacks, MeanHead(CLASSES))
    _, _, images, labels = case("own")
    variables = in_double(draw(network, SHAPE))
    before = programs(path_exact._spectrum)
    for v in (variables, jax.tree.map(lambda a: 2 * a, variables)):
        _, count = counted(functools.partial(path_spectrum, network, v, images, labels))
        assert count == n * (n + 1) // 2 <= 0.7 * n * n
    assert programs(path_exact._spectrum) == before + 1
    before = programs(single_paths.walk_paths)
    walks, make = [], path_sampled.rows_of
    monkeypatch.setattr(path_sampled, "rows_of", lambda through: walks.append(through) or make(through))
    _, count = counted(lambda: sample_paths(network, variables, images, labels, draws=3))
    ends = [{tuple(way[i:]) for way in own.T for i in range(n) if way[i]} for own in walks]
    # Each end once, and one whole gradient a walk.
    assert len(walks) == 2 and count == sum(map(len, ends)) + 2 * n < 3 * n * (n + 1) // 2
    assert programs(single_paths.walk_paths) == before + 1
    ways = np.random.default_rng(0).random((20, n)) < 0.5
    _, count = counted(lambda: path_norms(network, variables, images, labels, ways))
    ends = {tuple(way[i:]) for way in ways for i in range(n) if way[i]}
    assert count == len(ends) + n < ways.sum() + n  # each end once, and the whole gradient


def test_rows_are_the_different_ends_of_paths():
    through = np.random.default_rng(1).random((5, 40)) < 0.5  # 32 different paths at most
    through[2] = True  # a plain unit
    rows, row = single_paths.rows_of(through)
    same = (through[:, :, None] == through[:, None]).all(0)
    np.testing.assert_array_equal(row[:, None] == row, same)
    held = {0: ()}  # {row: the end that it has crossed}, behind the last unit
    for i in reversed(range(5)):
        new, sources = (rows[k][i][: rows.num_new[i]].tolist() for k in (1, 2))
        assert not set(new) & set(held)
        held |= {to: held[source] for to, source in zip(new, sources, strict=True)}
        crossing = rows.crossing[i][: rows.num_crossing[i]].tolist()
        assert sorted(crossing) == sorted(held)
        by_branch = set(crossing[: rows.num_branches[i]])
        held = {k: (k in by_branch, *end) for k, end in held.items()}
        assert len(set(held.values())) == len(held)
    assert all(held[row[k]] == tuple(through[:, k]) for k in range(40))


class ShrinkingBlock(Unit):
    def setup(self):
        self.scale = self.param("scale", nn.initializers.ones, ())

    def split(self, x, train):
        return x, self.scale * x


def test_long_paths_do_not_underflow():
    """In float32, 90 branches that divide by a thousand: the norm is beyond float32, and still right."""
    network = Network(Stem(2), (Stack("a", ShrinkingBlock(), 90, 1),), MeanHead(CLASSES))
    _, _, images, labels = case("own")
    images = images.astype(np.float32)
    variables = jax.tree.map(np.float32, draw(network, SHAPE))
    ways = np.arange(90) < np.array([[0], [60], [90]])
    for factor in (1e-3, 0.0):
        variables["params"]["a"] = {"scale": np.full(90, factor, np.float32)}
        norms = path_norms(network, variables, images, labels, ways)
        if factor:
            logs = np.log(norms[1:] / norms[0]) / np.log(factor)
            np.testing.assert_allclose(logs, [60, 90], rtol=1e-4)
        else:
            np.testing.assert_array_equal(norms > 0, [True, False, False])


# --- results ---


def test_moments_are_joined_and_compared():
    network, variables, images, labels = case("own")
    larger = jax.tree.map(lambda v: 1.5 * v, variables)
    found, seen = {0: variables, 10: larger}, []
    grown = path_growth(
        network,
        (0, 10),
        found.__getitem__,
        images,
        labels,
        batch_size=1,
        progress=lambda done, of: seen.append((done, of)),
    )
    assert seen[0] == (0, 6) and seen[-1] == (6, 6) and seen == sorted(seen)
    assert grown.norm.shape == (2, 3, 4)
    np.testing.assert_array_equal(grown.step, [0, 10])
    for t, v in enumerate(found.values()):
        one = path_spectrum(network, v, images, labels, batch_size=1, probe=Probe(train=True))
        np.testing.assert_array_equal(grown.norm[t], one.norm[0])
        np.testing.assert_allclose(grown.mean_length[t], one.share[0] @ one.length)
    gamma = np.abs(variables["params"]["a"]["bn"]["scale"]).mean(1)
    np.testing.assert_allclose(grown.scale, [gamma, 1.5 * gamma])
    assert len(plot_growth({"a": grown, "b": grown}).axes) == 3
    older = {k: v for k, v in grown.to_json().items() if k != "scale"}
    assert np.isnan(PathGrowth.from_json(older).scale).all()
    with pytest.raises(ValueError, match="no moment"):
        moments.join([])
    with pytest.raises(ValueError, match="one network on the same examples"):
        moments.join([grown, path_spectrum(network, variables, images, labels)])


def test_scales_of_a_unit_are_those_of_all_its_normalizations():
    """And those of its stem and head do not count."""
    network, variables, _, _ = case("pre")
    variables = jax.tree.map(np.array, variables)  # the case itself stays
    params = variables["params"]
    for stack in network.stacks:
        names = [name for name, part in params[stack.name].items() if "scale" in part]
        for k, name in enumerate(names):
            scale = params[stack.name][name]["scale"]
            params[stack.name][name] = {"scale": np.full_like(scale, (-1) ** k * 2.0**k), "bias": 0 * scale}
        found = unit_scales(network, variables)[[u.stack is stack for u in network.units]]
        wide = [params[stack.name][name]["scale"].shape[-1] for name in names]
        np.testing.assert_allclose(found, np.average(2.0 ** np.arange(len(names)), weights=wide))
    without = build(**SMALL, norm=False)
    assert np.isnan(unit_scales(without, draw(without, SHAPE))).all()


def test_json_join_and_plots():
    network, variables, images, labels = case("own")
    seen = []
    both = paths(
        *(network, variables, images, labels),
        draws=2,
        progress=lambda done, of: seen.append((done, of)),
    )
    assert seen[0] == (0, 3) and seen[-1] == (3, 3) and seen == sorted(seen)
    assert both.modes == ("running statistics",)
    assert both.choices["draws"] == "2 paths of each length"
    text = json.dumps(both.to_json(), allow_nan=False)
    back = Paths.from_json(json.loads(text))
    for mode in both.modes:
        np.testing.assert_equal(dataclasses.asdict(back.exact[mode]), dataclasses.asdict(both.exact[mode]))
        np.testing.assert_equal(dataclasses.asdict(back.sample[mode]), dataclasses.asdict(both.sample[mode]))
        # One path: its norm is that of the sum.
        np.testing.assert_allclose(both.alignment(mode)[[0, 3]], 1, rtol=1e-10)
    with pytest.raises(ValueError, match="not a Paths"):
        Paths.from_json({"exact": {}})
    assert len(plot({"mine": both}).axes) == 3
    (exact,), (sample,) = both.exact.values(), both.sample.values()
    own = path_exact.plot({"mine": exact})
    shares = own.axes[0].lines[0].get_ydata()
    np.testing.assert_allclose(shares, 100 * exact.share[0])
    np.testing.assert_allclose(own.axes[1].lines[0].get_ydata(), 100 * exact.mean_contribution[0])
    zero = dataclasses.replace(exact, norm=0 * exact.norm)
    assert len(path_exact.plot({"": zero}).axes) == 2
    own = path_sampled.plot({"": sample})
    np.testing.assert_allclose(own.axes[1].lines[0].get_ydata(), 100 * sample.share)

    parameters = path_parameters(network, variables, images, labels)
    back = PathParameters.from_json(json.loads(json.dumps(parameters.to_json(), allow_nan=False)))
    np.testing.assert_equal(dataclasses.asdict(back), dataclasses.asdict(parameters))
    assert plot_parameters({"mine": parameters}).axes


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda n, v, x, y: path_spectrum(n, v, x[:0], y[:0]), "no example"),
        (lambda n, v, x, y: path_spectrum(n, v, x, y, batch_size=0), "batch_size=0"),
        (lambda n, v, x, y: path_spectrum(n, v, x, y + CLASSES), "labels must lie in"),
        (lambda n, v, x, y: sample_paths(n, v, x, y, draws=1), "draws=1; allowed: 2"),
        (lambda n, v, x, y: path_norms(n, v, x, y, [[True]]), r"allowed: \[paths, 3\]"),
        (lambda n, v, x, y: path_parameters(n, v, x, y, probe=Probe(norm="example")), "'batch'"),
        (lambda n, v, x, y: Probe(norm="L1"), "allowed: 'batch', 'example'"),
        (lambda n, v, x, y: Probe(at="logits"), "allowed: 'image', 'first unit'"),
        (lambda n, v, x, y: Probe(reduction="max"), "allowed: 'mean', 'sum'"),
    ],
)
def test_bad_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong(*case("own"))


def test_the_growth_of_paths_is_measured_on_a_run(tmp_path):
    """As a report does, with what a bench has for every study."""
    run = tiny_run(tmp_path / "run", stage_sizes=(2,), widths=(2,))
    result = GROWTH.run(run, Options(gradient_batches=1))
    assert result.step.tolist() == [0, 2] and np.all(np.isfinite(result.norm))
