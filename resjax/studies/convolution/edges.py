"""The edge detector: what one convolution with a filter made by hand does to an image.

*Question.* What does a convolution compute? The classical first example: the filter

    1  0  −1
    1  0  −1        (Prewitt 1970)
    1  0  −1

is placed on every 3×3 window of an image and multiplied entry by entry; the sum is one pixel of the
output. It is large where the left side of the window is brighter than the right one, negative where it is
darker, and 0 where nothing changes. A 6×6 image becomes 4×4: a k×k window fits (n − k)/s + 1 times along
a side of n pixels, with step s and no padding. The middle row counts double in Sobel's filter (1, 2, 1),
and 10/3 times in Scharr's (3, 10, 3), which makes the response depend less on the direction of an edge
(Scharr 2000).

*Not a convolution in the sense of mathematics.* That flips the filter in both directions first. Deep
learning leaves the flip out (cross-correlation; Goodfellow et al. 2016, Eq. 9.6), which changes no
network, since filters are learned: a flipped one would be learned instead. For an edge filter the flip
changes the sign. ``flipped`` holds what the convolution of mathematics gives.

*Protocol.* All of it runs through this project's ``Conv`` layer, without padding and bias, in float32,
where sums of small integers are exact.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from resjax.models.layers import Conv
from resjax.studies import style
from resjax.studies.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RISE = np.array([[1.0, 0.0, -1.0]])
FILTERS: dict[str, np.ndarray] = {
    "vertical": np.array([[1.0], [1.0], [1.0]]) * _RISE,
    "Sobel": np.array([[1.0], [2.0], [1.0]]) * _RISE,
    "Scharr": np.array([[3.0], [10.0], [3.0]]) * _RISE,
    "horizontal": (np.array([[1.0], [1.0], [1.0]]) * _RISE).T,
}
"""Filters [3, 3] by name; all but the last look for vertical edges."""

# The worked example of A. Ng, *Convolutional Neural Networks* (deeplearning.ai), week 1, and its result.
LECTURE_IMAGE = np.array(
    [
        [3, 0, 1, 2, 7, 4],
        [1, 5, 8, 9, 3, 1],
        [2, 7, 2, 5, 1, 3],
        [0, 1, 3, 1, 7, 8],
        [4, 2, 1, 6, 2, 8],
        [2, 4, 5, 2, 3, 9],
    ],
    float,
)
LECTURE_RESULT = np.array(
    [[-5, -4, 0, 8], [-10, -2, 2, 3], [0, -2, -4, -7], [-3, -2, -3, -16]], float
)
# Bright on the left, dark on the right; and its result.
STEP_IMAGE = np.tile([10.0, 10.0, 10.0, 0.0, 0.0, 0.0], (6, 1))
STEP_RESULT = np.tile([0.0, 30.0, 30.0, 0.0], (4, 1))


@dataclasses.dataclass(frozen=True)
class EdgeMaps(Result):
    """One image and what each filter makes of it.

    Attributes:
      image: [row, column].
      filter: names of the filters.
      kernel: [filter, 3, 3].
      output: [filter, row − 2, column − 2], by cross-correlation.
      flipped: the same by the convolution of mathematics.
      expected: [row − 2, column − 2], what the first filter should give, or None.
    """

    AXES: ClassVar = {
        "image": ("row", "column"),
        "kernel": ("filter", "down", "across"),
        "output": ("filter", "row", "column"),
        "flipped": ("filter", "row", "column"),
        "expected": ("row", "column"),
    }

    image: np.ndarray
    filter: tuple[str, ...]
    kernel: np.ndarray
    output: np.ndarray
    flipped: np.ndarray
    expected: np.ndarray | None

    @property
    def exact(self) -> bool:
        """Whether the first filter gives exactly what is expected."""
        return self.expected is not None and bool(np.array_equal(self.output[0], self.expected))


def edge_maps(
    image: ArrayLike,
    filters: Mapping[str, np.ndarray] | None = None,
    expected: np.ndarray | None = None,
) -> EdgeMaps:
    """Runs 3×3 filters over a grey image.

    Args:
      image: [H, W], 3×3 pixels or more.
      filters: [3, 3] by name, None for ``FILTERS``.
      expected: [H − 2, W − 2], what the first one should give.

    Raises:
      ValueError: an image or filters of another form.
    """
    image = np.asarray(image, np.float32)
    kernel = np.stack(list((FILTERS if filters is None else filters).values()))
    if image.ndim != 2 or min(image.shape) < 3:
        raise ValueError(f"image must be [H, W] with 3×3 pixels or more, got {list(image.shape)}")
    if kernel.shape[1:] != (3, 3):
        raise ValueError(f"filters must be [3, 3], got {list(kernel.shape[1:])}")
    return EdgeMaps(
        image=image,
        filter=tuple(FILTERS if filters is None else filters),
        kernel=kernel,
        output=_correlate(image, kernel),
        flipped=_correlate(image, kernel[:, ::-1, ::-1]),
        expected=expected,
    )


def _correlate(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    layer = Conv(len(kernel), (3, 3), padding="VALID")
    weights = jnp.asarray(kernel.transpose(1, 2, 0)[:, :, None], jnp.float32)
    maps = layer.apply({"params": {"kernel": weights}}, image[None, :, :, None])
    return np.asarray(maps)[0].transpose(2, 0, 1)


def plot(results: EdgeMaps | Mapping[str, EdgeMaps]) -> Figure:
    """A row an image: the image, and the output of each filter; violet is negative, orange positive."""
    named = {"": results} if isinstance(results, EdgeMaps) else dict(results)
    filters = next(iter(named.values())).filter
    if style.is_narrow():  # one kind of edge and the other are enough there
        filters = (filters[0], filters[-1])
    fig, grid = style.axes_grid(len(named), 1 + len(filters))
    fig.set_size_inches(fig.get_figwidth(), 1.55 * len(named) + 0.3)
    for i, (row, (label, result)) in enumerate(zip(grid, named.items(), strict=True)):
        row[0].imshow(result.image, cmap="gray", interpolation="none")
        row[0].set_ylabel(label)
        for ax, name in zip(row[1:], filters, strict=True):
            output = result.output[result.filter.index(name)]
            most = float(np.abs(output).max()) or 1.0
            ax.imshow(output, cmap="PuOr_r", vmin=-most, vmax=most, interpolation="none")
            _write_numbers(ax, output, most)
        for ax, title in zip(row, ("image", *filters), strict=True):
            ax.grid(False)
            ax.spines[:].set_visible(True)
            ax.set(xticks=[], yticks=[], title=title if i == 0 else "")
    return fig


def _write_numbers(ax: Axes, output: np.ndarray, most: float) -> None:
    """The values in the cells, where there are few."""
    if output.size > 16:
        return
    for (row, column), value in np.ndenumerate(output):
        color = "white" if abs(value) > 0.6 * most else "black"
        text = f"{value:.0f}".replace("-", "−")
        ax.text(column, row, text, ha="center", va="center", fontsize=7.5, color=color)
