"""Small synthetic originals of every set, and prepared folders made of them."""

import gzip
import hashlib
import io
import pathlib
import tarfile

import numpy as np
from PIL import Image

from resjax.data import prepare
from resjax.data.prepare import FileFacts


def images(count: int, height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    """Random uint8 [count, height, width, channels]."""
    shape = (count, height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def ramp(height: int, width: int) -> Image.Image:
    """A picture whose red is the column, whose green is the row (both up to 255)."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.arange(width)[None, :]
    pixels[..., 1] = np.arange(height)[:, None]
    return Image.fromarray(pixels)


def encoded(image: Image.Image, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **({"quality": 95} if form == "JPEG" else {}))
    return buffer.getvalue()


def write_idx(path: pathlib.Path, array: np.ndarray) -> None:
    header = bytes((0, 0, 8, array.ndim)) + np.asarray(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes()))


def write_mnist(folder: pathlib.Path, train: int = 12, test: int = 5) -> dict[str, np.ndarray]:
    """The four files of MNIST; returns what they hold."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = {}
    for part, prefix, count, seed in (("train", "train", train, 1), ("test", "t10k", test, 2)):
        raw[f"{part}_images"] = images(count, 28, 28, 1, seed)
        raw[f"{part}_labels"] = np.arange(count, dtype=np.uint8) % 10
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", raw[f"{part}_images"][..., 0])
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", raw[f"{part}_labels"])
    return raw


def cifar_rows(pictures: np.ndarray, labels: np.ndarray) -> bytes:
    """CIFAR's binary form: `labels` [N, L] before the channel-major pixels."""
    pixels = pictures.transpose(0, 3, 1, 2).reshape(len(pictures), -1)
    return np.concatenate([labels.astype(np.uint8), pixels], axis=1).tobytes()


def write_tar(path: pathlib.Path, members: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def tar_bytes(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def facts_of(folder: pathlib.Path) -> dict[str, FileFacts]:
    """What TFDS would register if the files of `folder` were the originals."""
    return {
        file.name: FileFacts(
            f"https://example.org/{file.name}",
            file.stat().st_size,
            hashlib.sha256(file.read_bytes()).hexdigest(),
        )
        for file in folder.iterdir()
    }


def accept(monkeypatch, folder: pathlib.Path) -> None:
    """Lets `prepare` take the files of `folder` for the originals."""
    facts = facts_of(folder)
    monkeypatch.setattr(prepare, "registered", lambda builder, name: facts)


def sorted_rows(pictures: np.ndarray, labels: np.ndarray) -> list[bytes]:
    """The examples without their order, to compare sets that TFDS has shuffled."""
    return sorted(
        image.tobytes() + bytes([label])
        for image, label in zip(pictures, labels.astype(np.uint8), strict=True)
    )
