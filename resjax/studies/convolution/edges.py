"""The edge detector: one convolution with a hand-made filter, applied to an image.

*Question.* What does a convolution compute? The classical first example: the filter

    1  0  −1
    1  0  −1        (Prewitt 1970)
    1  0  −1

is placed on every 3×3 window of an image and multiplied entry by entry; the sum is one pixel of the output.
It is large where the left side of the window is brighter than the right one, negative where it is darker, and
0 where nothing changes. A 6×6 image becomes 4×4: without padding, a k×k window with stride s fits (n − k)/s +
1 times along a side of n pixels. The middle row counts double in Sobel's filter (1, 2, 1), and 10/3 times in
Scharr's (3, 10, 3), whose response depends less on the direction of an edge (Scharr 2000).

*Cross-correlation.* A convolution in the mathematical sense first flips the filter in both directions. Deep
learning omits the flip (cross-correlation; Goodfellow et al. 2016, Eq. 9.6), which makes no difference,
because filters are learned: a flipped one would be learned instead. For an edge filter the flip changes the
sign. ``flipped`` holds the mathematical convolution.

*Protocol.* Everything runs through this project's ``Conv`` layer, without padding and bias, in float32, where
sums of small integers are exact.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from resjax.data.arrays import read_digits
from resjax.models.layers import Conv
from resjax.studies import style
from resjax.studies.batches import Progress
from resjax.studies.options import ClaimOptions
from resjax.studies.result import Result
from resjax.studies.study import Claim, Columns
from resjax.studies.words import columns, join, number

_FALL = (1.0, 0.0, -1.0)
FILTERS: dict[str, np.ndarray] = {
    "vertical": np.outer((1, 1, 1), _FALL),
    "Sobel": np.outer((1, 2, 1), _FALL),
    "Scharr": np.outer((3, 10, 3), _FALL),
    "horizontal": np.outer(_FALL, (1, 1, 1)),
}
"""Filters [3, 3] by name; all but the last detect vertical edges."""

# The worked example of A. Ng, *Convolutional Neural Networks* (deeplearning.ai), week 1, and its result.
_ROWS = "301274 158931 272513 013178 421628 245239"  # one digit a pixel
LECTURE_IMAGE = np.array([list(row) for row in _ROWS.split()], float)
LECTURE_RESULT = np.array([[-5, -4, 0, 8], [-10, -2, 2, 3], [0, -2, -4, -7], [-3, -2, -3, -16.0]])
# Bright on the left, dark on the right; and its result.
STEP_IMAGE = np.tile([10.0, 10.0, 10.0, 0.0, 0.0, 0.0], (6, 1))
STEP_RESULT = np.tile([0.0, 30.0, 30.0, 0.0], (4, 1))


@dataclasses.dataclass(frozen=True)
class EdgeMaps(Result):
    """One image and the output of each filter."""

    image: Annotated[np.ndarray, "row", "column"]
    filter: tuple[str, ...]  # names
    kernel: Annotated[np.ndarray, "filter", "down", "across"]  # 3×3 each
    output: Annotated[np.ndarray, "filter", "row", "column"]  # by cross-correlation
    flipped: Annotated[np.ndarray, "filter", "row", "column"]  # by mathematical convolution
    expected: Annotated[np.ndarray | None, "row", "column"]  # of the first filter, if known

    @property
    def exact(self) -> bool:
        """Whether the first filter gives exactly what is expected."""
        return self.expected is not None and bool(np.array_equal(self.output[0], self.expected))


def edges(
    image: ArrayLike,
    filters: Mapping[str, np.ndarray] | None = None,
    expected: np.ndarray | None = None,
) -> EdgeMaps:
    """Applies 3×3 filters to a gray image.

    Args:
      image: [H, W], 3×3 pixels or more.
      filters: [3, 3] by name, None for ``FILTERS``.
      expected: [H − 2, W − 2], the known output of the first filter.
    """
    image = np.asarray(image, np.float32)
    filters = FILTERS if filters is None else filters
    kernel = np.stack(list(filters.values()))
    if image.ndim != 2 or min(image.shape) < 3:
        raise ValueError(f"image must be [H, W] with 3×3 pixels or more, got {list(image.shape)}")
    if kernel.shape[1:] != (3, 3):
        raise ValueError(f"filters must be [3, 3], got {list(kernel.shape[1:])}")
    return EdgeMaps(
        image=image,
        filter=tuple(filters),
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


def measure(options: ClaimOptions, progress: Progress | None) -> dict[str, EdgeMaps]:
    del progress  # it takes a second
    images = read_digits()["train_images"]
    return {
        "lecture": edges(LECTURE_IMAGE, expected=LECTURE_RESULT),
        "bright, dark": edges(STEP_IMAGE, expected=STEP_RESULT),
        "dark, bright": edges(STEP_IMAGE[:, ::-1], expected=-STEP_RESULT),
        "a digit": edges(images[options.seed % len(images), ..., 0]),
    }


# --- what the report shows ---

FEW_NUMBERS = 16  # the cells of a map with at most this many numbers show them


def plot(results: Mapping[str, EdgeMaps]) -> style.Figure:
    """One row for each image: the image, and the output of each filter (violet negative, orange positive)."""
    filters = next(iter(results.values())).filter
    if style.is_narrow():  # one filter for each direction is enough there
        filters = (filters[0], filters[-1])
    fig, grid = style.axes_grid(len(results), 1 + len(filters))
    fig.set_size_inches(fig.get_figwidth(), 1.55 * len(results) + 0.3)
    for i, (row, (label, result)) in enumerate(zip(grid, results.items(), strict=True)):
        draw_maps(row, result.image, {name: result.output[result.filter.index(name)] for name in filters})
        row[0].set_ylabel(label)
        for ax, title in zip(row, ("image", *filters) if i == 0 else (), strict=False):
            ax.set_title(title)
    return fig


def draw_maps(row: Sequence[style.Axes], image: np.ndarray, maps: Mapping[str, np.ndarray]) -> None:
    """An image, [H, W] or in colour, in the first axes, and each map [H', W'] in the following ones."""
    row[0].imshow(image, cmap="gray", interpolation="none")
    for ax, output in zip(row[1:], maps.values(), strict=True):
        most = float(np.abs(output).max()) or 1.0
        ax.imshow(output, cmap="PuOr_r", vmin=-most, vmax=most, interpolation="none")
        for (y, x), value in np.ndenumerate(output) if output.size <= FEW_NUMBERS else ():
            color = "white" if abs(value) > 0.6 * most else "black"
            text = f"{value:.0f}".replace("-", "−")
            ax.text(x, y, text, ha="center", va="center", fontsize=7.5, color=color)
    for ax in row:
        ax.grid(False)
        ax.spines[:].set_visible(True)
        ax.set(xticks=[], yticks=[])


def headline(results: Mapping[str, EdgeMaps]) -> str:
    """Whether the expected numbers come out, and whether cross-correlation or convolution gives them."""
    expected = {label: r for label, r in results.items() if r.expected is not None}
    if wrong := [label for label, r in expected.items() if not r.exact]:
        return f"the layer does not give the expected edge map of {join(wrong)}"
    if not expected:
        return "there is no edge map to compare with"
    if any(np.array_equal(r.flipped[0], np.asarray(r.expected)) for r in expected.values()):
        return "the layer gives the expected edge maps; a flipped filter would, too"
    return (
        "the layer gives the expected edge maps to the last digit, and it does not flip the filter: it "
        "computes a cross-correlation"
    )


def points(label: str, r: EdgeMaps) -> list[str]:
    own, flipped = r.output[0], r.flipped[0]
    sizes = ("×".join(map(str, shape)) for shape in (r.image.shape, own.shape))
    text = (
        f"{label}: {' pixels become '.join(sizes)}; the {r.filter[0]} filter gives {number(own.min())} to "
        f"{number(own.max())}"
    )
    if r.exact:
        text += ", as expected"
    elif r.expected is not None:
        text += f", up to {number(np.abs(own - r.expected).max())} from what is expected"
    low, high = (number(end + 0.0) for end in (flipped.min(), flipped.max()))  # no minus zero
    return [f"{text}; flipped, {low} to {high}."]


def table(r: EdgeMaps) -> Columns:
    """One row for each row of pixels in the output of each filter."""
    rows = [
        (name, str(1 + i), " ".join(number(value + 0.0) for value in line))
        for name, output in zip(r.filter, r.output, strict=True)
        for i, line in enumerate(output)
    ]
    return columns(("filter", "row", "output"), rows)


STUDY = Claim(
    name="edges",
    title="The edge detector",
    question=(
        "What does one convolution compute? A hand-made filter of nine numbers is moved over an image. Its "
        "output is large where the image changes from left to right, and 0 where nothing changes. Orange is "
        "positive, violet negative."
    ),
    code=(
        "from resjax.studies.convolution.edges import LECTURE_IMAGE, LECTURE_RESULT\n"
        "resjax.analysis.edges(LECTURE_IMAGE, expected=LECTURE_RESULT).exact"
    ),
    labels="image",
    result=EdgeMaps,
    measure=measure,
    plot=plot,
    headline=headline,
    points=points,
    table=table,
)
