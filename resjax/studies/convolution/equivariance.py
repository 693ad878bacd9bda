"""Translation equivariance: do features move along when the image moves?

*Question.* Because all positions share their weights, a convolution commutes with a shift T of its input,
f(Tx) = T f(x): a feature that is found in one place is found in every place (Goodfellow et al. 2016,
§9.2). Three things break this in a real network: borders, where zeros take the place of what lies beyond;
strides, behind which only shifts by a multiple of the total stride s can be met by a shift of the
features, by 1/s as many positions (Azulay & Weiss 2019; Zhang 2019); and layers that are not
convolutions. And what a classifier should be is *in*variant: its answer should stay.

*Method.* The image is moved by s pixels down, up, right and left, s being the total stride at that place
of the network, so that features should move by one position. At each place (the stem and every unit),

    whole     ‖f(Tx) − T f(x)‖ / ‖T f(x)‖   over positions that are in the map before and after,
    interior  the same                      over those that no border reaches, of the image or its moved copy,
    in place  ‖f(Tx) − f(x)‖ / ‖f(x)‖       over those of "whole", as if features stayed where they were.

All are roots of (sum of squares over examples, directions, positions and channels) ÷ (the same).
Equivariance is "whole" near 0; features that ignore the shift have "in place" near 0; √2 is the distance
of unrelated features of equal size. For the answers, the image is moved by 0, 1, 2, … pixels: error,
agreement with the unmoved image, and the relative change of the logits.

*Protocol.* What enters at the border repeats the outermost pixels (networks see the edge of the picture
continued, not a bar of another colour). Which positions the border reaches is measured: those whose
features change (by more than 1e-5 of the largest) when a frame of the width of the shift is replaced by
noise around some images. That frame is wider by the shift than strictly needed on one side, so the
interior is a little smaller than it could be.

*Reading it.* "interior" is 0 up to rounding in every convolutional network: that is arithmetic. "whole"
says how far borders reach into the maps; in a deep network on small images that is everywhere, and
"interior" is empty. A small error at the answers may be learned (augmentation) and need not come from
equivariance. On small images a shift also pushes a part of the object out of the picture.

*Cost.* Five forward passes for each number of pixels, one compilation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.studies import style
from resjax.studies.batches import (
    Progress,
    check_examples,
    check_images,
    count_classes,
    padded_batches,
)
from resjax.studies.convolution.moves import (
    DIRECTIONS,
    Map,
    Steps,
    Sums,
    moved_batch,
    reached,
    total_strides,
)
from resjax.studies.result import Classified

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Images that the border's reach is measured with.
_PROBES = 8


@dataclasses.dataclass(frozen=True)
class Equivariance(Classified):
    """How features and answers take a shift of the image.

    Attributes:
      place: 'stem' and the names of the units.
      stride: int [place], pixels that the image was moved by, the total stride there.
      whole, interior, in_place: [place], relative errors; NaN where there is nothing to compare.
      interior_share: [place], share of the positions that no border reaches.
      left_out: place → why nothing was compared.
      shift: int [shift], pixels: 0, 1, 2, …
      direction: names.
      error: [shift, direction], share of wrong answers, 0 … 1.
      agreement: [shift, direction], share of answers that are those to the unmoved image.
      logits: [shift], ‖logits(Tx) − logits(x)‖ / ‖logits(x)‖, over examples and directions.
      num_examples, num_classes: of the data and the network.
      choices: what was decided.
    """

    AXES: ClassVar = {
        **dict.fromkeys(("stride", "whole", "interior", "in_place", "interior_share"), ("place",)),
        **dict.fromkeys(("shift", "logits"), ("shift",)),
        **dict.fromkeys(("error", "agreement"), ("shift", "direction")),
    }

    place: tuple[str, ...]
    stride: np.ndarray
    whole: np.ndarray
    interior: np.ndarray
    in_place: np.ndarray
    interior_share: np.ndarray
    left_out: dict[str, str]
    shift: np.ndarray
    direction: tuple[str, ...]
    error: np.ndarray
    agreement: np.ndarray
    logits: np.ndarray
    num_examples: int
    num_classes: int
    choices: dict[str, Any]


def equivariance_error(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    most: int = 4,
    batch_size: int = 128,
    seed: int = 0,
    progress: Progress | None = None,
) -> Equivariance:
    """Moves images and compares features with moved features, and answers with answers.

    Args:
      network: any; places whose features are no maps are left out and named.
      variables: of the network, as ``Network.init`` returns them.
      images: float [N, H, W, C], standardized as in training; any N ≥ 1, each counted once.
      labels: int [N].
      most: the answers are asked for shifts of 0 … ``most`` pixels.
      batch_size: examples at a time (each with four moved copies); the result does not depend on it.
      seed: of the noise that finds the border's reach.
      progress: called as ``progress(batches done, batches in all)``.

    Raises:
      ValueError: no example, images or labels of a wrong form, or shifts as large as the image.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    check_images(images)
    num_classes = count_classes(network, variables, images.shape[1:])
    check_examples(images, labels, num_classes)
    side = min(images.shape[1:3])
    if not 1 <= most < side:
        raise ValueError(f"most={most}; allowed: 1 … {side - 1} pixels on these images")
    steps = total_strides(network, images.shape[1:])
    # Both axes move by one number of pixels, so by a multiple of both strides.
    stride = np.array([math.lcm(*s) for s in steps])
    own = sorted({int(s) for s in stride if s < side})
    sums: dict[int, Sums] = {}
    for pixels in sorted({*range(most + 1), *own}):
        for batch in padded_batches(images, labels, batch_size):
            part = jax.device_get(moved_batch(network, steps, variables, pixels, *batch))
            part = jax.tree.map(np.float64, part)
            known = sums.get(pixels)
            sums[pixels] = part if known is None else jax.tree.map(np.add, known, part)
        if progress:
            progress(len(sums), len({*range(most + 1), *own}))
    probes = images[:_PROBES]
    noise = np.random.default_rng(seed).normal(0, 2, probes.shape).astype(probes.dtype)
    touched = {s: jax.device_get(reached(network, variables, probes, noise, s)) for s in own}
    places = ("stem", *(unit.name for unit in network.units))
    values, left_out = [], {}
    for i, name in enumerate(places):
        s = int(stride[i])
        reason = _why_not(sums[0].maps[i], s, side, steps[i])
        if reason:
            left_out[name] = reason
            values.append((np.nan,) * 4)
        else:
            values.append(_compare(sums[s].maps[i], ~touched[s][i]))
    whole, interior, in_place, share = np.array(values).T
    shift = np.arange(most + 1)
    count = len(images)
    return Equivariance(
        place=places,
        stride=stride,
        whole=whole,
        interior=interior,
        in_place=in_place,
        interior_share=share,
        left_out=left_out,
        shift=shift,
        direction=tuple(DIRECTIONS),
        error=np.array([sums[s].wrong / count for s in shift.tolist()]),
        agreement=np.array([sums[s].agree / count for s in shift.tolist()]),
        logits=np.array([_ratio(sums[s].change, sums[s].size) for s in shift.tolist()]),
        num_examples=count,
        num_classes=num_classes,
        choices={
            "shift of the features": "one position, the image by the total stride there",
            "directions": "down, up, right, left; one after the other",
            "border of the moved image": "its outermost pixels, repeated",
            "BatchNorm": "running statistics",
        },
    )


def _why_not(sums: Map, stride: int, side: int, step: Steps) -> str | None:
    if not sums.off.size:
        return "its features are no map"
    if stride >= side:
        return f"its total stride of {stride} pixels is as large as the image"
    if any(n <= stride // s for n, s in zip(sums.off.shape, step, strict=True)):
        return "its map has one position"
    return None


def _compare(sums: Map, interior: np.ndarray) -> tuple[float, float, float, float]:
    """(whole, interior, in place, share of the interior)."""
    inner = _ratio(sums.off[interior].sum(), sums.size[interior].sum())
    in_place = _ratio(sums.off_in_place.sum(), sums.size_in_place.sum())
    return _ratio(sums.off.sum(), sums.size.sum()), inner, in_place, float(interior.mean())


def _ratio(off: float, size: float) -> float:
    return math.sqrt(off / size) if size > 0 else math.nan


def plot(results: Equivariance | Mapping[str, Equivariance]) -> Figure:
    """Left, how far features are from moving along, place by place; right, the error of moved images.

    Filled markers: whole maps; rings: the interior, where there is any; faint lines: features left in place.
    The shade on the right spans the four directions.
    """
    named = {"": results} if isinstance(results, Equivariance) else dict(results)
    narrow = style.is_narrow()
    fig, grid = style.axes_grid(*((2, 1) if narrow else (1, 2)))
    if narrow:
        fig.set_size_inches(fig.get_figwidth(), 6.2)
    left, right = (ax for row in grid for ax in row)
    for i, (label, result) in enumerate(named.items()):
        look: dict[str, Any] = {"color": style.color(i)}
        x = np.arange(len(result.place))
        name = f"{label}: " if label else ""
        left.plot(x, result.whole, f"{style.marker(i)}-", label=f"{name}moved along", **look)
        left.plot(x, result.in_place, ":", label=f"{name}left in place", lw=1.2, **look)
        if np.isfinite(result.interior).any():
            ring: dict[str, Any] = {"mfc": "none", "ms": 8, "mew": 1.6, **look}
            left.plot(x, result.interior, style.marker(i), label=f"{name}interior alone", **ring)
        error = 100 * result.error
        right.plot(result.shift, error.mean(1), f"{style.marker(i)}-", **look)
        right.fill_between(result.shift, error.min(1), error.max(1), alpha=0.2, lw=0, **look)
    longest = max(named.values(), key=lambda result: len(result.place))
    _mark_strides(left, longest.stride)
    left.set(xlabel="unit (0 is the stem)", ylabel="relative error of features")
    left.set_ylim(bottom=-0.04)
    style.integer_ticks(left)
    for chance in sorted({result.chance_error for result in named.values()}):
        right.axhline(100 * chance, lw=1, ls=":", color=style.ink())
        right.annotate(
            "chance",
            (0, 100 * chance),
            xytext=(0, 3),
            textcoords="offset points",
            va="bottom",
            fontsize=8.5,
        )
    right.set(xlabel="shift of the image (pixels)", ylabel="error (%)", ylim=(-3, 104))
    style.integer_ticks(right)
    style.legend_above(fig, left, columns=len(named) + 1)
    return fig


def _mark_strides(ax: Axes, stride: np.ndarray) -> None:
    """The shift of the image above the places that share it."""
    for pixels in np.unique(stride):
        first, last = np.flatnonzero(stride == pixels)[[0, -1]]
        ax.annotate(
            f"{pixels} px",
            ((first + last) / 2, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8.5,
        )
        if first:
            ax.axvline(first - 0.5, lw=0.8, color=style.ink(), alpha=0.35)
