"""From an encoded picture to a uint8 crop, with Pillow: what worker processes do for streamed sets.

A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size almost for free ("draft mode": the inverse
cosine transform simply makes fewer pixels). Training crops use it whenever the draft is still at least as
large as what will be kept, so a pixel is never enlarged because of it. Its pixels differ a little from those
of the whole picture made smaller, so central crops, which are evaluated on, do without it.
"""

import contextlib
import io
import math
from collections.abc import Iterator

import numpy as np
from PIL import Image

# He et al. 2015 §3.4 and Simonyan and Zisserman 2015 §3.1: the shorter side is drawn from 256..480
# for a crop of 224. Other crop sizes keep the proportion.
_SCALES = (256 / 224, 480 / 224)
# Szegedy et al. 2015 ("inception" crop): share of the area, and width / height.
_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)


@contextlib.contextmanager
def opened(encoded: bytes, what: str) -> Iterator[Image.Image]:
    """Opens a picture for a `with` block, in which its pixels are read.

    Raises:
      ValueError: it cannot be opened, or its pixels cannot be read; `what` (a file, a record) is
        named.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            yield image
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{what} is not a readable image ({error})") from error


def train_crop(
    image: Image.Image, size: int, crop: str, rng: np.random.Generator, channels: int = 3
) -> np.ndarray:
    """A random crop for training.

    Args:
      image: any size and mode.
      size: height and width of the result in pixels.
      crop: 'resize' or 'inception', see `config.data.crop`.
      rng: decides scale and place.
      channels: 1 or 3.

    Returns:
      uint8 [size, size, channels].
    """
    return _resized(image, crop_box(image.size, crop, rng), size, channels, draft=True)


def crop_box(
    image_size: tuple[int, int], crop: str, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """Where a random training crop lies.

    Args:
      image_size: (width, height) in pixels.
      crop: 'resize' or 'inception', see `config.data.crop`.
      rng: decides scale and place.

    Returns:
      (left, top, right, bottom) in pixels of the image, fractions included.
    """
    width, height = image_size
    if crop == "resize":
        # The crop's side measured in pixels of the original: it slides inside the shorter side.
        side = min(width, height) / rng.uniform(*_SCALES)
        box_width = box_height = side
    else:
        box_width, box_height = _inception_box(width, height, rng)
    left = rng.uniform(0, width - box_width)
    top = rng.uniform(0, height - box_height)
    return left, top, left + box_width, top + box_height


def _inception_box(width: int, height: int, rng: np.random.Generator) -> tuple[float, float]:
    for _ in range(10):
        area = width * height * rng.uniform(*_AREA)
        aspect = math.exp(rng.uniform(math.log(_ASPECT[0]), math.log(_ASPECT[1])))
        box_width, box_height = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if box_width <= width and box_height <= height:
            return box_width, box_height
    # Ten misses happen with very long pictures: take the largest box of an allowed aspect.
    return min(width, height * _ASPECT[1]), min(height, width / _ASPECT[0])


def center_crop(
    image: Image.Image, size: int, channels: int = 3, margin: float = 256 / 224
) -> np.ndarray:
    """The central crop: shorter side resized to margin * size, the middle size x size kept.

    Returns:
      uint8 [size, size, channels].
    """
    width, height = image.size
    side = min(width, height) / margin
    left, top = (width - side) / 2, (height - side) / 2
    return _resized(image, (left, top, left + side, top + side), size, channels, draft=False)


def _resized(
    image: Image.Image,
    box: tuple[float, float, float, float],
    size: int,
    channels: int,
    draft: bool,
) -> np.ndarray:
    """Resizes the part of `image` inside `box` (left, top, right, bottom) to size x size."""
    mode = "L" if channels == 1 else "RGB"
    width, height = image.size
    shrink = size / min(box[2] - box[0], box[3] - box[1])
    if draft and shrink < 1:
        # Only JPEG files have a draft; for others this does nothing.
        image.draft(mode, (math.ceil(width * shrink), math.ceil(height * shrink)))
    scale_x, scale_y = image.size[0] / width, image.size[1] / height
    scaled = (
        max(box[0] * scale_x, 0.0),
        max(box[1] * scale_y, 0.0),
        min(box[2] * scale_x, image.size[0]),
        min(box[3] * scale_y, image.size[1]),
    )
    picture = image if image.mode == mode else image.convert(mode)
    resized = picture.resize((size, size), Image.Resampling.BILINEAR, box=scaled)
    return np.asarray(resized, np.uint8).reshape(size, size, channels)
