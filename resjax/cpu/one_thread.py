"""Convolutions for CPU devices that have one thread each (``resjax.training.cores``).

On one thread, the library that XLA uses for convolutions of more than 16 channels (YNNPACK) is up to 1.7
times as fast as XLA's own kernel. It computes a matrix product over the window's pixels and the channels,
which is fast with many columns (output channels), many rows (neighboring pixels of the result), and operands
that stay in the cache. Two forms provide them:

* ``in_pairs``: with 16 channels, XLA would not use the library. A window that is one column wider computes
  two neighboring pixels at once, as 32 channels of one pixel: a third more arithmetic in 0.6 times the time.
* ``kernel_gradient``: images are convolved with gradients as windows, and batch and channels exchange their
  roles (``resjax.cpu.conv``). The result has as few pixels as the kernel, 3×3. So columns and channels of the
  images become one axis, [1, H, W·C, batch]; a window dilated by C moves along it in steps of one, and a row
  of the result has 3·C pixels. With 16 channels, two columns of the window become one of 32, as above. A few
  images at a time are transposed and used while they are in the cache. (Large images do not fit, and many
  channels make the product large enough anyway.)

Products of matrices are faster still. 3×3 convolutions with stride 1 and 16 channels or more, but not too
many, are products with fewer multiplications (``resjax.cpu.winograd``). A stem's pairs of pixels and the
kernel's gradient with stride 2 are products of patches (``resjax.cpu.patches``). The two forms above remain
for all others.

Before JAX 0.10, XLA did not have this library, and no form is used. docs/notes/performance_cpu.md has the
speeds with 0.10 and 0.12.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jaxlib.version
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from resjax.cpu import patches, winograd
from resjax.cpu.shapes import Pads, Pair, that_fit

NHWC_HWIO = ("NHWC", "HWIO", "NHWC")
FEW = 16  # up to this number of channels XLA uses its own kernel
PAYS = jaxlib.version.__version_info__[:2] >= (0, 10)
PRODUCTS = True  # off in tests of the two forms, which products replace at small sizes
_AT_ONCE = 2**16  # elements of images or gradients at a time, 256 kB: a part of a core's cache
_MANY = 128  # channels; above, any product is large


class OneThread(NamedTuple):
    """Devices of one thread each. Batches are split over the single axis of ``mesh``, which is None for one
    device."""

    mesh: Mesh | None


_current: contextvars.ContextVar[OneThread | None] = contextvars.ContextVar("threads", default=None)


@contextlib.contextmanager
def one_thread(mesh: Mesh | None = None) -> Iterator[None]:
    """Convolutions traced under it are for CPU devices with one thread each. It changes speed, and values by
    rounding."""
    token = _current.set(OneThread(mesh))
    try:
        yield
    finally:
        _current.reset(token)


def threads() -> OneThread | None:
    """Target of the current trace: ``OneThread``, or None for devices that have all threads.

    Always None with versions of JAX for which the forms of this module do not pay.
    """
    return _current.get() if PAYS else None


def in_pairs(x: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
    """The convolution with strides 1, computing two neighboring pixels at once."""
    kw, o = kernel.shape[1], kernel.shape[3]
    left, right = (jnp.pad(kernel, ((0, 0), (i, 1 - i), (0, 0), (0, 0))) for i in (0, 1))
    pair = jnp.concatenate((left, right), 3)
    rows, (before, after) = pads
    width = x.shape[2] + before + after - kw + 1
    ends = rows, (before, after + width % 2)
    if patches.suits(x, kernel):
        y = patches.convolve(x, pair, (1, 2), ends)
    else:
        y = lax.conv_general_dilated(x, pair, (1, 2), ends, dimension_numbers=NHWC_HWIO)
    return y.reshape(*y.shape[:2], -1, o)[:, :, :width]


def convolve(x: jax.Array, kernel: jax.Array, pads: Pads, mesh: Mesh | None) -> jax.Array:
    """The convolution with strides 1 as products, each device of ``mesh`` with its share of the images."""
    form = in_pairs if patches.suits(x, kernel) else winograd.convolve
    if mesh is None:
        return form(x, kernel, pads)
    (axis,) = mesh.axis_names
    split = PartitionSpec(axis)
    own = jax.shard_map(
        lambda x, kernel: form(x, kernel, pads),
        mesh=mesh,
        in_specs=(split, PartitionSpec()),
        out_specs=split,
        check_vma=False,
    )
    return own(x, kernel)


def is_product(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads, mesh: Mesh | None) -> bool:
    """Whether ``convolve`` accepts images [B, H, W, C] and a kernel like these, and is faster."""
    stem = strides == (1, 1) and patches.suits(x, kernel)
    return PRODUCTS and _shared(x, mesh) and (stem or winograd.suits(x, kernel, strides, pads))


def suits(x: jax.Array, dy: jax.Array, window: Pair, strides: Pair, mesh: Mesh | None) -> bool:
    """Whether ``kernel_gradient`` accepts images and gradients [B, H, W, C] like these, and is faster.

    Some batches can't be split over a mesh, such as the single image of a per-example gradient.
    """
    several, many = _at_once(x, dy) > 1, max(x.shape[3], dy.shape[3]) > _MANY
    product = PRODUCTS and winograd.suits_gradient(x, dy, window, strides)
    return _shared(x, mesh) and (product or (several and not many))


def _shared(x: jax.Array, mesh: Mesh | None) -> bool:
    return mesh is None or len(x) % mesh.size == 0


def _at_once(x: jax.Array, dy: jax.Array) -> int:
    return that_fit(_AT_ONCE, x.shape[1:], dy.shape[1:])


def kernel_gradient(
    x: jax.Array, dy: jax.Array, window: Pair, strides: Pair, pads: Pads, mesh: Mesh | None
) -> jax.Array:
    """Gradient [kh, kw, C, O] from images x [B, H, W, C] and gradients dy [B, H', W', O], of their dtype.

    Each device of ``mesh`` sums over its share of the batch; then the sums are added.
    """

    def share(x: jax.Array, dy: jax.Array) -> jax.Array:
        return _of_own_images(x, dy, window, strides, pads)

    if mesh is None:
        return share(x, dy)
    (axis,) = mesh.axis_names
    split = PartitionSpec(axis)
    total = jax.shard_map(
        lambda x, dy: lax.psum(share(x, dy), axis),
        mesh=mesh,
        in_specs=(split, split),
        out_specs=PartitionSpec(),
        check_vma=False,  # it would require that the initial sums are marked as varying over devices
    )
    return total(x, dy)


def _of_own_images(x: jax.Array, dy: jax.Array, window: Pair, strides: Pair, pads: Pads) -> jax.Array:
    if PRODUCTS and winograd.suits_gradient(x, dy, window, strides):
        return winograd.kernel_gradient(x, dy, pads)
    if PRODUCTS and patches.suits_gradient(x, dy, window, strides):
        return patches.kernel_gradient(x, dy, window, strides, pads)
    return _of_rows(x, dy, window, strides, pads)


def _of_rows(x: jax.Array, dy: jax.Array, window: Pair, strides: Pair, pads: Pads) -> jax.Array:
    (h, w, c), (m, n, o) = x.shape[1:], dy.shape[1:]
    (kh, kw), (s, t), ((top, _), (left, _)) = window, strides, pads
    # Treat two neighbouring pixels of dy as one, if it has too few channels.
    two = 2 if o == FEW and n % 2 == 0 else 1
    # Trailing padding gives the kernel's size; it is negative if the forward pass left rows unread.
    bottom, right = (m - 1) * s + kh - h - top, (n - 1) * t + kw - w - left

    def gradient_of(images: jax.Array, gradients: jax.Array) -> jax.Array:
        size = len(images)
        return lax.conv_general_dilated(
            images.transpose(1, 2, 3, 0).reshape(1, h, w * c, size),
            gradients.reshape(size, m, n // two, two * o).transpose(1, 2, 0, 3),
            (1, 1),
            ((top, bottom), (left * c, right * c)),
            rhs_dilation=(s, two * t * c),
            dimension_numbers=NHWC_HWIO,
        )

    total = winograd.summed(gradient_of, x, dy, _at_once(x, dy))
    # The second pixel of a pair sees the kernel's columns t further on.
    sums = total.reshape(kh, -1, c, two, o)
    return jnp.asarray(sum(sums[:, i * t : i * t + kw, :, i] for i in range(two)))
