"""What studies say that they cost, compared with the passes that they make."""

import dataclasses
import itertools
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from run_helpers import tiny_run

from resjax.network import Stack, Unit
from resjax.studies import speed, variants
from resjax.studies.budget import RANGES
from resjax.studies.catalogue import STUDIES
from resjax.studies.costs import Cost, Speed
from resjax.studies.cutting.greedy import greedy
from resjax.studies.lesions import prefixes, recalibrated_walk
from resjax.studies.lesions.passes import each_alone, of_greedy, of_orders, one_by_one
from resjax.studies.lesions.reorder import REPORTED, neighbour_swaps, reverse, shuffled, swapped
from resjax.studies.options import Options
from resjax.studies.run import load_run

SMALL = Options(max_examples=8, draws=4, path_draws=4, gradient_batches=2, reference=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five units, of which all can be deleted."""
    path = tmp_path_factory.mktemp("run")
    tiny_run(path)
    (path / "metrics.jsonl").write_text("")
    return path


@pytest.fixture(scope="module")
def run(folder):
    return load_run(folder)


def suited(run):
    return {name: study for name, study in STUDIES.items() if not study.unsuited(run)}


def doubled(value):
    """A number, or a duration of which the number is doubled."""
    if isinstance(value, int):
        return 2 * value
    number, unit = value.split()
    return f"{2 * int(number)} {unit}"


def test_every_study_has_a_cost_that_grows_with_its_options(run):
    studies = suited(run)
    assert len(studies) > 15
    for name, study in studies.items():
        small = study.estimate(run, SMALL)
        for field in RANGES:
            more = study.estimate(run, dataclasses.replace(SMALL, **{field: doubled(getattr(SMALL, field))}))
            for kind in ("forward", "walked", "backward", "compilations"):
                assert 0 <= getattr(small, kind) <= getattr(more, kind), (name, field)
        if small.evaluated:
            assert small.evaluated == 8, name


def test_a_control_doubles_the_passes_and_adds_those_for_statistics(run):
    study = STUDIES["responses"]
    own, both = study.cost(run, SMALL), study.estimate(run, SMALL)
    assert both.forward == 2 * own.forward + 1024 and both.compilations == own.compilations
    assert dataclasses.replace(study, control=False).estimate(run, SMALL) == own


def test_seconds_are_counts_times_their_own_time():
    cost = Cost(forward=2, walked=3, backward=5, compilations=7, evaluated=9) + Cost(forward=1, evaluated=4)
    assert cost.evaluated == 4
    assert cost.seconds(Speed(1000, 100, 10, 1)) == 3357
    assert (cost + Cost(fixed=0.5)).seconds(Speed(1000, 100, 10, 1)) == 3357.5


@pytest.fixture
def steps(monkeypatch):
    """How many examples went through a unit, one by one."""
    seen = []

    def counting(function):
        def counted(cores, unit, stacked, position, h, *more):
            seen.append(len(h))
            return function(cores, unit, stacked, position, h, *more)

        return counted

    for module, name in ((prefixes, "run_unit"), (recalibrated_walk, "_run_unit")):
        monkeypatch.setattr(module, name, counting(getattr(module, name)))
    return seen


@pytest.mark.parametrize(
    ("name", "rel"),
    [
        *[(name, 1e-6) for name in ("deletions", "pairs", "committee", "influence")],
        *[
            pytest.param(name, 1e-6, marks=pytest.mark.slow)
            for name in ("recalibrate", "interventions", "looping")
        ],
        ("pruning", 0.15),  # a greedy order is not known before
        ("forward_depth", 0.15),
        pytest.param("cut", 0.35, marks=pytest.mark.slow),  # nor which numbers of units are tried
    ],
)
def test_the_units_that_a_study_runs_one_by_one_are_counted(folder, steps, name, rel):
    run = load_run(folder)  # which shares nothing with other tests
    study = dataclasses.replace(STUDIES[name], control=False)
    options = dataclasses.replace(SMALL, cut_training="1 step")
    study.run(run, options)
    assert study.estimate(run, options).walked == pytest.approx(sum(steps) / run.network.num_units, rel=rel)


def test_of_studies_that_share_the_estimate_is_an_upper_bound(folder, steps):
    run = load_run(folder)
    studies = [STUDIES[name] for name in ("deletions", "pairs", "recalibrate", "pruning")]
    for study in studies:
        study.run(run, SMALL)
    estimated = sum(study.estimate(run, SMALL).walked for study in studies)
    assert sum(steps) / run.network.num_units < 0.9 * estimated


def test_a_greedy_choice_costs_about_what_is_counted(run, steps):
    """The order is not known before."""
    given = run.evaluation(8)
    greedy(*given, run.deletable, 5)
    counted = of_greedy(run, 5, 8).walked
    assert counted == pytest.approx(sum(steps) / run.network.num_units, rel=0.15)


def test_units_deleted_one_by_one_are_evenly_spread():
    deleted = one_by_one(np.array([True] * 8 + [False]), 8)
    assert deleted.sum(1).tolist() == list(range(9)) and not deleted[:, 8].any()
    assert np.flatnonzero(deleted[4]).tolist() == [0, 2, 4, 6]


def test_the_passes_of_single_deletions(run):
    """Behind the deletion of unit i of n, n − i units run once more."""
    assert each_alone(run) == 1 + (4 + 3 + 2 + 1 + 0) / 5


@pytest.mark.parametrize("sizes", [(8, 8, 8), (17, 17, 17), (2, 1)])
def test_the_passes_of_orders_are_about_those_of_drawn_ones(sizes):
    classes = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    rng, draws = np.random.default_rng(0), 16
    drawn = [*(swapped(classes, k, draws, rng) for k in REPORTED), neighbour_swaps(classes),
             shuffled(classes, draws, rng), reverse(classes)]  # fmt: skip
    stacks = [Stack(f"stack{i}", Unit(), n, 1) for i, n in enumerate(sizes)]
    passes = of_orders(SimpleNamespace(classes=classes, stacks=stacks), draws * 5, 1).walked
    assert passes == pytest.approx(prefixes.count_passes(np.concatenate(drawn)), rel=0.15, abs=0.5)


@pytest.mark.slow
def test_the_whole_passes_of_interventions_are_counted(run, monkeypatch):
    passes = []

    def counting(function):
        def counted(cores, *given):
            passes.append(1)
            return function(cores, *given)

        return counted

    for function in ("logits_with", "_score"):
        monkeypatch.setattr(variants, function, counting(getattr(variants, function)))
    study = STUDIES["interventions"]
    study.run(run, SMALL)
    references = 64  # their mean branches run in a program of their own
    assert study.estimate(run, SMALL).forward - references == 8 * len(passes)


def test_the_speed_is_that_of_the_fastest_round_without_the_compilation(run):
    """By a clock that goes on by one second more at each reading: 1, 3, 6, 10, …"""
    readings = iter(range(1, 100))
    now = SimpleNamespace(seconds=0)

    def clock():
        now.seconds += next(readings)
        return now.seconds

    found = speed.measure_speed(run, dataclasses.replace(SMALL, batch_size=8), clock=clock)
    # Rounds take 2, 4 and 6 seconds, then 8, 10 and 12, then 14, 16 and 18.
    assert found.forward == 4 / (2 * 8) and found.compilation == 0
    assert found.walked == pytest.approx(10 / (8 * prefixes.count_passes(np.array([[0, 1, 2, 3, ~4]]))))
    assert found.backward == 16 / (3 * 8)


def test_compilation_is_timed_without_the_cache(run, monkeypatch):
    """Else a second look would take the time of loading a program for that of compiling another one."""
    cached = []

    def measure(*given, **how):
        cached.append(jax.config.jax_enable_compilation_cache)

    monkeypatch.setattr(speed, "measure", measure)
    before = jax.config.jax_enable_compilation_cache
    speed.measure_speed(run, SMALL, clock=itertools.count().__next__)
    assert cached == [False, before, before]
