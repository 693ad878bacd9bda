"""Facts of a data set that are known before any of its pixels is read.

With them, `python -m resjax.describe` describes a network for ImageNet on a machine without ImageNet. Counts
and shapes are those of the TFDS builders of the same name.
"""

import dataclasses

Channels = tuple[float, ...]

# Mean and deviation of ImageNet's training pixels in units of 255, as in nearly all published ImageNet
# models. Streamed sets use them, since measuring would read every file.
IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Info:
    """Facts of one data set.

    Attributes:
      name: as in `config.data.name`.
      image_shape: (height, width, channels) of the network's input.
      num_classes: labels are 0 .. num_classes - 1.
      num_train: examples in one training epoch (after `train_examples` and `holdout`).
      num_test: examples of one evaluation.
      class_names: one per class; () where they are stored with the prepared data only.
      mean, std: of each channel, over the training set, in units of 255, or as given in `config.data`; ()
        until the data are loaded.
    """

    name: str
    image_shape: tuple[int, int, int]
    num_classes: int
    num_train: int
    num_test: int
    class_names: tuple[str, ...] = ()
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


def _streamed(name: str, num_classes: int, num_train: int, num_test: int) -> Info:
    shape = (224, 224, 3)
    return Info(name, shape, num_classes, num_train, num_test, (), IMAGENET_MEAN, IMAGENET_STD)


TABLE = {
    info.name: info
    for info in (
        Info("digits", (8, 8, 1), 10, 1_400, 397, _DIGITS),
        Info("mnist", (28, 28, 1), 10, 60_000, 10_000, _DIGITS),
        Info("fashion_mnist", (28, 28, 1), 10, 60_000, 10_000, _FASHION),
        Info("cifar10", (32, 32, 3), 10, 50_000, 10_000, _CIFAR10),
        Info("cifar100", (32, 32, 3), 100, 50_000, 10_000),
        Info("svhn_cropped", (32, 32, 3), 10, 73_257, 26_032, _DIGITS),
        _streamed("imagenet2012", 1_000, 1_281_167, 50_000),
        _streamed("imagenette", 10, 9_469, 3_925),
        _streamed("imagenette/320px-v2", 10, 9_469, 3_925),
        _streamed("imagenette/160px-v2", 10, 9_469, 3_925),
    )
}
