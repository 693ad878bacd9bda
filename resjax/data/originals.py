"""Converting the original files of each set to TFDS examples, without TensorFlow.

TFDS's own builders open files and encode PNG with TensorFlow. The functions here use the standard library,
numpy, SciPy and Pillow instead, and yield the same examples under the same keys, so TFDS writes the same set
in the same order. Pixels are equal; the bytes of PNG files differ, since the encoder does.

Each function takes {file name: path} and returns {split: examples}; an example is (key, record).
"""

import gzip
import io
import pathlib
import tarfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from resjax.data.decode import opened
from resjax.data.info import TABLE
from resjax.data.tfds import library

Paths = Mapping[str, pathlib.Path]
Example = tuple[int | str, dict[str, Any]]
Splits = dict[str, Iterator[Example]]


def png(image: np.ndarray) -> bytes:
    """Encodes uint8 [H, W, 1] or [H, W, 3] losslessly."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()


def idx(path: pathlib.Path) -> np.ndarray:
    """The array of a gzipped idx file: two zero bytes, 8 (for uint8), the rank, the lengths, data."""
    with gzip.open(path) as file:
        data = file.read()
    rank = data[3] if len(data) > 3 and data[:3] == b"\0\0\x08" else 0
    shape = np.frombuffer(data, ">u4", rank, offset=4) if rank else np.zeros(0)
    if not rank or len(data) != 4 + 4 * rank + int(np.prod(shape)):
        raise ValueError(f"{path} is not a gzipped idx file of bytes")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape.astype(int))


def mnist(paths: Paths) -> Splits:
    """MNIST and Fashion-MNIST: four idx files."""

    def examples(prefix: str) -> Iterator[Example]:
        images = idx(paths[f"{prefix}-images-idx3-ubyte.gz"])
        labels = idx(paths[f"{prefix}-labels-idx1-ubyte.gz"])
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield i, {"image": png(image[..., None]), "label": int(label)}

    return {"train": examples("train"), "test": examples("t10k")}


CIFAR10_BATCHES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))


def cifar10(paths: Paths) -> Splits:
    """CIFAR-10: for each image a label byte, then 3,072 bytes red, green, blue."""
    read = _reader(paths, "cifar-10-binary.tar.gz")
    files = {"train": CIFAR10_BATCHES, "test": ("test_batch.bin",)}
    return {split: _cifar_examples(read, files[split], split, ("label",)) for split in files}


def cifar100(paths: Paths) -> Splits:
    """CIFAR-100: as CIFAR-10, with a coarse label before the fine one."""
    read, labels = _reader(paths, "cifar-100-binary.tar.gz"), ("coarse_label", "label")
    return {s: _cifar_examples(read, (f"{s}.bin",), s, labels) for s in ("train", "test")}


def label_names(name: str, paths: Paths) -> dict[str, list[str]]:
    """Class names that TFDS takes from the original files, by label feature."""
    if name == "cifar10":
        return {"label": list(TABLE[name].class_names)}
    if name == "cifar100":
        read = _reader(paths, "cifar-100-binary.tar.gz")
        return {
            "label": read("fine_label_names.txt").decode().split(),
            "coarse_label": read("coarse_label_names.txt").decode().split(),
        }
    return {}


def _reader(paths: Paths, archive: str) -> Callable[[str], bytes]:
    """A function from a file name to its bytes: from the archive if there is one, else from the file."""
    if archive not in paths:
        return lambda file: paths[file].read_bytes()

    def read(file: str) -> bytes:
        with tarfile.open(paths[archive]) as tar:
            for member in tar:
                if pathlib.PurePath(member.name).name == file:
                    return _contents(tar, member)
        raise ValueError(f"{paths[archive]} has no {file}")

    return read


def _cifar_examples(
    read: Callable[[str], bytes], files: tuple[str, ...], split: str, labels: tuple[str, ...]
) -> Iterator[Example]:
    i = 0
    for file in files:
        rows = np.frombuffer(read(file), np.uint8).reshape(-1, len(labels) + 3072)
        for row in rows:
            image = row[len(labels) :].reshape(3, 32, 32).transpose(1, 2, 0)
            record: dict[str, Any] = {name: int(row[k]) for k, name in enumerate(labels)}
            yield i, {**record, "id": f"{split}_{i:05d}", "image": png(np.ascontiguousarray(image))}
            i += 1


def svhn_cropped(paths: Paths) -> Splits:
    """SVHN, cropped: MATLAB files with X [32, 32, 3, N] and y [N, 1], where 10 stands for digit 0."""

    def examples(split: str) -> Iterator[Example]:
        from scipy.io import loadmat

        data = loadmat(paths[f"{split}_32x32.mat"])
        images, labels = np.moveaxis(data["X"], -1, 0), data["y"].reshape(-1)
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            record = {"image": png(np.ascontiguousarray(image)), "label": int(label) % 10}
            yield i, {**record, "id": f"{split}_{i:06d}"}

    return {split: examples(split) for split in ("train", "test", "extra")}


def imagenette(paths: Paths) -> Splits:
    """Imagenette: a .tgz of train/CLASS/*.JPEG and val/CLASS/*.JPEG, stored unchanged."""
    (path,) = paths.values()

    def examples(part: str) -> Iterator[Example]:
        with tarfile.open(path, "r|gz") as tar:
            for member in tar:
                parts = pathlib.PurePath(member.name).parts
                if len(parts) == 4 and parts[1] == part and parts[3].endswith(".JPEG"):
                    yield parts[3], {"image": _contents(tar, member), "label": parts[2]}

    return {"train": examples("train"), "validation": examples("val")}


def imagenet2012(paths: Paths) -> Splits:
    """ILSVRC 2012: a tar with one tar per class, and a tar of validation images.

    The 22 training images in CMYK and the one PNG become RGB JPEG files of quality 100, as in TFDS; in these
    23 images, Pillow's conversion and encoder differ from TensorFlow's.
    """
    val = paths["ILSVRC2012_img_val.tar"]

    def train() -> Iterator[Example]:
        with tarfile.open(paths["ILSVRC2012_img_train.tar"]) as outer:
            for archive in outer:
                label = pathlib.PurePath(archive.name).stem
                with tarfile.open(fileobj=io.BytesIO(_contents(outer, archive))) as inner:
                    for member in inner:
                        image = _rgb_jpeg(_contents(inner, member), member.name)
                        record = {"image": image, "label": label, "file_name": member.name}
                        yield member.name, record

    def validation() -> Iterator[Example]:
        with tarfile.open(val) as tar:
            # TFDS lists the labels in the order of the file names, not of the archive.
            names = sorted(member.name for member in tar if member.isfile())
            labels = dict(zip(names, validation_labels(), strict=True))
        with tarfile.open(val) as tar:
            for member in tar:
                if member.isfile():
                    record = {"image": _contents(tar, member), "label": labels[member.name]}
                    yield member.name, {**record, "file_name": member.name}

    return {"train": train(), "validation": validation()}


def validation_labels() -> list[str]:
    """The classes of ImageNet's validation images in the order of their file names, from TFDS."""
    listed = library().core.tfds_path("datasets/imagenet2012/validation_labels.txt")
    return list(listed.read_text().split())


def _contents(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    if file is None:
        raise ValueError(f"{member.name} is not a file of its archive")
    return file.read()


def _rgb_jpeg(encoded: bytes, name: str) -> bytes:
    """``encoded``, converted if it is CMYK or not a JPEG."""
    with opened(encoded, name) as image:
        if image.format == "JPEG" and image.mode != "CMYK":
            return encoded
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "JPEG", quality=100)
        return buffer.getvalue()


# The converter of each set, by TFDS's name.
SPLITS: Mapping[str, Callable[[Paths], Splits]] = {
    f.__name__: f for f in (mnist, cifar10, cifar100, svhn_cropped, imagenette, imagenet2012)
} | {"fashion_mnist": mnist}
