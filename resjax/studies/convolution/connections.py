"""What sparse and shared connections save in a network, and whether its layers have them.

*Question.* How many parameters do the convolutions of this network have, how many would they have with
weights of their own at every position, and how many as dense layers? And is a trained layer built as
claimed: does no output see anything outside its window, and do all positions apply the same weights?

*Method.* The counts are those of ``resjax.models.layer_table``. For every convolution, exact rows of the
Jacobian ∂y_o/∂x_i are computed at positions around the middle of the map (``sharing``). A row may have
nonzero entries only inside its window, and the rows of one channel must be translations of one row.

*Protocol.* Only the first of equal units is measured. Each layer is measured alone, without the normalization
and activation behind it. Rows whose window is cut off by a padded border are not compared; on maps smaller
than the window these are all rows. Layers that ``resjax.describe`` does not know are left out.

*Reading it.* Training cannot change what is measured here; it checks how the network is built. The counts say
what the restrictions save, not that they help (``sample_size``).

*Cost.* Up to 128 backward passes of one layer on one image, and one compilation, for each form of layer.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import reduce
from typing import Annotated, Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from resjax.models.layer_table import Facts, rule_of
from resjax.network import Network, Variables
from resjax.network.example import one_example
from resjax.network.parts import part_of
from resjax.network.refusal import Refusal
from resjax.studies import style
from resjax.studies.batches import Progress, reported
from resjax.studies.convolution.sharing import Shape3, jacobian_rows, moved_back
from resjax.studies.costs import Cost
from resjax.studies.examples import only_images, only_modules
from resjax.studies.options import Options
from resjax.studies.result import Result
from resjax.studies.study import Columns, Study
from resjax.studies.subject import Subject
from resjax.studies.words import count, factor, join

# Positions along a side, and channels, whose rows are computed.
_SIDE, _CHANNELS = 4, 8

PerLayer = Annotated[np.ndarray, "layer"]


@dataclasses.dataclass(frozen=True)
class Connections(Result):
    """Counts for every convolution of a network, and measurements of some rows of its Jacobian."""

    layer: tuple[str, ...]  # names; of equal units, the first
    equal: PerLayer  # int, number of layers of this form, one in each equal unit
    parameters: PerLayer  # int, of one layer, biases included
    locally_connected: PerLayer  # int, if no two positions shared them
    dense: PerLayer  # int, if every output were connected with every input
    inputs: PerLayer  # int, size of the layer's input
    window: PerLayer  # int, inputs that an output sees, calculated
    seen: PerLayer  # int, largest number of nonzero entries in a row, measured
    different: PerLayer  # int, rows unlike the first row of their channel; −1: no two whole windows
    rows: PerLayer  # int, compared rows

    def total(self, what: str) -> int:
        """Sum of 'parameters', 'locally_connected' or 'dense' over all layers, counting every equal one."""
        return int(np.sum(getattr(self, what) * self.equal))

    @property
    def odd(self) -> list[str]:
        """Layers with a row that sees more than the window, less than a whole window, or does not repeat."""
        less = (self.rows > 0) & (self.seen < self.window)
        odd = (self.seen > self.window) | less | (self.different > 0)
        return [name for name, is_odd in zip(self.layer, odd, strict=True) if is_odd]


def connections(
    network: Network,
    variables: Variables,
    example: Any,
    *,
    progress: Progress | None = None,
) -> Connections:
    """Counts and measures every convolution of a network.

    Args:
      network, variables, progress: see ``Inference``.
      example: (H, W, C), or images [N, H, W, C].

    Raises:
      Refusal: inputs that are no images, or a network without a convolution that ``resjax.describe`` knows.
    """
    image = one_example(example)
    only_images(image, "connections of convolutions")
    only_modules(network, "connections of convolutions")
    found = _convolutions(network, variables, image)
    if not found:
        raise Refusal("this network has no convolution that resjax.describe knows")
    measured = [_measure_rows(layer) for layer in reported(found, progress)]
    seen, different, rows = map(np.array, zip(*measured, strict=True))

    def facts(name: str) -> np.ndarray:
        return np.array([getattr(layer.facts, name) for layer in found])

    return Connections(
        layer=tuple(layer.name for layer in found),
        equal=np.array([layer.equal for layer in found]),
        parameters=facts("parameters"),
        locally_connected=facts("locally_connected"),
        dense=facts("dense"),
        inputs=np.array([math.prod(layer.input_shape) for layer in found]),
        window=facts("connections"),
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
    """One convolution."""

    name: str
    equal: int  # number of layers of this form
    module: nn.Module
    variables: dict[str, Any]  # its own
    input_shape: Shape3
    output_shape: Shape3
    facts: Facts


def _convolutions(network: Network, variables: Variables, image: Any) -> list[_Layer]:
    """The convolutions of the stem and of the first unit of every stack."""
    found: list[_Layer] = []
    h = _trace("stem", 1, network.stem, part_of(variables, "stem"), image, found)
    for stack, units in network.spans:
        own = jax.tree.map(lambda v: v[0], part_of(variables, stack))
        h = _trace(network.units[units.start].name, stack.n, stack.unit, own, h, found)
    return found


def _trace(
    label: str, equal: int, part: nn.Module, own: Any, h: Any, found: list[_Layer]
) -> jax.ShapeDtypeStruct:
    """Appends the convolutions that ``part`` calls on ``h`` (shapes); returns the shape of its output."""

    def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        y = call(*args, **kwargs)
        rule, path = rule_of(context.module), context.module.path
        if rule and context.method_name == "__call__":
            params = reduce(lambda tree, key: tree.get(key, {}), path, own.get("params", {}))
            shapes = args[0].shape[1:], y.shape[1:]
            facts = rule(context.module, params, *shapes)
            name = "/".join((label, *path))
            known = any(name == layer.name for layer in found)  # a layer may be called again
            if not known and facts.window and facts.locally_connected is not None:
                module = context.module.clone(parent=None)
                found.append(_Layer(name, equal, module, {"params": params}, *shapes, facts))
        return y

    with nn.intercept_methods(record):
        return jax.eval_shape(lambda x: part.apply(own, x, train=False), h)


def _measure_rows(layer: _Layer) -> tuple[int, int, int]:
    """``seen``, ``different`` and ``rows`` of one layer."""
    height, width, channels = layer.output_shape
    middle = [(n // 4, (3 * n - 1) // 4, _SIDE) for n in (height, width)]
    ends = (0, channels - 1, _CHANNELS), *middle
    chosen = [np.unique(np.linspace(*own).astype(int)) for own in ends]
    places = np.stack(np.meshgrid(*chosen, indexing="ij"), -1).reshape(-1, 3)
    o, h, w = places.T
    flat = (h * width + w) * channels + o
    rows = np.asarray(jacobian_rows(layer.module, layer.variables, layer.input_shape, flat))
    # [row, axis]: how far the nonzero entries reach.
    reach = np.stack([np.any(rows, axis=axes).sum(1) for axes in ((2, 3), (1, 3))], axis=1)
    assert layer.facts.kernel is not None and layer.facts.stride is not None
    whole = np.all(reach >= np.array(layer.facts.kernel), axis=1)
    first: dict[int, tuple[bytes, ...]] = {}
    different = 0
    down, across = layer.facts.stride
    for row, (channel, top, left) in zip(rows[whole], places[whole], strict=True):
        key = moved_back(row, top * down, left * across)
        different += key != first.setdefault(int(channel), key)
    seen, compared = int(np.count_nonzero(rows, (1, 2, 3)).max()), int(whole.sum())
    return seen, (different if compared > len(first) else -1), compared


# --- what the report shows ---


def plot(results: Mapping[str, Connections]) -> style.Figure:
    """Parameters of each convolution as it is, unshared, and dense; one panel for each network."""
    fig, panels = style.panels(len(results), columns=1, height=0.7, wide=0.95)
    forms = {"as it is": "parameters", "unshared": "locally_connected", "dense": "dense"}
    for ax, (label, result) in zip(panels, results.items(), strict=True):
        x = 1 + np.arange(len(result.layer))
        for i, (form, field) in enumerate(forms.items()):
            look: dict[str, Any] = {"color": style.color(i), "label": form}
            ax.plot(x, getattr(result, field), f"{style.marker(i)}-", **look)
        ax.set(title=label, xlabel="convolution (equal ones once)", ylabel="parameters", yscale="log")
        style.integer_ticks(ax)
    style.legend_above(fig, panels[0], columns=3)
    return fig


# The headline names this many odd layers of a network; the points name all.
MOST_NAMED = 3


def headline(results: Mapping[str, Connections]) -> str:
    """Warnings of odd layers, then what sharing and sparseness save; networks with equal counts together."""
    warnings: list[str] = []
    saved: dict[str, list[str]] = {}
    for label, r in results.items():
        own, unshared, dense = map(r.total, ("parameters", "locally_connected", "dense"))
        text = (
            f"have {own:,} parameters; they would have {factor(unshared / own)} times as many if no "
            f"position shared them, and {factor(dense / own)} times as many as dense layers"
        )
        saved.setdefault(text, []).append(label)
        if odd := r.odd:
            named = ", ".join([*odd[:MOST_NAMED], *(["…"] if odd[MOST_NAMED:] else [])])
            warnings.append(
                f"The measured Jacobians of {count(len(odd), 'layer')} in {label} ({named}) do not match "
                "their windows, so the counts may be wrong"
            )
    parts = [f"The convolutions of {join(labels)} {text}" for text, labels in saved.items()]
    return ". ".join([*warnings, *parts])


def points(label: str, r: Connections) -> list[str]:
    measured, small = int(np.sum(r.different >= 0)), int(np.sum(r.different < 0))
    text = f"{label}: {int(r.rows.sum()):,} rows of the Jacobians of {len(r.layer)} layers. "
    repeated = f"; in the {measured} layers with two whole windows, rows repeat bit for bit"
    if r.odd:
        text += f"Layers that do not match their windows: {join(r.odd)}."
    else:
        text += f"No row reaches outside its window{repeated if measured else ''}."
    if small:
        text += f" In {small}, maps are too small for two whole windows."
    wider = (
        f"{label}: where windows are wider than the map, a dense layer has fewer parameters than windows "
        "with weights of their own, some of which only ever see the padding."
    )
    return [text, wider] if any(r.dense < r.locally_connected) else [text]


def table(r: Connections) -> Columns:
    """One row for each layer."""
    repeats = zip(r.different, r.rows, strict=True)
    return {
        "layer": r.layer,
        "equal ones": map(str, r.equal),
        "parameters": [f"{n:,}" for n in r.parameters],
        "unshared": [f"{n:,}" for n in r.locally_connected],
        "dense": [f"{n:,}" for n in r.dense],
        "window": [f"{n:,} of {of:,}" for n, of in zip(r.window, r.inputs, strict=True)],
        "seen": [f"{n:,}" for n in r.seen],
        "rows that do not repeat": ["–" if n < 0 else f"{n} of {of}" for n, of in repeats],
    }


def cost(run: Subject, options: Options) -> Cost:
    del options
    only_modules(run.network, "connections of convolutions")
    return Cost(compilations=1 + len(run.network.stacks))


STUDY = Study(
    name="connections",
    title="Sparse connections, shared weights, layer by layer",
    question=(
        "What do convolutions save in this network? The parameters of its layers are counted as they are, "
        "as if positions did not share weights, and as if everything were connected. Rows of the layers' "
        "Jacobians are measured."
    ),
    code="resjax.analysis.connections(run.network, run.variables, run.example)",
    result=Connections,
    measure=lambda bench: connections(*bench.network(), bench.run.example, progress=bench.progress),
    cost=cost,
    plot=plot,
    headline=headline,
    points=points,
    table=table,
)
