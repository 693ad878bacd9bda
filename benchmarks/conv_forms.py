"""Forms of a convolution on one core of a CPU: which one does this version of XLA run fastest?

    python benchmarks/conv_forms.py [--channels 16 32 64] [--batch 64] [--rounds 7] [--json PATH]
        [--only forms training pointwise]

All forms compute the same sums, which is checked. Windows are 3×3; images are those of a ResNet on 32×32
pixels: 32×32×16, 16×16×32 and 8×8×64. Run it with the interpreter of each version of JAX. Milliseconds are
processor time, so that other work on the machine counts less. The forms take turns; the table has medians.

* ``many threads``: dilated, which selects XLA's own kernel (``resjax.cpu.conv``).
* ``library``: as it is. For more than 16 channels XLA uses YNNPACK.
* ``pairs``: a window that is one column wider computes two neighbouring pixels at once, as more channels.
* ``fewer multiplications``, and with ``, kernel``: those of ``resjax.cpu.winograd``.
* ``wide``: columns and channels as one axis, along which the window moves in steps of all channels; for 16
  channels as pairs.
* ``bands``: the window's columns become channels; the window is 3×1, and rows are not padded at their sides,
  so that a whole image could be one product; for 16 channels as pairs.
* ``beside``: images side by side, so that rows are longer; for 16 channels as pairs.
* ``patches``: each image's windows as rows of a matrix, and one product.
* ``nine products``: an image, shifted to each place of the window, with the kernel's matrix of that place.
* ``shifts``: the kernel's columns shift the images and its rows the result; two columns of it at once.
* ``many threads, kernel``, ``rows, kernel``: the kernel's gradient (``resjax.cpu.conv``, ``one_thread``);
  ``rows`` has columns and channels as one axis. ``shifts, kernel``: columns shift images, rows gradients.
  ``patches, kernel`` and ``nine products, kernel`` are the gradients of these forms, image by image.

An image's gradient is the same convolution of another array, so each form takes as long for it.

Then every convolution of a ResNet on 32×32 pixels in training's own form (``forward``, ``image`` and
``kernel`` gradient): this compares versions of JAX.

Then the kernel gradients of 1×1 convolutions of ResNet-50, for 4 images: the product of images and gradients
as XLA has it (``plain``), that of gradients and images, transposed (``transposed``), resjax's choice
(``resjax``), and the forward pass, which has as many multiply-adds (``forward``).
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from results import save
from rich.console import Console
from rich.table import Table

from resjax.cpu import conv, one_thread, winograd
from resjax.cpu.compilation import compile_quickly

SAME = ((1, 1), (1, 1))
SQUARE = (1, 1)
PARTS = ("forms", "training", "pointwise")
POINTWISE = ((256, 64, 56), (512, 128, 28), (64, 256, 56))  # input channels, output channels, side
# Input channels, output channels, side, window, stride of the convolutions of a ResNet on 32×32 pixels.
RESNET = (
    (3, 16, 32, 3, 1),
    (16, 16, 32, 3, 1),
    (16, 32, 32, 3, 2),
    (16, 32, 32, 1, 2),
    (32, 32, 16, 3, 1),
    (32, 64, 16, 3, 2),
    (32, 64, 16, 1, 2),
    (64, 64, 8, 3, 1),
)
Form = Callable[[jax.Array, jax.Array], jax.Array]
Calls = dict[str, Callable[[], jax.Array]]


def library(x: jax.Array, kernel: jax.Array, strides: Any = SQUARE, pads: Any = SAME) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=one_thread.NHWC_HWIO)


def together(kernel: jax.Array, m: int) -> jax.Array:
    """The kernel [3, 2 + m, C, m·O] of m neighbouring pixels."""
    shifted = [jnp.pad(kernel, ((0, 0), (i, m - 1 - i), (0, 0), (0, 0))) for i in range(m)]
    return jnp.concatenate(shifted, 3)


def in_pairs(x: jax.Array, kernel: jax.Array) -> jax.Array:
    y = library(x, together(kernel, 2), (1, 2))
    return y.reshape(*y.shape[:2], -1, kernel.shape[3])


def wide(x: jax.Array, kernel: jax.Array, m: int) -> jax.Array:
    b, h, w, c = x.shape
    long = together(kernel, m).reshape(3, (2 + m) * c, 1, -1)
    y = library(x.reshape(b, h, w * c, 1), long, (1, m * c), ((1, 1), (c, c)))
    return y.reshape(b, h, w, -1)


def bands(x: jax.Array, kernel: jax.Array, m: int) -> jax.Array:
    b, h, w, c = x.shape
    groups, side = x.reshape(b, h, w // m, m * c), jnp.zeros((b, h, 1, c))
    before = jnp.concatenate([side, groups[:, :, :-1, -c:]], 2)
    after = jnp.concatenate([groups[:, :, 1:, :c], side], 2)
    windows = jnp.concatenate([before, groups, after], 3)
    y = library(windows, together(kernel, m).reshape(3, 1, (2 + m) * c, -1), pads=((1, 1), (0, 0)))
    return y.reshape(b, h, w, -1)


def beside(x: jax.Array, kernel: jax.Array, m: int) -> jax.Array:
    b, h, w, c = x.shape
    long = jnp.pad(x.transpose(1, 0, 2, 3), ((1, 1), (0, 0), (1, 1), (0, 0))).reshape(1, h + 2, -1, c)
    y = library(long, together(kernel, m), (1, m), ((0, 0), (0, 2)))
    return y.reshape(h, b, w + 2, -1)[:, :, :w].transpose(1, 0, 2, 3)


def patches(x: jax.Array, kernel: jax.Array) -> jax.Array:
    h, w, c = x.shape[1:]

    def of_image(x: jax.Array) -> jax.Array:
        padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
        shifted = [padded[i : i + h, j : j + w] for i in range(3) for j in range(3)]
        return jnp.concatenate(shifted, 2).reshape(h * w, 9 * c) @ kernel.reshape(9 * c, -1)

    return lax.map(of_image, x).reshape(*x.shape[:3], -1)


def shifted(x: jax.Array, kernel: jax.Array) -> jax.Array:
    (b, h, w, c), o = x.shape, kernel.shape[3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = jnp.concatenate([padded[:, :, j : j + w - 1 : 2] for j in range(4)], 3)
    matrix = together(kernel, 2).transpose(1, 2, 0, 3).reshape(4 * c, 6 * o)
    z = (windows.reshape(-1, 4 * c) @ matrix).reshape(b, h + 2, w // 2, 3, 2 * o)
    return sum(z[:, i : i + h, :, i] for i in range(3)).reshape(b, h, w, o)


def nine_products(x: jax.Array, kernel: jax.Array) -> jax.Array:
    h, w, c = x.shape[1:]

    def of_image(x: jax.Array) -> jax.Array:
        padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
        places = [(i, j) for i in range(3) for j in range(3)]
        return sum(padded[i : i + h, j : j + w].reshape(-1, c) @ kernel[i, j] for i, j in places)

    return lax.map(of_image, x).reshape(*x.shape[:3], -1)


def patches_kernel(x: jax.Array, dy: jax.Array) -> jax.Array:
    (h, w, c), o = x.shape[1:], dy.shape[3]

    def add(total: jax.Array, image: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        padded = jnp.pad(image[0], ((1, 1), (1, 1), (0, 0)))
        shifted = [padded[i : i + h, j : j + w] for i in range(3) for j in range(3)]
        windows = jnp.concatenate(shifted, 2).reshape(h * w, 9 * c)
        return total + conv._sum_of_products(image[1].reshape(h * w, o), windows), None

    return lax.scan(add, jnp.zeros((o, 9 * c)), (x, dy))[0].T.reshape(3, 3, c, o)


def nine_products_kernel(x: jax.Array, dy: jax.Array) -> jax.Array:
    (h, w, c), o = x.shape[1:], dy.shape[3]

    def add(total: jax.Array, image: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        padded, flat = jnp.pad(image[0], ((1, 1), (1, 1), (0, 0))), image[1].reshape(h * w, o)
        shifted = [padded[i : i + h, j : j + w].reshape(h * w, c) for i in range(3) for j in range(3)]
        return total + jnp.stack([conv._sum_of_products(s, flat) for s in shifted]), None

    return lax.scan(add, jnp.zeros((9, c, o)), (x, dy))[0].reshape(3, 3, c, o)


def shifted_kernel(x: jax.Array, dy: jax.Array) -> jax.Array:
    (h, w, c), o = x.shape[1:], dy.shape[3]

    def gradient_of(images: jax.Array, gradients: jax.Array) -> jax.Array:
        images = jnp.pad(images, ((0, 0), (0, 0), (1, 1), (0, 0)))
        columns = jnp.concatenate([images[:, :, j : j + w] for j in range(3)], 3)
        gradients = jnp.pad(gradients, ((0, 0), (1, 1), (0, 0), (0, 0)))
        rows = jnp.concatenate([gradients[:, 2 - i : 2 - i + h] for i in range(3)], 3)
        return conv._sum_of_products(rows.reshape(-1, 3 * o), columns.reshape(-1, 3 * c))

    total = winograd.summed(gradient_of, x, dy, max(1, 2**14 // x[0].size))
    return total.reshape(3, o, 3, c).transpose(0, 2, 3, 1)


def in_parts(form: Form, size: int) -> Form:
    """The form, applied to ``size`` images at a time, which stay in the cache."""

    def apply(x: jax.Array, kernel: jax.Array) -> jax.Array:
        parts = x.reshape(-1, size, *x.shape[1:])
        return lax.map(lambda x: form(x, kernel), parts).reshape(*x.shape[:3], -1)

    return apply


def calls(channels: int, batch: int) -> Calls:
    """The forms by name, for images of 512 / channels pixels a side."""
    keys, side = jax.random.split(jax.random.key(0), 3), 512 // channels
    x, dy = (jax.random.normal(key, (batch, side, side, channels)) for key in keys[:2])
    kernel = jax.random.normal(keys[2], (3, 3, channels, channels))
    m = 2 if channels == one_thread.FEW else 1
    form = conv._Form(SQUARE, SAME, 1, None)
    dilated: dict[str, Any] = {
        "lhs_dilation": (2, 1),
        "rhs_dilation": (2, 1),
        "dimension_numbers": one_thread.NHWC_HWIO,
    }
    forms: dict[str, Form] = {
        "many threads": lambda x, k: lax.conv_general_dilated(x, k, (2, 1), ((2, 2), (1, 1)), **dilated),
        "library": library,
        "wide": partial(wide, m=m),
        "bands": in_parts(partial(bands, m=m), 8),
        "beside": in_parts(partial(beside, m=m), 8),
        "patches": patches,
        "nine products": nine_products,
        "fewer multiplications": lambda x, k: winograd.convolve(x, k, SAME),
        "shifts": in_parts(lambda x, k: shifted(x, k), 1),
    }
    if m == 2:
        forms["pairs"] = in_pairs
    gradients: dict[str, Form] = {
        "many threads, kernel": lambda x, dy: conv._kernel_gradient(x, dy, kernel, form),
        "rows, kernel": lambda x, dy: one_thread._of_rows(x, dy, (3, 3), SQUARE, SAME),
        "shifts, kernel": shifted_kernel,
        "fewer multiplications, kernel": lambda x, dy: winograd.kernel_gradient(x, dy, SAME),
        "patches, kernel": patches_kernel,
        "nine products, kernel": nine_products_kernel,
    }
    images = {name: partial(jax.jit(f), x, kernel) for name, f in forms.items()}
    return images | {name: partial(jax.jit(f), x, dy) for name, f in gradients.items()}


def training(channels: int, features: int, side: int, size: int, stride: int, batch: int) -> Calls:
    """A convolution, its image's and its kernel's gradient, as training on one thread computes them."""
    keys, pad = jax.random.split(jax.random.key(0), 3), size // 2
    x = jax.random.normal(keys[0], (batch, side, side, channels))
    dy = jax.random.normal(keys[1], (batch, side // stride, side // stride, features))
    kernel = jax.random.normal(keys[2], (size, size, channels, features))
    alone = one_thread.OneThread(None) if one_thread.PAYS else None
    form = conv._Form((stride, stride), ((pad, pad), (pad, pad)), 1, alone)
    forward = jax.jit(lambda x, kernel: conv._fast(x, kernel, form))
    image = jax.jit(lambda dy, kernel: conv._input_gradient(dy, kernel, x.shape[1:3], form))
    gradient = jax.jit(lambda x, dy: conv._kernel_gradient(x, dy, kernel, form))
    return {
        "forward": partial(forward, x, kernel),
        "image": partial(image, dy, kernel),
        "kernel": partial(gradient, x, dy),
    }


def pointwise(channels: int, features: int, side: int) -> Calls:
    """Kernel gradients of a 1×1 convolution by name, and its forward pass."""
    keys = jax.random.split(jax.random.key(0), 3)
    x, dy = (
        jax.random.normal(key, (4, side, side, c))
        for key, c in zip(keys[:2], (channels, features), strict=True)
    )
    kernel = jax.random.normal(keys[2], (1, 1, channels, features))
    form = conv._Form(SQUARE, ((0, 0), (0, 0)), 1, None)

    def product(a: jax.Array, b: jax.Array) -> jax.Array:
        return conv._sum_of_products(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1]))

    gradients: dict[str, Form] = {
        "plain, kernel": product,
        "transposed, kernel": lambda x, dy: lax.optimization_barrier(product(dy, x)).T,
        "resjax, kernel": lambda x, dy: conv._kernel_gradient(x, dy, kernel, form)[0, 0],
    }
    forward = partial(jax.jit(lambda x, k: library(x, k, pads=((0, 0), (0, 0)))), x, kernel)
    return {"forward": forward} | {name: partial(jax.jit(f), x, dy) for name, f in gradients.items()}


def measure(forms: Calls, rounds: int) -> dict[str, dict[str, Any]]:
    """{form: milliseconds}, after a check that all forms of an operation agree."""
    expected: dict[str, np.ndarray] = {}
    for name, call in forms.items():
        got = np.asarray(call())
        operation = next((end for end in ("image", "kernel") if name.endswith(end)), "forward")
        first = expected.setdefault(operation, got)
        np.testing.assert_allclose(got, first, rtol=1e-3, atol=1e-4 * np.abs(first).max(), err_msg=name)
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(rounds):
        for name, call in forms.items():
            jax.block_until_ready(call())  # the memory is then as this form leaves it, not another one
            start = time.process_time()
            jax.block_until_ready([call(), call()])
            times[name].append(1e3 * (time.process_time() - start) / 2)
    return {name: {"median": float(np.median(t)), "rounds": t} for name, t in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--channels", type=int, nargs="*", default=[16, 32, 64], choices=(16, 32, 64))
    parser.add_argument("--batch", type=int, default=64, help="divisible by 8")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="*", default=PARTS, choices=PARTS, help="parts of the tables")
    parser.add_argument("--json", type=Path, help="where to write the results")
    args = parser.parse_args()
    compile_quickly()  # as the commands do; without it, products of many small operations are slower
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rows: list[dict[str, Any]] = []
    table = Table("convolution", "form", "ms", title=f"jax {jax.__version__}, one core")
    square = {f"3×3, {c} channels, {args.batch} images": partial(calls, c, args.batch) for c in args.channels}
    single = {
        f"1×1, {c} to {o} channels at {n}×{n}, 4 images": partial(pointwise, c, o, n) for c, o, n in POINTWISE
    }
    of_resnet = {
        f"{n}×{n}, {c} to {o} channels at {side}×{side}, stride {s}, {args.batch} images": partial(
            training, c, o, side, n, s, args.batch
        )
        for c, o, side, n, s in RESNET
    }
    parts = dict(zip(PARTS, (square, of_resnet, single), strict=True))
    for title, forms in ((title, forms) for name in args.only for title, forms in parts[name].items()):
        found = measure(forms(), args.rounds)
        rows.append({"convolution": title, "milliseconds": found})
        for name, it in found.items():
            table.add_row(title, name, f"{it['median']:.2f}")
        save(args.json, {"clock": "processor time, one core", "rows": rows})
    Console().print(table)


if __name__ == "__main__":
    main()
