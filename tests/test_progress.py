"""The progress of long work, by a clock that is made up."""

import io

import pytest
from rich.console import Console

from resjax.report.progress import progress, seconds_left
from resjax.studies.words import duration


def test_where_there_is_no_terminal_a_line_a_minute_is_printed():
    now, out = [0.0], io.StringIO()
    with progress(Console(file=out), total=400.0, clock=lambda: now[0]) as task:
        for name, seconds in (("lesion: a", 100.0), ("pairs: a", 300.0)):
            with task(name, seconds) as tell:
                for i in range(101):
                    tell(i, 100)
                    now[0] += 2 * seconds / 100  # twice the estimate
    lines = out.getvalue().splitlines()
    assert [line for line in lines if "%" not in line] == ["lesion: a", "pairs: a"]
    told = [line for line in lines if "%" in line]
    times = range(60, 800, 60)
    assert [int(line.split(": ")[2].split(" %")[0]) for line in told] == pytest.approx(
        [t / 8 for t in times], abs=1
    )
    assert told[0] == "lesion: a: 8 %, about 9 min left"  # 14 min as the first minute went, 6 as estimated
    assert told[-1] == "pairs: a: 98 %, about 17 s left"


def test_without_an_estimate_a_task_has_its_own_progress():
    now, out = [0.0], io.StringIO()
    with progress(Console(file=out), clock=lambda: now[0]) as task, task("edges") as tell:
        for i in range(5):
            tell(i, 4)
            now[0] += 50
    assert out.getvalue().splitlines() == ["edges", "edges: 50 %, about 2 min left", "edges: 100 %"]


def test_the_rest_is_scaled_by_what_the_finished_part_took():
    assert seconds_left(100, 0, 0) == 100
    assert seconds_left(100, 50, 50) == 50
    assert seconds_left(100, 50, 110) == pytest.approx(100)  # (110 + 10) / (50 + 10) of 50
    assert seconds_left(100, 100, 500) == 0


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "1 s"), (42, "42 s"), (59.7, "1 min"), (100, "2 min"), (3600, "1 h"), (4000, "1 h 7 min"),
     (2e5, "56 h")],
)  # fmt: skip
def test_durations(seconds, said):
    assert duration(seconds) == said
