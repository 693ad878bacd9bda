"""What sparse and shared connections save in a network, and whether its layers have them.

*Question.* How many parameters do the convolutions of this network have, how many would they have with
weights of their own at every position, and how many as dense layers? And is a trained layer what its form
says: does no output see anything outside of its window, and do all positions apply the same weights?

*Method.* Counts are those of ``resjax.models.layer_table``. Measured are rows of the Jacobian of every convolution,
∂y_o/∂x_i at positions around the middle of the map, exactly, as in ``resjax.studies.convolution.sharing``. A
row may have nonzero entries inside of its window only, and the rows of one channel must be one row, moved.

*Protocol.* Of equal units the first is measured. Rows whose window a padded border cuts off are left out
of the comparison; on maps smaller than the window that is every row. Layers that ``resjax.describe`` does
not know are not seen. Layers are taken alone, without the normalization and activation behind them.

*Reading it.* Training can't change what is measured here; it is a check of the network's form. The counts
say what the restrictions save, not that they help (``resjax.studies.convolution.sample_size``).

*Cost.* Up to 128 backward passes of one layer on one image, and one compilation, for each form of layer.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from resjax.models.layer_facts import Facts, rule_of
from resjax.network import Network, Variables
from resjax.studies import style
from resjax.studies.batches import Progress
from resjax.studies.convolution.sharing import Shape3, jacobian_rows, moved_back
from resjax.studies.refusal import Refusal
from resjax.studies.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Positions along a side, and channels, whose rows are taken.
_SIDE, _CHANNELS = 4, 8


@dataclasses.dataclass(frozen=True)
class Connections(Result):
    """Counts of every convolution of a network, and what some rows of its Jacobian say.

    Attributes:
      layer: names; of equal units, the first.
      equal: int [layer], layers of this form, one a unit.
      parameters: int [layer], of one layer, biases included.
      locally_connected, dense: the same if positions did not share them, and if all were connected.
      inputs: int [layer], numbers that the layer gets.
      window: int [layer], inputs that an output sees, by arithmetic.
      seen: int [layer], the most nonzero entries of a row, measured.
      different: int [layer], rows that differ from the row of the same channel elsewhere; −1 where no two
        windows lie within the map.
      rows: int [layer], rows that were compared.
    """

    AXES: ClassVar = dict.fromkeys(
        (
            "equal",
            "parameters",
            "locally_connected",
            "dense",
            "inputs",
            "window",
            "seen",
            "different",
            "rows",
        ),
        ("layer",),
    )

    layer: tuple[str, ...]
    equal: np.ndarray
    parameters: np.ndarray
    locally_connected: np.ndarray
    dense: np.ndarray
    inputs: np.ndarray
    window: np.ndarray
    seen: np.ndarray
    different: np.ndarray
    rows: np.ndarray
    choices: dict[str, Any]

    def total(self, what: str) -> int:
        """Sum of 'parameters', 'locally_connected' or 'dense' over all layers, equal ones too."""
        return int(np.sum(getattr(self, what) * self.equal))


def connections_of(
    network: Network,
    variables: Variables,
    image_shape: Shape3,
    *,
    progress: Progress | None = None,
) -> Connections:
    """Counts and measures every convolution of a network.

    Args:
      network: any; layers that ``resjax.describe`` does not know are not seen.
      variables: of the network.
      image_shape: (H, W, C).
      progress: called as ``progress(layers done, layers in all)``.

    Raises:
      ValueError: a network without a convolution.
    """
    found = list(_convolutions(network, variables, image_shape))
    if not found:
        raise Refusal("this network has no convolution that resjax.describe knows")
    measured = []
    for i, layer in enumerate(found):
        if progress:
            progress(i, len(found))
        measured.append(_look(layer))
    if progress:
        progress(len(found), len(found))
    facts = [layer.facts for layer in found]
    seen, different, rows = map(np.array, zip(*measured, strict=True))
    return Connections(
        layer=tuple(layer.name for layer in found),
        equal=np.array([layer.equal for layer in found]),
        parameters=np.array([f.parameters for f in facts]),
        locally_connected=np.array([f.locally_connected for f in facts]),
        dense=np.array([f.dense for f in facts]),
        inputs=np.array([math.prod(layer.input_shape) for layer in found]),
        window=np.array([f.connections for f in facts]),
        seen=seen,
        different=different,
        rows=rows,
        choices={
            "equal units": "the first one is measured",
            "rows": f"at most {_SIDE}×{_SIDE} positions around the middle, {_CHANNELS} channels",
            "border": "rows whose window the border cuts off are left out",
        },
    )


class _Layer(NamedTuple):
    """A convolution: its module and own variables, equal ones, shapes of its input and output, its facts."""

    name: str
    equal: int
    module: nn.Module
    variables: dict[str, Any]
    input_shape: Shape3
    output_shape: Shape3
    facts: Facts


def _convolutions(network: Network, variables: Variables, image_shape: Shape3) -> Iterator[_Layer]:
    """Of the stem and of the first unit of every stack."""
    first = {unit.stack.name: unit for unit in reversed(network.units)}
    h: Any = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    for name, module in [("stem", network.stem), *((s.name, s.unit) for s in network.stacks)]:
        own: Any = {c: tree[name] for c, tree in variables.items() if name in tree}
        label, equal = name, 1
        if name in first:
            own = jax.tree.map(lambda v: v[0], own)
            label, equal = first[name].name, first[name].stack.n
        layers, h = _trace(module, own, h, label, equal)
        yield from layers


def _trace(
    part: nn.Module, own: Any, h: Any, label: str, equal: int
) -> tuple[list[_Layer], jax.ShapeDtypeStruct]:
    """The convolutions that ``part`` calls on ``h`` (shapes), and the shape of what it returns."""
    layers: list[_Layer] = []

    def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        y = call(*args, **kwargs)
        rule = rule_of(context.module)
        if rule and context.method_name == "__call__":
            params = own.get("params", {})
            for key in context.module.path:
                params = params.get(key, {})
            shapes = args[0].shape[1:], y.shape[1:]
            facts = rule(context.module, params, *shapes)
            name = "/".join((label, *context.module.path))
            known = any(name == layer.name for layer in layers)  # a layer may be called again
            if not known and facts.window and facts.locally_connected is not None:
                module = context.module.clone(parent=None)
                layers.append(_Layer(name, equal, module, {"params": params}, *shapes, facts))
        return y

    with nn.intercept_methods(record):
        h = jax.eval_shape(lambda x: part.apply(own, x, train=False), h)
    return layers, h


def _look(layer: _Layer) -> tuple[int, int, int]:
    """(most inputs that an output sees, rows that differ from the same channel's elsewhere, rows)."""
    height, width, channels = layer.output_shape
    spread = [
        np.unique(np.linspace(n // 4, (3 * n - 1) // 4, _SIDE).astype(int)) for n in (height, width)
    ]
    some = np.unique(np.linspace(0, channels - 1, _CHANNELS).astype(int))
    places = np.array([(o, h, w) for o in some for h in spread[0] for w in spread[1]])
    o, h, w = places.T
    flat = (h * width + w) * channels + o
    rows = jacobian_rows(layer.module, layer.variables, layer.input_shape, flat)
    # [row, axis]: how far the nonzero entries reach.
    reach = np.stack([np.any(rows, axis=axes).sum(1) for axes in ((2, 3), (1, 3))], axis=1)
    assert layer.facts.kernel is not None and layer.facts.stride is not None
    whole = np.all(reach >= np.array(layer.facts.kernel), axis=1)
    seen = int(np.count_nonzero(rows.reshape(len(rows), -1), axis=1).max())
    first: dict[int, tuple[bytes, ...]] = {}
    different = 0
    down, across = layer.facts.stride
    for row, (channel, top, left) in zip(rows[whole], places[whole], strict=True):
        key = moved_back(row, top * down, left * across)
        different += key != first.setdefault(int(channel), key)
    compared = int(whole.sum())
    return seen, (different if compared > len(first) else -1), compared


def plot(results: Connections | Mapping[str, Connections]) -> Figure:
    """Parameters of each convolution as it is, unshared, and dense, on a logarithmic scale; a panel a run."""
    named = {"": results} if isinstance(results, Connections) else dict(results)
    fig, grid = style.axes_grid(len(named), 1, sharex=False)
    fig.set_size_inches(fig.get_figwidth(), 1.0 + 2.4 * len(named))
    forms = (("as it is", "parameters"), ("unshared", "locally_connected"), ("dense", "dense"))
    for (ax,), (label, result) in zip(grid, named.items(), strict=True):
        x = 1 + np.arange(len(result.layer))
        for i, (form, field) in enumerate(forms):
            ax.plot(
                x, getattr(result, field), f"{style.marker(i)}-", color=style.color(i), label=form
            )
        ax.set(
            yscale="log", ylabel="parameters", title=label, xlabel="convolution (equal ones once)"
        )
        style.integer_ticks(ax)
    style.legend_above(fig, grid[0][0], columns=3)
    return fig
