"""Convolutions of images smaller than the window, such as the 2×2 pixels at the end of a ResNet for digits.

Most of the window then lies outside of the image. So the kernel becomes a matrix [pixels and channels of the
image, those of the result], and the convolution one product of fewer operations. Its blocks are the kernel's,
and zero where a pixel of the image is not in the window of a pixel of the result.

The gradient of the images is such a convolution, too. That of the kernel was slower as a product.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from resjax.cpu.shapes import Pads, Pair

_MOST = 2**17  # elements of the matrix, which is made anew for every convolution


def suits(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> bool:
    """Whether images [B, H, W, C] and a kernel [kh, kw, C, O] are like that, and the matrix is small."""
    (h, w), (kh, kw, c, o) = x.shape[1:3], kernel.shape
    m, n = _size(x, kernel, strides, pads)
    return h < kh and w < kw and h * w * m * n * c * o <= _MOST


def convolve(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    """The convolution [B, H', W', O] of images and a kernel that ``suits``."""
    b, (m, n) = len(x), _size(x, kernel, strides, pads)
    return (x.reshape(b, -1) @ _matrix(x, kernel, strides, pads)).reshape(b, m, n, kernel.shape[3])


def _matrix(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    (h, w, c), window = x.shape[1:], kernel.shape[:2]
    m, n = _size(x, kernel, strides, pads)
    # The row of the kernel that joins each row of x to each row of the result; behind the last one, zeros.
    rows, columns = (
        np.arange(size)[:, None] + lo - s * np.arange(out)
        for size, out, s, (lo, _) in zip((h, w), (m, n), strides, pads, strict=True)
    )
    rows, columns = (np.where((i >= 0) & (i < k), i, k) for i, k in zip((rows, columns), window, strict=True))
    padded = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
    blocks = padded[rows[:, None, :, None], columns[None, :, None, :]]  # [h, w, m, n, c, o]
    return blocks.transpose(0, 1, 4, 2, 3, 5).reshape(h * w * c, -1)


def _size(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> Pair:
    """Height and width of the result."""
    m, n = (
        (size + lo + hi - k) // s + 1
        for size, k, s, (lo, hi) in zip(x.shape[1:3], kernel.shape[:2], strides, pads, strict=True)
    )
    return m, n
