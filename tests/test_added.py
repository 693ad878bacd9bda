"""A rerun with more draws measures only those that are new, and finds what a run with all of them finds."""

import dataclasses
from functools import partial

import numpy as np
import pytest
from marks import slow_but
from network_helpers import draw, subject_of

from resjax import models
from resjax.report import kept
from resjax.studies.catalogue import STUDIES
from resjax.studies.lesions import orders, prefixes
from resjax.studies.lesions.deletions import deletions
from resjax.studies.lesions.reorder import reorder
from resjax.studies.lesions.subsets import random_halves, random_subsets
from resjax.studies.options import Options, Recorded
from resjax.studies.paths import path_sampled
from resjax.studies.paths.paths import paths

SHAPE, CLASSES, BATCH = (6, 6, 1), 4, 4
CONFIG = models.defaults("resnet", stage_sizes=(6, 1), widths=(4, 6))
NETWORK = models.build(CONFIG, image_shape=SHAPE, num_classes=CLASSES)
VARIABLES = draw(NETWORK, SHAPE)
OPTIONS = Options(max_examples=7, batch_size=BATCH, draws=3, path_draws=3, gradient_batches=1)


def examples(n=7, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, *SHAPE)).astype(np.float32), rng.integers(0, CLASSES, n)


def subject(folder=None):
    def give(split, most, augmented=False):
        return examples(min(most, 32), seed=len(split))

    more = {"identity": {"name": "made"}, "kept": folder}
    return subject_of(NETWORK, VARIABLES, give, SHAPE, **more)


@pytest.fixture
def ran(monkeypatch):
    """Units that ran one by one, and paths that were walked."""
    times, run, walk = [], prefixes.run_unit, path_sampled._norms
    monkeypatch.setattr(prefixes, "run_unit", lambda *args: times.append(1) or run(*args))
    monkeypatch.setattr(path_sampled, "_norms", lambda *args: times.append(1) or walk(*args))
    return times


def test_the_first_draws_are_the_same_however_many_there_are():
    allowed = np.array([True] * 9 + [False])
    few, many = (random_subsets(allowed, (2, 4, 7), draws, 5) for draws in (3, 30))
    for k in (2, 4, 7):
        np.testing.assert_array_equal(many[many.sum(1) == k][:3], few[few.sum(1) == k])
    np.testing.assert_array_equal(random_halves(allowed, 30, 5)[:3], random_halves(allowed, 3, 5))
    classes = [np.arange(4), np.arange(4, 9)]
    for make in (partial(orders.swapped, classes, 5), partial(orders.shuffled, classes)):
        few, many = (make(draws, np.random.default_rng((5, 3))) for draws in (3, 30))
        np.testing.assert_array_equal(many[:3], few)


@pytest.mark.parametrize("analysis", [deletions, reorder])
def test_draws_are_added(analysis, ran):
    given = NETWORK, VARIABLES, *examples()
    few, all_ = (analysis(*given, draws=draws, batch_size=BATCH) for draws in (2, 4))
    alone = len(ran)
    del ran[:]
    added = analysis(*given, draws=4, batch_size=BATCH, earlier=few)
    assert 0 < len(ran) < alone / 2
    for name in ("error", "loss", "kl", "agreement"):
        np.testing.assert_array_equal(getattr(added, name), getattr(all_, name))
    np.testing.assert_allclose(added.spared, all_.spared, atol=0.05)  # other resamples
    assert added.choices == all_.choices
    del ran[:]
    again = analysis(*given, draws=2, batch_size=BATCH, earlier=all_)
    assert not ran
    np.testing.assert_array_equal(again.loss, few.loss)
    assert (again.intact_loss, again.num_classes) == (few.intact_loss, CLASSES)
    with pytest.raises(
        ValueError, match="allowed: one of this network, with 7 units, on the same 6 examples"
    ):
        analysis(NETWORK, VARIABLES, *examples(6), draws=2, batch_size=BATCH, earlier=few)


def test_paths_are_added(ran):
    given = NETWORK, VARIABLES, *examples(8)
    few, all_ = (paths(*given, draws=draws, batch_size=BATCH) for draws in (3, 5))
    del ran[:]
    added = paths(*given, draws=5, batch_size=BATCH, earlier=few)
    assert len(ran) == 2
    assert added.to_json() == all_.to_json()
    with pytest.raises(ValueError, match="2 batches of 4 examples; allowed: the same batches, 1 of 4"):
        paths(NETWORK, VARIABLES, *examples(4), draws=5, batch_size=BATCH, earlier=few)


@pytest.mark.parametrize("name", slow_but(["deletions", "reorder", "paths"], "deletions", "reorder"))
def test_a_kept_result_with_fewer_draws_is_added_to(name, tmp_path, ran):
    study, run = dataclasses.replace(STUDIES[name], control=False), subject(tmp_path)
    first = Recorded(OPTIONS)
    kept.save(run, study, OPTIONS, study.run(run, first), first.read)
    more = dataclasses.replace(OPTIONS, draws=6, path_draws=6)
    assert kept.load(run, study, more) is None
    earlier = kept.earlier(run, study, more)
    del ran[:]
    all_ = study.run(subject(), more)
    alone = len(ran)
    del ran[:]
    added = study.run(run, more, earlier=earlier)
    assert 0 < len(ran) < alone
    if name != "paths":
        np.testing.assert_array_equal(added.loss, all_.loss)
    assert study.points("a", added)[0] == study.points("a", all_)[0]
    # Other examples are another measurement.
    assert kept.earlier(run, study, dataclasses.replace(more, max_examples=3, gradient_batches=3)) is None


def test_what_a_study_did_not_read_does_not_repeat_it(tmp_path):
    study, run = STUDIES["lesion"], subject(tmp_path)
    own = Recorded(OPTIONS)
    result = study.run(run, own)
    assert own.read == {"max_examples", "batch_size"}
    kept.save(run, study, OPTIONS, result, own.read)
    assert kept.load(run, study, dataclasses.replace(OPTIONS, draws=9, seed=3)).to_json() == result.to_json()
    for changed in ({"max_examples": 6}, {"batch_size": 5}):
        assert kept.load(run, study, dataclasses.replace(OPTIONS, **changed)) is None
    # A file that names other options is not the one that was saved.
    path = tmp_path / "lesion.json"
    path.write_text(path.read_text().replace('["batch_size", "max_examples"]', '["batch_size"]'))
    assert kept.load(run, study, OPTIONS) is None
    kept.save(run, study, OPTIONS, result)
    assert kept.load(run, study, dataclasses.replace(OPTIONS, draws=9)) is None
