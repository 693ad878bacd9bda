"""What a picture file shows, as 8-bit grey or colour.

Every picture is read by `shown`: folders, streams, prepared sets and `resjax.convolve`. These are its rules:

* **Turned as a viewer turns it**: by the orientation in its EXIF data, which cameras and phones write.
* **Transparent pixels show the background**, white unless `config.data.background` says black. The colours
  that a file stores under them are those of nothing that can be seen.
* **16 bits become 8** by round(v / 257), which maps 0 .. 65535 onto 0 .. 255 evenly. Pillow reads colour of
  16 bits by its high byte, v // 256, which differs by at most one level. Floats in 0 .. 1 become
  round(255 v).
* **Grey stays grey**; palettes, CMYK, Lab and others become RGB.
* Of several frames or pages, the first is read.
"""

import struct

import numpy as np
from PIL import Image, ImageOps

_ORIENTATION = 0x0112  # EXIF: 1 = upright, 2 .. 4 = mirrored or upside down, 5 .. 8 = width and height swap


def is_grey(image: Image.Image) -> bool:
    """Whether the file stores grey levels, with or without opacity. Palettes are colour."""
    return image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")


def shown_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) of `image` as shown, that is after turning it."""
    if image.format == "TIFF":
        image.load()  # turns it, and deletes its orientation
    width, height = image.size
    return (height, width) if _orientation(image) >= 5 else (width, height)


def shown(image: Image.Image, channels: int, background: str = "white") -> Image.Image:
    """`image` as it is shown, in mode 'L' (`channels` = 1) or 'RGB' (3), by the rules of this module.

    Args:
      image: of any mode.
      channels: 1 or 3.
      background: 'white' or 'black', which transparent pixels show.

    Raises:
      ValueError: levels are outside 0 .. 65535 (whole numbers) or 0 .. 1 (floats), or of 32 bits and only in
        0 .. 255.
    """
    image.load()
    upright = ImageOps.exif_transpose(image) if _orientation(image) > 1 else image
    flat = _flat(upright, background)
    mode = "L" if channels == 1 else "RGB"
    return flat if flat.mode == mode else flat.convert(mode)


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except (SyntaxError, ValueError, TypeError, struct.error):  # damaged EXIF data beside intact pixels
        return 1
    return found if found in range(1, 9) else 1


def _flat(image: Image.Image, background: str) -> Image.Image:
    """8 bits without opacity, 'L' if grey, else 'RGB'."""
    mode = "L" if is_grey(image) else "RGB"
    if image.mode == "F" or image.mode.startswith("I"):
        levels = np.asarray(image)
        low, high = levels.min(), levels.max()
        if image.format == "TIFF" and image.mode == "I" and 0 <= low <= high <= 255 and high:
            raise ValueError(
                f"its levels are in {low} .. {high} with 32 bits each, so whether 255 or 65535 is white is "
                "unclear. Save it with 8 bits, or with 16"
            )
        plain = Image.fromarray(_eight_bits(levels))
        if "transparency" not in image.info:
            return plain
        opacity = Image.fromarray(np.where(levels == image.info["transparency"], 0, 255).astype(np.uint8))
    elif image.has_transparency_data:
        full = image.convert("LA" if mode == "L" else "RGBA")
        plain, opacity = full.convert(mode), full.getchannel("A")
    else:
        return image if image.mode == mode else image.convert(mode)
    return Image.composite(plain, Image.new(mode, image.size, background), opacity)


def _eight_bits(levels: np.ndarray) -> np.ndarray:
    """Whole numbers in 0 .. 65535, or floats in 0 .. 1, as uint8."""
    top = 1 if levels.dtype.kind == "f" else 65535
    low, high = levels.min(), levels.max()
    if not 0 <= low <= high <= top:  # also false for nan
        kind = "floats" if top == 1 else "whole numbers of more than 8 bits"
        raise ValueError(
            f"its levels are in {low} .. {high}; needed: {kind} in 0 .. {top}. Scale and save it again"
        )
    result = np.empty(levels.shape, np.uint8)
    for row, given in zip(result, levels, strict=True):  # all floats at once would be several times the image
        row[:] = np.round(given * (255 / top))
    return result
