"""Layer responses: how strongly each layer modifies the signal (He et al. 2015, §4.2 and Fig. 7).

*Question.* If a residual unit is closer to the identity than to zero, its layers need to answer weakly. He et
al. plot the standard deviation of the response of every 3×3 convolution, "after BN and before other
nonlinearity (ReLU/addition)", in the order of the layers and sorted, and find smaller responses in residual
networks than in plain ones, and smaller ones the deeper the network.

*Which layers.* Every layer with a kernel (convolutions and dense layers, of any library) in stem and units,
as it is called: not the classifier, and nothing below a module called ``shortcut``, which is no step of the
branch. The response is the output of the normalization that takes the layer's output *itself*, in the same
unit; where a ReLU, a sum, or nothing stands between, it is the layer's own output. So a post-activation unit
gives what the paper measured. In a pre-activation unit all convolutions but the last are normalized that way
(by the next layer's BatchNorm); the last goes into the sum as it is. In the plain twin of such a unit, the
next unit's BatchNorm takes it, which makes its scale arbitrary.

*Decisions.* The deviation is one number over examples, positions and channels, about their common mean; a
BatchNorm's bias by channel counts. Running statistics, so on its own training data a BatchNorm layer has a
deviation of about √(mean γ² + variance of β) over channels: what is measured there is mostly γ.

*Reading it.* Sorted curves of networks of different depth compare by their level; the order shows where a
stage begins. Small responses already predict that deletions do little harm. Compare only layers that are
normalized in the same way: a raw output has no scale of its own.

*Cost.* One forward pass; one compilation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from resjax.models.layers import BatchNorm
from resjax.network import Network, Stack, Variables
from resjax.network.parts import part_of, scan_units
from resjax.studies import style
from resjax.studies.batches import Progress, check_images, padded_batches
from resjax.studies.refusal import Refusal
from resjax.studies.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NORMS = (BatchNorm, nn.BatchNorm, nn.LayerNorm, nn.GroupNorm)


@dataclasses.dataclass(frozen=True)
class Responses(Result):
    """The response of every weight layer in front of the head.

    Attributes:
      layer: names in the order in which the layers run, like 'stage2/unit3/conv1'.
      normalized: bool [layer], whether a normalization follows the layer, whose output is the response.
      std: [layer], standard deviation over examples, positions and channels.
      residual: whether some unit has a shortcut.
      num_examples: of the data.
      choices: what the paper leaves open.
    """

    AXES: ClassVar = dict.fromkeys(("normalized", "std"), ("layer",))

    layer: tuple[str, ...]
    normalized: np.ndarray
    std: np.ndarray
    residual: bool
    num_examples: int
    choices: dict[str, Any]


def layer_responses(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    *,
    batch_size: int = 128,
    progress: Progress | None = None,
) -> Responses:
    """The standard deviation of each layer's response, as He et al. 2015, Fig. 7.

    Args:
      network: any whose stem or units hold a layer with a kernel.
      variables: at init, or from any checkpoint.
      images: float [N, H, W, C], standardized as in training; any N ≥ 1, each counted once.
      batch_size: most examples at a time; the result does not depend on it.
      progress: called as ``progress(batches done, batches in all)``.

    Raises:
      ValueError: no example, images of a wrong form, or no layer with a kernel.
    """
    images = np.asarray(images)
    check_images(images)
    layers = layers_of(network, variables, images.shape[1:])
    if not layers:
        raise Refusal("neither the stem nor any unit of this network has a layer with a 'kernel'")
    none = np.zeros(len(images), np.int32)
    rows = []
    for batch in padded_batches(images, none, batch_size, progress):
        part = np.asarray(_moments(network, variables, batch.images), np.float64)
        rows.append(part[..., batch.mask])
    mean, square = np.concatenate(rows, -1).mean(-1).T
    return Responses(
        layer=tuple(layers),
        normalized=np.array(list(layers.values())),
        std=np.sqrt(np.maximum(square - mean**2, 0)),
        residual=any(stack.unit.residual for stack in network.stacks),
        num_examples=len(images),
        choices={
            "response": "output of the normalization that takes the layer's output itself; else the layer's",
            "deviation": "over examples, positions and channels together",
            "layers": "all with a kernel but the classifier and those on shortcuts",
            "BatchNorm": "running statistics",
        },
    )


class _Ear:
    """Hears the modules of one unit being called; keeps the response of each layer, in their order."""

    def __init__(self, part: Mapping[str, Any]) -> None:
        self.params = part.get("params", {})
        self.outputs: dict[str, jax.Array] = {}  # as the layer gave them
        self.responses: dict[str, jax.Array] = {}

    def __call__(self, call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        y = call(*args, **kwargs)
        path = context.module.path
        if context.method_name != "__call__" or "shortcut" in path:
            return y
        own: Any = self.params
        for name in path:
            own = own.get(name, {})
        if "kernel" in own:
            self.outputs["/".join(path)] = self.responses["/".join(path)] = y
        elif isinstance(context.module, NORMS):
            for name, output in self.outputs.items():
                if args[0] is output:  # the very array, so nothing stands between
                    self.responses[name] = y
        return y

    def moments(self, count: int) -> jax.Array:
        """Mean and mean square of each response of ``count`` examples, [layer, 2, count]."""
        found = []
        for y in self.responses.values():
            wide = y.astype(jnp.promote_types(y.dtype, jnp.float32))
            axes = tuple(range(1, y.ndim))
            found.append(jnp.stack([jnp.mean(wide, axes), jnp.mean(jnp.square(wide), axes)]))
        return jnp.stack(found) if found else jnp.zeros((0, 2, count))

    def normalized(self) -> dict[str, bool]:
        """Layer → whether a normalization took its output."""
        return {name: y is not self.outputs[name] for name, y in self.responses.items()}


def _listen(
    network: Network, variables: Variables, images: jax.Array, heard: dict[str, dict[str, bool]]
) -> jax.Array:
    """Moments of all responses [layer, 2, B]; notes in ``heard`` which layers each part has."""
    count = len(images)
    ear = _Ear(part_of(variables, "stem"))
    with nn.intercept_methods(ear):
        h, _ = network.run_stem(variables, images)
    heard["stem"] = ear.normalized()
    found = [ear.moments(count)]
    for place in network.places(variables):
        stack = place.stack

        def step(h: Any, own: Any, stack: Stack = stack) -> Any:
            part, gate = own
            ear = _Ear(part)
            with nn.intercept_methods(ear):
                parts: Any = stack.unit.apply(part, h, gate, method="parts")
            heard[stack.name] = ear.normalized()
            return parts.y, ear.moments(count)

        h, moments = scan_units(stack.n, step, h, (place.variables, place.gates))
        found.append(moments.reshape(-1, 2, count))
    return jnp.concatenate(found)


@partial(jax.jit, static_argnums=0)
def _moments(network: Network, variables: Variables, images: jax.Array) -> jax.Array:
    return _listen(network, variables, images, {})


def layers_of(network: Network, variables: Variables, shape: tuple[int, ...]) -> dict[str, bool]:
    """{layer: whether a normalization follows it} in order, for images (H, W, C); nothing is computed."""
    heard: dict[str, dict[str, bool]] = {}
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    jax.eval_shape(lambda v, x: _listen(network, v, x, heard), variables, x)
    parts = [("stem", heard["stem"])]
    parts += [(unit.name, heard[unit.stack.name]) for unit in network.units]
    return {f"{part}/{name}".rstrip("/"): own[name] for part, own in parts for name in own}


def plot(results: Responses | Mapping[str, Responses]) -> Figure:
    """Deviations in the order of the layers, and sorted from the largest to the smallest.

    Markers and solid lines are layers with a normalization behind them, crosses and dashed lines the others.
    """
    named = {"": results} if isinstance(results, Responses) else dict(results)
    narrow = style.is_narrow()
    fig, grid = style.axes_grid(2 if narrow else 1, 1 if narrow else 2, sharey=not narrow)
    if narrow:
        fig.set_figheight(1.6 * fig.get_figheight())
    order, ranked = (ax for row in grid for ax in row)
    for i, (label, result) in enumerate(named.items()):
        look: dict[str, Any] = {"color": style.color(i)}
        for which, line, dots in (
            (result.normalized, "-", style.marker(i)),
            (~result.normalized, "--", "x"),
        ):
            std = np.where(result.std > 0, result.std, np.nan)[which]
            line_in_order = f"{dots}-" if dots != "x" else "x"
            name = f"{label}, {'raw' if dots == 'x' else 'normalized'}".strip(", ")
            if which.any():
                order.plot(
                    1 + np.flatnonzero(which), std, line_in_order, lw=1, ms=4, label=name, **look
                )
                ranked.plot(1 + np.arange(which.sum()), np.sort(std)[::-1], line, **look)
    order.set(xlabel="layer, in the order of the network", ylabel="deviation of the response")
    ranked.set(xlabel="layer, from the largest deviation")
    for ax in (order, ranked):
        ax.set_yscale("log")
        style.integer_ticks(ax)
    style.legend_above(fig, order)
    return fig
