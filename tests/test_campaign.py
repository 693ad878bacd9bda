"""The campaign of kills and damages: its small form, and the functions that judge."""

import json
import os
import subprocess
import sys

import pytest
from script_helpers import REPOSITORY, environment

sys.path.append(str(REPOSITORY))

from tests.campaign import contents, trace
from tests.campaign.outcome import Outcome
from tests.campaign.phases import FUNCTIONS, Event, Phase, Span, inside, spans
from tests.campaign.table import table

# Each in another way: killed before an operation on files, stopped, and damaged with and without a refusal.
CASES = ("kill-5", "kill-17", "stop-2", "damage-0", "damage-1", "damage-13")


@pytest.mark.slow
def test_a_small_campaign_loses_nothing(tmp_path):
    own = [sys.executable, "-m", "tests.campaign", f"--only={','.join(CASES)}", f"--folder={tmp_path}"]
    done = subprocess.run(own, cwd=REPOSITORY, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "campaign.json").read_text())
    assert [case["name"] for case in record["cases"]] == list(CASES)
    killed = record["cases"][0]
    assert killed["facts"]["status"] == -9 and killed["facts"]["in_phase"] and killed["facts"]["starts"] >= 1
    assert "| kill | all | 2 | 2 | 0 | 0 | 2 |" in done.stdout


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_phase_has_its_functions(function):
    owner, name = trace.located(function)
    assert callable(getattr(owner, name))


def test_a_phase_that_has_gone_is_named():
    with pytest.raises(ValueError, match=r"no resjax\.training.loop:walk; mend the table PHASES"):
        trace.located("resjax.training.loop:walk")


SAVE = Phase("train", ">save", "<save")
EVENTS = [
    Event(0.0, 0, ">process"), Event(1.0, 2, ">save"), Event(1.5, 9, "<save"),
    Event(2.0, 9, ">save"), Event(4.0, 19, "<save"), Event(5.0, 20, ">save"),
]  # fmt: skip


def test_the_occurrences_of_a_phase():
    assert spans(SAVE, EVENTS) == [Span(1, 0.5, 7), Span(2, 2.0, 10)]
    assert spans(Phase("train", ">process", ">save"), EVENTS) == [Span(1, 1.0, 2)]
    assert [inside(SAVE, n, EVENTS) for n in (1, 2, 3, 4)] == [False, False, True, False]


def test_a_process_tells_of_itself_and_kills_itself_at_an_operation(tmp_path):
    os.mkfifo(tmp_path / "events")
    told = os.open(tmp_path / "events", os.O_RDONLY | os.O_NONBLOCK)
    code = """
from pathlib import Path
from tests.campaign import trace
events = {"pipe": "events", "functions": ["glob:glob"]}
trace.install(events, {"event": "<glob:glob", "occurrence": 1, "operation": 1})
import glob
Path("first").touch()
glob.glob("*")
for name in ("second", "third", "fourth"):
    Path(name).touch()
"""
    own = [sys.executable, "-c", code]
    done = subprocess.run(own, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    lines = [line.split()[1:] for line in os.read(told, 10_000).decode().splitlines()]
    os.close(told)
    assert done.returncode == -9
    assert {path.name for path in tmp_path.iterdir()} == {"events", "first", "second"}
    assert [name for _, name in lines] == [">process", ">glob:glob", "<glob:glob"]
    assert int(lines[1][0]) - int(lines[0][0]) == 1


def test_what_a_stop_does_to_the_log_is_no_difference():
    truth = [{"step": 20, "loss": 1.0, "error": 0.5, "norms": 3}, {"step": 20, "test_loss": 1.5}]
    found = [{"step": 12, "loss": 9.0, "error": 0.9}, {**truth[0], "loss": 0.2, "error": 0.1}, truth[1]]
    assert contents.after_a_stop(found, truth) == truth
    assert contents.after_a_stop(truth, truth) == truth
    wrong = [*found[:2], {"step": 20, "test_loss": 1.6}]
    assert contents.after_a_stop(wrong, truth) != truth
    later = [{**truth[0], "loss": 0.2}, truth[1]]  # there was no record before it
    assert contents.after_a_stop(later, truth) != truth


def test_a_stop_may_keep_other_checkpoints_but_the_last():
    truth = {"run/checkpoints/80": 1, "run/checkpoints/120": 2, "run/config.json": 3}
    found = {"run/checkpoints/97": 9, "run/checkpoints/120": 2, "run/config.json": 3}
    contents.same_checkpoints(found, truth)
    assert found == truth == {"run/checkpoints/120": 2, "run/config.json": 3}
    without = {"run/checkpoints/97": 9}
    contents.same_checkpoints(without, truth)
    assert contents.difference(without, truth) == "run/checkpoints/120 is missing"


def test_folders_are_compared_without_dates_and_speeds(tmp_path):
    for name, speed, loss in (("one", 10, 0.5), ("two", 20, 0.5), ("three", 20, 0.6)):
        run = tmp_path / name / "run"
        (run / "studies").mkdir(parents=True)
        (run / "metrics.jsonl").write_text(json.dumps({"step": 1, "images_per_second": speed, "loss": loss}))
        kept = {"key": "k", "made": {"date": name}, "result": {"error": [0.5, float("nan")]}}
        (run / "studies/lesion.json").write_text(json.dumps(kept))
        (run / ".config.json.77").write_text(name)
    one, two, three = (contents.contents(tmp_path / name, ["run"]) for name in ("one", "two", "three"))
    assert set(one) == {"run/metrics.jsonl", "run/studies/lesion.json"}
    assert contents.difference(one, two) == ""
    assert contents.difference(one, three) == "run/metrics.jsonl: [0] loss: 0.5, not 0.6"
    assert contents.difference({}, one) == "run/metrics.jsonl is missing"
    assert contents.difference(one, {}) == "run/metrics.jsonl is there besides"


def test_the_table_counts_what_was_lost():
    outcomes = [
        Outcome("kill-0", "save", True, "", {"in_phase": True}),
        Outcome("kill-1", "start", False, "", {"in_phase": False}),
        Outcome("damage-0", "import: file", True, "", {"promised": False}),
    ]
    lines = table(outcomes).splitlines()
    assert {line.count("|") for line in lines} == {8}  # as many columns in the head as below
    rows = lines[2:]
    assert rows == [
        "| damage | import: file | 1 | 0 | 0 | 1 |  |", "| damage | all | 1 | 0 | 0 | 1 |  |",
        "| kill | save | 1 | 1 | 0 | 0 | 1 |", "| kill | start | 1 | 0 | 1 | 0 | 0 |",
        "| kill | all | 2 | 1 | 1 | 0 | 1 |",
    ]  # fmt: skip
