"""Convolutions with strides 1 as one matrix product, for versions of XLA whose library has become slow.

A window of kh×kw pixels can be copied into rows of a matrix, which makes the convolution one product
(im2col), but these are kh·kw copies of the images. Here the kernel's columns j shift the images, and its
rows i shift the result or its gradient. That makes kw + kh copies, and the product has more columns, with
which it is faster::

    y[b,h,w,o]    = Σ_i z[b,h+i,w,i,o],  z[b,h,w,i,o] = Σ_{j,c} x[b,h,w+j,c] · k[i,j,c,o]
    dk[i,j,c,o]   = Σ_{b,h,w} x[b,h,w+j,c] · dy[b,h−i,w,o]

(images padded, dy zero outside). The copies should stay in the cache: call these functions with few images
at a time. ``resjax.cpu.one_thread`` says where they are used, ``benchmarks/conv_forms.py`` measures them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]


def convolution(x: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
    """Images [B, H, W, C] with a kernel [kh, kw, C, O]: [B, H', W', O].

    Two neighbouring columns of the result are computed at once, from windows of kw + 1 columns. So they are
    copied (kw + 1) / 2 times instead of kw times, and the product has 2·kh·O columns.
    """
    b, _, _, c = x.shape
    kh, kw, _, o = kernel.shape
    rows, (left, right) = pads
    height, width = x.shape[1] + sum(rows) - kh + 1, x.shape[2] + left + right - kw + 1
    pairs = -(-width // 2)
    x = jnp.pad(x, ((0, 0), rows, (left, right + width % 2), (0, 0)))
    windows = jnp.concatenate([x[:, :, j : j + 2 * pairs - 1 : 2] for j in range(kw + 1)], 3)
    both = jnp.stack([jnp.pad(kernel, ((0, 0), (p, 1 - p), (0, 0), (0, 0))) for p in (0, 1)], 3)
    matrix = both.transpose(1, 2, 0, 3, 4).reshape((kw + 1) * c, kh * 2 * o)
    z = (windows.reshape(-1, matrix.shape[0]) @ matrix).reshape(b, -1, pairs, kh, 2 * o)
    y = sum(z[:, i : i + height, :, i] for i in range(kh))
    return jnp.asarray(y).reshape(b, height, 2 * pairs, o)[:, :, :width]


def kernel_gradient(x: jax.Array, dy: jax.Array, window: Pair, pads: Pads) -> jax.Array:
    """Gradient [kh, kw, C, O] from images [B, H, W, C] and gradients [B, H', W', O]."""
    (h, c), (m, n, o) = (x.shape[1], x.shape[3]), dy.shape[1:]
    (kh, kw), ((top, _), sides) = window, pads
    x = jnp.pad(x, ((0, 0), (0, 0), sides, (0, 0)))
    columns = jnp.concatenate([x[:, :, j : j + n] for j in range(kw)], 3)
    # Image row h meets row h + top - i of dy. Padding is negative where no row of an image needs it.
    zero = jnp.zeros((), dy.dtype)
    dy = lax.pad(dy, zero, ((0, 0, 0), (kh - 1 - top, h + top - m, 0), (0, 0, 0), (0, 0, 0)))
    rows = jnp.concatenate([dy[:, kh - 1 - i : kh - 1 - i + h] for i in range(kh)], 3)
    dk = lax.dot_general(rows.reshape(-1, kh * o), columns.reshape(-1, kw * c), (((0,), (0,)), ((), ())))
    return dk.reshape(kh, o, kw, c).transpose(0, 2, 3, 1)
