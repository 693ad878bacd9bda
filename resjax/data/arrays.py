"""Small data sets: every image in memory, as uint8.

`digits` comes with scikit-learn, an `.npz` file is the simplest format for your own images, and small TFDS
sets and folders of small images become arrays too. For all of them `make` checks the arrays, resizes them to
`image_size`, splits off the held-out part and describes the result.
"""

import dataclasses
import pathlib
import zipfile

import ml_collections
import numpy as np
from PIL import Image

from resjax.data.info import Info
from resjax.data.order import split_indices

KEYS = ("train_images", "train_labels", "test_images", "test_labels")


@dataclasses.dataclass(frozen=True)
class Arrays:
    """A data set in memory: images uint8 [N, H, W, C], labels int32 [N] in 0 .. num_classes - 1."""

    info: Info
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def read_digits() -> dict[str, np.ndarray]:
    """The 1,797 8 x 8 digits of scikit-learn (Alpaydin and Kaynak 1998, the UCI test part).

    The levels 0 .. 16 become 0 .. 255 by round(v * 255 / 16). The set has no official split: the first 1,400
    of a permutation by numpy's default generator with seed 0 are the training set, the other 397 the test
    set.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int32)
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:1400], order[1400:]
    return dict(zip(KEYS, (images[train], labels[train], images[test], labels[test]), strict=True))


def read_npz(path: str) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The four arrays of an `.npz` file, and its optional `class_names`.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not an .npz file, an array is missing, or one holds Python objects.
    """
    file = pathlib.Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(
            f"data.name={path!r}: no such file. Write it with numpy.savez(path, train_images=..., "
            "train_labels=..., test_images=..., test_labels=...)"
        )
    if not zipfile.is_zipfile(file):
        raise ValueError(f"{path}: not an .npz archive; write it with numpy.savez")
    with np.load(file, allow_pickle=False) as archive:
        missing = [key for key in KEYS if key not in archive.files]
        if missing:
            raise ValueError(
                f"{path}: {', '.join(missing)} missing. Found: {', '.join(archive.files)}. "
                f"Needed: {', '.join(KEYS)} (class_names is optional)"
            )
        try:
            raw = {key: archive[key] for key in KEYS}
            names = archive["class_names"] if "class_names" in archive.files else ()
        except ValueError as error:  # numpy refuses to unpickle
            raise ValueError(
                f"{path}: an array has dtype object (images of unequal sizes?); "
                "stack equal-sized images into one uint8 array"
            ) from error
    return raw, tuple(str(name) for name in names)


def make(
    config: ml_collections.ConfigDict, raw: dict[str, np.ndarray], class_names: tuple[str, ...] = ()
) -> Arrays:
    """Checks raw arrays and applies the `config.data` section to them.

    `raw` has the arrays named in KEYS: images uint8 [N, H, W, C] or [N, H, W], labels integer [N]. Without
    class names, the number of classes is the largest training label + 1.

    Raises:
      ValueError: the dtype, rank, length, channel count or a label is wrong; the message has the remedy.
    """
    images = {part: _checked_images(raw[f"{part}_images"], part) for part in ("train", "test")}
    if images["train"].shape[1:] != images["test"].shape[1:]:
        raise ValueError(
            f"train_images are {images['train'].shape[1:]} and test_images "
            f"{images['test'].shape[1:]}: both need the same height, width and channels"
        )
    num_classes = len(class_names)
    labels = {}
    for part in ("train", "test"):
        found = _checked_labels(raw[f"{part}_labels"], part, len(images[part]))
        num_classes = num_classes or int(found.max()) + 1
        _check_range(found, part, num_classes)
        labels[part] = found.astype(np.int32)
    train, held_out = split_indices(
        len(images["train"]), config.train_examples, config.holdout, config.split_seed
    )
    if config.holdout:
        images["test"], labels["test"] = images["train"][held_out], labels["train"][held_out]
    if len(train) < len(images["train"]):
        images["train"], labels["train"] = images["train"][train], labels["train"][train]
    if config.image_size:
        images = {part: fitted(x, config.image_size, config.fit) for part, x in images.items()}
    mean, std = channel_statistics(images["train"])
    info = Info(
        name=config.name,
        image_shape=images["train"].shape[1:],
        num_classes=num_classes,
        num_train=len(images["train"]),
        num_test=len(images["test"]),
        class_names=class_names,
        mean=mean,
        std=std,
    )
    return Arrays(info, images["train"], labels["train"], images["test"], labels["test"])


def _checked_images(images: np.ndarray, part: str) -> np.ndarray:
    name = f"{part}_images"
    if images.dtype != np.uint8:
        raise ValueError(
            f"{name} has dtype {images.dtype}; needed: uint8 in 0..255. From floats in 0..1: "
            "numpy.round(255 * images).astype(numpy.uint8)"
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4:
        raise ValueError(f"{name} has shape {images.shape}; needed: [N, H, W, C] or [N, H, W]")
    if not images.size:
        raise ValueError(f"{name} is empty: shape {images.shape}")
    if images.shape[-1] not in (1, 3):
        hint = " They look channel-first: images.transpose(0, 2, 3, 1)"
        hint = hint if images.shape[1] in (1, 3) else ""
        raise ValueError(
            f"{name} has shape {images.shape}: {images.shape[-1]} channels; needed: 1 (grey) or "
            f"3 (red, green, blue) in the last place.{hint}"
        )
    return images


def _checked_labels(labels: np.ndarray, part: str, length: int) -> np.ndarray:
    name = f"{part}_labels"
    if labels.ndim != 1:
        raise ValueError(
            f"{name} has shape {labels.shape}; needed: [N]. From one-hot rows: labels.argmax(-1); "
            "from a column: labels.reshape(-1)"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{name} has dtype {labels.dtype}; needed: integers 0 .. classes - 1. From names: "
            "numpy.unique(labels, return_inverse=True)"
        )
    if len(labels) != length:
        raise ValueError(f"{name} has {len(labels)} entries for {length} {part}_images")
    return labels


def _check_range(labels: np.ndarray, part: str, num_classes: int) -> None:
    bad = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(bad):
        raise ValueError(
            f"{part}_labels[{bad[0]}] is {labels[bad[0]]}, one of {len(bad)} outside "
            f"0..{num_classes - 1}: there are {num_classes} classes (the number of class_names, else "
            "the largest training label + 1), counted from 0"
        )


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 [N, H, W, C], divided by 255.

    Computed from counts of grey levels: the sums are exact, and no float copy of the set is made.
    """
    levels = np.arange(256) / 255.0
    means, stds = [], []
    for channel in range(images.shape[-1]):
        counts = np.bincount(images[..., channel].reshape(-1), minlength=256)
        mean = counts @ levels / counts.sum()
        means.append(float(mean))
        stds.append(float(np.sqrt(counts @ (levels - mean) ** 2 / counts.sum())))
    return tuple(means), tuple(stds)


def fitted(images: np.ndarray, size: int, fit: str) -> np.ndarray:
    """Resizes uint8 [N, H, W, C] to [N, size, size, C]; `fit` is 'resize' (bilinear) or 'pad' (with zeros).

    Raises:
      ValueError: `size` is smaller than the images, with 'pad'.
    """
    count, height, width, channels = images.shape
    if (height, width) == (size, size):
        return images
    result = np.zeros((count, size, size, channels), np.uint8)
    if fit == "pad":
        if size < max(height, width):
            raise ValueError(
                f"data.image_size={size} with data.fit='pad', but the images are "
                f"{height} x {width}: use fit='resize' to make them smaller"
            )
        top, left = (size - height) // 2, (size - width) // 2
        result[:, top : top + height, left : left + width] = images
        return result
    for target, image in zip(result, images, strict=True):
        picture = Image.fromarray(image[..., 0] if channels == 1 else image)
        resized = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))
        target[:] = resized.reshape(target.shape)
    return result
