"""A stand-in for ImageNet: real-size JPEG files made of small real images, as TFDS stores imagenet2012.

A picture is the sum of three octaves, each a mosaic of other images of the source: one image enlarged over
the whole field, images enlarged four times over that, with their mean taken out, and images at their own
size likewise. So detail is there at every scale, and falls with frequency about as in photographs; a single
enlarged image would be too smooth, noise too rough, and both would mislead about the cost of decoding. The
JPEG quality is chosen so that files are about as large as ImageNet's: its training archive has
147,897,477,120 bytes for 1,281,167 pictures, 115 kB each.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import track

from resjax.data import tfds

SIZES = ((500, 375), (375, 500), (500, 333), (500, 400))  # width, height
QUALITY = 96
TARGET_BYTES = 147_897_477_120 / 1_281_167


def jpeg(images: np.ndarray, rng: np.random.Generator) -> bytes:
    """One picture.

    Args:
      images: uint8 [N, h, w, 3].
      rng: decides its size and which images it is made of.
    """
    width, height = SIZES[rng.integers(len(SIZES))]
    field = _mosaic(images, width, height, max(width, height), rng)
    for side, weight in ((4 * images.shape[1], 0.7), (images.shape[1], 0.6)):
        detail = _mosaic(images, width, height, side, rng, centred=True)
        field = field + weight * detail
    buffer = io.BytesIO()
    pixels = np.clip(field, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _mosaic(
    images: np.ndarray,
    width: int,
    height: int,
    side: int,
    rng: np.random.Generator,
    centred: bool = False,
) -> np.ndarray:
    """float32 [height, width, 3] of images enlarged to side × side; ``centred``: each minus its mean."""
    rows, columns = -(-height // side), -(-width // side)
    field = np.empty((rows * side, columns * side, 3), np.float32)
    for i in range(rows):
        for j in range(columns):
            tile = Image.fromarray(images[rng.integers(len(images))])
            large = np.asarray(tile.resize((side, side), Image.Resampling.BICUBIC), np.float32)
            if centred:
                large = large - large.mean((0, 1))
            field[i * side : (i + 1) * side, j * side : (j + 1) * side] = large
    return field[:height, :width]


def make(source: str, data_dir: Path, train: int, test: int) -> None:
    """Writes ``data_dir/imagenet2012`` through TFDS's own builder, unless it is there.

    Args:
      source: an .npz file whose ``train_images`` are uint8 [N, h, w, 3].
      data_dir: as ``config.data.data_dir``.
      train, test: how many pictures.
    """
    builder = tfds.library().builder("imagenet2012", data_dir=data_dir)
    if Path(builder.data_path).exists():
        return
    with np.load(source) as archive:
        images = archive["train_images"]
    names = builder.info.features["label"].names

    def examples(part: int, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
        for i in track(range(count), description="making pictures"):
            rng = np.random.default_rng((part, i))
            name = f"{part}_{i:06d}.JPEG"
            label = names[int(rng.integers(len(names)))]
            yield name, {"image": jpeg(images, rng), "label": label, "file_name": name}

    builder._split_generators = lambda manager: {
        "train": examples(0, train),
        "validation": examples(1, test),
    }
    builder.download_and_prepare(file_format="array_record")
