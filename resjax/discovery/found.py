"""What ``resjax.discover`` returns, and how it is printed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from resjax.discovery import chain as chains
from resjax.discovery import diagnosis, selection, units
from resjax.discovery.anatomy import Anatomy, Source
from resjax.discovery.cutting import CutFunction, chosen
from resjax.discovery.gates import run_gated
from resjax.discovery.given import Given, raw_path
from resjax.discovery.layout import lay_out, lay_out_gated
from resjax.discovery.linear import KINDS
from resjax.discovery.network import FoundNetwork, gated_network_of, network_of
from resjax.discovery.refusal import NotFound


@dataclasses.dataclass(frozen=True)
class FoundUnit:
    """One residual unit that was found.

    Attributes:
      name: what the paths of its parameters begin with.
      shortcut: what is done to the shortcut: 'identity', 'linear' (without parameters), 'affine' or
        'nonlinear'.
      parameters: of its branch.
      shape: of the state behind it, without the batch axis.
      follows: what stands behind the sum; '' for nothing.
      notes: what a person should know.
      bypassed: whether other connections bypass it, so that it is on no chain.
    """

    name: str
    shortcut: str
    parameters: int
    shape: tuple[int, ...]
    follows: str = ""
    notes: tuple[str, ...] = ()
    bypassed: bool = False


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Found:
    """The residual units of a function; see ``discover``.

    Attributes:
      network: stem, units and head, for the analyses.
      variables: the user's variables as those of ``network``: stacked.
      units: the units in order.
      remarks: what was found beside them.
      num_parameters: of all the user's variables.
    """

    network: FoundNetwork
    variables: dict[str, Any]
    units: tuple[FoundUnit, ...]
    remarks: tuple[str, ...]
    num_parameters: int

    @property
    def example(self) -> Any:
        """Shapes and dtypes of the example, with its batch axis."""
        return self.network.code.source.given.example

    def apply(self, variables: Any, x: Any, gates: ArrayLike | None = None) -> jax.Array:
        """Logits of the function itself, with gates on its branches.

        Args:
          variables: of the user's form, or stacked as ``Found.variables``.
          x: input, like the example; any batch size.
          gates: float [units]; 0 deletes a unit, 1 leaves it as it is. With gates of 1 or None the result is
            that of the function bit for bit, if both are evaluated operation by operation.

        Raises:
          ValueError: variables of another form, or a wrong number of gates.
        """
        source = self.network.code.source
        stacked = _form(variables) == _form(self.variables)
        arrays = source.given.arrays(self.unstack(variables) if stacked else variables)
        checked = None if gates is None else jax.numpy.asarray(gates)
        return run_gated(source, arrays, x, checked)[0]

    def cut(self, gone: Sequence[str], variables: Any = None) -> tuple[CutFunction, Any]:
        """The function without the units ``gone``, and its smaller variables.

        ::

            fn, smaller = found.cut(["blocks/3", "blocks/7"])
            logits = fn(smaller, x)

        Args:
          gone: names of units.
          variables: of the user's form; None for those with which the units were found.

        Returns:
          A function (variables, x) → logits, equal to ``apply`` with gates of 0 on these units. And a pytree
          of the user's form without what only these units read: None instead of an array, and a stacked
          array without their rows. The function takes any such pytree, and ``discover`` takes both.

        Raises:
          ValueError: a name of no unit, all units, or variables of another form.
        """
        source = self.network.code.source
        fn = CutFunction(source, chosen(self.network.names, gone))
        if variables is None:
            variables = jax.tree_util.tree_unflatten(source.given.tree, source.given.values)
        return fn, fn.smaller(variables)

    def stack(self, variables: Any) -> dict[str, Any]:
        """Variables of the user's form, such as the initial ones, as those of ``network``."""
        code = self.network.code
        return code.layout.stack(code.source.given, variables)

    def unstack(self, variables: Mapping[str, Any]) -> Any:
        """Variables of ``network`` as a pytree of the user's form."""
        code = self.network.code
        return code.layout.unstack(code.source.given, variables)

    def table(self) -> list[list[str]]:
        """Rows of cells, the first with the names of the columns."""
        rows = [["", "unit", "shortcut", "parameters", "share", "output", "behind the sum", "notes"]]
        for i, unit in enumerate(self.units):
            share = f"{100 * unit.parameters / max(self.num_parameters, 1):.1f} %"
            notes = "; ".join([*unit.notes, *(["bypassed by other connections"] if unit.bypassed else [])])
            shape = " × ".join(map(str, unit.shape))
            rows.append(
                [str(i), unit.name, unit.shortcut, f"{unit.parameters:,}", share, shape, unit.follows, notes]
            )
        used = [j for j in range(len(rows[0])) if j < 2 or any(row[j] for row in rows[1:])]
        return [[row[j] for j in used] for row in rows]

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        rows = self.table()
        widths = [max(len(row[j]) for row in rows) for j in range(len(rows[0]))]
        right = {rows[0].index(name) for name in ("", "parameters", "share")}
        lines = [
            "  ".join(
                c.rjust(w) if j in right else c.ljust(w)
                for j, (c, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        n = len(self.units)
        units = f"{n} residual unit{'s' if n > 1 else ''}"
        head = f"{units}, {self.num_parameters:,} parameters in the whole network"
        return "\n".join([head, *(line.rstrip() for line in lines), *self.remarks])


def discover(
    fn: Callable[[Any, Any], Any],
    variables: Any,
    example: Any,
    *,
    train_fn: Callable[[Any, Any, jax.Array], tuple[Any, Any]] | None = None,
    grain: str = "sum",
    boundaries: Sequence[str] = (),
) -> Found:
    """Finds the residual units of any JAX function in its traced program; nothing is computed.

    ::

        found = resjax.discover(model.apply, variables, images[:1])
        print(found)                                      # look at the units before you trust them
        lesion(found.network, found.variables, images, labels)

    docs/discover.md explains the method, its rules and its limits.

    Args:
      fn: (variables, x) → logits [B, …], in inference mode.
      variables: any pytree: Linen's variables, an NNX or Equinox module, a dictionary. Shapes and dtypes
        suffice to look at the units.
      example: a batch of inputs, or its shapes and dtypes: any pytree of arrays with a leading batch axis.
        Other batch sizes and dtypes work later; the function is then traced again.
      train_fn: (variables, x, key) → (logits, new statistics), the same network in training mode; the
        statistics are a part of ``variables``, or all of them. Studies that train or re-estimate statistics
        need it.
      grain: 'sum': each residual sum is a unit; 'layer': attention and MLP of one layer are one unit.
      boundaries: paths of parameters, ``blocks/0`` or ``blocks/*``, each one unit, where the choice is wrong.

    Returns:
      The units, and the network made of them.

    Raises:
      NotFound: no units that can be taken apart; the text says what was found instead.
      ValueError: an unknown grain.
    """
    if grain not in selection.GRAINS:
        raise ValueError(f"grain={grain!r}; allowed: {', '.join(selection.GRAINS)}")
    given = Given.of(fn, train_fn, variables, example)
    boundaries = (boundaries,) if isinstance(boundaries, str) else tuple(boundaries)
    source, batch = Source(given, grain, boundaries), given.unusual_batch()
    try:
        source = source.best(batch)
    except NotFound:
        raise
    except Exception:  # whatever the function raises: perhaps it is written for one batch size
        batch = given.batch
        source = source.best(batch)
    found = source.first
    diagnosis.check_trace(given, found)
    diagnosis.check_units(found, batch)
    train = None if train_fn is None or found.chain is None else source.anatomy(batch, train=True)
    layout = lay_out(given, found, train) if found.chain else lay_out_gated(given, found)
    network = network_of(source, layout) if found.chain else gated_network_of(source, layout)
    sizes = [int(np.prod(leaf.spec.shape)) for leaf in given.leaves if leaf.kind == "params"]
    return Found(
        network=network,
        variables=layout.stack(given, variables),
        units=tuple(_unit(found, i) for i in range(len(found.units))),
        remarks=tuple(_remarks(source)),
        num_parameters=sum(sizes),
    )


def _form(variables: Any) -> tuple[str, list[tuple[int, ...]]]:
    leaves, tree = jax.tree.flatten(variables)
    return str(tree), [np.shape(v) for v in leaves]


def _unit(found: Anatomy, i: int) -> FoundUnit:
    unit, program = found.units[i], found.program
    notes, state, follows = list(unit.notes), unit.out, ""
    if found.chain is not None:
        state, follows = found.chain.states[i + 1], chains.follows(found.chain, i)
        if chains.starts_late(found.chain, i):
            notes.append("layers before it stay when it is deleted")
    if len(unit.members) > 1:
        notes.append(f"{len(unit.members)} sums")
    shared = [found.names[j] for j, other in enumerate(found.units) if j != i and unit.leaves & other.leaves]
    if shared:
        notes.append(f"shares weights with {shared[0]}{' and others' if len(shared) > 1 else ''}")
    return FoundUnit(
        name=found.names[i],
        shortcut=KINDS[unit.kind.what],
        parameters=sum(int(np.prod(program.avals[program.leaves[v]].shape)) for v in unit.leaves),
        shape=tuple(program.avals[state].shape[1:]),
        follows=follows,
        notes=tuple(notes),
        bypassed=found.bypassed[i],
    )


def _remarks(source: Source) -> list[str]:
    found, remarks = source.first, []
    if source.conditions:
        paths = [raw_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(source.given.example)]
        names = ", ".join(paths[i] for i in sorted(source.conditions))
        remarks.append(f"inputs that branches read beside the signal: {names}")
    if found.nested:
        remarks.append(
            f"{found.nested} residual sums inside of these units' branches; boundaries= can choose them"
        )
    for reason, which in found.others.items():
        if reason in (units.STREAMS, units.CROSSED, units.DENSE):
            remarks.append(f"{len(which)} other sums of equal shapes are no units: {reason}")
    loops = diagnosis.loops_beside(found)
    if loops:
        remarks.append(f"not looked into: layers inside {', '.join(loops)}")
    return remarks
