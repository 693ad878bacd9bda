"""Cutting more and more units: the errors are those of the cut networks, and training on is training."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from network_helpers import draw, equal, logits_of
from run_helpers import tiny_run
from test_any_network import found

from resjax import models
from resjax.cpu.memory import ENOUGH
from resjax.models.layer_table import layer_table, totals
from resjax.network.cut import cut as cut_network
from resjax.network.cut import cut_variables
from resjax.network.refusal import Refusal
from resjax.studies.cutting import training_on
from resjax.studies.cutting.cut import STUDY, cut
from resjax.studies.cutting.cut_result import Cut, tried_further
from resjax.studies.cutting.made import made
from resjax.studies.cutting.maps import fit
from resjax.studies.lesions.batch_statistics import reestimate
from resjax.studies.lesions.pruning import pruning
from resjax.studies.options import Options
from resjax.studies.small_training import train as train_small
from resjax.studies.study import Bench

SHAPE, CLASSES, BATCH = (6, 6, 1), 3, 8


def network_of(**fields):
    fields = {"stage_sizes": (4, 2), "widths": (3, 5), **fields}
    network = models.build(models.defaults("resnet", **fields), image_shape=SHAPE, num_classes=CLASSES)
    return network, draw(network, SHAPE)


def examples(n, seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, *SHAPE)).astype(np.float32), rng.integers(0, CLASSES, n)


@functools.cache
def measured(**fields):
    network, variables = network_of(**fields)
    others = {"choose_on": examples(12, 2), "reference": examples(16, 3)[0]}
    return cut(network, variables, *examples(40, 1), **others, map_rank=0, seconds=0.1, batch_size=BATCH)


def explicit(names, network, variables, reference=None):
    """The error of the network that ``resjax.network.cut`` makes, with its statistics estimated anew."""
    smaller, own = cut_network(network, names, SHAPE), cut_variables(network, variables, names, SHAPE)
    if reference is not None:
        own = reestimate(smaller, own, reference, batch_size=BATCH)
    images, labels = examples(40, 1)
    return np.mean(np.asarray(logits_of(smaller, own, images)).argmax(-1) != labels)


@pytest.mark.slow
def test_the_order_is_that_of_pruning():
    result = measured()
    given = *network_of(), *examples(5, 9)
    order = pruning(*given, choose_on=examples(12, 2), max_deleted=5, draws=1, batch_size=BATCH).order
    np.testing.assert_array_equal(result.order, order)
    assert result.pool == 5 and len(result.unit) == 6  # one unit stays


def test_errors_are_those_of_networks_that_were_cut():
    result, (network, variables) = measured(), network_of()
    reference = examples(16, 3)[0]
    assert result.number[0] == 0 and result.number[-1] == 5 and (np.diff(result.number) > 0).all()
    i = tried_further(result.found, len(result.number))[0]
    k = int(result.number[i])
    names = [result.unit[u] for u in result.order[:k]]
    assert result.error[i] == explicit(names, network, variables)
    assert result.recalibrated[i] == explicit(names, network, variables, reference)
    assert result.error[0] == explicit([], network, variables)
    last = [unit.name for unit in network.units][-k:]
    assert result.last[i] == explicit(last, network, variables, reference)
    counted = totals(layer_table(cut_network(network, names, SHAPE), SHAPE)).multiply_adds
    assert result.multiply_adds[i] == counted
    assert result.seconds.shape[0] == len(result.number) and (result.seconds > 0).all()
    tried = np.isfinite(result.random).any(1)
    np.testing.assert_array_equal(np.flatnonzero(tried), tried_further(result.found, len(result.number)))
    back = Cut.from_json(json.loads(json.dumps(result.to_json())))
    for field in dataclasses.fields(Cut):
        np.testing.assert_equal(getattr(back, field.name), getattr(result, field.name), field.name)


@pytest.mark.slow
def test_without_batch_norm_nothing_is_mended():
    result = measured(norm=False, placement="post")
    assert np.isnan(result.recalibrated).all() and "no BatchNorm" in result.choices["BatchNorm"]
    np.testing.assert_array_equal(result.mended, result.error)
    assert np.isfinite(result.last).any()


@pytest.mark.slow
def test_maps_are_those_of_the_cut_command():
    network, variables = network_of(stage_sizes=(3,), widths=(3,))
    images, labels = examples(40, 1)
    reference = examples(16, 3)[0]
    given = {"choose_on": examples(12, 2), "reference": reference, "max_cut": 1, "batch_size": BATCH}
    result = cut(network, variables, images, labels, **given, map_rank=2, seconds=0.1)
    name = [result.unit[result.order[0]]]
    own = fit(network, variables, name, reference, "linear", 2, batch_size=BATCH)
    smaller = cut_network(network, name, SHAPE, ("linear", 2))
    own = reestimate(smaller, own, reference, batch_size=BATCH)
    assert result.mapped[1] == np.mean(np.asarray(logits_of(smaller, own, images)).argmax(-1) != labels)
    assert result.mapped_multiply_adds[1] == made(smaller, own, images).multiply_adds
    assert result.mapped_multiply_adds[1] > result.multiply_adds[1]
    assert (result.mapped_seconds[1] > 0).all() and np.isnan(result.mapped_seconds[0]).all()


def by_hand(**fields):
    number = [0, 2, 4, 6]
    usual = {
        "error": [0.1, 0.1, 0.3, 0.9],
        "recalibrated": [0.1, 0.1, 0.11, 0.5],
        "spared": [1.0, 1.0, 0.4, 0.0],
        "seconds": [[1.0, 2.0, 1.0], [0.8, 1.6, 0.8], [0.5, 1.2, 0.5], [0.2, 0.4, 0.2]],
    }
    arrays = {name: np.array(values) for name, values in {**usual, **fields}.items()}
    return dataclasses.replace(measured(), number=np.array(number), **arrays)


def test_the_finding_on_results_by_hand():
    result = by_hand()
    assert (result.found, result.found_ends) == (2, (1, 2))
    middle, low, high = result.time_share(result.seconds)
    np.testing.assert_allclose(middle, [1, 0.8, 0.5, 0.2])
    np.testing.assert_allclose([low[2], high[2]], [0.5, 0.6])
    assert by_hand(recalibrated=[0.1, 0.111, 0.1, 0.1]).found == 0  # a later size does not count
    worse = by_hand(recalibrated=[0.2, 0.1, 0.1, 0.111])
    assert worse.found == 2  # new statistics harm the intact network, which keeps its own
    assert STUDY.verdict(worse) == "some" and STUDY.verdict(by_hand(error=[0.9] * 4)) == "untrained"
    assert list(tried_further(1, 6)) == [2, 3, 4] and list(tried_further(0, 2)) == [1]
    assert list(tried_further(5, 6)) == [3, 4, 5]


def test_refused():
    network, variables = network_of(stage_sizes=(1,), widths=(3,))
    others = {"choose_on": examples(4, 2), "reference": examples(4, 3)[0]}
    with pytest.raises(Refusal, match="one must stay"):
        cut(network, variables, *examples(4, 1), **others)
    for wrong in ({"max_cut": 0}, {"map_rank": -1}):
        with pytest.raises(ValueError, match="allowed: 1 … 5, the units that can be cut"):
            cut(*network_of(), *examples(4, 1), **others, **wrong)
    with pytest.raises(ValueError, match=r"cut_training='soon'; a duration is a number and a unit"):
        Options(cut_training="soon")
    assert Options(cut_training="2 epochs").arguments() == ["--cut_training='2 epochs'"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("run") / "run", stage_sizes=(2, 1))


def smaller_of(run):
    name = ["stage1/unit2"]
    shape = run.image_shape
    return cut_network(run.network, name, shape), cut_variables(run.network, run.variables, name, shape)


@pytest.mark.slow
def test_training_on_is_training(run):
    """Like the trainings of claims, which run all steps in one program."""
    network, variables = smaller_of(run)
    config = training_on.short_schedule(run)
    config.train.duration, config.train.steps_per_dispatch = "5 steps", 2
    assert config.optimizer.learning_rate == run.config.optimizer.learning_rate / 10
    told = []
    own = training_on.train(run, config, network, variables, 7, lambda *done: told.append(done))
    assert told == [(0, 5), (2, 5), (4, 5), (5, 5)]
    config.seed = 7
    (other,) = train_small([config], network=network, starts=[variables])
    for a, b in zip(jax.tree.leaves(own), jax.tree.leaves(other.variables), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert not equal(own["params"], variables["params"])

    def stops(done, total):
        if done >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training_on.train(run, config, network, variables, 7, stops)


@pytest.mark.slow
def test_a_training_that_diverges_has_no_result(run):
    network, variables = smaller_of(run)
    config = training_on.short_schedule(run)
    config.train.duration, config.optimizer.learning_rate = "5 steps", 1e30
    assert training_on.train(run, config, network, variables, 0) is None


@pytest.mark.slow
def test_the_study_of_a_run(run, monkeypatch):
    options = Options(
        max_examples=40, batch_size=16, reference=32, cut_training="3 steps", cut_seeds=2, cut_scratch=True
    )
    bench, asked = Bench(run, options), []
    monkeypatch.setattr(training_on, "forget_programs", asked.append)
    result = STUDY.measure(bench)
    assert asked == [ENOUGH] * np.isfinite([result.trained, result.scratch]).sum()  # before each training
    sizes = tried_further(result.found, len(result.number))
    for errors in (result.trained, result.scratch):
        assert errors.shape == (len(result.number), 2)
        np.testing.assert_array_equal(np.flatnonzero(np.isfinite(errors).all(1)), list(sizes))
    names = [result.unit[u] for u in result.order[: result.number[sizes[0]]]]
    network = cut_network(run.network, names, run.image_shape)
    (alone,) = train_small([training_on.scratch_schedule(run, 3)], network=network)
    images, labels = run.examples("test", 40)
    wrong = np.mean(np.asarray(logits_of(network, alone.variables, images)).argmax(-1) != labels)
    assert abs(result.scratch[sizes[0], 0] - wrong) <= 1 / 40
    assert bench.choices["from scratch"] == "5 steps with the recipe of the intact network"
    imported = dataclasses.replace(run, starts=[{"imported": {"from": "a file"}}])
    bench = Bench(imported, options)
    assert STUDY.measure(bench).scratch.size == 0
    assert "the steps behind them are not known" in bench.choices["from scratch"]


@pytest.mark.slow
@pytest.mark.usefixtures("foreign_code")
@pytest.mark.parametrize("name", ["linen: post-activation ResNet", "U-Net"])
def test_a_network_that_was_discovered(name, tmp_path):
    """Gates give the errors, and the function that is left the times; also where units are bypassed."""
    subject = found(name, True, tmp_path)
    bench = Bench(subject, Options(max_examples=12, batch_size=8))
    result = STUDY.measure(bench)
    assert (result.seconds > 0).all() and np.isnan(result.multiply_adds).all()
    assert np.isnan(result.mapped).all() and result.trained.size == 0
    assert np.isfinite(result.recalibrated).all() == (name != "U-Net")
    assert "as a function" in bench.choices["maps"] and "not known" in bench.choices["trained on"]
    inputs, labels = subject.examples("evaluation", 12)
    fn, smaller = subject.found.cut([result.unit[u] for u in result.order[: result.number[1]]])
    assert result.error[1] == np.mean(np.asarray(fn(smaller, inputs)).argmax(-1) != labels)
