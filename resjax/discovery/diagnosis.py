"""Why a function has no units that can be taken apart, and what was found instead."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from resjax.discovery import units
from resjax.discovery.anatomy import Anatomy
from resjax.discovery.given import Given
from resjax.discovery.graph import CONTRACTIONS, contractions_in
from resjax.discovery.linear import linear_in
from resjax.discovery.refusal import NotFound

_DRAWS = {"random_bits", "threefry2x32", "rng_bit_generator", "random_gamma"}
_LOOPS = {"scan": "scan", "while": "while_loop or fori_loop", "cond": "cond or switch"}


def check_trace(given: Given, found: Anatomy, batch: int) -> None:
    """Refuses what makes any finding wrong.

    Raises:
      NotFound: random numbers, or parameters inside the function.
    """
    draws = [node.word for node in _nodes(found) if node.name in _DRAWS]
    if draws:
        raise NotFound(
            f"the function draws random numbers ({', '.join(dict.fromkeys(draws))}): dropout or stochastic "
            "depth is on. Give the function in inference mode (deterministic=True, train=False, "
            "module.eval(), inference_mode) as fn, and the training mode as train_fn="
        )
    inside = _constants_in_layers(found)
    read = {
        a
        for (a, _), v in zip(found.program.origins, found.program.leaves, strict=True)
        if found.graph.uses[v] or v in _read(found)
    }
    own = sum(int(np.prod(leaf.spec.shape)) for i, leaf in enumerate(given.leaves) if i in read)
    held = sum(int(v.size) for v in inside)
    if held > own:
        raise NotFound(
            f"the function holds {len(inside)} arrays of {held:,} numbers itself, which its layers multiply "
            f"with, and reads {own:,} numbers of the variables: give all parameters as variables, "
            "fn(variables, x), instead of closing over them"
        )


def check_units(found: Anatomy, batch: int) -> None:
    """Refuses a function without units, or with states that are no batches.

    Raises:
      NotFound: what was found instead.
    """
    if not found.units or _two_streams(found):
        raise NotFound(_instead(found))
    out = found.program.avals[found.graph.out].shape
    if not out or out[0] != batch:
        raise NotFound(
            f"fn returns logits of shape {list(out)} for a batch of {batch}; their first axis must be the "
            "batch"
        )
    for i, state in enumerate(found.chain.states if found.chain else ()):
        shape = found.program.avals[state].shape
        if not shape or shape[0] != batch:
            name = found.names[min(i, len(found.names) - 1)]
            raise NotFound(
                f"the state at {name} has shape {list(shape)} for a batch of {batch}: its first axis is not "
                "the batch. Give a function whose hidden states are [batch, …], for example with "
                "batch_first=True"
            )


def loops_beside(found: Anatomy) -> list[str]:
    """Loops and branches with layers inside, outside of the units' branches."""
    inside = {k for unit in found.units for k in unit.region}
    return _loops(found, [k for k in found.graph.main if k not in inside])


def _instead(found: Anatomy) -> str:
    others = {reason: len(which) for reason, which in found.others.items()}
    loops = _loops(found, found.graph.main)
    layers = sum(
        linear_in(found.program.nodes[k].eqn, [True] * len(found.program.nodes[k].ins))[1]
        for k in found.graph.main
        if found.graph.signals(k)
    )
    count = len(found.graph.main)
    begin = f"no residual units were found among {count} operations with {layers} products with kernels"
    if loops:
        return (
            f"{begin}: layers run inside {' and '.join(loops)}, which is not looked into. Write the layers "
            "as a Python loop, or as lax.scan over stacked parameters (xs), which is unrolled"
        )
    streams = others.get(units.STREAMS, 0) + others.get(units.CROSSED, 0)
    if others.get(units.CROSSED):
        return (
            f"{begin} that can be told apart: {others[units.CROSSED]} sums add to one stream what was made "
            "of another, as in a reversible network (RevNet). No branch has a shortcut around it; such a "
            "network can't be taken apart as one chain of units"
        )
    if others.get(units.DENSE):
        return (
            f"{begin}: in {others[units.DENSE]} sums the branches share layers, so the layers are densely "
            "connected by sums; no branch can be removed alone. Such a network has no residual units"
        )
    if streams:
        return (
            f"{begin} that can be told apart: in {streams} sums, what lies between a value and the sum is "
            "also used elsewhere, as with dense connections. Write such a network as "
            "resjax.network.Network, if it has units"
        )
    joins = _concatenations(found)
    if joins:
        return (
            f"{begin}: values are joined by {joins} concatenations with what was made of them (DenseNet, "
            "U-Net), not by sums. Nothing can be deleted without changing the shapes"
        )
    more = "; ".join(
        f"{n} sums of equal shapes were found, but {reason}" for reason, n in others.items() if n
    )
    return (
        f"{begin}{f' ({more})' if more else ''}: no value is added to what layers made of it, as in a plain "
        "network. A plain network can be taken apart as a resjax.network.Network of units without shortcuts"
    )


def _two_streams(found: Anatomy) -> bool:
    """Whether no unit is on the chain, and as many sums have inner values that are used elsewhere."""
    others = sum(len(found.others.get(reason, ())) for reason in (units.STREAMS, units.CROSSED))
    return all(found.bypassed) and others >= max(len(found.units), 1)


def _nodes(found: Anatomy) -> list[Any]:
    return [found.program.nodes[k] for k in found.graph.main]


def _read(found: Anatomy) -> set[int]:
    return {v for k in found.graph.main for v in found.graph.ins(k)}


def _loops(found: Anatomy, which: list[int]) -> list[str]:
    names: Counter[str] = Counter()
    for k in which:
        node = found.program.nodes[k]
        if node.name in _LOOPS and found.graph.signals(k) and contractions_in(node.eqn):
            names[_LOOPS[node.name]] += 1
    return [f"{n} {name}" for name, n in names.items()]


def _constants_in_layers(found: Anatomy) -> list[Any]:
    """Arrays of the function itself that signals are multiplied with."""
    graph, program = found.graph, found.program
    seen: dict[int, Any] = {}
    for k in graph.main:
        if program.nodes[k].name in CONTRACTIONS and len(graph.signals(k)) == 1:
            others = [v for v in graph.ins(k) if v not in graph.signals(k)]
            sources = {v for j in graph.before(others) for v in graph.ins(j)} | set(others)
            seen.update({v: program.constants[v] for v in sources if v in program.constants})
    return list(seen.values())


def _concatenations(found: Anatomy) -> int:
    graph = found.graph
    return sum(
        graph.program.nodes[k].name == "concatenate"
        and len(set(graph.signals(k))) > 1
        and graph.above[~k] in graph.signals(k)
        for k in graph.main
    )
