"""Two-dimensional convolution whose values and gradients are fast on CPU, inside loops too.

Cross-correlation, as everywhere in deep learning (Goodfellow et al. 2016, eq. 9.6), NHWC and HWIO,
with stride s and p zeros before the first row and column::

    y[b,h,w,o] = Σ_{i,j,c} x[b, s·h+i−p, s·w+j−p, c] · k[i,j,c,o]

``lax.conv_general_dilated`` computes it and its gradients well on GPU and TPU. On CPU they are slow, for
two reasons:

* XLA:CPU has a fast kernel (matmuls, many threads) only for the dimension order of the formula above. JAX
  writes the kernel gradient in another order. XLA transposes such a convolution into the fast order, but only
  in a program's entry computation: in the body of ``lax.scan`` or ``while_loop``, where this project's
  networks run their units, it stays plain nested loops, 15 to 130 times slower (``benchmarks/conv.py``).
* From jaxlib 0.10 on, convolutions of more than 16 channels use another library (YNNPACK), which runs them on
  one thread. YNNPACK does not support dilated images, so dilation selects the multi-threaded kernel. Rows are
  dilated where that is faster: images dilated by 2, a window dilated by 2 and a stride of 2 give the same
  sum. (With few input channels, the dilated rows cost more than the threads save.)

Where every core is a device (``resjax.training.cores``), each has one thread, and functions traced under
``one_thread`` use the forms of ``resjax.cpu.one_thread``, except with many channels. Functions traced under
``any_device`` use JAX's convolution alone.

A 1×1 convolution is one matmul, and so are its gradients. Images smaller than the window take one, too
(``resjax.cpu.small``). Depthwise convolutions are sums of shifted images (``resjax.cpu.depthwise``). The
gradients of the others are written in the fast order::

    dx[b,h,w,c] = Σ_{i,j,o} dy[b, (h+p−i)/s, (w+p−j)/s, o] · k[i,j,c,o]
    dk[i,j,c,o] = Σ_{h,w,b} x[b, s·h+i−p, s·w+j−p, c] · dy[b,h,w,o]

The first is a convolution of dy, dilated by the stride, with the flipped kernel. The second is a convolution
of x with dy as its window, dilated by the stride; the channels c take the role of the batch, and the batch b
that of the input features.
"""

import contextlib
import contextvars
import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import linear_call

from resjax.cpu import depthwise, one_thread, small
from resjax.cpu.one_thread import FEW, NHWC_HWIO, OneThread
from resjax.cpu.shapes import Pads, Pair, Shape

Padding = str | Pads
Arrays = tuple[jax.Array, jax.Array]
_SPREAD = 2  # any dilation above 1 selects the multi-threaded kernel
# Input channels times stride, above which the multi-threaded kernel is faster on one thread, too: the other
# library reads the kernel again for each row of an image, from beyond the core's cache.
_READ_AGAIN = 128
_DTYPES = ("bfloat16", "float32", "float64")
_for_any_device: contextvars.ContextVar[bool] = contextvars.ContextVar("any device", default=False)
_twice: contextvars.ContextVar[bool] = contextvars.ContextVar("transposed twice", default=False)


@contextlib.contextmanager
def any_device() -> Iterator[None]:
    """Convolutions traced under it are JAX's own, whatever their ``impl``, for programs that other devices
    run. The values are equal up to rounding."""
    token = _for_any_device.set(True)
    try:
        yield
    finally:
        _for_any_device.reset(token)


@contextlib.contextmanager
def transposed_twice() -> Iterator[None]:
    """Under it, the transpose of a convolution's image gradient is this module's convolution. Otherwise it is
    what JAX makes of the gradient's operations, which is slower. A gradient that is traced under it can't be
    vectorized (``jax.vmap``), nor differentiated with respect to the kernel."""
    token = _twice.set(True)
    try:
        yield
    finally:
        _twice.reset(token)


class _Form(NamedTuple):
    """Strides, padding and groups of a convolution; on one thread if ``alone``, else on all. ``twice``:
    traced under ``transposed_twice``."""

    strides: Pair
    pads: Pads
    groups: int
    alone: OneThread | None
    twice: bool = False


def conv(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: Pair = (1, 1),
    padding: Padding = "SAME",
    groups: int = 1,
    impl: str = "auto",
) -> jax.Array:
    """Convolves images with a kernel.

    Args:
      x: images [B, H, W, C]; bfloat16, float32 or float64.
      kernel: [kh, kw, C // groups, O], of the same dtype.
      strides: vertical and horizontal.
      padding: "SAME", "VALID" or zeros added as ((top, bottom), (left, right)).
      groups: number of independent groups of channels.
      impl: "cpu" is this module's gradient, "lax" JAX's own, "auto" is "cpu" if the default device is a CPU.
        Values are equal up to rounding. Only "lax" has forward-mode derivatives (``jax.jvp``,
        ``jax.jacfwd``); with "cpu" JAX raises a TypeError.

    Returns:
      [B, H', W', O], dtype of x.

    Raises:
      ValueError: arguments that do not fit together.
    """
    _check(x, kernel, strides, groups, impl)
    pads = _explicit(padding, x.shape[1:3], kernel.shape[:2], strides)
    if impl == "auto":
        impl = "cpu" if jax.default_backend() == "cpu" else "lax"
    if impl == "lax" or _for_any_device.get():
        return lax.conv_general_dilated(
            x, kernel, strides, pads, dimension_numbers=NHWC_HWIO, feature_group_count=groups
        )
    # Read the thread setting here: the backward pass may be traced outside ``one_thread``.
    return _conv_cpu(x, kernel, _Form(strides, pads, groups, one_thread.threads(), _twice.get()))


def _check(x: jax.Array, kernel: jax.Array, strides: Pair, groups: int, impl: str) -> None:
    if impl not in ("auto", "lax", "cpu"):
        raise ValueError(f"impl {impl!r} is not known; allowed: 'auto', 'lax', 'cpu'")
    if x.ndim != 4 or kernel.ndim != 4:
        raise ValueError(
            "conv takes images [B, H, W, C] and a kernel [kh, kw, C // groups, O], "
            f"not shapes {x.shape} and {kernel.shape}"
        )
    if x.dtype != kernel.dtype or x.dtype.name not in _DTYPES:
        raise ValueError(f"images are {x.dtype} and the kernel {kernel.dtype}; cast both to one of {_DTYPES}")
    if len(strides) != 2 or min(strides) < 1:
        raise ValueError(f"strides are two positive integers, not {strides!r}")
    if groups < 1 or x.shape[3] != groups * kernel.shape[2] or kernel.shape[3] % groups:
        raise ValueError(
            f"{x.shape[3]} channels, groups={groups} and a kernel of shape {kernel.shape} do not "
            "fit: the kernel's third size must be channels / groups, its fourth a multiple of groups"
        )


def _explicit(padding: Padding, size: Shape, window: Shape, strides: Pair) -> Pads:
    if isinstance(padding, str):
        if padding not in ("SAME", "VALID"):
            raise ValueError(f"padding {padding!r} is not known; allowed: 'SAME', 'VALID', numbers")
        rows, columns = lax.padtype_to_pads(size, window, strides, padding)
    else:
        rows, columns = padding
    if min(*rows, *columns) < 0:
        raise ValueError(f"padding {padding!r} is negative; crop the images instead")
    if any(n + sum(p) < k for n, p, k in zip(size, (rows, columns), window, strict=True)):
        raise ValueError(f"a {window} kernel does not fit in {size} images padded by {padding!r}")
    return (rows[0], rows[1]), (columns[0], columns[1])


def _fast(x: jax.Array, kernel: jax.Array, form: _Form, dilation: Pair = (1, 1)) -> jax.Array:
    """The convolution of x, dilated by ``dilation``."""
    strides, pads, groups, alone, _ = form
    kh, kw, c, o = kernel.shape
    plain = groups == 1 and dilation == (1, 1)
    padded = any(map(any, pads)) or dilation != (1, 1)
    if (kh, kw) == (1, 1) and groups == 1 and (strides == (1, 1) or not padded):
        x = x[:, :: strides[0], :: strides[1]]
        # Flattened before the product: in a loop, XLA does not flatten the axes itself.
        y = (x.reshape(-1, c) @ kernel[0, 0]).reshape(*x.shape[:3], o)
        if not padded:
            return y
        # Zeros between and around pixels stay zeros.
        ends = [(*pad, apart - 1) for pad, apart in zip(pads, dilation, strict=True)]
        return lax.pad(y, jnp.zeros((), y.dtype), [(0, 0, 0), *ends, (0, 0, 0)])
    if depthwise.suits(kernel, groups):
        return depthwise.convolve(x, kernel, strides, pads, dilation).astype(x.dtype)
    if plain and small.suits(x, kernel, strides, pads):
        return small.convolve(x, kernel, strides, pads)
    if alone is not None and plain and one_thread.is_product(x, kernel, strides, pads, alone.mesh):
        return one_thread.convolve(x, kernel, pads, alone.mesh)
    if alone is not None and plain and c == o == FEW and strides == (1, 1):
        return one_thread.in_pairs(x, kernel, pads)
    s = 1
    threaded = alone is None or c * strides[0] > _READ_AGAIN
    if threaded and plain and x.dtype == jnp.float32 and c >= FEW and max(c, o) > FEW:
        s = _SPREAD
    (top, bottom), columns = pads
    return lax.conv_general_dilated(
        x,
        kernel,
        (s * strides[0], strides[1]),
        ((s * top, s * bottom), columns),
        lhs_dilation=(s * dilation[0], dilation[1]),
        rhs_dilation=(s, 1),
        dimension_numbers=NHWC_HWIO,
        feature_group_count=groups,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv_cpu(x: jax.Array, kernel: jax.Array, form: _Form) -> jax.Array:
    return _fast(x, kernel, form)


def _forward(x: jax.Array, kernel: jax.Array, form: _Form) -> tuple[jax.Array, Arrays]:
    return _fast(x, kernel, form), (x, kernel)


def _backward(form: _Form, residuals: Arrays, dy: jax.Array) -> Arrays:
    x, kernel = residuals
    size = x.shape[1:3]

    def input_gradient(kernel: jax.Array, dy: jax.Array) -> jax.Array:
        return _input_gradient(dy, kernel, size, form)

    if form.twice:
        dx = linear_call(input_gradient, lambda kernel, x: _fast(x, kernel, form), kernel, dy)
    else:
        dx = input_gradient(kernel, dy)
    return dx, _kernel_gradient(x, dy, kernel, form)


_conv_cpu.defvjp(_forward, _backward)


def _input_gradient(dy: jax.Array, kernel: jax.Array, size: Shape, form: _Form) -> jax.Array:
    """dy dilated by the stride, convolved with the flipped kernel whose channels are swapped."""
    strides, pads, groups, *_ = form
    kh, kw, c, o = kernel.shape
    flipped = kernel[::-1, ::-1].reshape(kh, kw, c, groups, o // groups)
    flipped = flipped.transpose(0, 1, 4, 3, 2).reshape(kh, kw, o // groups, groups * c)
    # Output pixel h uses dy at h + lo - i: padded by k-1-lo before, and to full size after.
    rows, columns = (
        (k - 1 - lo, n + lo - (m - 1) * s - 1)
        for n, m, k, s, (lo, _) in zip(size, dy.shape[1:3], (kh, kw), strides, pads, strict=True)
    )
    return _fast(dy, flipped, form._replace(strides=(1, 1), pads=(rows, columns)), strides)


def _kernel_gradient(x: jax.Array, dy: jax.Array, kernel: jax.Array, form: _Form) -> jax.Array:
    """x convolved with dy dilated by the stride; channels as batch, batch as features."""
    strides, pads, groups, alone, _ = form
    window, dtype = (kernel.shape[0], kernel.shape[1]), x.dtype
    if dtype == jnp.bfloat16:  # the sum over batch and positions has too many terms for 8 bits
        x, dy = x.astype(jnp.float32), dy.astype(jnp.float32)
    b, h, w, channels = x.shape
    c = channels // groups
    if window == (1, 1) and groups == 1 and not any(map(any, pads)):
        rows = x[:, :: strides[0], :: strides[1]].reshape(-1, c)
        slopes = dy.reshape(-1, dy.shape[-1])
        # XLA's product is up to 1.8 times as fast with the longer axis last. Without the barrier, it would
        # exchange the operands again.
        if c > slopes.shape[1]:
            dk = lax.optimization_barrier(_sum_of_products(slopes, rows)).T
        else:
            dk = _sum_of_products(rows, slopes)
        return dk.reshape(1, 1, c, -1).astype(dtype)
    if depthwise.suits(kernel, groups):
        return depthwise.kernel_gradient(x, dy, window, strides, pads, alone).astype(dtype)
    if alone is not None and groups == 1 and one_thread.suits(x, dy, window, strides, alone.mesh):
        dk = one_thread.kernel_gradient(x, dy, window, strides, pads, alone.mesh)
        return dk.astype(dtype)
    x, dy = _apart(x, dy, kernel)
    images = x.reshape(b, h, w, groups, c).transpose(4, 1, 2, 3, 0).reshape(c, h, w, groups * b)
    # Trailing padding gives kh × kw results; it is negative if the forward pass left rows unread.
    (top, bottom), columns = (
        (lo, (m - 1) * s + k - n - lo)
        for n, m, k, s, (lo, _) in zip((h, w), dy.shape[1:3], window, strides, pads, strict=True)
    )
    dk = lax.conv_general_dilated(
        images,
        dy.transpose(1, 2, 0, 3),
        (_SPREAD, 1),
        ((_SPREAD * top, _SPREAD * bottom), columns),
        lhs_dilation=(_SPREAD, 1),
        rhs_dilation=(_SPREAD * strides[0], strides[1]),
        dimension_numbers=NHWC_HWIO,
        feature_group_count=groups,
    )
    return dk.transpose(1, 2, 0, 3).astype(dtype)


def _sum_of_products(a: jax.Array, b: jax.Array) -> jax.Array:
    """aᵀb, [A, B], of arrays [N, A] and [N, B]."""
    return lax.dot_general(a, b, (((0,), (0,)), ((), ())))


def _apart(x: jax.Array, dy: jax.Array, kernel: jax.Array) -> Arrays:
    """x and dy, forced to be computed before they are transposed.

    XLA would fuse their computation with the transposition and read each operand in strides, several times
    slower. It can't fuse across a branch. The branch tests the kernel, which every device has (if its
    first element is NaN, so is the gradient).
    """
    return lax.cond(
        jnp.isnan(kernel[0, 0, 0, 0]),
        lambda *arrays: tuple(jnp.full_like(a, jnp.nan) for a in arrays),
        lambda *arrays: arrays,
        x,
        dy,
    )
