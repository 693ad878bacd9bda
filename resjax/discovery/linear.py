"""How much equations do to a signal: nothing, something linear, affine with parameters, or nonlinear."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax.extend.core as jex

from resjax.discovery.graph import CONTRACTIONS, SIGNAL, Graph, contractions_in

ADDS = {"add", "add_any", "sub"}
# Equations that pass a signal on, in another form or precision.
FREE = {
    "convert_element_type", "reshape", "copy", "copy_p", "squeeze", "expand_dims", "broadcast_in_dim",
    "reduce_precision", "sharding_constraint", "optimization_barrier", "name", "transpose", "stop_gradient",
    "pvary",
}  # fmt: skip
# Linear in signals; other operands are indices or zeros.
_LINEAR = FREE | {
    "neg", "slice", "dynamic_slice", "pad", "rev", "reduce_sum", "cumsum", "concatenate", "gather",
    "reduce_window_sum", "real", "stack", "split", "dynamic_update_slice",
}  # fmt: skip
_BILINEAR = {"mul", "div"} | CONTRACTIONS  # linear while one operand is a side value
KINDS = ("identity", "linear", "affine", "nonlinear")


class Kind(NamedTuple):
    """``what``: index in ``KINDS``; ``contractions``: products with kernels, or of signals; ``equations``."""

    what: int
    contractions: int
    equations: int


def kind_of(graph: Graph, which: Iterable[int]) -> Kind:
    """What the equations ``which`` do to the signals that they take, together."""
    worst, contractions, count = 0, 0, 0
    for k in which:
        node = graph.program.nodes[k]
        taken = [v is not None and graph.level[v] == SIGNAL for v in node.ins]
        linear, inside = linear_in(node.eqn, taken)
        owns = any(graph.owns[v] for v in graph.ins(k))
        free = node.name in FREE or _times_one(node.eqn)
        worst = max(worst, 3 if not linear else 2 if owns else 0 if free else 1)
        contractions += inside
        count += 1
    return Kind(worst, contractions, count)


def _times_one(eqn: Any) -> bool:
    """Whether an equation multiplies with, or divides by, the number 1."""
    if eqn.primitive.name not in ("mul", "div"):
        return False
    last = eqn.invars[1:] if eqn.primitive.name == "div" else eqn.invars
    return any(isinstance(v, jex.Literal) and v.val == 1 for v in last)


def inner_of(eqn: Any) -> Any:
    """The jaxpr that an equation runs once, of a call or of a function with its own derivative, or None."""
    if eqn.primitive.name in ("scan", "while", "cond"):
        return None
    inner = next((eqn.params[n] for n in ("jaxpr", "call_jaxpr", "fun_jaxpr") if n in eqn.params), None)
    return inner.jaxpr if isinstance(inner, jex.ClosedJaxpr) else inner


def linear_in(eqn: Any, signal: list[bool]) -> tuple[bool, int]:
    """Whether an equation is affine in those of its operands that are signals, and its contractions."""
    name, inner = eqn.primitive.name, inner_of(eqn)
    if inner is not None:
        tainted = {v for v, s in zip(inner.invars, signal, strict=True) if s}
        linear, count = True, 0
        for e in inner.eqns:
            own = [not isinstance(v, jex.Literal) and v in tainted for v in e.invars]
            if any(own):
                tainted.update(e.outvars)
                ok, more = linear_in(e, own)
                linear, count = linear and ok, count + more
        return linear, count
    if name in ("scan", "while", "cond"):
        return False, contractions_in(eqn)
    count = int(name in CONTRACTIONS)
    if name in ADDS or name in _LINEAR:
        return True, count
    if name == "select_n":
        return not signal[0], count
    if name == "div":
        return not signal[1], count
    return name in _BILINEAR and sum(signal) == 1, count
