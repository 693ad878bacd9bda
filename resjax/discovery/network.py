"""What was found as a ``Network``: analyses work on it unless they need Flax modules."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any, NoReturn

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from resjax.discovery.anatomy import Anatomy, Source
from resjax.discovery.gates import run_gated
from resjax.discovery.layout import Layout, filled
from resjax.discovery.parts import Code, TracedPart, TracedUnit
from resjax.discovery.refusal import NotFound
from resjax.discovery.reports import reporting
from resjax.network import Network, Output, Stack, Tap, Unit, UnitInfo, Variables
from resjax.network.network import Report

NO_INIT = (
    "the initial variables of a found network can't be drawn here: make them with the network's own "
    "initialization, and stack them with found.stack(initial)"
)
_ENDS = [("stem", "stem"), ("head", "head")]


@dataclasses.dataclass(frozen=True)
class FoundNetwork(Network):
    """A chain of units; use ``resjax.discover``.

    Attributes:
      names: of the units.
      code: the function.
    """

    names: tuple[str, ...] = dataclasses.field(kw_only=True)
    code: Code = dataclasses.field(kw_only=True)

    @property
    def units(self) -> tuple[UnitInfo, ...]:
        infos = super().units
        return tuple(dataclasses.replace(u, name=name) for u, name in zip(infos, self.names, strict=True))

    def bound(self, variables: Variables, x: Any) -> Variables:
        """With the context: masks and positions of the input, and arrays that several parts read."""
        self.code.layout.check(variables)
        context = self.code.layout.context(variables, x)
        return {**variables, "context": context} if context else variables

    def init(self, key: jax.Array, shape: Any) -> NoReturn:
        """Refused: a function does not say how its variables are drawn."""
        raise NotFound(NO_INIT)

    @property
    def integer_images(self) -> bool:
        """Whether the function was traced with integers."""
        leaves = jax.tree.leaves(self.code.source.given.example)
        return any(jnp.issubdtype(leaf.dtype, jnp.integer) for leaf in leaves)

    @property
    def trains(self) -> bool:
        """Whether ``train_fn`` was given."""
        return self.code.source.given.train_fn is not None

    @property
    def opaque(self) -> bool:
        """True: parts are equations."""
        return True

    def reporting(self, report: Report) -> contextlib.AbstractContextManager[None]:
        """Contractions with parameters are reported; see ``resjax.discovery.layers``."""
        return reporting(report)

    def layer_paths(self, example: Any) -> dict[str, list[str]]:
        """{stem, head or stack: keys of its parameters} in the order in which the program reads them."""
        del example
        own = {
            part.name: [slot.key for slot in part.slots if slot.collection == "params"]
            for part in self.code.layout.parts
        }
        return {name: own[part] for name, part in [*((s.name, s.part) for s in self.stacks), *_ENDS]}

    def deletable(self, variables: Variables, shape: Any) -> np.ndarray:
        """bool [num_units], all True: each unit has a shortcut."""
        return np.ones(self.num_units, bool)


@dataclasses.dataclass(frozen=True)
class GatedNetwork(FoundNetwork):
    """Units of which some are bypassed by other connections, so that no state stands between them.

    ``apply`` with gates works. The parts, orders and paths do not exist.
    """

    bypassed: tuple[str, ...] = dataclasses.field(kw_only=True)

    @property
    def chained(self) -> bool:
        """False."""
        return False

    def bound(self, variables: Variables, x: Any) -> Variables:
        """Unchanged: the whole function reads its input."""
        return variables

    def apply(
        self,
        variables: Variables,
        x: Any,
        *,
        train: bool = False,
        gates: ArrayLike | None = None,
        order: ArrayLike | None = None,
        key: jax.Array | None = None,
        tap: Tap | None = None,
    ) -> Output:
        """Runs the function, with gates on the branches of all units."""
        if order is not None or tap is not None:
            self.check_chain()
        given, layout = self.code.source.given, self.code.layout
        arrays = given.arrays(layout.unstack(given, variables))
        checked = self.all_gates(gates, train, key)
        logits, new = run_gated(self.code.source, arrays, x, checked, train=train, key=key)
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        if not new:
            return Output(logits, variables.get("batch_stats", {}), {})
        return Output(logits, layout.stack(given, given.rebuild(filled(arrays, new)))["batch_stats"], {})

    def places(self, *args: Any, **kwargs: Any) -> NoReturn:
        self.check_chain()

    def run_stem(self, *args: Any, **kwargs: Any) -> NoReturn:
        self.check_chain()

    def run_stack(self, *args: Any, **kwargs: Any) -> NoReturn:
        self.check_chain()

    def run_head(self, *args: Any, **kwargs: Any) -> NoReturn:
        self.check_chain()

    def check_chain(self) -> NoReturn:
        """Refuses what needs states between the units."""
        some = ", ".join(self.bypassed[:6]) + (
            f" and {len(self.bypassed) - 6} more" if len(self.bypassed) > 6 else ""
        )
        raise NotFound(
            f"{len(self.bypassed)} of {self.num_units} units are bypassed by other connections ({some}), as "
            "in a U-Net: no state stands between the units, so paths, prefixes, orders and states of units "
            "do not exist; studies of gates work, or choose units of the chain with boundaries="
        )


class _Bypassed(Unit):
    """Stands for a unit that runs inside the whole function only."""


class _Outside(nn.Module):
    """Stands for what is outside of the units."""


def network_of(source: Source, layout: Layout) -> FoundNetwork:
    """The chain as a network: units of one class in a row are one stack."""
    found, code = source.first, Code(source, layout)
    assert found.chain is not None
    stages = _stages(found)
    stacks: list[Stack] = []
    rows = [layout.of_unit(i) for i in range(len(found.units))]
    modules = {part.name: TracedUnit(code=code, part=part) for part in layout.classes}
    i = 0
    while i < len(rows):
        part, start = rows[i]
        n = 1
        while i + n < len(rows) and rows[i + n][0] is part and stages[i + n] == stages[i]:
            n += 1
        whole = n == part.rows
        name = part.name if whole else f"{part.name}.{start}"
        stacks.append(Stack(name, modules[part.name], n, stages[i], "" if whole else part.name, start))
        i += n
    stem = TracedPart(code=code, part=layout.parts[0], place=0)
    head = TracedPart(code=code, part=layout.parts[-1], place=len(found.units) + 1)
    return FoundNetwork(stem, tuple(stacks), head, names=found.names, code=code)


def gated_network_of(source: Source, layout: Layout) -> GatedNetwork:
    """All units, each a stack of its own."""
    found, code = source.first, Code(source, layout)
    stacks = tuple(Stack(part.name, _Bypassed(), 1, 1) for part in layout.classes)
    bypassed = tuple(name for name, b in zip(found.names, found.bypassed, strict=True) if b)
    return GatedNetwork(_Outside(), stacks, _Outside(), names=found.names, code=code, bypassed=bypassed)


def _stages(found: Anatomy) -> list[int]:
    """For each unit, the number of shapes that the state had up to its output, from 1."""
    assert found.chain is not None
    stages, shape = list[int](), None
    for state in found.chain.states[1:]:
        own = found.program.avals[state].shape
        stages.append((stages[-1] if stages else 0) + (own != shape))
        shape = own
    return stages
