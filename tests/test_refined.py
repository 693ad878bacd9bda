"""A quick look, a longer one, then everything: each refines what is there, and nothing gets worse."""

import dataclasses
import math

import pytest
from run_helpers import tiny_run

from resjax.analysis import load_run
from resjax.analyze import analyze
from resjax.report import kept, plan, write
from resjax.report.write import read
from resjax.studies.budget import Budget, at_least, floors
from resjax.studies.catalogue import STUDIES
from resjax.studies.costs import Speed
from resjax.studies.lesions.known import KnownScores
from resjax.studies.options import Options

NAMES = ["lesion", "deletions", "reorder"]
FULL = Options(max_examples=64, draws=12, reference=32, batch_size=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    tiny_run(path, stage_sizes=(7,), widths=(2,))
    (path / "metrics.jsonl").write_text("")
    return path


@pytest.fixture(autouse=True)
def slow_machine(monkeypatch):
    """A pass takes 20 ms; no figure is drawn."""
    monkeypatch.setattr(plan, "measure_speed", lambda run, options: Speed(0.02, 0.02, 0.02, 0.0))
    monkeypatch.setattr(write, "picture", lambda draw, alt, table, labels: "")
    monkeypatch.setattr(write, "save", lambda draw, directory, name: [])


def planned(folder, names, options, minutes):
    return plan.plan([load_run(folder)], [STUDIES[name] for name in names], options, Budget(minutes))


def seconds_of(folder, names, options):
    """Of studies that all have these options, without a look at finished results."""
    run, speed = load_run(folder), Speed(0.02, 0.02, 0.02, 0.0)
    return sum(plan.DRAWING + STUDIES[name].estimate(run, options).seconds(speed) for name in names)


def losses(result, rows):
    """{row: loss} of a result, whose field ``rows`` says what was measured."""
    variants = zip(getattr(result, rows).tolist(), result.loss.tolist(), strict=True)
    return {tuple(row): loss for row, loss in variants}


@pytest.mark.slow
def test_draws_are_added_and_nothing_gets_worse(folder, tmp_path, monkeypatch, capsys):
    measured, missing = [], KnownScores.missing  # (changed network, example)

    def noted(self, places, examples):
        for first, end, new in missing(self, places, examples):
            rows = {row.tobytes() for row in places[new]}
            measured.extend((row, i) for row in rows for i in range(first, end))
            yield first, end, new

    monkeypatch.setattr(KnownScores, "missing", noted)

    def look(minutes):
        """Options, results and the report."""
        path = analyze([folder], NAMES, tmp_path, FULL, budget=Budget(minutes))
        run = load_run(folder)
        options = {name: kept.options_of(run, STUDIES[name]) for name in NAMES}
        results = {name: read(tmp_path / f"{name}.json", STUDIES[name])[folder.name] for name in NAMES}
        return options, results, path.read_text("utf-8")

    least = seconds_of(folder, NAMES, floors(FULL)) / 60
    first, few, shown = look(least * 1.001)
    assert first["deletions"].draws == first["reorder"].draws == 8
    assert "Quick look" in shown and "--draws=8" in shown
    reached = [first]  # then there is time for more draws of one study, then for those of both
    for minutes in (seconds_of(folder, NAMES, FULL) / 60 * 0.99, math.inf):
        before = len(measured)
        options, results, shown = look(minutes)
        assert all(at_least(options[name], reached[-1][name]) for name in NAMES)
        grown = any(options[name].draws > reached[-1][name].draws for name in NAMES)
        assert (len(measured) > before) == grown
        reached.append(options)
        done = capsys.readouterr().err
        assert f"{STUDIES['lesion'].title}: {folder.name} (done before)" in done
    assert {own.draws for own in reached[1].values()} == {8, 12}
    assert [reached[-1][name].draws for name in ("deletions", "reorder")] == [12, 12]
    assert "Everything (--full)" in shown and "Quick look" not in shown
    for name, rows in (("deletions", "deleted"), ("reorder", "order")):
        before, after = (losses(own[name], rows) for own in (few, results))
        assert before.items() < after.items()
    before = len(measured)
    assert look(least * 1.001)[0] == reached[-1]  # with less time nothing is made worse
    assert len(measured) == before == len(set(measured))  # and nothing was measured twice


def test_the_table_names_the_smallest_sizes_too(folder):
    options = dataclasses.replace(FULL, max_examples=256, seed=1)  # so that no finished result is found
    plan_ = planned(folder, NAMES, options, seconds_of(folder, NAMES, floors(options)) / 60 + 0.001)
    assert [sizes for _, _, sizes, _ in plan.rows(plan_)] == ["64 examples", *["64 examples, 8 draws"] * 2]


@pytest.mark.slow
def test_without_time_a_study_of_cuts_does_not_train(folder):
    """The table says so; with more time it trains, and what was given is kept."""
    options = dataclasses.replace(FULL, cut_training="30 steps")
    without = dataclasses.replace(options, cut_training="0 steps")
    cheap, dear = (seconds_of(folder, ["cut"], own) for own in (without, options))
    assert dear - cheap > 20  # 3 networks, 30 steps of 16 examples, 3 passes of 20 ms, some units cut
    few, many = (planned(folder, ["cut"], options, seconds / 60 + 0.01) for seconds in (cheap, dear))
    assert few.studies["cut"].options == without and many.studies["cut"].options == options
    ((name, _, sizes, _),) = plan.rows(few)
    assert name == "cut" and sizes.endswith("no steps of training on")
    assert plan.rows(many)[0][2].endswith("30 steps of training on")
