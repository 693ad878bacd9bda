"""Max pooling whose gradient is fast on a CPU.

The output is the largest pixel of each window. Its gradient belongs to that pixel, or to the first of several
equal ones. JAX computes this gradient with XLA's ``SelectAndScatter``, which on a CPU searches every window
again, one number after the other. Here the forward pass keeps the place of the largest pixel in its window
(one byte for each output, instead of the whole input), and the backward pass adds the gradients place by
place::

    dx[b, s·h + i − p, s·w + j − p, c] += dy[b,h,w,c] where place[b,h,w,c] = (i, j)

with stride s and p rows and columns of padding. For one place (i, j) this is dy, zero where another pixel was
the largest, dilated by the stride and shifted. XLA fuses the sum over places into one loop.
``benchmarks/pool.py`` measures both.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from resjax.cpu.shapes import Pads, Pair

Padding = str | Pads
_NOWHERE = 255  # the place of no pixel; a byte can name the places before it


class _Form(NamedTuple):
    """Windows, and the size of the images that they are laid over."""

    window: Pair
    strides: Pair
    pads: Pads
    size: Pair


def max_pool(x: jax.Array, window: Pair, strides: Pair, padding: Padding, *, impl: str = "auto") -> jax.Array:
    """The largest pixel of each window of x [B, H, W, C], which is padded with −∞: [B, H', W', C].

    Values and gradient are those of ``flax.linen.max_pool``, bit by bit, if all numbers are finite.

    Args:
      x: of a floating point type.
      window, strides: vertical and horizontal.
      padding: "SAME", "VALID", or rows and columns added as ((top, bottom), (left, right)).
      impl: "cpu" is this module's gradient, "lax" JAX's own, "auto" is "cpu" if the default device is a CPU.
        Only "lax" has forward-mode derivatives (``jax.jvp``, ``jax.jacfwd``); with "cpu" JAX raises a
        TypeError. Windows of more than 255 pixels always have JAX's gradient.

    Raises:
      ValueError: ``impl`` is unknown.
    """
    if impl not in ("auto", "lax", "cpu"):
        raise ValueError(f"impl {impl!r} is not known; allowed: 'auto', 'lax', 'cpu'")
    if impl == "auto":
        impl = "cpu" if jax.default_backend() == "cpu" else "lax"
    if isinstance(padding, str):
        rows, columns = lax.padtype_to_pads(x.shape[1:3], window, strides, padding)
    else:
        rows, columns = padding
    form = _Form(window, strides, (rows, columns), (x.shape[1], x.shape[2]))
    fast = impl == "cpu" and window[0] * window[1] <= _NOWHERE
    return _fast(x, form) if fast else _largest(x, form)


def _largest(x: jax.Array, form: _Form) -> jax.Array:
    pads = ((0, 0), *form.pads, (0, 0))
    # Of −∞ as a number JAX sees that this is a maximum, whose gradient it knows; of an array, not under jit.
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *form.window, 1), (1, *form.strides, 1), pads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _fast(x: jax.Array, form: _Form) -> jax.Array:
    return _largest(x, form)


def _lowest(x: jax.Array) -> jax.Array:
    return jnp.array(-jnp.inf, x.dtype)


def _forward(x: jax.Array, form: _Form) -> tuple[jax.Array, jax.Array]:
    y = _largest(x, form)
    padded = lax.pad(x, _lowest(x), ((0, 0, 0), *((*both, 0) for both in form.pads), (0, 0, 0)))
    best, place = jnp.full_like(y, -jnp.inf), jnp.full(y.shape, _NOWHERE, jnp.uint8)
    (s, t), (m, n) = form.strides, y.shape[1:3]
    for number, (i, j) in enumerate(_places(form)):
        pixel = padded[:, i::s, j::t][:, :m, :n]
        place = jnp.where(pixel > best, jnp.uint8(number), place)
        best = jnp.maximum(best, pixel)
    return y, place


def _backward(form: _Form, place: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    dx = jnp.zeros((len(dy), *form.size, dy.shape[3]), dy.dtype)
    # From the last place to the first: so a pixel's windows are added from the first to the last, as by XLA.
    for number, corner in reversed(list(enumerate(_places(form)))):
        shifts = []
        for i, n, m, s, (before, _) in zip(
            corner, form.size, dy.shape[1:3], form.strides, form.pads, strict=True
        ):
            low = i - before
            shifts.append((low, n - low - (m - 1) * s - 1, s - 1))
        own = jnp.where(place == number, dy, jnp.zeros_like(dy))
        dx = dx + lax.pad(own, jnp.zeros((), dy.dtype), ((0, 0, 0), *shifts, (0, 0, 0)))
    return (dx,)


def _places(form: _Form) -> Iterator[Pair]:
    """The places (row, column) of a window's pixels, row by row."""
    return itertools.product(range(form.window[0]), range(form.window[1]))


_fast.defvjp(_forward, _backward)
