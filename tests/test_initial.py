"""A trained network beside the same network at initialization."""

import dataclasses
import functools
import json
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network_helpers import equal
from run_helpers import tiny_run

from resjax.analysis import responses
from resjax.network.refusal import Refusal
from resjax.report import compare, kept
from resjax.studies import initial
from resjax.studies.catalogue import STUDIES
from resjax.studies.costs import nothing
from resjax.studies.initial import at_initialization, described, drawn
from resjax.studies.options import Options
from resjax.studies.result import Result
from resjax.studies.study import Study

QUICK = Options(max_examples=32, batch_size=16)


@dataclasses.dataclass(frozen=True)
class Size(Result):
    """The size of a network's parameters, and of what it predicts."""

    part: tuple[str, ...]
    size: Annotated[np.ndarray, "part"]


def measure(bench):
    network, variables, images, _ = bench.evaluation(8)
    parameters = sum(float(np.abs(leaf).sum()) for leaf in jax.tree.leaves(variables["params"]))
    logits = network.apply(variables, images).logits
    for done in (0, 1):
        bench.progress(done, 1)
    return Size(part=("parameters", "logits"), size=np.array([parameters, float(jnp.abs(logits).sum())]))


def study(**changes):
    fields = {
        "name": "size",
        "title": "Size",
        "question": "How large?",
        "code": "size()",
        "result": Size,
        "measure": measure,
        "cost": nothing,
        "plot": lambda results: None,
        "points": lambda label, r: [],
        "table": lambda r: {"part": r.part, "size": [f"{v:.4g}" for v in r.size]},
        "headline": lambda results: "sizes",
        "control": True,
    }
    return Study(**{**fields, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("initial") / "run")


def test_the_same_is_measured_at_initialization(run):
    seen = []
    result = study().run(run, QUICK, lambda done, of: seen.append(done / of))
    alone = study(control=False).run(run, QUICK, lambda done, of: None)
    assert alone.initial is None
    np.testing.assert_array_equal(result.size, alone.size)
    untrained = sum(float(np.abs(leaf).sum()) for leaf in jax.tree.leaves(run.initial.params))
    assert result.initial.size[0] == pytest.approx(untrained) and result.size[0] != result.initial.size[0]
    assert result.initial.initial is None
    assert result.choices["at initialization"] == result.initial.choices["network"] == described(run)
    assert result.choices["network"] == "the checkpoint of step 2"
    assert seen == sorted(seen) and seen[0] == 0 and seen[-1] == 1 and 0.5 in seen


def test_at_initialization_activations_are_normalized_and_nothing_else_changes(run):
    untrained = at_initialization(run, batch_size=16)
    assert untrained.step == 0 and untrained.network is run.network
    jax.tree.map(np.testing.assert_array_equal, untrained.variables["params"], run.initial.params)
    images, _ = run.examples("train", 64)
    there, raw = (
        responses(run.network, variables, images)
        for variables in (untrained.variables, run.initial.variables)
    )
    # γ = 1 and β = 0, so a normalized response has a deviation of 1, but for the differences between batches.
    np.testing.assert_allclose(there.std[there.normalized], 1, atol=0.05)
    assert np.abs(raw.std[raw.normalized] - 1).max() > 0.2


@pytest.mark.slow
def test_a_run_without_training_is_no_control_of_itself(tmp_path):
    result = study().run(tiny_run(tmp_path / "run", step=0), QUICK, lambda done, of: None)
    assert result.initial is None and "at initialization" not in result.choices


@pytest.mark.slow
def test_without_batch_norm_it_is_the_network_of_step_0(tmp_path):
    run = tiny_run(tmp_path / "run", norm=False)
    assert not equal(at_initialization(run).variables, run.variables)
    jax.tree.map(np.testing.assert_array_equal, at_initialization(run).variables, run.initial.variables)
    assert "BatchNorm" not in described(run) and "drawn from the seed" in described(run)


def test_the_initialization_of_an_imported_network_is_said_to_be_unknown(run):
    imported = dataclasses.replace(run, starts=[{"imported": {}}])
    assert "the initialization of the imported network is unknown" in described(imported)


def test_studies_share_one_network_at_initialization(run, monkeypatch):
    made, real = [], initial.reestimate
    monkeypatch.setattr(initial, "reestimate", lambda *a, **how: made.append(1) or real(*a, **how))
    run = dataclasses.replace(run)
    one, two = (study().run(run, QUICK, lambda done, of: None) for _ in range(2))
    assert len(made) == 1
    np.testing.assert_array_equal(one.initial.size, two.initial.size)
    # Another size of batches gives other statistics.
    study().run(run, dataclasses.replace(QUICK, batch_size=3), lambda done, of: None)
    assert len(made) == 2


def test_a_network_whose_statistics_cannot_be_estimated_has_no_control(run, monkeypatch):
    def refuses(*_, **__):
        raise Refusal("statistics of another kind")

    monkeypatch.setattr(initial, "reestimate", refuses)
    run = dataclasses.replace(run)  # which does not know its network at initialization
    result = study().run(run, QUICK, lambda done, of: None)
    assert result.initial is None
    assert result.choices["at initialization"] == "not measured: statistics of another kind"


def two(**choices):
    there = Size(part=("a", "b"), size=np.array([1.0, np.nan]))
    return Size(part=("a", "b"), size=np.array([2.0, 3.0]), initial=there, choices=choices)


def test_json_keeps_both():
    back = Size.from_json(json.loads(json.dumps(two(x=1).to_json(), allow_nan=False)))
    np.testing.assert_array_equal(back.initial.size, [1, np.nan])
    assert isinstance(back.initial, Size) and back.initial.initial is None and back.choices == {"x": 1}
    older = {k: v for k, v in two().to_json().items() if k != "initial"}
    assert Size.from_json(older).initial is None


def test_a_table_has_both_where_they_differ():
    table = compare.table(study(), {"one": two(), "other": dataclasses.replace(two(), initial=None)})
    assert table.columns == ("network", "part", "size", "size, at init")
    assert table.rows == [
        ("one", "a", "2", "1"),
        ("one", "b", "3", "nan"),
        ("other", "a", "2", "–"),
        ("other", "b", "3", "–"),
    ]


def test_a_figure_shows_initialization_first_and_pale():
    looks = list(drawn({"one": two(), "other": dataclasses.replace(two(), initial=None)}))
    assert [(i, label) for i, label, *_ in looks] == [(0, "one, at init"), (0, "one"), (1, "other")]
    assert looks[0][2].size[0] == 1 and looks[1][2].size[0] == 2
    assert looks[0][3]["alpha"] < 1 and "alpha" not in looks[1][3]
    assert [label for _, label, *_ in drawn({"": two()})] == ["at init", ""]


@pytest.mark.slow
def test_a_kept_result_has_its_control_and_depends_on_it(run, monkeypatch):
    one = study(measure=STUDIES["responses"].measure, result=STUDIES["responses"].result)
    result = one.run(run, QUICK)
    kept.save(run, one, QUICK, result)
    np.testing.assert_array_equal(kept.load(run, one, QUICK).initial.std, result.initial.std)
    assert kept.load(run, dataclasses.replace(one, control=False), QUICK) is None
    monkeypatch.setattr(kept, "code_fingerprint", functools.partial(changed, kept.code_fingerprint))
    assert kept.load(run, one, QUICK) is None


def changed(fingerprint, measure):
    """The fingerprint of a later version, in which only the way to the control differs."""
    return fingerprint(measure) + ("changed" if measure is at_initialization else "")
