"""Small data sets: every image in memory, as uint8.

`digits` comes with scikit-learn, an `.npz` file is the simplest format for your own images, and small TFDS
sets and folders of small images become arrays too. For all of them `make` checks the arrays, resizes them to
`image_size`, splits off the held-out part and describes the result.
"""

import dataclasses

import ml_collections
import numpy as np
from PIL import Image

from resjax.data import checks
from resjax.data.info import Info
from resjax.data.npz import KEYS
from resjax.data.order import split_indices


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


def make(
    config: ml_collections.ConfigDict, raw: dict[str, np.ndarray], class_names: tuple[str, ...] = ()
) -> Arrays:
    """Checks raw arrays and applies the `config.data` section to them.

    `raw` has the arrays named in KEYS: images uint8 [N, H, W, C] or [N, H, W], labels integer [N] or [N, 1].
    Without class names, every label from 0 to the largest needs a training image, since a label that is
    missing is more often a mistake than a class.

    Raises:
      ValueError: the dtype, rank, length, channel count or a label is wrong; the message has the remedy.
    """
    images = {part: checks.images(raw[f"{part}_images"], part) for part in ("train", "test")}
    if images["train"].shape[1:] != images["test"].shape[1:]:
        raise ValueError(
            f"train_images are {images['train'].shape[1:]} and test_images "
            f"{images['test'].shape[1:]}: both need the same height, width and channels"
        )
    labels = {part: checks.labels(raw[f"{part}_labels"], part, len(images[part])) for part in images}
    num_classes = checks.count_classes(labels, class_names)
    labels = {part: given.astype(np.int32) for part, given in labels.items()}
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
