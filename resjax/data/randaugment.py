"""RandAugment on the device (Cubuk et al. 2020): random operations of one magnitude on each image.

The 14 operations are those of the paper. The magnitude M is on the scale of AutoAugment, 0 (nearly nothing)
to 10, with the strongest changes of its Table 6. With m = M / 10 and a random sign ±::

    rotate             ± 30 m degrees around the center
    shear_x, shear_y   ± 0.3 m
    translate_x, _y    ± 150/331 m of the width or height
    color, contrast, brightness, sharpness
                       blend(degenerate, image, 1 ± 0.9 m), where the degenerate image is gray, its mean gray,
                       black, or smoothed
    posterize          the highest 8 − round(4 m) bits are kept
    solarize           values of 256 (1 − m) or more are inverted
    identity, autocontrast, equalize

Each operation is one of PIL, to at most one gray level; where pixels move, about 1 % of them may come from
the neighbor. Implementations differ in ranges and signs; in torchvision's scale of 0 to 30, M is three times
as large. Pixels from outside get the color ``fill``.

Under ``vmap`` a ``switch`` would run all 14 operations on each image. Instead, one program serves all: an
affine map of the coordinates, then a table of gray levels, then a blend; each is the identity unless the
operation is of its kind.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

OPERATIONS = (
    "identity", "autocontrast", "equalize", "rotate", "solarize", "color", "posterize", "contrast",
    "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y",
)  # fmt: skip
STRONGEST = 10.0


def randaugment(
    images: jax.Array,
    keys: jax.Array,
    *,
    operations: int,
    magnitude: float,
    probability: float = 1.0,
    fill: jax.Array,
) -> jax.Array:
    """``operations`` random operations on each image, one after the other.

    Args:
      images: uint8 [B, H, W, C]; so is the result.
      keys: one random key per example, [B].
      operations: number of operations, 0 for none.
      magnitude: M in 0 … 10.
      probability: with which each of them is done.
      fill: float [C], 0 … 255, the color of pixels from outside of the image.
    """
    if not operations:
        return images

    def one(image: jax.Array, key: jax.Array) -> jax.Array:
        for own in jax.random.split(key, operations):
            of_kind, of_sign, of_doing = jax.random.split(own, 3)
            kind = jax.random.randint(of_kind, (), 0, len(OPERATIONS))
            kind = jnp.where(jax.random.bernoulli(of_doing, probability), kind, 0)
            sign = jnp.where(jax.random.bernoulli(of_sign), 1.0, -1.0)
            image = operate(image, kind, magnitude / STRONGEST, sign, fill)
        return image

    return jax.vmap(one)(images, keys)


def operate(image: jax.Array, kind: jax.Array, m: float, sign: jax.Array, fill: jax.Array) -> jax.Array:
    """The operation ``OPERATIONS[kind]`` with the magnitude ``m``, 0 … 1, and ``sign``, 1 or −1.

    ``image`` is uint8 [H, W, C], and so is the result; ``fill`` is float [C].
    """
    values = _moved(image, _matrix(image.shape, kind, sign * m), fill).astype(jnp.int32)
    values = jnp.take_along_axis(_levels(values, kind, m), values.reshape(-1, values.shape[-1]), 0)
    values = values.reshape(image.shape)
    return _blended(values, kind, 1 + 0.9 * sign * m).astype(jnp.uint8)


def _chosen(kind: jax.Array, some: Mapping[str, jax.Array], otherwise: jax.Array) -> jax.Array:
    """The entry of the operation ``kind``, or ``otherwise``."""
    # Not an index into a stack, which would hold several copies of all images of a batch.
    for name, own in some.items():
        otherwise = jnp.where(kind == OPERATIONS.index(name), own, otherwise)
    return otherwise


def _matrix(shape: tuple[int, ...], kind: jax.Array, amount: jax.Array) -> jax.Array:
    """float [2, 3]: (x, y, 1) of the result → (x, y) of the image."""
    height, width = shape[:2]
    one, zero = jnp.ones(()), jnp.zeros(())

    def matrix(*entries: jax.Array) -> jax.Array:
        return jnp.stack(entries).reshape(2, 3)

    angle = -jnp.deg2rad(30 * amount)
    cos, sin, x, y = jnp.cos(angle), jnp.sin(angle), width / 2, height / 2
    rotated = matrix(cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y)
    moved = {
        "rotate": rotated,
        "shear_x": matrix(one, 0.3 * amount, zero, zero, one, zero),
        "shear_y": matrix(one, zero, zero, 0.3 * amount, one, zero),
        "translate_x": matrix(one, zero, 150 / 331 * width * amount, zero, one, zero),
        "translate_y": matrix(one, zero, zero, zero, one, 150 / 331 * height * amount),
    }
    return _chosen(kind, moved, matrix(one, zero, zero, zero, one, zero))


def _moved(image: jax.Array, matrix: jax.Array, fill: jax.Array) -> jax.Array:
    """The nearest pixels, as in PIL: those in which the centers of the new ones come to lie."""
    height, width, _ = image.shape
    y, x = jnp.mgrid[:height, :width] + 0.5
    # Not a product of matrices, which accelerators compute with few digits.
    from_x, from_y = (row[0] * x + row[1] * y + row[2] for row in matrix)
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    rows = jnp.clip(jnp.floor(from_y), 0, height - 1).astype(jnp.int32)
    columns = jnp.clip(jnp.floor(from_x), 0, width - 1).astype(jnp.int32)
    outside = jnp.clip(jnp.round(fill), 0, 255).astype(image.dtype)[None, None]
    return jnp.where(inside[..., None], image[rows, columns], outside)


def _levels(values: jax.Array, kind: jax.Array, m: float) -> jax.Array:
    """int32 [256, C]: the new gray level of each level, for int32 values [H, W, C]."""
    channels = values.shape[-1]
    same = jnp.broadcast_to(jnp.arange(256)[:, None], (256, channels))
    least, most = values.min((0, 1)), values.max((0, 1))
    stretched = (same - least[None]) * 255 // jnp.maximum(most - least, 1)[None]
    count = jnp.zeros((256, channels), jnp.int32).at[values, jnp.arange(channels)[None, None]].add(1)
    step = ((jnp.sum(count, 0) - count[most, jnp.arange(channels)]) // 255)[None]
    below = jnp.cumsum(count, 0) - count
    equal = jnp.where(step > 0, (step // 2 + below) // jnp.maximum(step, 1), same)
    lowest = 2 ** round(4 * m)
    levels = {
        "autocontrast": jnp.where((most > least)[None], stretched, same),
        "equalize": equal,
        "solarize": jnp.where(same < 256 * (1 - m), same, 255 - same),
        "posterize": same // lowest * lowest,
    }
    return jnp.clip(_chosen(kind, levels, same), 0, 255)


def _blended(values: jax.Array, kind: jax.Array, factor: jax.Array) -> jax.Array:
    """degenerate + factor · (image − degenerate), cut off to whole levels, for int32 [H, W, C]."""
    gray = _gray(values)
    mean = jnp.floor(jnp.mean(gray.astype(jnp.float32)) + 0.5)
    image = values.astype(jnp.float32)
    degenerate = {
        "color": gray[..., None].astype(jnp.float32),
        "contrast": mean,
        "brightness": jnp.zeros(()),
        "sharpness": _smooth(values).astype(jnp.float32),
    }
    start = _chosen(kind, degenerate, image)
    return jnp.clip(jnp.floor(start + factor * (image - start)), 0, 255)


def _gray(values: jax.Array) -> jax.Array:
    """int32 [H, W]: the luma of ITU-R 601 of three channels, else their mean."""
    if values.shape[-1] == 3:
        return (values @ jnp.array([19595, 38470, 7471]) + 2**15) >> 16
    return jnp.mean(values, -1).round().astype(jnp.int32)


def _smooth(values: jax.Array) -> jax.Array:
    """Each inner pixel becomes the mean of itself, with weight 5, and its 8 neighbors; int32 [H, W, C]."""
    height, width, _ = values.shape
    if min(height, width) < 3:
        return values
    shifted = [values[i : height - 2 + i, j : width - 2 + j] for i in range(3) for j in range(3)]
    total = sum(shifted, 4 * values[1:-1, 1:-1])
    return values.at[1:-1, 1:-1].set((2 * total + 13) // 26)
