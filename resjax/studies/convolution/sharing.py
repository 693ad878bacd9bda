"""Parameter sharing and sparse connections: counted from shapes, and measured on the Jacobian.

*Question.* "Why convolutions?" A convolution is a matrix product with two restrictions. It is *sparse*: an
output sees the k·k·C inputs of its window and no others. And it *shares*: all positions use the same k·k·C·O
weights (LeCun 1989, *Generalization and network design strategies*; Goodfellow et al. 2016, §9.2). From
32×32×3 to 28×28×6 a dense layer has 3,072 · 4,704 = 14,450,688 weights, a 5×5 convolution 450 (456 with
biases), and each of its outputs sees 75 inputs. A *locally connected* layer is as sparse, but unshared.

*Method.* The exact Jacobian J[o, i] = ∂y_o/∂x_i of a layer, one row for each output: reverse mode applied to
unit vectors. These layers are affine, so J is their weight matrix and does not depend on x.

* Sparse: the share of zeros in a row is 1 − k·k·C/(H·W·C), wherever the window lies within the image.
* Shared: the rows of one output channel are translations of one row. Rows are compared after they are moved
  back by (s·h, s·w) for output position (h, w) and stride s; (different rows) × (inputs of each) = weights.

*Protocol.* Every row of one layer without padding is computed (a row whose window is cut off by a padded
border has fewer entries). Bit patterns are compared: a copied weight is copied exactly. ``connections`` does
the same for the convolutions of a trained network.

*Reading it.* This says how a layer is built, which training cannot change. The counts say what the
restrictions save, not that they help; that is another experiment (``sample_size``).

*Cost.* One backward pass of the layer for each row, in one compilation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from resjax.models.local import CONNECTIONS, layer
from resjax.studies import style
from resjax.studies.batches import Progress, reported
from resjax.studies.options import ClaimOptions
from resjax.studies.result import Result
from resjax.studies.study import Claim, Columns
from resjax.studies.words import count, join, percent

Shape3 = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class LayerJacobian(Result):
    """Every row of the Jacobian of one layer."""

    input_shape: Shape3  # (H, W, C) of one image
    output_shape: Shape3
    weights: int  # trainable numbers without the biases
    biases: int
    window: int  # inputs that an output sees by the layer's design
    connections: int  # largest number of nonzero entries in a row; should be ``window``
    zeros: float  # share of zeros in the Jacobian, 0 … 1
    distinct: int  # rows that differ by more than a translation
    # Inputs and outputs in the order H, W, C; None: not kept.
    jacobian: Annotated[np.ndarray | None, "output", "input"]

    @property
    def inputs(self) -> int:
        return math.prod(self.input_shape)

    @property
    def outputs(self) -> int:
        return math.prod(self.output_shape)

    @property
    def predicted_zeros(self) -> float:
        """By the arithmetic of windows, for a layer without padding."""
        return 1 - self.window / self.inputs

    @property
    def unshared_weights(self) -> int:
        """Number of weights if every position had its own."""
        return self.outputs * self.window

    @property
    def dense_weights(self) -> int:
        """Number of weights if every output also saw every input."""
        return self.outputs * self.inputs

    @property
    def values(self) -> int:
        """Number of entries that differ by more than a translation; by design, the number of weights."""
        return self.distinct * self.connections

    @property
    def as_designed(self) -> bool:
        """Whether an unpadded layer's Jacobian holds what the arithmetic of windows says."""
        zeros = abs(self.zeros - self.predicted_zeros) <= 1e-12  # float64 rounding
        return self.connections == self.window and zeros and self.values == self.weights


def sharing(
    layer: nn.Module,
    variables: Mapping[str, Any],
    input_shape: Shape3,
    *,
    window: int,
    strides: tuple[int, int] = (1, 1),
    keep: bool = True,
) -> LayerJacobian:
    """Computes the exact Jacobian of an affine layer.

    Args:
      layer, variables, strides: module [B, H, W, C] → maps [B, H', W', O], its variables and strides.
      input_shape: (H, W, C).
      window: inputs that an output sees by design, such as k·k·C.
      keep: whether the result holds the matrix itself.
    """
    outputs = jax.eval_shape(layer.apply, variables, jnp.zeros((1, *input_shape))).shape[1:]
    if len(outputs) != 3:
        raise ValueError(f"a layer must return maps [B, H, W, C], got outputs of shape {outputs}")
    which = np.arange(math.prod(outputs))
    rows = np.asarray(jacobian_rows(layer, variables, input_shape, which))
    seen = np.count_nonzero(rows, (1, 2, 3))
    leaves = jax.tree_util.tree_leaves_with_path(variables["params"])
    biases = sum(leaf.size for path, leaf in leaves if path[-1].key == "bias")
    (down, across), places = strides, np.ndindex(outputs)
    entries = {moved_back(row, h * down, w * across) for row, (h, w, _) in zip(rows, places, strict=True)}
    return LayerJacobian(
        input_shape=input_shape,
        output_shape=outputs,
        weights=sum(leaf.size for _, leaf in leaves) - biases,
        biases=biases,
        window=window,
        connections=int(seen.max()),
        zeros=float(1 - seen.sum() / rows.size),
        distinct=len(entries),
        jacobian=rows.reshape(len(rows), -1) if keep else None,
    )


@partial(jax.jit, static_argnums=(0, 2))
def jacobian_rows(layer: nn.Module, variables: Any, input_shape: Shape3, outputs: ArrayLike) -> jax.Array:
    """Rows [rows, H, W, C] of the Jacobian at x = 0; ``outputs`` [rows] are flat indices of y [H', W', O]."""
    run: Any = partial(layer.apply, variables)
    y, back = jax.vjp(run, jnp.zeros((1, *input_shape)))

    def row(output: jax.Array) -> jax.Array:
        unit = (jnp.arange(y.size) == output).astype(y.dtype).reshape(y.shape)
        return back(unit)[0][0]

    return lax.map(row, outputs, batch_size=min(64, np.size(outputs)))


def moved_back(row: np.ndarray, top: int, left: int) -> tuple[bytes, ...]:
    """The nonzero entries of a row [H, W, C] and their positions relative to its window, which begins at
    (top, left)."""
    h, w, c = np.nonzero(row)
    return (h - top).tobytes(), (w - left).tobytes(), c.tobytes(), row[h, w, c].tobytes()


def measure(options: ClaimOptions, progress: Progress | None) -> dict[str, LayerJacobian]:
    key, results = jax.random.key(options.seed), {}
    # Label, connections, shape of the input, channels and side of the window.
    cases = [(name, name, (8, 8, 1), 1, 3) for name in CONNECTIONS]
    classical = ("larger convolution", "convolution", (32, 32, 3), 6, 5)
    for label, name, shape, features, side in reported([*cases, classical], progress):
        module = layer(name, features, side, shape[:2], pad=False)
        variables = jax.jit(module.init)(key, np.zeros((1, *shape), np.float32))
        window = math.prod(shape) if name == "dense" else side**2 * shape[2]
        results[label] = sharing(module, variables, shape, window=window, keep=label == name)
    return results


# --- what the report shows ---


def plot(results: Mapping[str, LayerJacobian]) -> style.Figure:
    """The matrices that were kept, and the number of weights of the largest layer in all three forms."""
    kept = {label: r for label, r in results.items() if r.jacobian is not None}
    fig, axes = style.panels(len(kept) + 1, columns=2, height=0.64, wide=0.78)
    for ax, (label, r) in zip(axes, kept.items(), strict=False):
        assert r.jacobian is not None
        # Zeros are left blank, and no weight has the background color.
        shown = np.where(r.jacobian == 0, np.nan, r.jacobian)
        ax.imshow(shown, cmap="viridis", interpolation="none", aspect="auto")
        name = f"{label}: {r.weights:,} weights".strip(": ")
        ax.set(title=name, xlabel="input", ylabel="output")
        ax.grid(False)
    _draw_weights(axes[-1], max(results.values(), key=lambda r: r.outputs))
    return fig


def _draw_weights(ax: style.Axes, r: LayerJacobian) -> None:
    """Bars: the number of weights as it is, unshared, and dense."""
    forms = {"as it is": r.weights, "unshared": r.unshared_weights, "dense": r.dense_weights}
    y = np.arange(len(forms))[::-1]
    ax.barh(y, list(forms.values()), color=[style.color(i) for i in range(len(y))], height=0.6)
    for level, n in zip(y, forms.values(), strict=True):
        ax.annotate(f" {n:,}", (n, level), va="center", fontsize=8.5)
    ax.set_yticks(y, list(forms))
    ax.grid(False, axis="y")
    title = f"{_shape(r.input_shape)} → {_shape(r.output_shape)}"
    ax.set(xscale="log", xlim=(1, 100 * max(forms.values())), xlabel="weights", title=title)


def _shape(shape: Shape3) -> str:
    return "×".join(map(str, shape))


def headline(results: Mapping[str, LayerJacobian]) -> str:
    """Which layers are not as designed; if none, what the restrictions save in the largest one."""
    if odd := [label for label, r in results.items() if not r.as_designed]:
        return f"the Jacobian does not match the design: {join(odd)}"
    r = max(results.values(), key=lambda r: r.outputs)
    return (
        f"Jacobians match the design. From {_shape(r.input_shape)} to {_shape(r.output_shape)}, "
        f"{r.weights:,} weights are enough, instead of {r.unshared_weights:,} if none were shared, and "
        f"{r.dense_weights:,} if every output saw every input"
    )


def points(label: str, r: LayerJacobian) -> list[str]:
    return [
        f"{label}, {_shape(r.input_shape)} to {_shape(r.output_shape)}: {percent(r.zeros)} zeros "
        f"(predicted {percent(r.predicted_zeros)}); an output sees {r.connections:,} of {r.inputs:,} "
        f"inputs; {count(r.distinct, 'different row')} among {r.outputs:,}, so {count(r.values, 'number')}, "
        f"for {count(r.weights, 'weight')}; biases: {r.biases:,}."
    ]


def table(r: LayerJacobian) -> Columns:
    """One row for each layer."""
    return {
        "input": [_shape(r.input_shape)],
        "output": [_shape(r.output_shape)],
        "weights": [f"{r.weights:,}"],
        "biases": [f"{r.biases:,}"],
        "an output sees": [f"{r.connections:,}"],
        "zeros": [percent(r.zeros)],
        "predicted": [percent(r.predicted_zeros)],
        "different rows": [f"{r.distinct:,}"],
        "weights if unshared": [f"{r.unshared_weights:,}"],
        "if dense": [f"{r.dense_weights:,}"],
    }


STUDY = Claim(
    name="sharing",
    title="Sparse connections, shared weights",
    question=(
        "Why convolutions? A layer is a matrix between all inputs and all outputs. In a convolution most of "
        "its entries are 0 (an output sees only its window), and the others repeat along the diagonal (all "
        "positions use the same weights). The figure shows the matrices, measured by differentiating the "
        "layers, and how many numbers each form needs."
    ),
    code=(
        "import jax, numpy as np\n"
        "from resjax.models.local import layer\n"
        "conv = layer('convolution', 6, 5, (32, 32), pad=False)\n"
        "variables = conv.init(jax.random.key(0), np.zeros((1, 32, 32, 3)))\n"
        "resjax.analysis.sharing(conv, variables, (32, 32, 3), window=75)"
    ),
    labels="layer",
    result=LayerJacobian,
    measure=measure,
    plot=plot,
    headline=headline,
    points=points,
    table=table,
)
