"""A folder of images: train/CLASS/*.jpg and test/CLASS/*.jpg (or val/).

Classes are the sub-folders of train/, numbered in the order of their names. A set whose images have sides of
at most 64 pixels, and at most 1 GiB of pixels in total, is loaded whole (`Arrays`); others are streamed.
"""

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np

from resjax.data.decode import center_crop, opened

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
_WHOLE_SIDE = 64
_WHOLE_BYTES = 2**30


@dataclasses.dataclass(frozen=True)
class Files:
    """Encoded images by number, read from files on demand; `labels` is int32."""

    paths: tuple[str, ...]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: SupportsIndex) -> tuple[bytes, int]:
        i = index.__index__()
        return pathlib.Path(self.paths[i]).read_bytes(), int(self.labels[i])

    def read(self, indices: Sequence[int]) -> list[tuple[bytes, int]]:
        return [self[i] for i in indices]


def scan(path: str) -> tuple[Files, Files, tuple[str, ...]]:
    """(training files, test files, class names) of a folder that holds train/ and test/ (or val/).

    Raises:
      FileNotFoundError: no such folder, or no train/ or test/ in it.
      ValueError: no class folders, no images, or a test class that train/ lacks.
    """
    root = pathlib.Path(path).expanduser()
    layout = "needed: train/CLASS/*.jpg and test/CLASS/*.jpg (or val/)"
    if not root.is_dir():
        raise FileNotFoundError(f"data.name={path!r}: no such folder; {layout}")
    train = root / "train"
    test = next((root / part for part in ("test", "val") if (root / part).is_dir()), None)
    if not train.is_dir() or test is None:
        found = ", ".join(sorted(child.name for child in root.iterdir())) or "nothing"
        raise FileNotFoundError(f"{root} holds {found}; {layout}")
    names = _class_folders(train)
    strange = sorted(set(_class_folders(test)) - set(names))
    if strange:
        lacking = f"{test} has classes that {train} lacks: {', '.join(strange)}"
        raise ValueError(f"{lacking}; there are {', '.join(names)}")
    return _files(train, names), _files(test, names), tuple(names)


def _class_folders(part: pathlib.Path) -> list[str]:
    names = sorted(
        child.name for child in part.iterdir() if child.is_dir() and not child.name.startswith(".")
    )
    if not names:
        raise ValueError(f"{part} has no class folders; put the pictures into {part}/CLASS/")
    return names


def _files(part: pathlib.Path, names: list[str]) -> Files:
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        folder = part / name
        found = sorted(
            str(file)
            for file in (folder.iterdir() if folder.is_dir() else ())
            if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
        )
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise ValueError(f"no pictures in {part}/*/ (looked for {', '.join(SUFFIXES)})")
    return Files(tuple(paths), np.asarray(labels, np.int32))


def whole_shape(train: Files, test: Files, image_size: int) -> tuple[int, int, int] | None:
    """The image shape (H, W, C) of a set to be loaded whole, or None for one to be streamed.

    `image_size` is that of `config.data`; 0 = the size of the images, which must then be equal.

    Raises:
      ValueError: image_size is 0 and the images differ in size, or are too large to load whole.
    """
    if image_size > _WHOLE_SIDE:
        return None
    grey, first = True, None
    for path in (*train.paths, *test.paths):
        with opened(pathlib.Path(path).read_bytes(), path) as image:
            grey = grey and image.mode in ("1", "L")
            if not image_size:
                first = first or (path, image.size)
                if image.size != first[1]:
                    raise ValueError(
                        f"images of different sizes ({first[0]}: {first[1]}, {path}: {image.size}; "
                        "width, height): set data.image_size to the side that all should have"
                    )
    width, height = (image_size, image_size) if first is None else first[1]
    shape = (height, width, 1 if grey else 3)
    count = len(train) + len(test)
    if max(height, width) <= _WHOLE_SIDE and count * math.prod(shape) <= _WHOLE_BYTES:
        return shape
    if not image_size:
        raise ValueError(
            f"{count} images of {height} x {width} pixels are streamed: set data.image_size to "
            "the side of the crops, e.g. 224"
        )
    return None


def read_whole(files: Files, shape: tuple[int, int, int], resize: bool) -> np.ndarray:
    """Decodes all files to uint8 [N, H, W, C], where `shape` is (H, W, C).

    With `resize`, the shorter side becomes H = W and the central square is kept; else sizes must match.

    Raises:
      ValueError: a file is not an image; the message names it.
    """
    images = np.empty((len(files), *shape), np.uint8)
    for i, path in enumerate(files.paths):
        with opened(files[i][0], path) as image:
            if resize:
                images[i] = center_crop(image, shape[0], shape[2], margin=1.0)
            else:
                mode = "L" if shape[2] == 1 else "RGB"
                images[i] = np.asarray(image.convert(mode)).reshape(shape)
    return images
