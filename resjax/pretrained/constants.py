"""The constants with which published training scripts standardize their images."""

from typing import NamedTuple

from resjax.data.info import IMAGENET_MEAN, IMAGENET_STD, Channels


class Constants(NamedTuple):
    """Mean and standard deviation of each channel, for pixels in 0 … 1."""

    mean: Channels
    std: Channels


IMAGENET = Constants(IMAGENET_MEAN, IMAGENET_STD)
HALF = Constants((0.5,) * 3, (0.5,) * 3)  # pixels in −1 … 1
CLIP = Constants((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
# Of nearly all scripts for CIFAR, by the number of classes. The deviations of a fifth for CIFAR-10 are means
# of each image's own deviation; over all pixels they are a quarter.
CIFAR = {
    10: Constants((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    100: Constants((0.5070, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761)),
}
USUAL = (
    IMAGENET,
    *CIFAR.values(),
    Constants((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),  # CIFAR-10, over all pixels
    HALF,
    Constants((0.0,) * 3, (1.0,) * 3),  # pixels in 0 … 1 as they are
    Constants((0.0,) * 3, (1 / 255,) * 3),  # pixels in 0 … 255 as they are
    Constants((0.1307,), (0.3081,)),  # MNIST
    Constants((0.2860,), (0.3530,)),  # Fashion-MNIST
    Constants((0.5,), (0.5,)),
    Constants((0.0,), (1.0,)),
    Constants((0.0,), (1 / 255,)),
)


def as_flags(constants: Constants) -> str:
    """The flags of a command that set them."""
    mean, std = (",".join(f"{value:.6g}" for value in values) for values in constants)
    comma = "," if len(constants.mean) == 1 else ""
    return f"--config.data.mean={mean}{comma} --config.data.std={std}{comma}"
