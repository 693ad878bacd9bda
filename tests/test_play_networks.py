"""The page on other kinds of networks: it shows the numbers that the copied lines print, or says why not."""

import contextlib
import io
import json
import sys
import types

import jax
import numpy as np
import pytest
from discover_helpers import MAKERS
from run_helpers import tiny_run
from test_any_network import found

from resjax.analysis import load_run
from resjax.cut.steps import CutOptions, cut_run
from resjax.play.as_python import as_python
from resjax.play.live import Live, Sizes
from resjax.play.state import Wrong, read
from resjax.studies.given import load_network

FOUND = {
    "U-Net": True,
    "haiku: ResNet": True,
    "haiku: decoder": False,
    "equinox: pre-activation ResNet": False,
    "equinox: ViT": False,
    "plain_jax: decoder with padding": False,
}
RUNS = {
    "vit": {"model": "vit", "size": "digits", "depth": 2, "width": 8},
    "stochastic depth": {"unit_dropout": "linear"},
    "cut": {},
}


def subject_of(name, folder):
    if name in FOUND:
        module = types.ModuleType("network_of_a_play_test")
        given = found(name, FOUND[name], folder).given
        module.make = lambda: given  # type: ignore[attr-defined]
        sys.modules["network_of_a_play_test"] = module
        return load_network("network_of_a_play_test:make")
    run = tiny_run(folder / "run", **RUNS[name])
    if name == "cut":
        cut_run(
            run, folder / "cut", count=1, programs=("batch",), budget=1.0, options=CutOptions(examples=16)
        )
        return load_run(folder / "cut")
    return run


@pytest.fixture(scope="module", params=[
    pytest.param(name, marks=[pytest.mark.skipif(":" in name and name not in MAKERS, reason="not installed")])
    for name in (*FOUND, *RUNS)
])  # fmt: skip
def live(request, tmp_path_factory):
    with jax.numpy_rank_promotion("allow"):
        return Live(subject_of(request.param, tmp_path_factory.mktemp("play")), Sizes(12, 5))


def states(live):
    """A deletion, a factor, and the first two units of one kind exchanged, as the page sends them."""
    n = live.network.num_units
    unit = int(np.flatnonzero(live.subject.deletable)[-1])
    order = list(range(n))
    pair = next((own[:2].tolist() for own in live.network.classes if len(own) > 1), None)
    if live.network.chained and pair:
        order[pair[0]], order[pair[1]] = pair[::-1]
    for gate in (0.0, 0.5):
        yield {"gates": [gate if u == unit else 1 for u in range(n)], "order": order}


@pytest.mark.slow
@pytest.mark.usefixtures("foreign_code")
def test_the_numbers_are_those_of_the_copied_lines(live):
    json.dumps(live.described(), allow_nan=False)
    losses = []
    for given in states(live):
        own = read(given, live.network, live.subject.deletable, live.has_statistics)
        shown = live.measure(own)
        json.dumps(shown, allow_nan=False)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(as_python(live, own), {})
        error, loss = (float(line.split()[1]) for line in printed.getvalue().splitlines())
        np.testing.assert_allclose([shown["error"], shown["loss"]], [error, loss], rtol=2e-5)
        assert (shown["branch"] is None) == (not live.network.chained)
        losses.append(shown["loss"])
    assert len({*losses, live.described()["intact"]["loss"]}) == 3


@pytest.mark.slow
@pytest.mark.usefixtures("foreign_code")
def test_the_gradient_is_sorted_or_the_reason_is_told(live):
    own = read(next(states(live)), live.network, live.subject.deletable, live.has_statistics)
    try:
        found = live.gradient(own)
    except Wrong as reason:
        assert len(str(reason)) > 15
    else:
        json.dumps(found, allow_nan=False)
        assert sum(found["share"]) > 0


@pytest.mark.slow
@pytest.mark.usefixtures("foreign_code")
def test_the_greedy_order_is_chosen_or_the_reason_is_told(live):
    if live.subject.has_training_examples:
        assert sorted(live.greedy_order) == np.flatnonzero(live.subject.deletable).tolist()
    else:
        with pytest.raises(Wrong, match="none were given"):
            _ = live.greedy_order


@pytest.mark.slow
@pytest.mark.usefixtures("foreign_code")
def test_statistics_are_estimated_again_where_there_are_some(live):
    given = {**next(states(live)), "reestimated": True}
    if live.has_statistics:
        own = read(given, live.network, live.subject.deletable, True)
        assert live.measure(own)["loss"] > 0
    else:
        with pytest.raises(Wrong, match="no statistics of BatchNorm that could be re-estimated"):
            read(given, live.network, live.subject.deletable, False)
