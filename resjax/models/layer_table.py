"""Kind and cost of every layer of a network, from shapes alone.

A layer from [H, W, C] to [H', W', O] with a k×k' window, stride s and g groups has these costs, where b = 1
if it has biases, else 0:

==================  ================================================================================
connections         k·k'·C/g inputs of each output (fewer at a padded border)
parameters          k·k'·C/g·O + b·O: shared by all positions, sparse in space
locally connected   H'·W'·O·(k·k'·C/g + b): equally sparse, but not shared
dense               H·W·C·H'·W'·O + b·H'·W'·O: neither shared nor sparse
multiply-adds       H'·W'·O·k·k'·C/g
receptive field     r' = r + (k − 1)·j, where neighbouring inputs lie j' = j·s image pixels apart
==================  ================================================================================

(Receptive fields after Dumoulin & Visin 2016 and Araujo et al. 2019; they may be larger than the image.) A
fully connected layer counts as a window over its whole input, or over one token where it acts on each token
[T, C] alike. Attention of T tokens with D numbers has 2·T·T·D multiply-adds, half of them for Q·Kᵀ, half for
the sums over V. Its projections are fully connected layers. All tokens are in its field. Normalizations and
poolings have the same few parameters in all three columns, so the sums compare networks in which only
convolutions were replaced. Their operations are not counted as multiply-adds; neither are those of biases,
activations, the softmax and layer scale.

Layers of a branch are in the order of their calls. Those inside a module called ``shortcut`` start from the
unit's input; at the sum, the larger of the two receptive fields is used.

Only modules with a rule (``RULES``) are listed; a pooling called as a function, for example, is not.
Other parameters, such as a unit's scalars, have separate rows after the unit's layers.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from resjax.models import layers, lenet, tokens, transformer
from resjax.network import Network
from resjax.network.cut import Remnant, beside_branch
from resjax.network.initial import variable_shapes
from resjax.network.parts import part_of

Pair = tuple[int, int]
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class LayerRow:
    """One layer of one unit; fields without a comment are those of ``Facts``."""

    unit: str  # 'stem', 'head', or the unit's name like 'stage2/unit3'
    layer: str  # path of the module in the unit, like 'shortcut/conv'; '' if it is the whole part
    kind: str
    output_shape: Shape  # of one image, without the batch axis
    kernel: Pair | None
    stride: Pair | None
    parameters: int
    locally_connected: int
    dense: int
    connections: int
    receptive_field: Pair  # (height, width) in pixels of the image
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
    sums: Any = {name: sum(getattr(row, name) for row in rows) for name in Totals._fields[:-1]}
    return Totals(**sums, receptive_field=rows[-1].receptive_field)


class Growth(NamedTuple):
    """How maps change from the image to the classifier, and where the parameters lie."""

    channels: tuple[int, ...]  # of the stem's and the units' outputs; equal neighbours once
    doublings: int  # how often these become exactly twice as many
    convolutions: int  # along the branches; those of shortcuts are left out
    sides: tuple[Pair, ...]  # (height, width) of image and maps; equal neighbours once
    halvings: int  # layers of stride 2 whose output has half as many rows and columns, rounded up or down
    dense: int  # parameters of fully connected layers
    parameters: int  # of all layers


def growth(rows: list[LayerRow], image_shape: tuple[int, int, int]) -> Growth:
    """How the maps of ``layer_table``'s rows grow in channels and shrink in size along the branches.

    Channels are compared between units, because a bottleneck narrows and widens them within each unit. Layers
    whose outputs are not maps [H, W, C] count only as parameters.
    """
    maps = [r for r in rows if len(r.output_shape) == 3 and r.kernel]
    maps = [r for r in maps if not beside_branch(r.layer.split("/"))]
    last_of_unit = {row.unit: row.output_shape[2] for row in maps}
    channels = _runs_once(last_of_unit.values())
    sizes = [image_shape[:2], *(row.output_shape[:2] for row in maps)]
    halved = [
        row.stride == (2, 2) and all(b in (a // 2, -(-a // 2)) for a, b in zip(before, after, strict=True))
        for row, (before, after) in zip(maps, itertools.pairwise(sizes), strict=True)
    ]
    return Growth(
        channels=channels,
        doublings=sum(b == 2 * a for a, b in itertools.pairwise(channels)),
        convolutions=sum("conv" in row.kind for row in maps),
        sides=_runs_once(sizes),
        halvings=sum(halved),
        dense=sum(row.parameters for row in rows if row.kind == "dense"),
        parameters=totals(rows).parameters,
    )


def _runs_once(values: Any) -> tuple[Any, ...]:
    return tuple(value for value, _ in itertools.groupby(values))


def layer_table(network: Network, image_shape: tuple[int, int, int]) -> list[LayerRow]:
    """Every layer of ``network`` on images of ``image_shape`` (H, W, C), in the order of the calls.

    Nothing is computed or allocated; the unit of a stack or group is traced once.
    """
    variables = variable_shapes(network, image_shape)
    h: Any = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    path = _Path((Fraction(1),) * 2, (Fraction(1),) * 2, image_shape[:2])
    rows: list[LayerRow] = []
    infos, parts = iter(network.units), {stack.name: stack.part for stack in network.stacks}
    traced: dict[str, Any] = {}
    for name, module, n in network.modules:
        part = parts.get(name, name)
        if part not in traced:
            own = part_of(variables, part)
            if n:  # stacked variables: the shapes of one unit are those without the leading axis
                own = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape[1:], v.dtype), own)
            traced[part] = _trace(module, own, h)
        calls, h = traced[part]
        for _ in range(max(n, 1)):
            new, path = _rows(next(infos).name if n else name, calls, path)
            rows += new
    return rows


class _Call(NamedTuple):
    path: tuple[str, ...]
    output_shape: Shape
    facts: Facts


class _Path(NamedTuple):
    """State along the layers: receptive field and distance of neighbours, both in pixels, and map size."""

    field: tuple[Fraction, ...]
    jump: tuple[Fraction, ...]
    size: Shape

    def through(self, call: _Call) -> _Path:
        if call.facts.window is None:
            return self
        window = call.facts.window or self.size
        field = tuple(r + (k - 1) * j for r, k, j in zip(self.field, window, self.jump, strict=True))
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
            if any(path == known.path for known in calls):  # called before: already counted
                facts = facts._replace(parameters=0)
            calls.append(_Call(path, y.shape[1:], facts))
        elif isinstance(context.module, Remnant) and context.method_name == "__call__":
            calls.extend(_left_out(context.module.path, args[0].shape[1:], y.shape[1:], calls))
        return y

    with nn.intercept_methods(record):
        h = jax.eval_shape(lambda v, x: module.apply(v, x, train=False), variables, h)
    for keys, leaf in jax.tree_util.tree_leaves_with_path(params):
        path = tuple(key.key for key in keys)
        if not any(path[: len(known.path)] == known.path for known in calls):
            calls.append(_Call(path, leaf.shape, Facts("scalar", leaf.size, 1)))
    return calls, h


def _left_out(path: tuple[str, ...], x: Shape, y: Shape, calls: list[_Call]) -> list[_Call]:
    """What is left of a cut unit that leaves out positions, where no layer within it does."""
    inner = [call for call in calls if call.path[: len(path)] == path]
    if len(x) != 3 or len(y) != 3 or any(call.facts.steps != (1, 1) for call in inner):
        return []
    steps = -(-x[0] // y[0]), -(-x[1] // y[1])
    if steps == (1, 1):
        return []
    return [_Call(path, y, Facts("subsampling", 0, 1, (1, 1), steps, stride=steps))]


def _rows(unit: str, calls: list[_Call], start: _Path) -> tuple[list[LayerRow], _Path]:
    """The rows of one unit whose input is at ``start``, and the state after it."""
    branch, shortcut = start, start
    rows = []
    for call in calls:
        if beside_branch(call.path):
            shortcut = here = shortcut.through(call)
        else:
            branch = here = branch.through(call)
        field: Any = tuple(math.ceil(r) for r in here.field)
        columns = call.facts._asdict()
        del columns["window"], columns["steps"]
        for replaced in ("locally_connected", "dense"):
            if columns[replaced] is None:
                columns[replaced] = call.facts.parameters
        layer = "/".join(call.path)
        rows.append(LayerRow(unit, layer, output_shape=call.output_shape, receptive_field=field, **columns))
    field = tuple(max(r) for r in zip(branch.field, shortcut.field, strict=True))
    return rows, branch._replace(field=field)


def _at(params: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        params = params.get(name, {})
    return params


class Facts(NamedTuple):
    """Kind and cost of a layer, independent of its position in the network."""

    kind: str  # like 'conv'; 'scalar' for parameters that belong to no layer
    parameters: int  # number of trainable values
    connections: int  # inputs of an output; the maximum if outputs differ
    window: tuple[Any, Any] | tuple[()] | None = None  # () is the whole input, None a single position
    steps: tuple[Any, Any] = (1, 1)  # between neighbouring windows
    kernel: Pair | None = None  # of the window, None if there is none
    stride: Pair | None = None
    locally_connected: int | None = None  # parameters if positions did not share them; None: `parameters`
    dense: int | None = None  # parameters if it were fully connected; None: `parameters`
    multiply_adds: int = 0  # for one image, forward


Rule = Callable[[Any, Any, Shape, Shape], Facts]


def rule_of(module: nn.Module) -> Rule | None:
    """The function (layer, its parameters or their shapes, input shape, output shape) → facts of ``module``.

    Shapes are without the batch axis. None if the module is not a layer; it may contain some.
    """
    return next((rule for kind, rule in RULES.items() if isinstance(module, kind)), None)


def _count(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _weights(
    kind: str,
    params: Any,
    x: Shape,
    y: Shape,
    connections: int,
    window: Pair | tuple[()] | None,
    stride: Pair = (1, 1),
) -> Facts:
    """A convolution; or a fully connected layer of the whole input (empty window) or each token (None)."""
    kernel, outputs = math.prod(params["kernel"].shape), math.prod(y)
    positions = math.prod(y[:-1])
    biases = outputs if "bias" in params else 0
    return Facts(
        kind,
        _count(params),
        connections,
        window,
        stride,
        window or None,
        stride if window else None,
        positions * kernel + biases,
        math.prod(x) * outputs + biases,
        positions * kernel,
    )


def _conv(module: Any, params: Any, x: Shape, y: Shape) -> Facts:
    kh, kw, seen, _ = params["kernel"].shape
    return _weights("conv", params, x, y, kh * kw * seen, (kh, kw), _pair(module.strides))


def _partial_conv(module: Any, params: Any, x: Shape, y: Shape) -> Facts:
    k = module.kernel
    return _weights("partial conv", params, x, y, k * k * max(map(len, module.connections)), (k, k))


def _pool(module: Any, params: Any, x: Shape, y: Shape) -> Facts:
    window, stride = module.window, module.strides
    return Facts(f"{module.kind} pool", 0, math.prod(window), window, stride, window, stride)


def _subsampling(module: Any, params: Any, x: Shape, y: Shape) -> Facts:
    two, products = (2, 2), math.prod(y)  # each output is multiplied by its map's coefficient
    return Facts("subsampling", _count(params), 4, two, two, two, two, multiply_adds=products)


def _adaptive_pool(module: Any, params: Any, x: Shape, y: Shape) -> Facts:
    (kh, step_h), (kw, step_w) = (_spread(module.weights(n)) for n in x[:2])
    return Facts("adaptive pool", 0, kh * kw, (kh, kw), (step_h, step_w), (kh, kw))


def _spread(weights: Any) -> tuple[int, Fraction]:
    """The size of the largest window, and the stride at which windows of that size cover the side."""
    windows, n = weights.shape
    widest = int((weights > 0).sum(1).max())
    return widest, Fraction(n - widest, max(windows - 1, 1))


def _pair(value: Any) -> Pair:
    return (1, 1) if value is None else (value, value) if isinstance(value, int) else tuple(value)


def _dense(module: Any, params: Any, x: Shape, y: Shape) -> Facts:
    each = len(x) == 3 and len(y) == 3  # at every position of a map alike, as a 1×1 convolution
    tokens = len(x) == 2 and len(y) == 2
    return _weights("dense", params, x, y, x[-1], (1, 1) if each else None if tokens else ())


def _attention(module: Any, params: Any, x: Shape, y: Shape) -> Facts:
    tokens, width = y
    seen = width // module.heads * (1 + tokens) + tokens  # the query, all keys, a channel of all values
    return Facts("attention", 0, seen, (), multiply_adds=2 * tokens * tokens * width)


def _norm(module: Any, params: Any, x: Shape, y: Shape) -> Facts:
    return Facts("norm", _count(params), 1)


RULES: dict[type[nn.Module], Rule] = {
    layers.Conv: _conv,
    nn.Conv: _conv,
    lenet.PartialConv: _partial_conv,
    layers.Dense: _dense,
    nn.Dense: _dense,
    lenet.RBF: lambda rbf, p, x, y: Facts("rbf", 0, x[-1], (), multiply_adds=x[-1] * y[-1]),
    layers.BatchNorm: _norm,
    nn.BatchNorm: _norm,
    nn.LayerNorm: _norm,
    layers.LayerScale: lambda _, p, x, y: Facts("scale", _count(p), 1),
    layers.GlobalResponseNorm: _norm,
    tokens.ClassToken: lambda _, p, x, y: Facts("class token", 0, 1),
    transformer.AttentionProduct: _attention,
    layers.LocalResponseNorm: lambda lrn, p, x, y: Facts("lrn", 0, lrn.n),
    layers.Pool: _pool,
    lenet.TrainableSubsampling: _subsampling,
    layers.GlobalAveragePool: lambda _, p, x, y: Facts(
        "global pool", 0, math.prod(x[:-1]), (), kernel=(x[0], x[1]) if len(x) == 3 else None
    ),
    layers.AdaptiveAveragePool: _adaptive_pool,
}
