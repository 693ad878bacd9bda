"""Facts about data sets that are known before any pixel is read.

With these, `python -m resjax.describe` describes a network for ImageNet on a machine without ImageNet. Counts
and shapes are those of the TFDS builders of the same name.
"""

import dataclasses
from typing import Any

Channels = tuple[float, ...]

# Mean and standard deviation of ImageNet's training pixels, divided by 255, as in nearly all published
# ImageNet models. Streamed sets use them, since computing their own would read every file.
IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Info:
    """Facts about one data set."""

    name: str  # as in `config.data.name`
    image_shape: tuple[int, int, int]  # (height, width, channels) of the network's input
    num_classes: int  # labels are 0 .. num_classes - 1
    num_train: int  # examples in one training epoch (after `train_examples` and `holdout`)
    num_test: int  # examples of one evaluation
    class_names: tuple[str, ...] = ()  # one per class; () where only the prepared data have them
    # Mean and standard deviation of each channel of the training set, divided by 255, or as given in
    # `config.data`; () until the data are loaded.
    mean: Channels = ()
    std: Channels = ()


_DIGITS = tuple("0123456789")
_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
            "Ankle boot")  # fmt: skip
_CIFAR10 = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_STREAMED: dict[str, Any] = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
TABLE = {
    info.name: info
    for info in (
        Info("digits", (8, 8, 1), 10, 1_400, 397, _DIGITS),
        Info("mnist", (28, 28, 1), 10, 60_000, 10_000, _DIGITS),
        Info("fashion_mnist", (28, 28, 1), 10, 60_000, 10_000, _FASHION),
        Info("cifar10", (32, 32, 3), 10, 50_000, 10_000, _CIFAR10),
        Info("cifar100", (32, 32, 3), 100, 50_000, 10_000),
        Info("svhn_cropped", (32, 32, 3), 10, 73_257, 26_032, _DIGITS),
        Info("imagenet2012", (224, 224, 3), 1_000, 1_281_167, 50_000, **_STREAMED),
        Info("imagenette", (224, 224, 3), 10, 9_469, 3_925, **_STREAMED),
        Info("imagenette/320px-v2", (224, 224, 3), 10, 9_469, 3_925, **_STREAMED),
        Info("imagenette/160px-v2", (224, 224, 3), 10, 9_469, 3_925, **_STREAMED),
    )
}
