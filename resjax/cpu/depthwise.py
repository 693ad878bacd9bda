"""Depthwise convolutions on a CPU: a sum over the window's pixels, which XLA compiles to one loop.

Each channel has a window of its own, so there is no matrix product::

    y[b,h,w,c]  = Σ_{i,j} x[b, s·h+i−p, t·w+j−q, c] · k[i,j,c]
    dk[i,j,c]   = Σ_{b,h,w} x[b, s·h+i−p, t·w+j−q, c] · dy[b,h,w,c]

with strides s and t and p rows and q columns of padding. XLA's convolutions compute these sums one number
after the other. Written as products of shifted images, the first is elementwise and uses the processor's
vector instructions. The second would be a reduction over images, which XLA does not vectorize either. So a
loop goes over tiles of a few pixels of dy, and its body adds their products to [kh, kw, C] sums: again
elementwise, and all operands stay in the cache. ``benchmarks/depthwise.py`` measures both.
"""

import functools
import operator

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from resjax.cpu.one_thread import OneThread
from resjax.cpu.shapes import Pads, Pair

_MOST = 169  # pixels of a window (13×13); each is a term of the sum, and compilation takes longer with each
_TILE = 32  # pixels of dy, about: their products are the terms of the loop's body


def suits(kernel: jax.Array, groups: int) -> bool:
    """Whether it is depthwise, with one output for each of several channels, and its window not too large."""
    kh, kw, c, features = kernel.shape
    return c == 1 and features == groups > 1 and kh * kw <= _MOST


def convolve(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads, dilation: Pair) -> jax.Array:
    """The convolution of x [B, H, W, C], dilated by ``dilation``, with a kernel [kh, kw, 1, C], of x's dtype.

    Padding may be negative. The sum is at least float32.
    """
    kh, kw = kernel.shape[:2]
    x, kernel = _wide(x), _wide(kernel)
    images = _padded(x, pads, dilation)
    (s, t), size = strides, images.shape[1:3]
    rows, columns = ((n - k) // step + 1 for n, k, step in zip(size, (kh, kw), strides, strict=True))
    terms = (
        images[:, i : i + s * (rows - 1) + 1 : s, j : j + t * (columns - 1) + 1 : t]
        * kernel[i : i + 1, j : j + 1]
        for i in range(kh)
        for j in range(kw)
    )
    return functools.reduce(operator.add, terms)


def kernel_gradient(
    x: jax.Array, dy: jax.Array, window: Pair, strides: Pair, pads: Pads, alone: OneThread | None
) -> jax.Array:
    """Gradient [kh, kw, 1, C] from images x [B, H, W, C] and gradients dy [B, H', W', C], at least float32.

    On one thread (``alone``) image follows image, and each device sums over its share of the batch. Else each
    image has sums of its own, so that XLA can share the batch.
    """
    x, dy = _wide(x), _wide(dy)

    def of_image(x: jax.Array, dy: jax.Array) -> jax.Array:
        return _of_image(x, dy, window, strides, pads)

    def in_turn(x: jax.Array, dy: jax.Array) -> jax.Array:
        zeros = jnp.zeros((*window, x.shape[3]), x.dtype)
        return lax.fori_loop(0, len(x), lambda i, sums: sums + of_image(x[i], dy[i]), zeros)

    if alone is None or (alone.mesh is not None and len(x) % alone.mesh.size):
        total = jnp.sum(jax.vmap(of_image)(x, dy), 0)
    elif alone.mesh is None:
        total = in_turn(x, dy)
    else:
        (axis,) = alone.mesh.axis_names
        total = jax.shard_map(
            lambda x, dy: lax.psum(in_turn(x, dy), axis),
            mesh=alone.mesh,
            in_specs=(PartitionSpec(axis), PartitionSpec(axis)),
            out_specs=PartitionSpec(),
            check_vma=False,  # it would require that the initial sums are marked as varying over devices
        )(x, dy)
    return total[:, :, None]


def _of_image(x: jax.Array, dy: jax.Array, window: Pair, strides: Pair, pads: Pads) -> jax.Array:
    """Sums [kh, kw, C] of one image [H, W, C] and its gradient [H', W', C]."""
    (kh, kw), (s, t), (m, n) = window, strides, dy.shape[:2]
    across = min(n, _TILE)
    down = min(m, _TILE // across)
    # Whole tiles: the gradient continues with zeros, the image to where the last tile's windows end.
    tiles = -(-m // down), -(-n // across)
    size = tiles[0] * down, tiles[1] * across
    dy = jnp.pad(dy, ((0, size[0] - m), (0, size[1] - n), (0, 0)))
    top_bottom, left_right = (
        (lo, (out - 1) * step + k - full - lo)
        for lo, out, step, k, full in zip(
            (pads[0][0], pads[1][0]), size, strides, window, x.shape[:2], strict=True
        )
    )
    image = _padded(x[None], (top_bottom, left_right), (1, 1))[0]
    seen = (down - 1) * s + kh, (across - 1) * t + kw

    def add(tile: jax.Array, sums: jax.Array) -> jax.Array:
        row, column = tile // tiles[1] * down, tile % tiles[1] * across
        pixels = lax.dynamic_slice(image, (row * s, column * t, 0), (*seen, x.shape[2]))
        slopes = lax.dynamic_slice(dy, (row, column, 0), (down, across, x.shape[2]))
        return sums + sum(
            pixels[i * s : i * s + kh, j * t : j * t + kw] * slopes[i : i + 1, j : j + 1]
            for i in range(down)
            for j in range(across)
        )

    return lax.fori_loop(0, tiles[0] * tiles[1], add, jnp.zeros((kh, kw, x.shape[2]), x.dtype))


def _padded(x: jax.Array, pads: Pads, dilation: Pair) -> jax.Array:
    between = ((*pad, step - 1) for pad, step in zip(pads, dilation, strict=True))
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *between, (0, 0, 0)))


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
