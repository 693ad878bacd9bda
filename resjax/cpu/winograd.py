"""3×3 convolutions with stride 1 on one thread, with fewer multiplications.

The method is Winograd's (1980), for convolutional networks Lavin & Gray's (2016, arXiv:1509.09308). Four
neighbouring values y of a convolution of six values d with three weights g need six multiplications instead
of twelve, one for each of the points 0, p, −p, q, −q and ∞::

    y = Aᵀ[(G g) ⊙ (Bᵀ d)],   M(x) = x · (x² − p²) · (x² − q²)

    row of Bᵀ for the point t: coefficients of M / (x − t);   for ∞: of M
    row of G:                  (1, t, t²) / M'(t)             for ∞: (0, 0, 1)
    row of A:                  (1, t, t², t³)                 for ∞: (0, 0, 0, 1)

With rows and columns treated so, 4×4 pixels of the result need 36 multiplications for each pair of channels
instead of 144. For each of the 36 pairs of points there is one matrix product [tiles, C]·[C, O], which XLA
computes for all of them at once (docs/notes/performance_cpu.md has the speeds). A few images are computed at
a time, and stay in the core's cache. The kernel's gradient is the transpose of this: Bᵀ of the images and A
of the gradients, products over all tiles, then Gᵀ.

Rounding errors are three to five times those of XLA's convolution: 7·10⁻⁷ instead of 2.5·10⁻⁷ of the
result's root mean square, with 64 channels and float32. They depend on the points (Barabasz et al. 2018,
arXiv:1803.10986). The points 1 and 2, which are in common use, would double them. bfloat16, whose rounding is
coarse, is not convolved so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from resjax.cpu.shapes import Pads, Pair, Shape, that_fit

_P, _Q = 3 / 4, 3 / 2  # the points; float32 holds their powers exactly
_P2, _Q2 = _P**2, _Q**2
_SIDE, _POINTS = 4, 6  # pixels of a tile of the result, along an axis
# Elements of images at a time; at all points, they are 2.25 times as many.
_AT_ONCE, _AT_ONCE_GRADIENT = 2**15, 2**16
_FEW = 16  # channels; with fewer, products are slow
# Pairs of channels: with more, memory limits the speed, because the kernel has four times its elements.
_MOST, _MOST_GRADIENT = 2**17 - 1, 2**18


def suits(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> bool:
    """Whether ``convolve`` accepts images [B, H, W, C] and a kernel like these, and is faster."""
    c, o = kernel.shape[2:]
    return c * o <= _MOST and _suit(x, o, _result(x, pads), kernel.shape[:2], strides)


def suits_gradient(x: jax.Array, dy: jax.Array, window: Shape, strides: Pair) -> bool:
    """The same for ``kernel_gradient`` and images and gradients."""
    o = dy.shape[3]
    return x.shape[3] * o <= _MOST_GRADIENT and _suit(x, o, dy.shape[1:3], window, strides)


def _suit(x: jax.Array, features: int, size: Shape, window: Shape, strides: Pair) -> bool:
    h, w = size
    tall, wide = (_SIDE * n for n in _tiles(size))
    plain = window == (3, 3) and strides == (1, 1) and x.size > 0
    # Tiles that reach far beyond the result cost more than they save.
    return plain and min(x.shape[3], features) >= _FEW and tall * wide <= 2 * h * w and is_exact(x)


def is_exact(x: jax.Array) -> bool:
    """Whether a product of numbers like these rounds as little as XLA's convolution, up to a small factor."""
    return x.dtype != jnp.bfloat16


def convolve(x: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
    """Images [B, H, W, C], padded, with a kernel [3, 3, C, O]: [B, H', W', O]; float32 or float64."""
    b, (c, o), (h, w) = len(x), kernel.shape[2:], _result(x, pads)
    tall, wide = _tiles((h, w))
    weights = _product(_G, kernel.reshape(-1, c * o)).reshape(-1, c, o)
    size = divisor(b, that_fit(_AT_ONCE, x.shape[1:], (h, w, o)))

    def some(x: jax.Array) -> jax.Array:
        tiles = _at_points(padded(x, pads, _needed(tall, wide)), _of_images)
        y = lax.dot_general(tiles, weights, (((2,), (1,)), ((0,), (0,))))
        y = y.reshape(_POINTS, _POINTS, size, tall, wide, o)
        # [6, 4, size, tall, wide, o]. Without the barrier, XLA computes the sums once for each column.
        rows = lax.optimization_barrier(jnp.stack(_of_products(y), 1))
        pixels = jnp.stack(_of_products(rows), 4).transpose(1, 2, 0, 3, 4, 5)
        pixels = pixels.reshape(size, _SIDE * tall, _SIDE * wide, o)
        return lax.optimization_barrier(pixels[:, :h, :w])

    return lax.map(some, x.reshape(-1, size, *x.shape[1:])).reshape(b, h, w, o)


def kernel_gradient(x: jax.Array, dy: jax.Array, pads: Pads) -> jax.Array:
    """Gradient [3, 3, C, O] from images x [B, H, W, C] and gradients dy [B, H', W', O], of their dtype."""
    c, o = x.shape[3], dy.shape[3]
    tall, wide = _tiles(dy.shape[1:3])
    none = ((0, 0), (0, 0))

    def products(images: jax.Array, gradients: jax.Array) -> jax.Array:
        images = _at_points(padded(images, pads, _needed(tall, wide)), _of_images)
        gradients = _at_points(padded(gradients, none, (_SIDE * tall, _SIDE * wide)), _of_gradients)
        images, gradients = lax.optimization_barrier((images, gradients))
        return lax.dot_general(images, gradients, (((1,), (1,)), ((0,), (0,))))

    # Enough images that adding to the sums, which have 36·C·O elements, takes little of the time.
    most = max(_AT_ONCE_GRADIENT, 4 * c * o)
    sums = summed(products, x, dy, that_fit(most, x.shape[1:], dy.shape[1:]))
    return _product(_G.T, sums.reshape(-1, c * o)).reshape(3, 3, c, o)


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
    """x with zeros before, and as many after as make ``size``; rows and columns beyond it are cut off."""
    (top, _), (left, _) = pads
    h, w = x.shape[1:3]
    ends = ((0, 0, 0), (top, size[0] - h - top, 0), (left, size[1] - w - left, 0), (0, 0, 0))
    return lax.pad(x, jnp.zeros((), x.dtype), ends)


def _result(x: jax.Array, pads: Pads) -> Pair:
    h, w = (n + sum(pad) - 2 for n, pad in zip(x.shape[1:3], pads, strict=True))
    return h, w


def _tiles(size: Shape) -> Pair:
    tall, wide = (-(-n // _SIDE) for n in size)
    return tall, wide


def _needed(tall: int, wide: int) -> Pair:
    """Pixels of images for so many tiles of the result. Two less would do, but not for ``_quarters``."""
    return _SIDE * (tall + 1), _SIDE * (wide + 1)


def _at_points(x: jax.Array, of: Callable[[jax.Array, int], Sequence[jax.Array]]) -> jax.Array:
    """[36, B·tiles, C]: transformed along rows and columns of x [B, H, W, C].

    Stacked, these are two large operations instead of 36 small ones and their copy.
    """
    return jnp.stack(of(jnp.stack(of(x, 1)), 3), 1).reshape(_POINTS**2, -1, x.shape[3])


def _quarters(x: jax.Array, axis: int) -> list[jax.Array]:
    """Every fourth element along an axis, from the first, the second, the third and the fourth."""
    tiled = x.reshape(*x.shape[:axis], -1, _SIDE, *x.shape[axis + 1 :])
    return [lax.index_in_dim(tiled, i, axis + 1, keepdims=False) for i in range(_SIDE)]


def _of_images(x: jax.Array, axis: int) -> tuple[jax.Array, ...]:
    """Bᵀd for all tiles along an axis of 4·(tiles + 1) pixels."""
    quarters = _quarters(x, axis)
    tiles = quarters[0].shape[axis] - 1
    d0, d1, d2, d3 = (lax.slice_in_dim(part, 0, tiles, axis=axis) for part in quarters)
    d4, d5 = (lax.slice_in_dim(part, 1, tiles + 1, axis=axis) for part in quarters[:2])
    even_p, odd_p = d4 - _Q2 * d2, _P * (d3 - _Q2 * d1)
    even_q, odd_q = d4 - _P2 * d2, _Q * (d3 - _P2 * d1)
    first, last = (_P2 * _Q2 * a - (_P2 + _Q2) * b + c for a, b, c in ((d0, d2, d4), (d1, d3, d5)))
    return first, even_p + odd_p, even_p - odd_p, even_q + odd_q, even_q - odd_q, last


def _of_gradients(dy: jax.Array, axis: int) -> tuple[jax.Array, ...]:
    """A applied to all tiles along an axis of 4·tiles pixels."""
    y0, y1, y2, y3 = _quarters(dy, axis)
    even_p, odd_p = y0 + _P2 * y2, _P * (y1 + _P2 * y3)
    even_q, odd_q = y0 + _Q2 * y2, _Q * (y1 + _Q2 * y3)
    return y0, even_p + odd_p, even_p - odd_p, even_q + odd_q, even_q - odd_q, y3


def _of_products(m: Sequence[jax.Array] | jax.Array) -> tuple[jax.Array, ...]:
    """Aᵀm."""
    even_p, odd_p, even_q, odd_q = m[1] + m[2], m[1] - m[2], m[3] + m[4], m[3] - m[4]
    last = _P**3 * odd_p + _Q**3 * odd_q + m[5]
    return m[0] + even_p + even_q, _P * odd_p + _Q * odd_q, _P2 * even_p + _Q2 * even_q, last


def _of_kernels() -> np.ndarray:
    """G for rows and columns at once: float64 [36, 9]."""
    points = np.array([0, _P, -_P, _Q, -_Q])
    others = [np.delete(points, i) for i in range(len(points))]
    slopes = [np.prod(t - rest) for t, rest in zip(points, others, strict=True)]
    rows = [np.array([1, t, t**2]) / slope for t, slope in zip(points, slopes, strict=True)]
    g = np.stack([*rows, [0, 0, 1]])
    return np.kron(g, g)


_G = _of_kernels()


def _product(matrix: np.ndarray, x: jax.Array) -> jax.Array:
    """With a constant matrix. Such a product compiles faster than the sums that it stands for."""
    return jnp.asarray(matrix, x.dtype) @ x
