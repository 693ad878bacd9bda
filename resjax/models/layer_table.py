"""Kind and cost of every layer of a network, from shapes alone.

For a layer with a k×k' window and stride s from [H, W, C] to [H', W', O], in g groups, with b = 1 for biases,
else 0:

==================  ================================================================================
an output sees      k·k'·C/g inputs (fewer at a padded border)
parameters          k·k'·C/g·O + b·O: shared by all positions, sparse in space
locally connected   H'·W'·O·(k·k'·C/g + b): as sparse, but each position has different weights
dense               H·W·C·H'·W'·O + b·H'·W'·O: neither shared nor sparse
multiply-adds       H'·W'·O·k·k'·C/g
receptive field     r' = r + (k − 1)·j, where neighbouring inputs lie j' = j·s image pixels apart
==================  ================================================================================

(Receptive fields after Dumoulin & Visin 2016 and Araujo et al. 2019; they may be larger than the image.) A
fully connected layer is a window over its whole input. Normalizations and poolings keep their few parameters
in all three columns, so that the sums compare networks in which only convolutions were replaced. Their
operations are not counted as multiply-adds; neither are biases and activations.

Layers of a branch are in the order of their calls. Those inside a module called ``shortcut`` start from the
unit's input; at the sum, the larger of the two receptive fields is used.

Only modules in ``resjax.models.layer_facts`` are listed: not, for example, a pooling called as a function.
Other parameters, such as a unit's scalars, have separate rows after the unit's layers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from resjax.models.layer_facts import Facts, Pair, Shape, rule_of
from resjax.network import Network
from resjax.network.parts import part_of


@dataclasses.dataclass(frozen=True)
class LayerRow:
    """One layer of one unit.

    Attributes:
      unit: 'stem', 'head', or the unit's name like 'stage2/unit3'.
      layer: path of the module in the unit, like 'conv1' or 'shortcut/conv'; '' if it is the whole part.
      kind: like 'conv'; 'scalar' for parameters that belong to no layer.
      output_shape: of one image, without the batch axis.
      kernel, stride: of the window, None if there is none.
      parameters: number of trainable numbers.
      locally_connected, dense: parameters if positions did not share them; if it were fully connected.
      connections: inputs that an output sees; the maximum if outputs differ.
      receptive_field: (height, width) in pixels of the image.
      multiply_adds: for one image, forward.
    """

    unit: str
    layer: str
    kind: str
    output_shape: Shape
    kernel: Pair | None
    stride: Pair | None
    parameters: int
    locally_connected: int
    dense: int
    connections: int
    receptive_field: Pair
    multiply_adds: int

    @property
    def name(self) -> str:
        """The path in the network, like 'stage2/unit3/conv1'."""
        return f"{self.unit}/{self.layer}" if self.layer else self.unit


class Totals(NamedTuple):
    """Sums over all layers of a network, and the receptive field of the last."""

    parameters: int
    locally_connected: int
    dense: int
    multiply_adds: int
    receptive_field: Pair


def totals(rows: list[LayerRow]) -> Totals:
    return Totals(
        sum(row.parameters for row in rows),
        sum(row.locally_connected for row in rows),
        sum(row.dense for row in rows),
        sum(row.multiply_adds for row in rows),
        rows[-1].receptive_field,
    )


def layer_table(network: Network, image_shape: tuple[int, int, int]) -> list[LayerRow]:
    """Every layer of ``network`` on images of ``image_shape`` (H, W, C), in the order of the calls.

    Nothing is computed or allocated; the unit of a stack is traced once.
    """
    variables = jax.eval_shape(lambda key: network.init(key, image_shape), jax.random.key(0))
    h: Any = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    path = _Path((Fraction(1),) * 2, (Fraction(1),) * 2, image_shape[:2])
    rows: list[LayerRow] = []
    infos = iter(network.units)
    for name, module, n in network.modules:
        own = part_of(variables, name)
        if n:
            # Stacked variables: the shapes of one unit are those without the leading axis.
            own = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape[1:], v.dtype), own)
        calls, h = _trace(module, own, h)
        for _ in range(max(n, 1)):
            new, path = _rows(next(infos).name if n else name, calls, path)
            rows += new
    return rows


class _Call(NamedTuple):
    path: tuple[str, ...]
    output_shape: Shape
    facts: Facts


class _Path(NamedTuple):
    """State along the layers: receptive field, distance of neighbours (in pixels), number of positions."""

    field: tuple[Fraction, ...]
    jump: tuple[Fraction, ...]
    size: Shape

    def through(self, call: _Call) -> _Path:
        if call.facts.window is None:
            return self
        window = call.facts.window or self.size
        field = tuple(
            r + (k - 1) * j for r, k, j in zip(self.field, window, self.jump, strict=True)
        )
        jump = tuple(j * s for j, s in zip(self.jump, call.facts.steps, strict=True))
        size = call.output_shape[:2] if len(call.output_shape) == 3 else (1, 1)
        return _Path(field, jump, size)


def _trace(module: nn.Module, variables: Mapping[str, Any], h: Any) -> tuple[list[_Call], Any]:
    """The layers that ``module`` calls on an input of shape ``h``, and the shape of its output."""
    params = variables.get("params", {})
    calls: list[_Call] = []

    def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        y = call(*args, **kwargs)
        rule = rule_of(context.module)
        if rule and context.method_name == "__call__":
            path, own = context.module.path, _at(params, context.module.path)
            facts = rule(context.module, own, args[0].shape[1:], y.shape[1:])
            if any(path == known.path for known in calls):  # called before: the same parameters
                facts = facts._replace(parameters=0)
            calls.append(_Call(path, y.shape[1:], facts))
        return y

    with nn.intercept_methods(record):
        h = jax.eval_shape(lambda v, x: module.apply(v, x, train=False), variables, h)
    for keys, leaf in jax.tree_util.tree_leaves_with_path(params):
        path = tuple(key.key for key in keys)
        if not any(path[: len(known.path)] == known.path for known in calls):
            calls.append(_Call(path, leaf.shape, Facts("scalar", leaf.size, 1)))
    return calls, h


def _rows(unit: str, calls: list[_Call], start: _Path) -> tuple[list[LayerRow], _Path]:
    """The rows of one unit whose input is at ``start``, and the state after it."""
    branch, shortcut = start, start
    rows = []
    for call in calls:
        path, shape, facts = call
        if "shortcut" in path:
            shortcut = here = shortcut.through(call)
        else:
            branch = here = branch.through(call)
        rows.append(
            LayerRow(
                unit,
                "/".join(path),
                facts.kind,
                shape,
                facts.kernel,
                facts.stride,
                facts.parameters,
                facts.parameters if facts.locally_connected is None else facts.locally_connected,
                facts.parameters if facts.dense is None else facts.dense,
                facts.connections,
                tuple(math.ceil(r) for r in here.field),  # type: ignore[arg-type]
                facts.multiply_adds,
            )
        )
    field = tuple(max(r) for r in zip(branch.field, shortcut.field, strict=True))
    return rows, branch._replace(field=field)


def _at(params: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        params = params.get(name, {})
    return params
