"""A rerun with more training batches measures only those that are new, and finds what a run with all of them
finds."""

import dataclasses

import numpy as np
import pytest
from marks import slow_but
from run_helpers import tiny_run

from resjax.report import kept
from resjax.studies.catalogue import STUDIES
from resjax.studies.more_batches import add_batches
from resjax.studies.options import Options, Recorded
from resjax.studies.paths import path_exact, path_parameters
from resjax.studies.run import load_run
from resjax.studies.signals import backward_signal, branch_variance, gradients

# Of 16 examples: a study of paths takes two for each of ``gradient_batches``, the others one.
TWO, FOUR = Options(gradient_batches=2), Options(gradient_batches=4)
ONE_TWICE, TWO_TWICE = (Options(gradient_batches=n, path_draws=6) for n in (1, 2))
# {study: what measures one batch, options for two batches and for four}
CASES = {
    "gradients": (gradients, "_batch_norms", TWO, FOUR),
    "backward_signal": (backward_signal, "_batch", TWO, FOUR),
    "branch_variance": (branch_variance, "_batch", TWO, FOUR),
    "paths": (path_exact, "_spectrum", ONE_TWICE, TWO_TWICE),
    "path_growth": (path_exact, "_spectrum", ONE_TWICE, TWO_TWICE),
    "path_parameters": (path_parameters, "_by_unit", ONE_TWICE, TWO_TWICE),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """64 training images, four batches; which units run in training is drawn for each batch."""
    return tiny_run(tmp_path_factory.mktemp("run"), stage_sizes=(2,), widths=(2,), unit_dropout="linear")


def test_every_study_that_adds_batches_is_a_case():
    adding = {name for name, study in STUDIES.items() if "gradient_batches" in study.adds}
    assert adding == set(CASES)


@pytest.mark.parametrize(
    "name", slow_but(CASES, "gradients", "branch_variance", "path_growth", "path_parameters")
)
def test_batches_are_added(run, name, monkeypatch):
    module, function, two, four = CASES[name]
    study, own = STUDIES[name], getattr(module, function)
    times = []
    monkeypatch.setattr(module, function, lambda *args: times.append(1) or own(*args))
    all_ = study.run(load_run(run.workdir), four)  # what one study has measured, another one takes
    alone = len(times)
    read = Recorded(two)
    kept.save(run, study, two, study.run(load_run(run.workdir), read), read.read)
    assert kept.load(run, study, four) is None
    earlier = kept.earlier(run, study, four)
    del times[:]
    added = study.run(load_run(run.workdir), four, earlier=earlier)
    assert len(times) == alone / 2
    assert added.to_json() == all_.to_json()
    # Of fewer batches, or with another seed, all are measured.
    assert study.run(run, two, earlier=added).to_json() == earlier.to_json()
    assert kept.earlier(run, study, dataclasses.replace(four, seed=1)) is None


def test_no_batch_is_measured_where_there_are_no_more(run, monkeypatch):
    """There are 64 examples."""
    study = STUDIES["branch_variance"]
    every = study.run(run, FOUR)
    monkeypatch.delattr(branch_variance, "_batch")
    added = study.run(run, Options(gradient_batches=9), earlier=every)
    assert added.to_json() == every.to_json()


def test_batches_of_another_size_are_refused(run):
    every = STUDIES["branch_variance"].run(run, TWO)
    other = dataclasses.replace(every, batch_size=8)
    with pytest.raises(ValueError, match="the earlier batches have 16 examples, the new ones 8"):
        add_batches(every, 64, lambda first_batch: other)


def test_a_batch_that_is_not_there_is_refused(run):
    images, labels = run.examples("train", 64)
    for number in (-1, 4):
        with pytest.raises(ValueError, match=rf"first_batch={number}; allowed: 0 … 3"):
            gradients.gradients(run.network, run.variables, images, labels, batch_size=16, first_batch=number)


def test_the_first_training_examples_are_the_same_however_many_there_are(run):
    (few, few_labels), (more, more_labels) = (run.examples("train", count) for count in (32, 64))
    np.testing.assert_array_equal(few, more[:32])
    np.testing.assert_array_equal(few_labels, more_labels[:32])


def test_growth_takes_what_paths_has_measured(run, monkeypatch):
    times, own = [], path_exact._spectrum
    monkeypatch.setattr(path_exact, "_spectrum", lambda *args: times.append(1) or own(*args))
    paths, growth = (dataclasses.replace(STUDIES[name], control=False) for name in ("paths", "path_growth"))
    few, alone = (growth.run(load_run(run.workdir), options) for options in (ONE_TWICE, TWO_TWICE))
    moments = len(alone.step)
    assert len(times) == (2 + 4) * moments
    for earlier, missing in ((None, 4), (few, 2)):
        here, seen = load_run(run.workdir), list[int]()
        paths.run(here, TWO_TWICE)
        del times[:]
        found = growth.run(here, TWO_TWICE, lambda *parts, seen=seen: seen.append(parts), earlier=earlier)
        assert found.to_json() == alone.to_json()
        assert len(times) == missing * (moments - 1)
        assert seen[-1][0] == seen[-1][1]
