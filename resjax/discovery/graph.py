"""What the values of a program are, and which of them every path to the logits must pass.

Values have three levels. *Side* values follow from parameters and constants alone. *Context* values are
made of integer or Boolean inputs (masks, positions) or of *conditions*, inputs that branches read beside the
signal, such as the time of a diffusion. *Signal* values are floats that depend on the other inputs; a look-up
in parameters, or a product with them, turns integers into signal. The residual structure is one of signals.

A value *dominates* another if every path of signals from the input to the other passes it. The immediate
dominators form a tree (Cooper, Harvey and Kennedy 2001), here of values v and of equations, ~k for equation
k. The root, None, stands for all inputs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import jax.extend.core as jex
import jax.numpy as jnp

from resjax.discovery.program import Program

# Products with kernels, or of signals.
CONTRACTIONS = {"dot_general", "conv_general_dilated", "ragged_dot", "ragged_dot_general"}
_LOOK_UPS = CONTRACTIONS | {"gather", "dynamic_slice"}

SIDE, CONTEXT, SIGNAL = 0, 1, 2


class Graph:
    """The equations of ``program`` that lead to its first result, the logits, as a graph.

    Attributes:
      main: equations that the logits depend on, in order.
      level: of each value.
      owns: {side value: numbers of the leaves that it is made of}.
      reads: {value: inputs that a context value is made of}.
      maker: {value: its equation}, of all equations.
      uses: {value: equations among ``main`` that take it}.
      above: {value or ~equation: the nearest value that dominates it, None for the root}.
    """

    def __init__(self, program: Program, conditions: frozenset[int] = frozenset()) -> None:
        self.program, self.out = program, program.outs[0]
        self.conditions = frozenset(program.inputs[i] for i in conditions)
        self.maker = {v: k for k, node in enumerate(program.nodes) for v in node.outs}
        self.main = self.before([self.out])
        self.level: dict[int, int] = defaultdict(int)
        self.owns: dict[int, frozenset[int]] = defaultdict(frozenset)
        self.reads: dict[int, frozenset[int]] = defaultdict(frozenset)
        self.uses: dict[int, list[int]] = defaultdict(list)
        self._sort()
        self.above: dict[int, int | None] = {}
        self._dominate()

    def floating(self, value: int) -> bool:
        return bool(jnp.issubdtype(self.program.avals[value].dtype, jnp.inexact))

    def ins(self, k: int) -> list[int]:
        return [v for v in self.program.nodes[k].ins if v is not None]

    def signals(self, k: int) -> list[int]:
        """The signals that equation ``k`` takes."""
        return [v for v in self.ins(k) if self.level[v] == SIGNAL]

    def before(self, values: Iterable[int]) -> list[int]:
        """All equations that ``values`` depend on, in order."""
        return self._back(values, self.ins)

    def between(self, top: int | None, bottoms: Iterable[int]) -> list[int]:
        """Equations on paths of signals from value ``top`` to the values ``bottoms``, in order."""
        return self._back(bottoms, self.signals, {top})

    def back_to(self, tops: Iterable[int], bottom: int) -> list[int]:
        """Equations on paths of signals from any of the values ``tops``, or from the input, to ``bottom``."""
        return self._back([bottom], self.signals, tops)

    def reached(self, which: Iterable[int]) -> set[int]:
        """The signals that the equations ``which`` take, and do not make."""
        which = list(which)
        made = {v for k in which for v in self.program.nodes[k].outs}
        return {v for k in which for v in self.signals(k)} - made

    def sides(self, which: Iterable[int], stops: Iterable[int] = ()) -> list[int]:
        """Equations of side and context values that ``which`` need, in order; none before ``stops``."""
        starts = [v for k in which for v in self.ins(k) if self.level[v] < SIGNAL]
        return self._back(starts, self.ins, stops)

    def leaves_of(self, which: Iterable[int], level: int = SIDE) -> frozenset[int]:
        """The leaves that the equations ``which`` read through side values, or through those of ``level``."""
        return frozenset().union(
            *(self.owns[v] for k in which for v in self.ins(k) if self.level[v] == level)
        )

    def dominators(self, value: int | None) -> list[int]:
        """The values that dominate ``value``, from itself to the first."""
        found = []
        while value is not None:
            found.append(value)
            value = self.above[value]
        return found

    def _back(
        self, values: Iterable[int], ins: Callable[[int], list[int]], stops: Iterable[int | None] = ()
    ) -> list[int]:
        found: set[int] = set()
        stop = set(stops)
        todo = [v for v in values if v not in stop]
        while todo:
            k = self.maker.get(todo.pop())
            if k is not None and k not in found:
                found.add(k)
                todo += [v for v in ins(k) if v not in stop]
        return sorted(found)

    def _sort(self) -> None:
        """Levels of values, in one pass over all equations."""
        program, main = self.program, set(self.main)
        for value in program.inputs:
            signal = self.floating(value) and value not in self.conditions
            self.level[value] = SIGNAL if signal else CONTEXT
            self.reads[value] = frozenset([value])
        for number, leaf in enumerate(program.leaves):
            self.owns[leaf] = frozenset([number])
        for k, node in enumerate(program.nodes):
            ins = self.ins(k)
            level = max([self.level[v] for v in ins], default=SIDE)
            owns = frozenset().union(*(self.owns[v] for v in ins))
            reads = frozenset().union(*(self.reads[v] for v in ins))
            if k in main:
                for v in dict.fromkeys(ins):
                    self.uses[v].append(k)
            looked_up = level == CONTEXT and owns and not reads <= self.conditions and _looks_up(node.eqn)
            for v in node.outs:
                self.level[v] = SIGNAL if looked_up and self.floating(v) else level
                if self.level[v] < SIGNAL:
                    self.owns[v], self.reads[v] = owns, reads

    def _dominate(self) -> None:
        parent: dict[int, int | None] = {}
        depth: dict[int | None, int] = {None: 0}

        def put(node: int, before: list[int]) -> None:
            a = before[0] if before else None
            for other in before[1:]:
                b: int | None = other
                while a != b:
                    if depth[a] >= depth[b]:
                        a = parent[a] if a is not None else None
                    else:
                        b = parent[b] if b is not None else None
            parent[node], depth[node] = a, depth[a] + 1
            while a is not None and a < 0:  # an equation
                a = parent[a]
            self.above[node] = a

        for value in self.program.inputs:
            if self.level[value] == SIGNAL:
                put(value, [])
        for k in self.main:
            outs = [v for v in self.program.nodes[k].outs if self.level[v] == SIGNAL]
            if outs:
                put(~k, self.signals(k))
                for value in outs:
                    put(value, [~k])


def _looks_up(eqn: Any) -> bool:
    """Whether an equation is a look-up or a product, or has one inside."""
    return eqn.primitive.name in _LOOK_UPS or contractions_in(eqn) > 0


def contractions_in(eqn: Any) -> int:
    """Contractions in the jaxprs inside an equation."""
    found = 0
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            jaxpr = item.jaxpr if isinstance(item, jex.ClosedJaxpr) else item
            if isinstance(jaxpr, jex.Jaxpr):
                found += sum(int(e.primitive.name in CONTRACTIONS) + contractions_in(e) for e in jaxpr.eqns)
    return found
