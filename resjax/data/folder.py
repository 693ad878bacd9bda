"""A folder of images: train/CLASS/*.jpg and test/CLASS/*.jpg (or val/).

Classes are the sub-folders of train/, numbered in the order of their names (see `resjax.data.layout`). A set
whose images have sides of at most 64 pixels, and at most 1 GiB of pixels in total, is loaded whole
(`Arrays`); others are streamed.
"""

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np

from resjax.data import layout
from resjax.data.decode import center_crop, opened
from resjax.data.files import read_bytes
from resjax.data.pixels import is_grey, shown, shown_size

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
        return read_bytes(self.paths[i]), int(self.labels[i])

    def read(self, indices: Sequence[int]) -> list[tuple[bytes, int]]:
        return [self[i] for i in indices]

    def where(self, index: int) -> str:
        """The file of an image, for messages."""
        return self.paths[index]


def scan(path: str, holdout: int = 0) -> tuple[Files, Files, tuple[str, ...]]:
    """(training files, test files, class names) of a folder that holds train/ and test/ (or val/).

    Every class has training pictures; some may lack test pictures. With `holdout`, a folder without test/
    gives the training files twice.

    Raises:
      FileNotFoundError: no such folder, or no train/ or test/ in it.
      ValueError: no class folders, a class without pictures, a test class that train/ lacks, or pictures that
        are in no class or cannot be read.
    """
    root = pathlib.Path(path).expanduser()
    train, test = layout.parts(root, path)
    if test is None and not holdout:
        raise layout.without_test(root)
    pictures = layout.classes(train)
    names = list(pictures)
    for name in names:
        if not pictures[name]:
            raise layout.empty_class(train / name)
    files = _files(pictures, names)
    if test is None:
        return files, files, tuple(names)
    tested = layout.classes(test)
    if strange := sorted(tested.keys() - pictures.keys()):
        raise layout.strange_classes(test, strange, names)
    if not any(tested.values()):
        raise ValueError(f"{test} has class folders ({layout.some(tested)}), but no pictures in them")
    return files, _files(tested, names), tuple(names)


def _files(pictures: dict[str, list[pathlib.Path]], names: list[str]) -> Files:
    labelled = [(str(file), label) for label, name in enumerate(names) for file in pictures.get(name, ())]
    paths, labels = zip(*labelled, strict=True)
    return Files(paths, np.asarray(labels, np.int32))


def whole_shape(train: Files, test: Files, image_size: int) -> tuple[int, int, int] | None:
    """The image shape (H, W, C) of a set to be loaded whole, or None for one to be streamed.

    `image_size` is that of `config.data`; 0 = the size of the images, which must then be equal.

    Raises:
      ValueError: image_size is 0 and the images differ in size, or are too large to load whole.
    """
    if image_size > _WHOLE_SIDE:
        return None
    grey, first = True, None
    for path in dict.fromkeys((*train.paths, *test.paths)):
        with opened(read_bytes(path), path) as image:
            grey = grey and is_grey(image)
            size = (image_size, image_size) if image_size else shown_size(image)
        first = first or (path, size)
        if size != first[1]:
            raise ValueError(
                f"images of different sizes ({first[0]}: {first[1]}, {path}: {size}; "
                "width, height): set data.image_size to the side that all should have"
            )
        if max(size) > _WHOLE_SIDE:  # the others cannot change that image_size is needed
            break
    assert first is not None
    width, height = first[1]
    shape = (height, width, 1 if grey else 3)
    count = len(train) + (0 if test is train else len(test))
    if max(height, width) <= _WHOLE_SIDE and count * math.prod(shape) <= _WHOLE_BYTES:
        return shape
    if not image_size:
        raise ValueError(
            f"{count} images of {height} x {width} pixels are streamed: set data.image_size to "
            "the side of the crops, e.g. 224"
        )
    return None


def read_whole(files: Files, shape: tuple[int, int, int], resize: bool, background: str) -> np.ndarray:
    """Decodes all files to uint8 [N, H, W, C], where `shape` is (H, W, C).

    With `resize`, the shorter side becomes H = W and the central square is kept; else sizes must match.
    `background` is what transparent pixels show.

    Raises:
      ValueError: a file is not an image; the message names it.
    """
    images = np.empty((len(files), *shape), np.uint8)
    for i, path in enumerate(files.paths):
        with opened(files[i][0], path) as image:
            if resize:
                images[i] = center_crop(image, shape[0], shape[2], margin=1.0, background=background)
            else:
                images[i] = np.asarray(shown(image, shape[2], background)).reshape(shape)
    return images
