"""Analyses find the same where the cores of a CPU share their batches."""

import threading

import jax
import numpy as np
import pytest
from network_helpers import draw
from script_helpers import run_each

from resjax import models
from resjax.analysis import (
    delete_subsets,
    equivariance,
    forward_depth,
    identity,
    lesion,
    looping,
    path_parameters,
    sample_paths,
    surgery,
)
from resjax.cpu import shared_batches as cores
from resjax.network.parts import part_of
from resjax.studies.batches import on_each_core, padded_batches, sharing
from resjax.studies.lesions import prefixes
from resjax.studies.paths.path_walk import TRAINING
from resjax.studies.variants import measure, with_gates

STUDIES = """
import sys

import jax

jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
import numpy as np

from resjax import models
from resjax.cpu.shared_batches import shared_cores
from resjax.analysis import delete_subsets, gradients, lesion
from resjax.studies.paths.path_exact import path_spectrum
from resjax.studies.paths.path_walk import TRAINING
from resjax.studies.variants import logits_of, measure, with_gates

assert shared_cores().count == int(sys.argv[1])
network = models.build(
    models.defaults("resnet", stage_sizes=(3,), widths=(16,)), image_shape=(8, 8, 3), num_classes=4
)
variables = jax.jit(lambda key: network.init(key, (8, 8, 3)))(jax.random.key(0))
rng = np.random.default_rng(0)
x, y = rng.standard_normal((13, 8, 8, 3)).astype(np.float32), rng.integers(0, 4, 13)
gates = rng.random((7, network.num_units)).astype(np.float32)
args = (network, variables, x, y)
each = lesion(*args, batch_size=5)
sets = delete_subsets(*args, gates < 0.4, batch_size=5)
scores, _ = measure(*args, with_gates, gates, batch_size=5)
exact = path_spectrum(*args, batch_size=4)
alone = path_spectrum(*args, batch_size=3)  # which two can't share
training = path_spectrum(*args, batch_size=4, probe=TRAINING)
norms = gradients(*args, batch_size=6)
np.savez(
    sys.argv[2],
    each=np.stack([each.error, each.loss, each.kl, each.agreement]),
    sets=np.stack([sets.error, sets.loss, sets.kl, sets.agreement]),
    scores=np.stack([scores.error, scores.loss, scores.kl, scores.agreement]),
    logits=logits_of(network, variables, x, with_gates, gates, batch_size=5),
    exact=exact.norm,
    contribution=exact.contribution,
    alone=alone.norm,
    training=training.norm,
    norms=norms.norm,
    activation=norms.activation,
)
"""


@pytest.mark.slow
def test_two_cores_find_what_one_device_does(tmp_path):
    script = tmp_path / "studies.py"
    script.write_text(STUDIES)
    paths = {count: tmp_path / f"{count}.npz" for count in (1, 2)}
    commands = [(str(script), str(count), str(path)) for count, path in paths.items()]
    for done in run_each(commands, tmp_path):
        assert done.returncode == 0, done.stderr
    one, two = map(np.load, paths.values())
    for name in one:
        assert np.isfinite(one[name]).any(), name
        np.testing.assert_allclose(two[name], one[name], rtol=2e-4, atol=2e-5, err_msg=name)


@pytest.mark.slow
def test_two_of_the_tests_devices_find_what_one_does(monkeypatch):
    network = models.build(
        models.defaults("resnet", stage_sizes=(2,), widths=(4,)), image_shape=(6, 6, 1), num_classes=4
    )
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((15, 6, 6, 1)).astype(np.float32), rng.integers(0, 4, 15)
    given = network, draw(network, (6, 6, 1)), x, y
    sets = np.array([[False, True], [True, True]])

    def measured():  # 15 examples: 8 for each device, four at a time, and one of the 16 is padding
        sets_of = [delete_subsets(*given, sets, batch_size=16, recalibrate_on=on) for on in (None, x[:4])]
        whole = measure(*given, with_gates, np.float32([[0.5, 1], [1, 0]]), batch_size=16)[0]
        looped = looping(*given, times=(2,), batch_size=16)
        return [lesion(*given, batch_size=16), whole, *sets_of, looped]

    one = measured()
    shared = []

    def two():
        shared.append(two_cores())
        return shared[-1]

    monkeypatch.setattr(cores, "shared_cores", two)
    found = measured()
    assert {cores.count for cores in shared} == {2}
    for own, alone in zip(found, one, strict=True):
        for name in ("error", "loss", "kl", "agreement"):
            np.testing.assert_allclose(getattr(own, name), getattr(alone, name), rtol=2e-4, atol=2e-5)


def two_units(count, **fields):
    """A network of two units with its variables, and so many examples."""
    config = models.defaults("resnet", stage_sizes=(2,), widths=(4,), **fields)
    network = models.build(config, image_shape=(6, 6, 1), num_classes=4)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((count, 6, 6, 1)).astype(np.float32), rng.integers(0, 4, count)
    return network, draw(network, (6, 6, 1)), x, y


def cut_to_paths(network, variables, x, y, **how):
    return forward_depth(network, variables, x, y, choose_on=(x[:4], y[:4]), draws=1, **how)


def further_training(network, variables, x, y, **how):
    short = {"steps": 2, "repeats": 2, "train_batch_size": 4}
    return surgery(network, variables, x, y, train=(x, y), places=[0], **short, **how)


# Each of two gets 10 images, five at a time (identity); of 3 images that fit, with their copies, 2.
@pytest.mark.parametrize(
    "analysis, size, on, fields",
    [
        (identity, 20, {2}, ("ratio", "cosine", "novelty", "estimation_mean", "estimation_std")),
        (equivariance, 15, {2}, ("whole", "in_place", "error", "agreement", "logits")),
        # Seven batches of three, with one image of padding; sets of units run on each device alone.
        (cut_to_paths, 6, {1, 2}, ("error", "agreement", "kl", "cosine")),
        pytest.param(
            *(
                further_training,
                20,
                {2},
                ("difference", "deep_loss", "untouched_loss", "deep_error", "change"),
            ),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_one_program_on_two_of_the_tests_devices_finds_what_one_does(analysis, size, on, fields, monkeypatch):
    given, used = two_units(20), set()
    one = analysis(*given, batch_size=size)
    split = cores.Cores.split

    def watched(self, tree):
        used.add(self.count)
        return split(self, tree)

    monkeypatch.setattr(cores.Cores, "split", watched)
    monkeypatch.setattr(cores, "shared_cores", two_cores)
    two = analysis(*given, batch_size=size)
    assert used == on
    for name in fields:
        assert np.isfinite(getattr(one, name)).any(), name
        np.testing.assert_allclose(getattr(two, name), getattr(one, name), rtol=2e-4, atol=2e-5, err_msg=name)


# Five draws and three batches: the last time, a core has none of its own.
@pytest.mark.parametrize(
    "analysis, how",
    [(sample_paths, {"draws": 5}), (sample_paths, {"draws": 5, "probe": TRAINING}), (path_parameters, {})],
)
def test_two_cores_walk_the_paths_of_one_device(analysis, how, monkeypatch):
    # In training, units are dropped at random, by the key of each batch.
    given, calls, used = two_units(15, unit_dropout="uniform", unit_survival=0.5), [], set()
    how = {"batch_size": 5, "progress": lambda done, of: calls.append((done, of)), **how}
    one = analysis(*given, **how)
    told, split = list(calls), cores.Cores.split

    def watched(self, tree):
        used.add(self.count)
        return split(self, tree)

    monkeypatch.setattr(cores.Cores, "split", watched)
    monkeypatch.setattr(cores, "shared_cores", two_cores)
    calls.clear()
    two = analysis(*given, **how)
    assert used == {2} and calls == told
    np.testing.assert_allclose(two.norm, one.norm, rtol=2e-5)
    np.testing.assert_allclose(two.total, one.total, rtol=2e-5)


def test_a_batch_that_two_cores_can_t_share_equally_runs_on_one_device(monkeypatch):
    monkeypatch.setattr(cores, "shared_cores", two_cores)
    counts = []

    @cores.jit(static=1)
    def run(core, factor, x, shift):
        counts.append(core.count)
        return factor * x + shift

    on_batch = sharing(run, np.float32(2))
    for size in (4, 3):
        x = np.arange(size, dtype=np.float32)
        found = on_batch((x,), np.float32(1))
        np.testing.assert_array_equal(found, 2 * x + 1)
        assert len(found.devices()) == counts[-1]
    assert counts == [2, 1]


@pytest.mark.parametrize(("count", "devices"), [(0, 0), (1, 1), (3, 2)])
def test_each_core_runs_one_program_on_batches_of_its_own(count, devices, monkeypatch):
    monkeypatch.setattr(cores, "shared_cores", two_cores)
    seen, told, programs = [], [], set()

    @cores.jit_each(static=2)
    def run(core, factor, given, batch):
        seen.append((core.count, core.one_thread))
        return {"sum": factor * given + batch["x"].sum()}

    def watched(core, *args):
        programs.add(core.count)
        return run(core, *args)

    batches = [({"x": np.float32([i, 10 * i])},) for i in range(count)]
    found = on_each_core(watched, (2,), np.float32(0.5), batches, lambda *now: told.append(now))
    assert [own["sum"] for own in found] == [1 + 11 * i for i in range(count)]
    assert seen == [(1, True)] * run._cache_size() and run._cache_size() == min(count, 1)
    assert programs == {devices} - {0}
    assert told == [(i, count) for i in range(count + 1)]


def test_devices_that_are_no_cores_are_left_alone():
    # The tests' eight, which a flag makes.
    assert len(jax.devices()) == 8
    assert cores.shared_cores() == cores.Cores()


@pytest.mark.parametrize(
    "examples, most, multiple, sizes",
    [(100, 10, 8, [8] * 13), (3, 1, 2, [2, 2]), (13, 5, 2, [4] * 4), (13, 5, 1, [5] * 3)],
)
def test_batches_of_a_multiple(examples, most, multiple, sizes):
    images, labels = np.zeros((examples, 1, 1, 1)), np.zeros(examples)
    batches = list(padded_batches(images, labels, most, multiple=multiple))
    assert [len(batch.images) for batch in batches] == sizes
    counted = [int(batch.mask.sum()) for batch in batches]
    assert sum(counted) == examples and min(counted) > 0


def two_cores():
    return cores.Cores(jax.sharding.Mesh(np.array(jax.devices()[:2]), ("data",)))


def test_each_core_works_on_batches_of_its_own_and_results_keep_their_order():
    both, seen = threading.Barrier(2, timeout=60), {}

    def work(core, given, batch):
        if batch < 2:
            both.wait()  # passes only if two batches are worked on at the same time
        x = core.split(np.float32(batch)) + given
        (seen[batch],) = x.devices()
        yield x
        yield -x

    found = list(cores.over_batches(two_cores(), work, np.float32(0.5), range(5)))
    assert found == [[i + 0.5, -i - 0.5] for i in range(5)]
    assert {seen[0], seen[1]} == set(jax.devices()[:2])


@pytest.mark.parametrize(
    "shape, own, shared",
    [
        ((32, 2, 2, 1), 8, 8),
        ((20, 2, 2, 1), 5, 5),
        ((14, 2, 2, 1), 7, 14),
        ((18, 64, 32, 8), 2, 3),
        ((4, 128, 64, 4), 4, 4),
        ((8, 3), 8, 8),
    ],
)
def test_one_thread_takes_a_few_images_at_a_time(shape, own, shared, most=8):
    both, seen = two_cores(), []
    x, labels = np.arange(np.prod(shape), dtype=np.float32).reshape(shape), np.arange(shape[0])
    for core, size in ((both.each()[0], own), (both, shared), (cores.Cores(), len(x))):

        @cores.jit(static=1)
        def run(core, factor, *of_images):
            return cores.few_at_a_time(core, a_few, factor, of_images, most)

        def a_few(factor, of_images):
            seen.append(len(of_images[0]))
            return {"images": factor * of_images[0], "labels": of_images[1] + 1}

        seen.clear()
        found = run(core, core.copy(np.float32(2)), *core.split((x, labels)))
        np.testing.assert_array_equal(found["images"], 2 * x)
        np.testing.assert_array_equal(found["labels"], labels + 1)
        assert set(seen) == {size}


@pytest.mark.parametrize(("images", "own", "shared"), [(16, 2, 2), (18, 2, 3), (14, 2, 14)])
def test_one_thread_takes_fewer_images_where_many_states_are_held(images, own, shared):
    test_one_thread_takes_a_few_images_at_a_time((images, 2, 2, 1), own, shared, most=2)


@pytest.mark.parametrize(("side", "width", "few"), [(32, 16, 2), (16, 32, 2), (8, 64, 4), (8, 16, 8)])
def test_a_program_of_one_unit_takes_fewer_images_at_a_time(side, width, few):
    shape = (side, side, 3)
    config = models.defaults("resnet", stage_sizes=(2,), widths=(width,))
    network = models.build(config, image_shape=shape, num_classes=4)
    variables = jax.eval_shape(lambda key: network.init(key, shape), jax.random.key(0))
    core, unit, h = cores.Cores(one_thread=True), network.units[1], np.zeros((32, side, side, width))
    program = jax.make_jaxpr(prefixes.run_unit, static_argnums=(0, 1))(
        core, unit.stack.unit, part_of(variables, unit.part), np.int32(1), h.astype(np.float32), None
    )
    loop = next(eqn for eqn in program.jaxpr.eqns[0].params["jaxpr"].eqns if eqn.primitive.name == "scan")
    assert loop.params["length"] == 32 // few


def test_many_variables_are_not_read_again_for_every_few_images(monkeypatch):
    monkeypatch.setattr(cores, "MOST_GIVEN", 3)
    core, x, seen = two_cores().each()[0], np.zeros((16, 2, 2, 1), np.float32), []
    for count in (3, 4):
        cores.few_at_a_time(core, lambda given, x: seen.append(len(x)) or x, np.zeros(count), x)
    assert seen == [8, 16]


def test_results_of_the_same_shape_replace_the_images():
    core, x = cores.Cores(one_thread=True), np.arange(16 * 18, dtype=np.float32).reshape(16, 3, 3, 2)

    def filled(channels):
        """What the loop returns: the images, or arrays that it fills."""

        def of(x):
            return cores.few_at_a_time(core, lambda two, x: two * x[..., :channels] + 1, np.float32(2), x)

        np.testing.assert_array_equal(jax.jit(of)(x), 2 * x[..., :channels] + 1)
        loop = next(eqn for eqn in jax.make_jaxpr(of)(x).jaxpr.eqns if eqn.primitive.name == "scan")
        return [var.aval.shape for var in loop.outvars][-1]

    assert filled(2) == (16, 3, 3, 2)
    assert filled(1) == (2, 8, 3, 3, 1)


def test_an_error_in_one_batch_ends_the_others():
    begun, parts = [], []

    def work(core, given, batch):
        begun.append(batch)
        if batch == 1:
            raise KeyError("a batch")
        for i in range(10_000):
            parts.append(i)
            yield np.zeros(())

    with pytest.raises(KeyError, match="a batch"):
        list(cores.over_batches(two_cores(), work, None, [1, 2, 3, 4, 5, 6]))
    assert len(begun) < 6 and len(parts) < 40_000


@pytest.mark.parametrize(
    "examples, most, size", [(60, 128, 30), (300, 128, 52), (250, 128, 64), (126, 126, 63), (3, 1, 1)]
)
def test_cores_get_equally_many_batches(examples, most, size):
    own = two_cores().own_size(examples, most)
    assert own == size and -(-examples // own) % 2 == (examples == 3)
    assert cores.Cores().own_size(examples, most) == {300: 100, 250: 128, 3: 1}.get(examples, examples)


@pytest.mark.parametrize("size, count", [(6, 2), (5, 1)])
def test_cores_share_only_what_they_can_share_equally(size, count):
    assert two_cores().if_shared(size).count == count


def test_what_is_not_shared_is_not_touched():
    tree = {"a": np.ones(3)}
    alone = cores.Cores()
    assert alone.copy(tree) is tree and alone.split(tree) is tree and alone.wait(tree) is tree


def test_variables_bound_to_a_batch_are_no_copy():
    network = models.build(
        models.defaults("resnet", stage_sizes=(1,), widths=(4,)), image_shape=(8, 8, 1), num_classes=3
    )
    variables = network.init(jax.random.key(0), (8, 8, 1))
    bound, state = prefixes.start(cores.Cores(), network, variables, np.zeros((2, 8, 8, 1), np.float32))
    assert state.shape == (2, 8, 8, 4)
    assert [id(a) for a in jax.tree.leaves(bound)] == [id(a) for a in jax.tree.leaves(variables)]
