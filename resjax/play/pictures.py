"""Examples as small pictures for the page, PNG in the text of an address."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

SIDE = 64  # pixels of a picture; smaller images are enlarged by a whole number


def pictures(images: Any, examples: np.ndarray) -> list[str | None]:
    """A data address for each of some images [N, H, W, C], C = 1 or 3; None for inputs of another form.

    Every channel is stretched from its smallest value over all N images to its largest. For standardized
    pixels with black and white among them, this is the original picture.
    """
    if not isinstance(images, np.ndarray) or images.ndim != 4 or images.shape[-1] not in (1, 3):
        return [None] * len(examples)
    low, high = images.min((0, 1, 2)), images.max((0, 1, 2))
    shown = 255 * (images[examples] - low) / np.where(high > low, high - low, 1)
    return [_address(np.round(image).astype(np.uint8)) for image in shown]


def _address(image: np.ndarray) -> str:
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    if (longest := max(picture.size)) > SIDE:
        picture.thumbnail((SIDE, SIDE))
    else:
        factor = SIDE // longest
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
