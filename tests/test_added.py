"""A rerun with more draws measures only those that are new, and finds what a run with all of them finds."""

import dataclasses
from functools import partial

import numpy as np
import pytest
from network_helpers import draw, subject_of

from resjax import models
from resjax.report import kept
from resjax.studies.catalogue import STUDIES
from resjax.studies.lesions import interventions, orders, prefixes
from resjax.studies.lesions.deletions import deletions
from resjax.studies.lesions.known import KnownScores
from resjax.studies.lesions.reorder import reorder
from resjax.studies.lesions.subsets import random_halves, random_subsets
from resjax.studies.options import Options, Recorded
from resjax.studies.paths import path_sampled
from resjax.studies.paths.path_sampled import sample_paths
from resjax.studies.paths.paths import paths
from resjax.studies.study import Bench

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

    more = {"identity": {"name": "made"}, "kept": folder, "count": lambda split: 32}
    return subject_of(NETWORK, VARIABLES, give, SHAPE, **more)


@pytest.fixture
def ran(monkeypatch):
    """Units that ran one by one, and paths that were walked."""
    times, run, walk = [], prefixes.run_unit, path_sampled.on_each_core

    def walked(program, fixed, variables, batches, progress):
        times.extend(batches)
        return walk(program, fixed, variables, batches, progress)

    monkeypatch.setattr(prefixes, "run_unit", lambda *args: times.append(1) or run(*args))
    monkeypatch.setattr(path_sampled, "on_each_core", walked)
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
    given, known = (NETWORK, VARIABLES, *examples()), KnownScores()
    few, all_ = (analysis(*given, draws=draws, batch_size=BATCH) for draws in (2, 4))
    alone = len(ran)
    analysis(*given, draws=2, batch_size=BATCH, known=known)
    del ran[:]
    added = analysis(*given, draws=4, batch_size=BATCH, known=known)
    assert 0 < len(ran) < alone / 2
    assert added.to_json() == all_.to_json()
    del ran[:]
    assert analysis(*given, draws=2, batch_size=BATCH, known=known).to_json() == few.to_json()
    assert not ran


def test_paths_are_added(ran):
    given = NETWORK, VARIABLES, *examples(8)
    few, all_ = (paths(*given, draws=draws, batch_size=BATCH) for draws in (3, 5))
    del ran[:]
    added = paths(*given, draws=5, batch_size=BATCH, earlier=few)
    assert len(ran) == 2
    assert added.to_json() == all_.to_json()
    del ran[:]
    seen = []
    again = paths(*given, draws=3, batch_size=BATCH, earlier=all_, progress=lambda *parts: seen.append(parts))
    assert not ran and again.to_json() == few.to_json()
    assert seen[-1] == (5, 5)
    with pytest.raises(ValueError, match="2 batches of 4 examples; allowed: any number of batches of 3"):
        paths(NETWORK, VARIABLES, *examples(4), draws=5, batch_size=3, earlier=few)


# Six draws, then seven. Draw i is of batch i mod the number of batches, so these are new. Those of one batch,
# which are two at most, share a walk.
@pytest.mark.parametrize(("batches", "new"), [(2, [2, 3, 6]), (4, [6]), (1, [1, 2, 3, 5, 6])])
def test_draws_on_the_same_batch_are_kept(batches, new, ran):
    images, labels = examples(16)
    count = BATCH * batches
    few = sample_paths(NETWORK, VARIABLES, images[:count], labels[:count], draws=6, batch_size=BATCH)
    all_ = sample_paths(NETWORK, VARIABLES, images, labels, draws=7, batch_size=BATCH)
    del ran[:]
    added = sample_paths(NETWORK, VARIABLES, images, labels, draws=7, batch_size=BATCH, earlier=few)
    assert len(ran) == len({draw % (len(images) // BATCH) for draw in new})
    assert added.to_json() == all_.to_json()


def test_a_kept_result_with_fewer_draws_is_added_to(tmp_path, ran):
    study, run = dataclasses.replace(STUDIES["paths"], control=False), subject(tmp_path)
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
    assert study.points("a", added)[0] == study.points("a", all_)[0]
    # Other random numbers are another measurement.
    assert kept.earlier(run, study, dataclasses.replace(more, seed=1)) is None


def test_what_a_study_did_not_read_does_not_repeat_it(tmp_path):
    study, run = STUDIES["lesion"], subject(tmp_path)
    own = Recorded(OPTIONS)
    result = study.run(run, own)
    assert own.read == {"max_examples, at most 32", "batch_size"}
    kept.save(run, study, OPTIONS, result, own.read)
    assert kept.load(run, study, dataclasses.replace(OPTIONS, draws=9, seed=3)).to_json() == result.to_json()
    for changed in ({"max_examples": 6}, {"batch_size": 5}):
        assert kept.load(run, study, dataclasses.replace(OPTIONS, **changed)) is None
    # A file that names other options is not the one that was saved.
    path = tmp_path / "lesion.json"
    path.write_text(path.read_text().replace('["batch_size", "max_examples, at most 32"]', '["batch_size"]'))
    assert kept.load(run, study, OPTIONS) is None
    kept.save(run, study, OPTIONS, result)
    assert kept.load(run, study, dataclasses.replace(OPTIONS, draws=9)) is None


def test_more_than_a_study_uses_does_not_repeat_it(tmp_path):
    """There are 32 examples, and ``looping`` would use 1,000."""
    looping, run = STUDIES["looping"], subject(tmp_path)
    every = Options(max_examples=32, batch_size=32)
    own = Recorded(every)
    kept.save(run, looping, every, looping.run(run, own), own.read)
    assert kept.load(run, looping, dataclasses.replace(every, max_examples=10_000)) is not None
    assert kept.load(run, looping, dataclasses.replace(every, max_examples=31)) is None

    own = Recorded(dataclasses.replace(every, draws=30))
    assert own.at_most("draws", 3) == 3 and own.read == {"draws, at most 3"}
    assert [Options(draws=draws).value("draws, at most 3") for draws in (2, 3, 100)] == [2, 3, 3]
    assert every.value("max_examples") == 32


def test_interventions_are_not_repeated_for_more_draws(tmp_path, monkeypatch):
    study, run, own = STUDIES["interventions"], subject(tmp_path), Recorded(OPTIONS)
    run.from_scratch = False
    monkeypatch.setattr(interventions, "interventions", lambda *given, **how: how["draws"])
    assert study.measure(Bench(run, own)) == 3
    assert {entry for entry in own.read if "draws" in entry} == {"draws, at most 3"}
