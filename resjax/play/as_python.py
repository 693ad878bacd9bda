"""A state of the page as lines of Python, which compute its numbers with public functions."""

from __future__ import annotations

from resjax.models import runs_code
from resjax.play.live import REFERENCE, Live
from resjax.play.state import State
from resjax.studies.given import GivenNetwork
from resjax.studies.run import Run


def as_python(live: Live, state: State) -> str:
    """Lines that print the error and the loss of a network in this state."""
    changes = _changes(state)
    loader, loading = _loader(live)
    names = [loader, *(["reestimate"] if state.reestimated else [])]
    arguments = "".join(f", {name}={name}" for name in changes)
    lines = [
        *(["import numpy as np", ""] if changes else []),
        f"from resjax.analysis import {', '.join(names)}",
        "",
        f"run = {loading}",
        f"network, variables, inputs, labels = run.evaluation({live.sizes.examples})",
        *(line for own in changes.values() for line in own),
    ]
    if state.reestimated:
        lines += [
            f'reference, _ = run.examples("train", {REFERENCE}, augmented=True)',
            f"variables = reestimate(network, variables, reference{arguments})",
        ]
    lines += [
        f"logits = network.apply(variables, inputs{arguments}).logits",
        'print("error", run.metric(logits, labels).mean())',
        'print("loss", run.loss(logits, labels).mean())',
    ]
    return "\n".join(lines) + "\n"


def _loader(live: Live) -> tuple[str, str]:
    """The public function that loads the network, and its call."""
    subject = live.subject
    if isinstance(subject, Run):
        builder = subject.config.model.name
        allowed = f", allow_code={builder!r}" if runs_code(builder) else ""
        return "load_run", f"load_run({str(subject.workdir)!r}{allowed})"
    assert isinstance(subject, GivenNetwork)
    return "load_network", f"load_network({subject.source or 'package.module:make'!r})"


def _changes(state: State) -> dict[str, list[str]]:
    """{argument of ``Network.apply``: the lines that make it}, of those that the state changes."""
    n, found = len(state.gates), {}
    factors: dict[float, list[int]] = {}
    for unit, gate in enumerate(state.gates):
        if gate != 1:
            factors.setdefault(gate, []).append(unit)
    if factors:
        found["gates"] = [
            f"gates = np.ones({n}, np.float32)  # a factor on each branch",
            *(f"gates[{units}] = {gate:g}" for gate, units in factors.items()),
        ]
    if state.moved:
        places = [place for place, unit in enumerate(state.order) if place != unit]
        units = [state.order[place] for place in places]
        found["order"] = [f"order = np.arange({n})  # the unit at each place", f"order[{places}] = {units}"]
    return found
