"""The time of programs in turns, by a clock of the test, and what is said of a line."""

import re

import numpy as np
import pytest
from network_helpers import draw, logits_of
from test_cut import IMAGE, built, images

from resjax.studies.cutting.cost import Line, forward_pass, latency, line_told, median


class Clock:
    def __init__(self):
        self.now, self.calls = 0.0, []

    def program(self, name, seconds):
        def call():
            self.calls.append(name)
            self.now += seconds

        return call


def test_programs_take_turns_and_count_as_means():
    clock = Clock()
    programs = {"slow": clock.program("slow", 0.4), "fast": clock.program("fast", 0.1)}
    found = latency(programs, rounds=3, seconds=0.35, clock=lambda: clock.now)
    np.testing.assert_allclose(found["slow"], [0.4] * 3)
    np.testing.assert_allclose(found["fast"], [0.1] * 3)
    slow, fast = ["slow"], ["fast"] * 4
    first = ["slow"] * 2 + ["fast"] * 2  # not counted, then to choose the number of calls
    assert clock.calls == first + slow + fast + fast + slow + slow + fast


def test_progress_counts_rounds():
    told, clock = [], Clock()
    latency(
        {"a": clock.program("a", 1)}, rounds=2, clock=lambda: clock.now, progress=lambda *at: told.append(at)
    )
    assert told == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.parametrize(("budget", "rounds"), [(100, 9), (6.5, 3), (1, 2)])
def test_a_budget_lessens_the_rounds(budget, rounds):
    clock = Clock()
    programs = {"a": clock.program("a", 1.5), "b": clock.program("b", 0.5)}
    found = latency(programs, rounds=9, budget=budget, clock=lambda: clock.now)
    assert len(found["a"]) == len(found["b"]) == rounds


def test_one_round_is_refused():
    with pytest.raises(ValueError, match=r"^rounds=1; allowed: 2 or more"):
        latency({}, rounds=1)


def test_the_median_has_an_interval():
    value, low, high = median([1, 2, 3, 4, 50])
    assert value == 3 and 1 <= low < 3 < high <= 50


def test_the_forward_pass_is_that_of_the_network():
    network, shape = built("post")
    variables, x = draw(network, IMAGE), images(shape, 2)
    np.testing.assert_allclose(
        forward_pass(network, variables, x)(), logits_of(network, variables, x), rtol=1e-5
    )


GONE = np.array([0, 3, 6, 9])
PRODUCTS = np.array([100.0, 70, 40, 10])


def turns(medians):
    return np.array(medians)[:, None] + np.array([-1e-3, 0, 1e-3])[None]


def test_a_line():
    line = Line.through(GONE, turns(10 - 0.5 * GONE))
    assert line.straight and line.at_zero == pytest.approx(10) and line.slope == pytest.approx(-0.5)
    bent = Line.through(GONE, turns([10, 10, 10, 4]))
    assert not bent.straight and bent.apart == pytest.approx(0.24)
    with pytest.raises(ValueError, match="2 points"):
        Line.through([0, 1], turns([1, 2]))


def test_what_is_said_of_a_line():
    straight = line_told(GONE, PRODUCTS, turns(10 - 0.5 * GONE))
    assert "each unit saves 5.00 % of the intact time, and 10.00 % of its multiply-adds" in straight
    assert re.search(r"is a straight line \(the farthest median is 0\.0 %", straight)
    uneven = np.array([100.0, 98, 96, 20])
    assert "because the units differ in cost: against multiply-adds it is one (0.0 %)" in line_told(
        GONE, uneven, turns(uneven / 10)
    )
    neither = line_told(GONE, PRODUCTS, turns([10, 3, 9, 4]))
    assert "nor is it against multiply-adds" in neither
    noisy = np.array([10, 3, 9, 4])[:, None] + np.array([-6, 0, 6])[None]
    assert "can't be told: the farthest median is" in line_told(GONE, PRODUCTS, noisy)
