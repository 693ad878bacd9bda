"""Decoding an image to a uint8 crop with Pillow; worker processes do this for streamed sets.

A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size almost for free ("draft mode": the inverse cosine
transform produces fewer pixels). Training crops use draft mode where the draft is at least as large as the
result, so a draft is never enlarged. Its pixels differ slightly from those of the full-size image scaled
down, so central crops, which are used for evaluation, avoid it.
"""

import contextlib
import io
import math
import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image, UnidentifiedImageError

from resjax.data.pixels import shown, shown_size

Box = tuple[float, float, float, float]  # left, top, right, bottom
# He et al. 2015 §3.4, Simonyan and Zisserman 2015 §3.1: the shorter side is drawn from 256..480 for a crop of
# 224. Other sizes keep the proportion.
_SCALES = (256 / 224, 480 / 224)
# Szegedy et al. 2015 ("inception" crop): fraction of the area, and width / height.
_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)


@contextlib.contextmanager
def opened(encoded: bytes, what: str) -> Iterator[Image.Image]:
    """Opens an image of one of FORMATS for a `with` block that reads its pixels.

    Raises:
      ValueError: it cannot be opened or read, is cut short, or has more than 178,956,970 pixels (Pillow's
        limit against pictures that exhaust the memory); the message names `what` (a file, a record).
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            yield image
    except UnidentifiedImageError as error:
        raise ValueError(f"{what} is not a readable image ({_instead(encoded)})") from error
    except (OSError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise ValueError(f"{what} is not a readable image ({error})") from error
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error


# A picture's content chooses its decoder, whatever the file is called. Pillow has others that start a program
# (Ghostscript for PostScript) or are rarely used, so these alone are allowed.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_STARTS = {
    b"\x89PNG": "a PNG", b"\xff\xd8\xff": "a JPEG", b"GIF87a": "a GIF", b"GIF89a": "a GIF",
    b"RIFF": "a WebP", b"II*\0": "a TIFF", b"MM\0*": "a TIFF",
}  # fmt: skip
_UNREAD = {
    b"%!PS": "PostScript", b"\xc5\xd0\xd3\xc6": "PostScript", b"%PDF": "a PDF",
    b"8BPS": "a file of Photoshop", b"\0\0\0\x0cjP  ": "JPEG 2000",
}  # fmt: skip


def _instead(encoded: bytes) -> str:
    """What bytes that are no image are."""
    if not encoded:
        return "it is empty"
    if encoded.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; `git lfs pull` fetches the file itself"
    if encoded.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        return "it is a web page; download the picture itself"
    read = f"formats that are read: {', '.join(FORMATS)}"
    for start, kind in _STARTS.items():
        if encoded.startswith(start):
            return f"it begins as {kind} does, but is damaged or cut short at {len(encoded):,} bytes"
    for start, kind in _UNREAD.items():
        if encoded.startswith(start):
            return f"it is {kind}; {read}. Convert it to one of them"
    return f"it begins with {encoded[:8]!r}, as none of the {read}"


def train_crop(
    image: Image.Image,
    size: int,
    crop: str,
    rng: np.random.Generator,
    channels: int = 3,
    background: str = "white",
) -> np.ndarray:
    """A random training crop, uint8 [size, size, channels], of an image of any mode; see `crop_box`.

    `background` is what transparent pixels show, see `resjax.data.pixels`.
    """
    box = crop_box(shown_size(image), crop, rng)
    return _resized(image, box, size, channels, background, draft=True)


def crop_box(image_size: tuple[int, int], crop: str, rng: np.random.Generator) -> Box:
    """A random training crop of an image of (width, height): left, top, right, bottom, fractional pixels.

    `crop` is 'resize' or 'inception', see `config.data.crop`.
    """
    width, height = image_size
    if crop == "resize":
        box_width = box_height = min(width, height) / rng.uniform(*_SCALES)
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
    # Ten draws can fail for very elongated images: take the largest box of an allowed aspect.
    return min(width, height * _ASPECT[1]), min(height, width / _ASPECT[0])


def center_crop(
    image: Image.Image,
    size: int,
    channels: int = 3,
    margin: float = 256 / 224,
    background: str = "white",
) -> np.ndarray:
    """The central crop, uint8 [size, size, channels], after resizing the shorter side to margin * size."""
    width, height = shown_size(image)
    side = min(width, height) / margin
    left, top = (width - side) / 2, (height - side) / 2
    return _resized(image, (left, top, left + side, top + side), size, channels, background, draft=False)


def _resized(
    image: Image.Image, box: Box, size: int, channels: int, background: str, draft: bool
) -> np.ndarray:
    """Resizes the part of `image` inside `box`, in pixels of the image as shown, to size x size."""
    width, height = shown_size(image)
    shrink = size / min(box[2] - box[0], box[3] - box[1])
    if draft and shrink < 1:
        # Only JPEG files have a draft; for others this does nothing. It has the sides as stored.
        image.draft(
            "L" if channels == 1 else "RGB",
            (math.ceil(image.size[0] * shrink), math.ceil(image.size[1] * shrink)),
        )
    picture = shown(image, channels, background)
    scale_x, scale_y = picture.size[0] / width, picture.size[1] / height
    scaled = (
        max(box[0] * scale_x, 0.0),
        max(box[1] * scale_y, 0.0),
        min(box[2] * scale_x, picture.size[0]),
        min(box[3] * scale_y, picture.size[1]),
    )
    resized = picture.resize((size, size), Image.Resampling.BILINEAR, box=scaled)
    return np.asarray(resized, np.uint8).reshape(size, size, channels)
