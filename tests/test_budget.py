"""How minutes are spread over studies: ``resjax.studies.budget`` and ``resjax.report.plan``, with speeds that
are made up."""

import dataclasses
import math
from types import SimpleNamespace

import pytest

from resjax.report import plan as planning
from resjax.studies.budget import RANGES, Budget, at_least, changing, choose, floors, ladder
from resjax.studies.costs import Cost, Speed
from resjax.studies.options import Options

FULL = Options()


def priced(scale=1.0):
    """Studies of several kinds, in seconds."""
    return {
        "free": lambda o: 0.0,
        "fixed": lambda o: scale * 3.0,
        "examples": lambda o: scale * (2 + 0.01 * o.max_examples),
        "few examples": lambda o: scale * (2 + 0.1 * min(o.max_examples, 200)),
        "draws": lambda o: scale * (1 + 0.002 * o.max_examples * o.draws),
        "paths": lambda o: scale * (5 + 0.5 * o.path_draws + o.gradient_batches),
        "statistics": lambda o: scale * 0.004 * (o.max_examples + o.reference),
    }


def total(prices, chosen):
    return sum(prices[name](options) for name, options in chosen.items())


def test_rungs_are_powers_of_two_up_to_the_full_value():
    assert ladder("max_examples", 397) == [64, 128, 256, 397]
    assert ladder("max_examples", 10) == [10]
    assert ladder("draws", 30) == [8, 16, 30]


def test_an_option_that_changes_no_price_keeps_its_full_value():
    assert changing(priced()["paths"], FULL) == ["path_draws", "gradient_batches"]
    assert choose(priced(), FULL, 1)["free"] == FULL
    assert choose(priced(), FULL, 1)["paths"].max_examples == FULL.max_examples


@pytest.mark.parametrize("minutes", [0.6, 1, 2, 5, 20, 100])
def test_it_fits_and_more_time_makes_nothing_worse(minutes):
    prices = priced()
    chosen, more = (choose(prices, FULL, m) for m in (minutes, 1.3 * minutes))
    assert total(prices, chosen) <= 60 * minutes
    assert set(chosen) <= set(more)
    if set(chosen) == set(more):
        assert all(at_least(more[name], chosen[name]) for name in chosen)
    for options in chosen.values():
        assert at_least(options, floors(FULL))


def test_training_on_is_done_as_given_or_not_at_all():
    prices = {
        "cut": lambda o: 5.0 + 40 * (o.cut_training != "0 steps"),
        "lesion": lambda o: 0.01 * o.max_examples,
    }
    assert ladder("cut_training", "2 epochs") == ["0 steps", "2 epochs"]
    assert ladder("cut_training", "0 epochs") == ["0 epochs"]
    few, many = (choose(prices, FULL, minutes) for minutes in (0.5, 1.5))
    assert few["cut"].cut_training == "0 steps" and few["lesion"].max_examples >= 1024
    assert many["cut"] == FULL and at_least(many["cut"], few["cut"]) and not at_least(few["cut"], many["cut"])
    given = dataclasses.replace(FULL, cut_training="9 steps")
    assert not at_least(given, FULL) and not at_least(FULL, given)
    assert "cut" not in choose(prices, given, 0.5, fixed={"cut_training"})


def test_with_all_the_time_everything_is_full():
    prices = priced()
    enough = total(prices, dict.fromkeys(prices, FULL)) / 60
    assert choose(prices, FULL, enough * 1.001) == dict.fromkeys(prices, FULL)
    assert choose(prices, FULL, enough * 0.99) != dict.fromkeys(prices, FULL)


def test_steps_that_cost_nothing_are_taken():
    """A study that never uses more than 200 examples has the options of a full analysis."""
    chosen = choose({"few examples": priced()["few examples"]}, FULL, 1)
    assert chosen["few examples"].max_examples == FULL.max_examples


def test_the_dearest_are_left_out_where_the_floors_do_not_fit():
    prices = {"cheap": lambda o: 0.1 * o.max_examples, "dear": lambda o: 10.0 * o.max_examples}
    chosen = choose(prices, FULL, 1)
    assert list(chosen) == ["cheap"] and chosen["cheap"].max_examples == 512
    assert choose(prices, FULL, 0.01) == {}
    assert list(choose(prices, FULL, 20)) == ["cheap", "dear"]


def test_sixty_four_times_the_cost_gets_a_sixteenth_of_the_examples():
    """The smallest sum of half-widths at a fixed time, n ∝ cost^(−2/3)."""
    prices = {"one": lambda o: 0.001 * o.max_examples, "dear": lambda o: 0.064 * o.max_examples}
    for minutes in (0.1, 0.2, 0.4):
        chosen = choose(prices, FULL, minutes)
        counts = [chosen[name].max_examples for name in prices]
        assert counts[0] / counts[1] in (8, 16, 32)
        rungs = ladder("max_examples", FULL.max_examples)
        within = total(prices, chosen)
        pairs = [(a, b) for a in rungs for b in rungs if 0.001 * a + 0.064 * b <= within]
        best = min(a**-0.5 + b**-0.5 for a, b in pairs)
        assert sum(n**-0.5 for n in counts) == pytest.approx(best)


def test_what_is_given_is_kept():
    given = dataclasses.replace(FULL, draws=5, max_examples=300)
    chosen = choose(priced(), given, 0.7, fixed={"draws", "max_examples"})
    assert {(o.draws, o.max_examples) for o in chosen.values()} == {(5, 300)}
    assert chosen["paths"].path_draws < FULL.path_draws
    smaller = choose(priced(), dataclasses.replace(FULL, max_examples=300), 100)
    assert {o.max_examples for o in smaller.values()} == {300}  # the largest value, not the only one


@pytest.mark.parametrize("scale", [0.8, 1.2])
def test_a_little_more_speed_moves_an_option_by_one_rung_at_most(scale):
    one, other = choose(priced(), FULL, 2), choose(priced(scale), FULL, 2)
    for name in one:
        for field in RANGES:
            rungs = ladder(field, getattr(FULL, field))
            places = [rungs.index(getattr(chosen[name], field)) for chosen in (one, other)]
            assert abs(places[0] - places[1]) <= 1, (name, field)


@pytest.mark.parametrize("minutes", [0, -1, math.nan])
def test_minutes_are_positive(minutes):
    with pytest.raises(ValueError, match="allowed: more than 0"):
        Budget(minutes)


# --- with runs and finished results ---


def study(name, cost):
    return SimpleNamespace(
        name=name, title=name.capitalize(), unsuited=lambda run: None, estimate=lambda run, o: cost(o)
    )


STUDIES = [
    study("lesion", lambda o: Cost(forward=10 * o.max_examples, evaluated=o.max_examples)),
    study("sets", lambda o: Cost(walked=o.draws * o.max_examples, evaluated=o.max_examples)),
    study("curves", lambda o: Cost()),
]
RUNS = [SimpleNamespace(label=label) for label in ("a", "b")]


@pytest.fixture
def machine(monkeypatch):
    """Finished results as {(run, study): options}, and how fast the machine is."""
    machine = SimpleNamespace(kept={}, slow=1.0, measured=0)

    def speed(run, options):
        machine.measured += 1
        return Speed(*(machine.slow * v for v in (0.001, 0.002, 0.003, 1.0)))

    def load(run, study, options):
        return True if machine.kept.get((run.label, study.name)) == options else None

    monkeypatch.setattr(planning, "measure_speed", speed)
    monkeypatch.setattr(planning.kept, "load", load)
    monkeypatch.setattr(
        planning.kept, "options_of", lambda run, study: machine.kept.get((run.label, study.name))
    )
    return machine


def made(machine, minutes=1.0, runs=RUNS, keep=False):
    plan = planning.plan(runs, STUDIES, FULL, Budget(minutes))
    if keep:
        for name, one in plan.studies.items():
            machine.kept |= {(run.label, name): one.options for run in runs}
    return plan


def options_of(plan):
    return {name: one.options for name, one in plan.studies.items()}


def test_a_plan_has_the_times_of_all_runs_and_fits(machine):
    plan = made(machine)
    assert plan.seconds <= 60 < plan.full
    assert set(plan.studies["lesion"].seconds) == {"a", "b"}
    chosen = plan.studies["lesion"].options.max_examples
    assert sum(plan.studies["lesion"].seconds.values()) == pytest.approx(2 * 0.01 * chosen)
    assert plan.studies["lesion"].sizes == f"{chosen:,} examples"
    assert planning.headline(plan) == "quick look (1 minute)"


@pytest.mark.parametrize("slow", [0.85, 1.0, 1.15, 3.0])
def test_the_same_command_loads_what_is_there(machine, slow):
    """Also on a machine that is a little faster, or much slower, than at the first time."""
    for minutes in (0.7, 1.0, 1.4, 2.0, 2.8, 4.0):
        machine.kept, machine.slow = {}, 1.0
        first = options_of(made(machine, minutes, keep=True))
        machine.slow = slow
        again = made(machine, minutes)
        assert options_of(again) == first
        assert all(not one.seconds for one in again.studies.values())


def test_with_more_time_what_is_there_is_refined(machine):
    first = options_of(made(machine, keep=True))
    second = options_of(made(machine, minutes=4, keep=True))
    assert all(at_least(second[name], first[name]) for name in first) and second != first
    assert options_of(made(machine, minutes=1)) == second  # with less time it is not made worse


def test_a_run_without_results_follows_those_of_the_other(machine):
    """As after a stop between two runs; unless that would take far more time than there is."""
    first = made(machine, keep=True)
    del machine.kept["b", "lesion"]
    machine.slow = 1.1
    assert set(made(machine).studies["lesion"].seconds) == {"b"}
    assert options_of(made(machine)) == options_of(first)
    machine.kept["a", "lesion"] = FULL
    assert made(machine).studies["lesion"].options != FULL


def test_of_everything_nothing_is_measured_where_all_is_there(machine):
    plan = made(machine, minutes=math.inf, keep=True)
    assert plan.studies["sets"].options == FULL and machine.measured == 2
    assert made(machine, minutes=math.inf).studies["sets"].seconds == {}
    assert machine.measured == 2
    assert planning.headline(plan) == "everything (--full)"


def test_what_is_too_coarse_and_what_is_left_out_is_said(machine):
    plan = made(machine)
    few = plan.studies["sets"].evaluated
    said = planning.coarse(plan)
    assert f"on {few:,} examples (" in said and "sets" in said and "curves" not in said
    half = plan.studies["sets"].half_width
    assert (
        1.96 * math.sqrt(0.09 / few) == pytest.approx(half, rel=0.06) and f"±{100 * half:.1f} points" in said
    )
    assert planning.coarse(made(machine, minutes=math.inf)) == ""  # ±0.6 points on 10,000 examples
    machine.slow = 50
    said = planning.left_out(made(machine))
    (text,) = said
    assert text.startswith("Not measured in 1 minute, with the time that the smallest form of each takes: ")
    assert "lesion (1 min) and" in text and text.endswith("Give more --minutes, or name fewer --studies.")


def test_what_is_there_is_shown_even_if_it_would_not_fit(machine):
    first = options_of(made(machine, keep=True))
    machine.slow = 50
    assert options_of(made(machine)) == first
    del machine.kept["b", "sets"]
    assert "sets" not in options_of(made(machine))


def test_what_is_finer_is_kept_also_where_less_time_leaves_a_study_out(machine):
    """Then the others would have more than now, and what is there need not be as fine as that."""
    between = dataclasses.replace(FULL, max_examples=100)
    machine.kept |= {(run.label, "lesion"): between for run in RUNS}
    plan = made(machine, minutes=7.9 / 60)
    assert plan.studies["sets"].options.draws == 8 and "sets" not in options_of(made(machine, 6.3 / 60))
    assert plan.studies["lesion"].options == between and not plan.studies["lesion"].seconds


def test_a_study_that_cannot_be_estimated_waits_for_its_turn(machine, monkeypatch):
    """It tells then why it fails or is refused; so do all where the network can't run."""

    def fails(*_):
        raise KeyError("stage9")

    broken = study("broken", fails)
    plan = planning.plan(RUNS, [broken, *STUDIES], FULL, Budget(1))
    assert set(plan.studies) == {"lesion", "sets", "curves"} and not plan.left_out
    monkeypatch.setattr(planning, "measure_speed", fails)
    assert options_of(made(machine)) == dict.fromkeys(("lesion", "sets", "curves"), FULL)
