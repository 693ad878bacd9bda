"""Convolutions on one thread as one product with a matrix of patches.

A row of the matrix is what the window covers for one pixel of the result, kh·kw·C numbers. It repeats each
number of an image up to kh·kw times, so a few images at a time are computed, which stay in the core's cache.
This gains where XLA's convolutions are far from a product's speed: with few channels, and for the kernel's
gradient with strides (docs/notes/performance_cpu.md has the speeds).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from resjax.cpu.shapes import Pads, Pair, Shape, that_fit
from resjax.cpu.winograd import divisor, is_exact, padded, summed

_AT_ONCE = 2**15  # elements of images or results at a time; patches are several times as many
# Channels of a stem's images, at most; of its result; and of the larger of images and gradients, at most.
_STEM, _FEW, _MANY = 3, 16, 64


def suits(x: jax.Array, kernel: jax.Array) -> bool:
    """Whether images [B, H, W, C] and a kernel are a stem's, for which ``convolve`` is faster in pairs."""
    stem = kernel.shape[:2] == (3, 3) and x.shape[3] <= _STEM and kernel.shape[3] == _FEW
    return stem and is_exact(x) and 0 < x.size <= len(x) * _AT_ONCE


def suits_gradient(x: jax.Array, dy: jax.Array, window: Pair, strides: Pair) -> bool:
    """Whether ``kernel_gradient`` is faster for images [B, H, W, C] and gradients [B, H', W', O]. (With JAX
    0.10 and 16 channels it is a little slower.)"""
    few, many = sorted((x.shape[3], dy.shape[3]))
    return window == (3, 3) and strides == (2, 2) and few >= _FEW and many <= _MANY


def convolve(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    """Images [B, H, W, C] with a kernel [kh, kw, C, O]: [B, H', W', O]; float32 or float64."""
    (kh, kw, _, o), b = kernel.shape, len(x)
    m, n = (
        (size + sum(pad) - k) // s + 1
        for size, pad, k, s in zip(x.shape[1:3], pads, (kh, kw), strides, strict=True)
    )
    size = divisor(b, that_fit(_AT_ONCE, x.shape[1:], (m, n, o)))

    def some(x: jax.Array) -> jax.Array:
        rows = _patches(x, (kh, kw), strides, pads, (m, n))
        return lax.optimization_barrier(rows @ kernel.reshape(-1, o)).reshape(size, m, n, o)

    return lax.map(some, x.reshape(-1, size, *x.shape[1:])).reshape(b, m, n, o)


def kernel_gradient(x: jax.Array, dy: jax.Array, window: Pair, strides: Pair, pads: Pads) -> jax.Array:
    """Gradient [kh, kw, C, O] from images x [B, H, W, C] and gradients dy [B, H', W', O], of their dtype."""
    m, n, o = dy.shape[1:]

    def products(images: jax.Array, gradients: jax.Array) -> jax.Array:
        rows = _patches(images, window, strides, pads, (m, n))
        # XLA's product is faster with the longer axis last.
        return lax.dot_general(gradients.reshape(-1, o), rows, (((0,), (0,)), ((), ())))

    total = summed(products, x, dy, that_fit(_AT_ONCE, x.shape[1:], dy.shape[1:]))
    return total.T.reshape(*window, x.shape[3], o)


def _patches(x: jax.Array, window: Shape, strides: Pair, pads: Pads, size: Pair) -> jax.Array:
    """[B·m·n, kh·kw·C]: what the window covers for each pixel of results of ``size`` (m, n)."""
    (b, _, _, c), (kh, kw), (s, t), (m, n) = x.shape, window, strides, size
    x = padded(x, pads, (s * (m + (kh - 1) // s), t * (n + (kw - 1) // t)))
    # Columns between two windows stand side by side, as more channels, so that fewer pieces are copied.
    x = x.reshape(b, -1, s, n + (kw - 1) // t, t * c)
    pieces = [
        x[:, i // s : i // s + m, i % s, j // t : j // t + n, : min(t, kw - j) * c]
        for i in range(kh)
        for j in range(0, kw, t)
    ]
    return jnp.concatenate(pieces, 3).reshape(b * m * n, -1)
