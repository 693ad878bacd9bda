"""3×3 convolutions with stride 1 on one thread, with fewer multiplications.

The method is Winograd's (1980), for convolutional networks Lavin & Gray's (2016, arXiv:1509.09308).
Two neighbouring values of a convolution with three weights g need four multiplications instead of six::

    d = (d0, d1, d2, d3) → Bᵀd = (d0 − d2, d1 + d2, d2 − d1, d1 − d3)
    g = (g0, g1, g2)     → Gg  = (g0, (g0 + g1 + g2) / 2, (g0 − g1 + g2) / 2, g2)
    m = Bᵀd · Gg         → Aᵀm = (m0 + m1 + m2, m1 − m2 − m3)

With rows and columns treated so, 2×2 pixels of the result need 16 multiplications for each pair of channels
instead of 36. For each of the 16 places there is one matrix product [tiles, C]·[C, O], which XLA computes
for all places at once (docs/notes/performance_cpu.md has the speeds). A few images are computed at a time,
and stay in the core's cache.

The kernel's gradient is the transpose of this in the columns only, and its rows i shift the gradients: Bᵀ of
the images and A of the gradients, products over all tiles, then Gᵀ. That takes 24 multiplications instead of
36, and fewer copies than the transpose in rows and columns.

Sums differ from those of the formula by rounding alone: the factors are 1 and 1/2. bfloat16, whose rounding
is coarse, is not convolved so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from resjax.cpu.shapes import Pads, Pair, Shape

_AT_ONCE = 2**15  # elements of images at a time; their 16 places are four times as many, 512 kB
# Numbers of channels between which the products are fast and the kernel's places stay in the cache.
_FEW, _MANY = 16, 128


def suits(x: jax.Array, kernel: jax.Array, strides: Pair) -> bool:
    """Whether ``convolve`` accepts images [B, H, W, C] and a kernel like these, and is faster."""
    return _suit(x, kernel.shape[3], kernel.shape[:2], strides)


def suits_gradient(x: jax.Array, dy: jax.Array, window: Shape, strides: Pair) -> bool:
    """The same for ``kernel_gradient`` and images and gradients."""
    return _suit(x, dy.shape[3], window, strides)


def _suit(x: jax.Array, features: int, window: Shape, strides: Pair) -> bool:
    few, many = sorted((x.shape[3], features))
    return window == (3, 3) and strides == (1, 1) and few >= _FEW and many <= _MANY and exact_and_small(x)


def exact_and_small(x: jax.Array) -> bool:
    """Whether a product of images [B, …] rounds as little as a convolution, and a few of them stay in the
    core's cache."""
    return x.dtype != jnp.bfloat16 and 0 < x.size <= len(x) * _AT_ONCE


def convolve(x: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
    """Images [B, H, W, C], padded, with a kernel [3, 3, C, O]: [B, H', W', O]; float32 or float64."""
    b, o = len(x), kernel.shape[3]
    h, w = (n + sum(pad) - 2 for n, pad in zip(x.shape[1:3], pads, strict=True))
    tall, wide = (h + 1) // 2, (w + 1) // 2  # tiles
    places = _of_kernel(_of_kernel(kernel, 0), 1).reshape(16, *kernel.shape[2:])
    size = divisor(b, _AT_ONCE // max(math.prod(x.shape[1:]), h * w * o))

    def some(x: jax.Array) -> jax.Array:
        x = padded(x, pads, (2 * tall + 2, 2 * wide + 2))
        # Stacked, rows and columns are two large operations instead of 16 small ones and their copy.
        tiles = jnp.stack(_of_images(jnp.stack(_of_images(x, 1)), 3), 1).reshape(16, -1, x.shape[3])
        y = lax.dot_general(tiles, places, (((2,), (1,)), ((0,), (0,)))).reshape(4, 4, size, tall, wide, o)
        # [4, 2, size, tall, wide, o]. Without the barrier, XLA computes the sums once for each column.
        rows = lax.optimization_barrier(jnp.stack(_of_products(y), 1))
        pixels = jnp.stack(_of_products(rows), 4).transpose(1, 2, 0, 3, 4, 5)
        return lax.optimization_barrier(pixels.reshape(size, 2 * tall, 2 * wide, o)[:, :h, :w])

    return lax.map(some, x.reshape(-1, size, *x.shape[1:])).reshape(b, h, w, o)


def kernel_gradient(x: jax.Array, dy: jax.Array, pads: Pads) -> jax.Array:
    """Gradient [3, 3, C, O] from images x [B, H, W, C] and gradients dy [B, H', W', O], of their dtype."""
    h, c, (m, w, o) = x.shape[1], x.shape[3], dy.shape[1:]
    (top, _), (left, _) = pads
    wide = (w + 1) // 2
    # Image row h meets row h + top - i of dy. Padding is negative where no row of an image needs it.
    ends = ((0, 0, 0), (2 - top, h + top - m, 0), (0, 2 * wide - w, 0), (0, 0, 0))

    def products(images: jax.Array, gradients: jax.Array) -> jax.Array:
        images = padded(images, ((0, 0), (left, 0)), (h, 2 * wide + 2))
        slopes = lax.pad(gradients, jnp.zeros((), dy.dtype), ends)
        # Without the barriers, XLA adds even and odd columns once for each row.
        rows = lax.optimization_barrier(jnp.concatenate([slopes[:, 2 - i : 2 - i + h] for i in range(3)], 3))
        even, odd = _pairs(rows, 2)
        rows = lax.optimization_barrier(jnp.stack((even, even + odd, even - odd, -odd)))
        operands = jnp.stack(_of_images(images, 2)).reshape(4, -1, c), rows.reshape(4, -1, 3 * o)
        return lax.dot_general(*operands, (((1,), (1,)), ((0,), (0,))))

    sums = summed(products, x, dy, max(1, _AT_ONCE // max(math.prod(x.shape[1:]), math.prod(dy.shape[1:]))))
    m0, m1, m2, m3 = sums.reshape(4, c, 3, o)
    half = (m1 + m2) / 2
    return jnp.stack([m0 + half, (m1 - m2) / 2, m3 + half]).transpose(2, 0, 1, 3)


def summed(
    gradient_of: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, dy: jax.Array, size: int
) -> jax.Array:
    """The sum of ``gradient_of(images, gradients)`` over parts of ``size`` images."""
    b = len(x)
    size = min(b, size)
    rest = b % size

    def part(first: ArrayLike, size: int) -> jax.Array:
        return gradient_of(*(lax.dynamic_slice_in_dim(a, first, size) for a in (x, dy)))

    zeros = jnp.zeros(jax.eval_shape(lambda: part(0, size)).shape, x.dtype)
    total = lax.fori_loop(0, b // size, lambda i, sums: sums + part(i * size, size), zeros)
    return total + part(b - rest, rest) if rest else total


def divisor(b: int, most: int) -> int:
    """The largest divisor of b that is not above ``most``, at least 1."""
    return max(n for n in range(1, max(1, min(b, most)) + 1) if b % n == 0)


def padded(x: jax.Array, pads: Pads, size: Pair) -> jax.Array:
    """x with zeros before, and as many after as make ``size``."""
    (top, _), (left, _) = pads
    h, w = x.shape[1:3]
    ends = ((0, 0, 0), (top, size[0] - h - top, 0), (left, size[1] - w - left, 0), (0, 0, 0))
    return lax.pad(x, jnp.zeros((), x.dtype), ends)


def _pairs(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Its elements of even and of odd places along an axis."""
    halves = x.reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :])
    even, odd = (lax.index_in_dim(halves, i, axis + 1, keepdims=False) for i in (0, 1))
    return even, odd


def _of_images(x: jax.Array, axis: int) -> tuple[jax.Array, ...]:
    """Bᵀd for all tiles along an axis of 2·(tiles + 1) pixels."""
    tiles = x.shape[axis] // 2 - 1
    (d0, d2), (d1, d3) = (
        [lax.slice_in_dim(half, i, i + tiles, axis=axis) for i in (0, 1)] for half in _pairs(x, axis)
    )
    return d0 - d2, d1 + d2, d2 - d1, d1 - d3


def _of_kernel(kernel: jax.Array, axis: int) -> jax.Array:
    """Gg: 3 weights along an axis become 4 places."""
    g0, g1, g2 = (lax.index_in_dim(kernel, i, axis, keepdims=False) for i in range(3))
    return jnp.stack([g0, (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2, g2], axis)


def _of_products(m: Sequence[jax.Array] | jax.Array) -> tuple[jax.Array, jax.Array]:
    """Aᵀm."""
    return m[0] + m[1] + m[2], m[1] - m[2] - m[3]
