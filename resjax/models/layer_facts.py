"""Kind and cost of each type of layer, one rule per type; ``resjax.models.layer_table`` has the formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from resjax.models import layers, lenet_layers

Pair = tuple[int, int]
Shape = tuple[int, ...]


class Facts(NamedTuple):
    """A layer, independent of its position in the network.

    Attributes:
      kind: its name.
      parameters: number of trainable numbers.
      connections: inputs that an output sees; the maximum if outputs differ.
      window, steps: growth of the receptive field, and distance of neighbours; an empty window covers the
        whole input, None is a single position.
      kernel, stride: of the window, None if there is none.
      locally_connected, dense: parameters of these replacements, None for ``parameters``.
      multiply_adds: for one image.
    """

    kind: str
    parameters: int
    connections: int
    window: tuple[Any, Any] | tuple[()] | None = None
    steps: tuple[Any, Any] = (1, 1)
    kernel: Pair | None = None
    stride: Pair | None = None
    locally_connected: int | None = None
    dense: int | None = None
    multiply_adds: int = 0


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
    window: Pair | tuple[()],
    stride: Pair = (1, 1),
) -> Facts:
    """A convolution or (with the empty window) a fully connected layer."""
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
    two = (2, 2)
    # One multiplication per output, with the map's coefficient.
    products = math.prod(y)
    return Facts("subsampling", _count(params), 4, two, two, two, two, multiply_adds=products)


def _adaptive_pool(module: Any, params: Any, x: Shape, y: Shape) -> Facts:
    (kh, step_h), (kw, step_w) = (_spread(module.weights(n)) for n in x[:2])
    return Facts("adaptive pool", 0, kh * kw, (kh, kw), (step_h, step_w), (kh, kw))


def _spread(weights: Any) -> tuple[int, Fraction]:
    """The largest of windows of different sizes, and the step at which together they cover the side."""
    windows, n = weights.shape
    widest = int((weights > 0).sum(1).max())
    return widest, Fraction(n - widest, max(windows - 1, 1))


def _pair(value: Any) -> Pair:
    return (1, 1) if value is None else (value, value) if isinstance(value, int) else tuple(value)


def _dense(module: Any, params: Any, x: Shape, y: Shape) -> Facts:
    return _weights("dense", params, x, y, x[-1], ())


def _norm(module: Any, params: Any, x: Shape, y: Shape) -> Facts:
    return Facts("norm", _count(params), 1)


RULES: dict[type[nn.Module], Rule] = {
    layers.Conv: _conv,
    nn.Conv: _conv,
    lenet_layers.PartialConv: _partial_conv,
    layers.Dense: _dense,
    nn.Dense: _dense,
    lenet_layers.RBF: lambda rbf, p, x, y: Facts("rbf", 0, x[-1], (), multiply_adds=x[-1] * y[-1]),
    layers.BatchNorm: _norm,
    nn.BatchNorm: _norm,
    layers.LocalResponseNorm: lambda lrn, p, x, y: Facts("lrn", 0, lrn.n),
    layers.Pool: _pool,
    lenet_layers.TrainableSubsampling: _subsampling,
    layers.GlobalAveragePool: lambda _, p, x, y: Facts(
        "global pool", 0, math.prod(x[:2]), (), kernel=(x[0], x[1])
    ),
    layers.AdaptiveAveragePool: _adaptive_pool,
}
