"""Norms from the log: put in order, summarized, and what is said of them."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure
from run_helpers import run_with

from resjax import models
from resjax.network.norms import layer_norms
from resjax.report import compare
from resjax.studies import style
from resjax.studies.signals import norms_over_training as study
from resjax.studies.signals.norms_over_training import (
    NormsOverTraining,
    norms_over_training,
    quarters,
)

SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def network():
    config = models.defaults("resnet", stage_sizes=(3, 1), widths=(2, 4))
    return models.build(config, image_shape=SHAPE, num_classes=3)


@pytest.fixture(scope="module")
def records(network):
    """What the training loop writes, each kernel filled with a number of its own, × the step."""
    shapes = jax.eval_shape(lambda k: network.init(k, SHAPE), jax.random.key(0))["params"]
    rng = np.random.default_rng(0)
    found = [{"step": 0, "test_error": 0.9}]
    for step in (10, 20, 30):
        norms = {}
        for kind in ("gradient", "parameter", "update"):
            tree = jax.tree.map(lambda v: rng.random(v.shape).astype(np.float32), shapes)
            norms[kind] = {k: np.asarray(v).tolist() for k, v in layer_norms(network, tree).items()}
        found.append({"step": step, "loss": 1.0, "norms": norms})
    return json.loads(json.dumps(found))


def test_every_norm_finds_its_layer(network, records):
    result = norms_over_training(network, records, SHAPE)
    assert list(result.step) == [10, 20, 30]
    units = [f"stage1/unit{i}/conv{j}" for i in (1, 2, 3) for j in (1, 2)]
    units += ["stage2/unit1/conv1", "stage2/unit1/conv2"]
    assert result.layer == (
        "stem/conv/kernel",
        *(f"{u}/kernel" for u in units),
        "head/classifier/kernel",
    )
    for t, record in enumerate(records[1:]):
        for kind in ("gradient", "parameter", "update"):
            logged, own = record["norms"][kind], getattr(result, kind)[t]
            assert own[0] == logged["stem/conv/kernel"]
            assert own[1] == logged["stage1_opening/conv1/kernel"][0]
            assert own[6] == logged["stage1/conv2/kernel"][1]  # stage1/unit3/conv2
            assert own[-1] == logged["head/classifier/kernel"]
    np.testing.assert_array_equal(result.relative_update, result.update / result.parameter)
    assert result.unit == () and result.activation.shape == (3, 0)
    back = NormsOverTraining.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False)))
    np.testing.assert_array_equal(back.gradient, result.gradient)


def test_activations_where_they_were_logged(network, records):
    changed = json.loads(json.dumps(records))
    changed[2]["norms"]["activation"] = {
        "stage1_opening": [1.0],
        "stage1": [2.0, 3.0],
        "stage2_opening": [4.0],
    }
    result = norms_over_training(network, changed, SHAPE)
    assert result.unit == tuple(unit.name for unit in network.units)
    np.testing.assert_array_equal(result.activation[1], [1, 2, 3, 4])
    assert np.isnan(result.activation[[0, 2]]).all()
    both = {"with": result, "without": norms_over_training(network, records, SHAPE)}
    shown = compare.table(study.STUDY, both)
    assert shown.columns[-2:] == ("‖y‖, first units", "‖y‖, last units")
    assert {len(row) for row in shown.rows} == {len(shown.columns)}
    assert [row[-2:] for row in shown.rows] == [("–", "–"), ("1", "4"), *[("–", "–")] * 4]
    figure = study.STUDY.plot(both)
    assert "‖y‖" in figure.axes[3].get_ylabel()


def test_what_can_not_be_read_is_refused(network, records):
    with pytest.raises(ValueError, match="no record of metrics"):
        norms_over_training(network, records[:1], SHAPE)
    assert "log.every" in study.STUDY.unsuited(run_with(records=records[:1]))
    assert study.STUDY.unsuited(run_with(records=records)) is None
    config = models.defaults("resnet", stage_sizes=(1, 1), widths=(2, 4))
    other = models.build(config, image_shape=SHAPE, num_classes=3)
    with pytest.raises(ValueError, match="pass the network that was trained"):
        norms_over_training(other, records, SHAPE)


def test_quarters_are_geometric_means():
    values = np.array([[1.0, 4.0, 9, 9, 9, 9, 2.0, 8.0], [0.0, 1, 1, 1, 1, 1, 1, 1]])
    first, last = quarters(values)
    np.testing.assert_allclose(first, [2, 0])
    np.testing.assert_allclose(last, [4, 1])


def test_study_and_plot(network, records):
    run = run_with(network=network, records=records, image_shape=SHAPE)
    result = study.STUDY.run(run, None, None)
    figure = study.STUDY.plot({f"run {i}": result for i in range(3)})
    assert isinstance(figure, Figure) and len(figure.axes) == 4
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:2] == ["run 0", "run 1"] and labels[-1] == "last quarter"


@pytest.mark.slow
def test_many_runs_are_maps_of_every_layer(network, records):
    result = norms_over_training(network, records, SHAPE)
    larger = dataclasses.replace(result, gradient=10 * result.gradient)
    gone = dataclasses.replace(result, gradient=0 * result.gradient)
    named = {"a": result, "b": larger, "c": gone, "d": result, "e": result}
    figure = study.STUDY.plot(named)
    axes = [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]
    assert len(axes) == 4 * 5 and [ax.get_title() for ax in axes[:5]] == list(named)
    first, second, third = (ax.collections[0] for ax in axes[:3])
    shown = np.reshape(first.get_array(), (len(result.layer), 3))
    np.testing.assert_array_equal(shown, result.gradient.T)  # the first layer is the first row
    assert axes[0].yaxis_inverted()
    assert first.norm is second.norm and first.norm.vmax == larger.gradient.max()
    assert np.ma.getmaskarray(np.ma.masked_invalid(third.get_array())).all()
    figure.draw_without_rendering()
    with style.theme(narrow=True):  # on a phone runs are rows
        figure = study.STUDY.plot(named)
        figure.draw_without_rendering()
    axes = [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]
    assert [ax.get_ylabel() for ax in axes[::4]] == list(named)
