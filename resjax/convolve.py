"""One convolution layer: ``python -m resjax.convolve [--input=32x32x3] [--filters=6] [--size=5] [--stride=1]
[--padding=0] [--image=FILE] [--figure=FILE]``.

Prints the shapes, the parameters and the multiply-adds of the layer, and what they would be without sharing
and without sparseness. Then it applies the layer to an image and prints the output, or its range; with
``--figure`` it draws both. Without arguments: the 6×6 example with a vertical edge filter.

A k×k window with p zeros on each side and step s fits ⌊(n + 2p − k)/s⌋ + 1 times along a side of n pixels, so
H×W×C becomes H'×W'×O, with O·(k·k·C + 1) parameters and H'·W'·O·k·k·C multiply-adds.
"""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from resjax import command
from resjax.data.arrays import read_digits
from resjax.data.decode import opened
from resjax.data.files import read_bytes
from resjax.data.pixels import is_grey, shown
from resjax.models.checks import positive
from resjax.models.layer_table import Facts, rule_of
from resjax.models.layers import Conv
from resjax.studies import style
from resjax.studies.convolution.edges import FILTERS, LECTURE_IMAGE, draw_maps
from resjax.studies.words import number
from resjax.workdir.atomic import replacing
from resjax.workdir.paths import writable_file

Shape3 = tuple[int, int, int]

# Maps with at most this many numbers are printed; of more filters than this, only the first are shown.
FEW_NUMBERS, FEW_FILTERS = 64, 4


@dataclasses.dataclass(frozen=True)
class Convolved:
    """One layer, its cost, and its output for one image."""

    image: np.ndarray  # [H, W, C]
    names: tuple[str, ...]  # of the filters
    size: int  # k
    stride: int
    padding: int  # zeros on each side
    facts: Facts  # parameters and operations, see ``resjax.models.layer_table``
    output: np.ndarray  # [H', W', O]


def convolve(image: np.ndarray, kernel: np.ndarray, *, stride: int = 1, padding: int = 0) -> np.ndarray:
    """The output [H', W', O] of this project's ``Conv`` layer with biases 0 for ``image`` [H, W, C].

    Args:
      image: float32.
      kernel: [k, k, C, O].
      stride, padding: step of the windows, and zeros on each side.
    """
    layer = _layer(kernel.shape[-1], kernel.shape[0], stride, padding)
    variables = {"params": {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(kernel.shape[-1])}}
    return np.asarray(layer.apply(variables, image[None]))[0]


def measure(
    image: np.ndarray,
    filters: str | int = "vertical",
    *,
    size: int = 3,
    stride: int = 1,
    padding: str | int = 0,
    seed: int = 0,
) -> Convolved:
    """Applies one layer to ``image`` [H, W, C] and counts its cost.

    Args:
      filters: names from ``resjax.studies.convolution.edges.FILTERS`` with commas between them, the same for
        each channel; or a number of filters with random weights (He-normal).
      size: k, side of the window.
      stride: step of the window.
      padding: zeros on each side, 0 … k − 1; 'same' is (k − 1)/2, which keeps the size at stride 1.
      seed: of random weights.

    Raises:
      ValueError: a value is not allowed, or the window does not fit; the message names what is allowed.
    """
    height, width, channels = image.shape
    zeros = _padding(padding, size)
    for name, value in (("size", size), ("stride", stride)):
        positive(name, value)
    if not 0 <= zeros < size:
        raise ValueError(f"padding={zeros}; allowed: 0 … {size - 1}, so that every window sees a pixel")
    if size > min(height, width) + 2 * zeros:
        raise ValueError(
            f"size={size}: this window does not fit into {height}×{width} pixels with {zeros} zeros on each "
            f"side; allowed: up to {min(height, width) + 2 * zeros}"
        )
    names, kernel = _filters(str(filters), size, channels, seed)
    output = convolve(image, kernel, stride=stride, padding=zeros)
    layer = _layer(len(names), size, stride, zeros)
    rule = rule_of(layer)
    assert rule is not None
    params = {"kernel": kernel, "bias": np.zeros(len(names))}
    facts = rule(layer, params, image.shape, output.shape)
    return Convolved(image, names, size, stride, zeros, facts, output)


def _layer(filters: int, size: int, stride: int, padding: int) -> Conv:
    both = (padding, padding)
    return Conv(filters, (size, size), (stride, stride), padding=(both, both), use_bias=True)


def _padding(given: str | int, size: int) -> int:
    if given == "same":
        if size % 2 == 0:
            raise ValueError(f"padding=same with size={size}; allowed: odd sizes")
        return (size - 1) // 2
    if not re.fullmatch(r"\d+", str(given)):
        raise ValueError(f"padding={given}; allowed: same, or a number of pixels")
    return int(given)


def _filters(given: str, size: int, channels: int, seed: int) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and kernel [k, k, C, O]."""
    if re.fullmatch(r"\d+", given):
        features = int(given)
        positive("filters", features)
        shape = (size, size, channels, features)
        deviation = math.sqrt(2 / math.prod(shape[:3]))
        kernel = deviation * np.asarray(jax.random.normal(jax.random.key(seed), shape))
        return tuple(f"filter {i + 1}" for i in range(features)), kernel
    names = tuple(given.split(","))
    if unknown := [name for name in names if name not in FILTERS]:
        raise ValueError(
            f"filters={','.join(unknown)}; allowed: {', '.join(FILTERS)}, or a number of random filters"
        )
    if size != 3:
        raise ValueError(f"size={size}: {given} is 3×3; give a number of filters for other sizes")
    kernel = np.stack([FILTERS[name] for name in names], -1)[:, :, None]
    return names, np.repeat(kernel, channels, axis=2).astype(np.float32)


def read(image: str, shape: str, seed: int) -> np.ndarray:
    """The image [H, W, C] that the flags ``image`` and ``input`` name.

    Raises:
      ValueError: both are given, the file is no image, or ``shape`` is not like '32x32x3'.
      FileNotFoundError: there is no such file.
    """
    if shape:
        if image:
            raise ValueError(f"image={image} and input={shape}; allowed: one of them, an image has a shape")
        sides = re.fullmatch(r"([1-9]\d*)[x×]([1-9]\d*)[x×]([1-9]\d*)", shape)
        if not sides:
            raise ValueError(f"input={shape}; allowed: height, width and channels, such as 32x32x3")
        noise = np.random.default_rng(seed).normal(size=[int(side) for side in sides.groups()])
        return noise.astype(np.float32)
    if image in ("", "example"):
        return LECTURE_IMAGE.astype(np.float32)[..., None]
    if image == "digit":
        images = read_digits()["train_images"]
        return images[seed % len(images)].astype(np.float32) / 255
    try:
        encoded = read_bytes(Path(image).expanduser())
    except FileNotFoundError as error:
        raise FileNotFoundError(f"image={image}: no such file; allowed: a file, example, or digit") from error
    with opened(encoded, image) as picture:
        pixels = np.asarray(shown(picture, 1 if is_grey(picture) else 3))
    return pixels.reshape(*pixels.shape[:2], -1).astype(np.float32) / 255


def as_text(c: Convolved) -> str:
    """Shapes, costs and output, for a terminal."""
    (height, width, channels), (rows, columns, features) = c.image.shape, c.output.shape
    k, s, p, facts = c.size, c.stride, c.padding, c.facts
    assert facts.locally_connected is not None
    assert facts.dense is not None
    inputs, outputs, window = c.image.size, c.output.size, k * k * channels
    lines = [
        ("input", f"{height}×{width}×{channels} = {inputs:,} numbers"),
        ("filters", f"{features:,} of {k}×{k}×{channels}, stride {s}, {p} zeros on each side"),
        ("output", f"{rows}×{columns}×{features} = {outputs:,} numbers; {_fits(height, rows, c)}"),
        ("parameters", f"{facts.parameters:,} = {features:,} · ({k}·{k}·{channels} + 1)"),
        ("multiply-adds", f"{facts.multiply_adds:,} = {rows}·{columns}·{features} · {k}·{k}·{channels}"),
        ("an output sees", f"{window:,} of {inputs:,} inputs, {100 * min(1, window / inputs):.1f} %"),
        ("unshared", f"{facts.locally_connected:,} parameters, with weights of its own at every position"),
        ("dense", f"{facts.dense:,} parameters = ({inputs:,} + 1) · {outputs:,}"),
    ]
    if width != height:
        lines.insert(3, ("", _fits(width, columns, c)))
    unseen = [n - len(_seen(n, fits, c)) for n, fits in ((height, rows), (width, columns))]
    if any(unseen):
        lines.append(("not seen", f"{unseen[0]:,} of {height:,} rows and {unseen[1]:,} of {width:,} columns"))
    text = [f"{name:<15} {value}".rstrip() for name, value in lines]
    for name, own in zip(c.names[:FEW_FILTERS], np.moveaxis(c.output, -1, 0), strict=False):
        if own.size <= FEW_NUMBERS:
            cells = [[number(float(value) + 0.0) for value in line] for line in own]  # no minus zero
            wide = max(len(cell) for line in cells for cell in line)
            text += [f"output of {name}:", *("  ".join(f"{cell:>{wide}}" for cell in line) for line in cells)]
        else:
            low, high = number(float(own.min())), number(float(own.max()))
            text.append(f"output of {name}: {low} to {high}, mean {number(float(own.mean()))}")
    if len(c.names) > FEW_FILTERS:
        text.append(f"(the first {FEW_FILTERS} of {len(c.names):,} filters)")
    return "\n".join(text)


def _seen(n: int, windows: int, c: Convolved) -> set[int]:
    """The pixels along a side of ``n`` that lie in some window."""
    starts = (i * c.stride - c.padding for i in range(windows))
    return {pixel for start in starts for pixel in range(max(0, start), min(n, start + c.size))}


def _fits(n: int, result: int, c: Convolved) -> str:
    return f"⌊({n} + 2·{c.padding} − {c.size})/{c.stride}⌋ + 1 = {result}"


def plot(c: Convolved) -> style.Figure:
    """The image beside the output of the first filters; violet is negative, orange positive."""
    shown = c.names[:FEW_FILTERS]
    fig, grid = style.axes_grid(1, 1 + len(shown))
    fig.set_size_inches(1.9 * (1 + len(shown)), 2.3)
    image = c.image if c.image.shape[2] == 3 else c.image.mean(-1)
    low, high = image.min(), image.max()
    maps = dict(zip(shown, np.moveaxis(c.output, -1, 0), strict=False))
    titles = [
        f"{'×'.join(map(str, c.image.shape))}",
        *(f"{name}, {c.output.shape[0]}×{c.output.shape[1]}" for name in shown),
    ]
    draw_maps(grid[0], (image - low) / max(high - low, 1e-9), maps)
    for ax, title in zip(grid[0], titles, strict=True):
        ax.set_title(title)
    return fig


def _main(argv: list[str]) -> None:
    command.no_arguments(argv)
    figure_file = writable_file(_FIGURE.value, "--figure") if _FIGURE.value else None
    image = read(_IMAGE.value, _INPUT.value, _SEED.value)
    done = measure(
        image,
        _FILTERS.value,
        size=_SIZE.value,
        stride=_STRIDE.value,
        padding=_PADDING.value,
        seed=_SEED.value,
    )
    print(as_text(done))
    if figure_file:
        with style.theme():
            figure = plot(done)
            with replacing(figure_file) as file:
                form = figure_file.suffix[1:] or "png"
                figure.savefig(file, format=form, dpi=150, facecolor="white")
        print(f"figure: {_FIGURE.value}")


if __name__ == "__main__":
    _INPUT = flags.DEFINE_string("input", "", "height, width and channels of noise as the input: 32x32x3")
    _IMAGE = flags.DEFINE_string("image", "", "a file, 'digit', or 'example' (6×6 numbers; the default)")
    _FILTERS = flags.DEFINE_string(
        "filters", "vertical", f"any of {', '.join(FILTERS)}, or a number of random filters"
    )
    _SIZE = flags.DEFINE_integer("size", 3, "side of the window")
    _STRIDE = flags.DEFINE_integer("stride", 1, "step of the window")
    _PADDING = flags.DEFINE_string("padding", "0", "zeros on each side, or 'same'")
    _SEED = flags.DEFINE_integer("seed", 0, "of noise and random filters, and number of the digit")
    _FIGURE = flags.DEFINE_string("figure", "", "file for a figure of the input and the output")
    command.run(_main)
