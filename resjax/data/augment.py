"""Standardizing, cropping and flipping on the device, inside the compiled training step.

Small data sets are stored on the device as uint8, a quarter of the memory of float32. Each batch is
standardized and then, in training, augmented. Standardization comes first, because He et al. (2015, §4.2) pad
the mean-subtracted image with zeros: the border has the value of the mean, not of black, unless
`config.data.pad_with` asks for black. (LeNet's scaling does not subtract the mean; its border has the value
of the background, -0.1, see `Statistics.fill`.)

Every example has its own random key, so an augmented batch does not depend on how it is split over devices.
Cropping is a dynamic slice for each example, which XLA turns into one gather.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from numpy.typing import ArrayLike

from resjax.data.arrays import Arrays
from resjax.data.stream import Stream


class Statistics(NamedTuple):
    """The constants of `standardize`, float32; `mean` and `std` are in grey levels 0 .. 255."""

    mean: np.ndarray  # [1, 1, 1, C] or [1, H, W, C]
    std: np.ndarray  # [1, 1, 1, C] or [1, 1, 1, 1]; positive
    fill: np.ndarray  # [1, 1, 1, 1] or [1, 1, 1, C], the value of padding after standardizing

    @property
    def outside(self) -> jax.Array:
        """float32 [C], or [1] for all channels: the value of padding in grey levels; of a mean image its
        mean."""
        grey = jnp.asarray(self.fill) * jnp.asarray(self.std) + jnp.asarray(self.mean)
        return grey.mean((0, 1, 2))


def statistics(data: Arrays | Stream, kind: str, pad_with: str = "mean") -> Statistics:
    """The constants of `config.data.standardize` and `pad_with`, computed from the training images alone.

    Kinds are 'channel': mean and standard deviation of each channel; 'pixel': the mean image, and the
    standard deviation of all pixels after its subtraction; 'unit': 0 and 255; 'lenet': (x - 20) / 200, which
    maps background 0 to -0.1 and foreground 255 to 1.175, so on MNIST the mean is about 0 and the variance
    about 1 (LeCun et al. 1998, §II-B).

    Raises:
      ValueError: the kind is unknown, or is 'pixel' for a streamed set, whose images are never all read.
    """
    if kind == "unit":
        return _statistics([0.0], [255.0])
    if kind == "lenet":
        return _statistics([20.0], [200.0], black=True)
    if kind == "channel":
        mean, std = 255.0 * np.asarray(data.info.mean), 255.0 * np.asarray(data.info.std)
        return _statistics(mean, std, black=pad_with == "black")
    if kind == "pixel":
        if not isinstance(data, Arrays):
            raise ValueError(
                f"data.standardize='pixel' needs the mean image, but {data.info.name} is streamed: "
                "use 'channel'"
            )
        mean = data.train_images.mean(axis=0, dtype=np.float64, keepdims=True)
        counts = np.bincount(data.train_images.reshape(-1), minlength=256)
        mean_square = counts @ np.arange(256.0) ** 2 / counts.sum()
        return _statistics(mean, [np.sqrt(max(mean_square - np.mean(mean**2), 0.0))])
    raise ValueError(f"standardize={kind!r}: choose one of channel, pixel, unit, lenet")


def _statistics(mean: ArrayLike, std: ArrayLike, black: bool = False) -> Statistics:
    mean, std = (np.array(x, np.float64, ndmin=4) for x in (mean, std))
    # A constant channel has deviation 0; dividing by it would give NaN.
    std = np.where(std > 0, std, 1.0)
    fill = -mean / std if black else np.zeros((1, 1, 1, 1))
    return Statistics(*(x.astype(np.float32) for x in (mean, std, fill)))


def standardize(images: jax.Array, constants: Statistics, dtype: DTypeLike = jnp.float32) -> jax.Array:
    """(images - mean) / std of uint8 [B, H, W, C], computed in float32 and returned as `dtype`."""
    x = images.astype(jnp.float32)
    return ((x - jnp.asarray(constants.mean)) / jnp.asarray(constants.std)).astype(dtype)


def augment(
    images: jax.Array,
    keys: jax.Array,
    *,
    pad: int,
    flip: bool,
    fill: jax.Array | np.ndarray | float = 0.0,
) -> jax.Array:
    """A random crop of the padded images, mirrored left to right with probability 1/2 if `flip`.

    All (2 pad + 1)² crops are equally likely (He et al. 2015, §4.2, with pad = 4).

    Args:
      images: standardized, floating-point [B, H, W, C]; so is the result.
      keys: one random key per example, [B].
      pad: pixels added on each side before cropping back to H x W; 0 = no crop.
      fill: the value of the padding, `Statistics.fill`: one number, or one for each channel.
    """

    value = jnp.asarray(fill, images.dtype).reshape(1, 1, -1)

    def one(image: jax.Array, key: jax.Array) -> jax.Array:
        crop_key, flip_key = jax.random.split(key)
        if pad:
            widths = ((pad, pad), (pad, pad), (0, 0))
            inside = np.pad(np.ones((*image.shape[:2], 1), bool), widths)
            padded = jnp.where(inside, jnp.pad(image, widths), value)
            top, left = jax.random.randint(crop_key, (2,), 0, 2 * pad + 1)
            image = jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)
        if flip:
            image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
        return image

    return jax.vmap(one)(images, keys) if pad or flip else images
