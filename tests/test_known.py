"""What several studies need is computed once, and no result depends on who computed it."""

import functools

import numpy as np
import pytest
from network_helpers import draw, subject_of

from resjax import models
from resjax.studies.catalogue import STUDIES
from resjax.studies.lesions import known as known_module
from resjax.studies.lesions import prefixes, single_deletions
from resjax.studies.lesions.deletions import deletions
from resjax.studies.lesions.known import KnownScores
from resjax.studies.lesions.lesion import lesion
from resjax.studies.lesions.pairs import pairs
from resjax.studies.lesions.prefixes import deleting
from resjax.studies.lesions.reorder import reorder
from resjax.studies.lesions.sets import delete_subsets
from resjax.studies.options import Options

SHAPE, CLASSES, BATCH = (6, 6, 1), 4, 4
OPTIONS = Options(max_examples=7, batch_size=BATCH, draws=3, reference=BATCH, plain_reference=True)
SHARING = ("lesion", "recalibrate", "deletions", "pairs", "pruning", "forward_depth")


@functools.cache
def network_of(shortcut="identity"):
    config = models.defaults("resnet", stage_sizes=(3, 1), widths=(4, 6), shortcut=shortcut)
    network = models.build(config, image_shape=SHAPE, num_classes=CLASSES)
    return network, draw(network, SHAPE)


def examples(n=7, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, *SHAPE)).astype(np.float32), rng.integers(0, CLASSES, n)


def subject():
    def give(split, most, augmented=False):
        return examples(min(most, 7), seed=len(split))

    return subject_of(*network_of(), give, SHAPE, step=0)


@pytest.fixture
def ran(monkeypatch):
    """Units that ran, one by one."""
    times, run = [], prefixes.run_unit
    monkeypatch.setattr(prefixes, "run_unit", lambda *args: times.append(1) or run(*args))
    return times


def numbers_of(result):
    """Every number in a result, by its place; None where there is none."""

    def flat(value, path=()):
        if isinstance(value, dict):
            for name, inner in value.items():
                yield from flat(inner, (*path, name))
        elif isinstance(value, list):
            for i, inner in enumerate(value):
                yield from flat(inner, (*path, i))
        else:
            yield path, value

    return dict(flat(result.to_json()))


def assert_same(one, two):
    one, two = map(numbers_of, (one, two))
    assert one.keys() == two.keys()
    for path, value in one.items():
        if isinstance(value, float):
            np.testing.assert_allclose(two[path], value, rtol=2e-4, atol=2e-6, err_msg=str(path))
        else:
            assert two[path] == value, path


@pytest.mark.slow
def test_studies_that_share_find_what_each_finds_by_itself(ran):
    together, alone, units = subject(), {}, {}
    for name in SHARING:
        del ran[:]
        alone[name] = STUDIES[name].run(subject(), OPTIONS)
        units[name] = len(ran)
    for name in SHARING:
        del ran[:]
        assert_same(alone[name], STUDIES[name].run(together, OPTIONS))
        if name in ("deletions", "pairs", "pruning", "forward_depth"):
            assert len(ran) < units[name], name
    assert units["lesion"] == 0  # its own program


def test_a_set_is_measured_once(ran):
    given, known = (*network_of(), *examples()), KnownScores()
    first = deletions(*given, draws=3, batch_size=BATCH, known=known)
    assert ran
    del ran[:]
    told = []
    again = delete_subsets(
        *given,
        first.deleted[::-1],
        batch_size=BATCH,
        known=known,
        progress=lambda *done: told.append(done),
    )
    assert not ran and told == [(1, 1)]
    np.testing.assert_array_equal(again.loss, first.loss[::-1])
    np.testing.assert_array_equal(again.agreement, first.agreement[::-1])
    # Single units are among the sets, so no program of ``lesion`` runs, and no bit differs.
    single = lesion(*given, batch_size=BATCH, known=known)
    rows = [np.flatnonzero((first.deleted == row).all(1))[0] for row in np.eye(4, dtype=bool)]
    np.testing.assert_array_equal(single.loss, first.loss[rows])


def test_only_sets_that_are_new_are_measured(monkeypatch):
    given, known, seen = (*network_of(), *examples()), KnownScores(), []
    measure = known_module.measure_places
    noted = lambda *a, **how: seen.append((len(a[3]), a[-1])) or measure(*a, **how)  # noqa: E731
    monkeypatch.setattr(known_module, "measure_places", noted)
    sets = np.array([[1, 0, 0, 1], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]], bool)
    one = delete_subsets(*given, sets[:2], batch_size=BATCH, known=known)
    both = delete_subsets(*given, sets, batch_size=BATCH, known=known)
    assert [count for count, _ in seen] == [7, 7]
    np.testing.assert_array_equal(seen[1][1] < 0, sets[2:3])  # nothing deleted: the intact network is known
    np.testing.assert_array_equal(both.loss[:2], one.loss)
    assert both.kl[3] == 0 and both.intact_loss == one.intact_loss == both.loss[3]


@pytest.mark.parametrize("analysis", [lesion, deletions, reorder, pairs])
def test_only_examples_that_are_new_are_measured(analysis, monkeypatch):
    """3 of 7 examples, then 5, all, and 4: each is measured once, and the results are those of one pass."""
    network, variables = network_of()
    images, labels = examples()
    known, seen = KnownScores(), []
    for module, name, place in ((known_module, "measure_places", 3), (single_deletions, "padded_batches", 1)):
        monkeypatch.setattr(module, name, functools.partial(_noted, getattr(module, name), seen, place))
    for count, new in ((3, [3]), (5, [2]), (7, [2]), (4, [])):
        del seen[:]
        given = network, variables, images[:count], labels[:count]
        shared = analysis(*given, batch_size=BATCH, known=known)
        assert seen == new
        alone = analysis(*given, batch_size=BATCH)
        assert shared.num_examples == count
        assert_same(alone, shared)


def _noted(run, seen, place, *given, **how):
    seen.append(len(given[place]))
    return run(*given, **how)


def test_rows_that_are_known_on_fewer_examples_than_others():
    """One set is known on 2 examples, one on 5 and one not at all: all are measured on the rest."""
    network, variables = network_of()
    images, labels = examples()
    known, sets = KnownScores(), np.array([[1, 0, 0, 1], [0, 1, 1, 0], [0, 0, 1, 0]], bool)
    for count, some in ((2, sets[:1]), (5, sets[1:2])):
        delete_subsets(
            network, variables, images[:count], labels[:count], some, batch_size=BATCH, known=known
        )
    work = [(first, end, new.tolist()) for first, end, new in known.missing(deleting(sets), 7)]
    assert work == [(0, 2, [False, False, True]), (2, 5, [True, False, True]), (5, 7, [True, True, True])]
    given = network, variables, images, labels, sets
    assert_same(delete_subsets(*given), delete_subsets(*given, batch_size=BATCH, known=known))
    assert [known.count(row) for row in deleting(sets)] == [7, 7, 7]
