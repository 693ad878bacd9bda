"""What is known of a network from the names and shapes of its tensors."""

from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from resjax.data.info import IMAGENET_MEAN, IMAGENET_STD, Channels
from resjax.network import Network
from resjax.pretrained.files import Tensors
from resjax.pretrained.places import Naming


class Layout(NamedTuple):
    """The recognized network of a set of tensors."""

    name: str  # of the naming scheme
    model: ConfigDict  # the configuration of the network
    naming: Callable[[Network], Naming]  # from a network to the names of its layers
    num_classes: int  # of its training data; inferred from shapes, like image_size
    image_size: int
    mean: Channels = IMAGENET_MEAN  # the authors' constants for standardizing pixels in 0 … 1
    std: Channels = IMAGENET_STD

    @property
    def augmentation(self) -> dict[str, Any]:
        """Fields of ``config.data`` for the crops and flips of the authors' training, from which the running
        statistics come. A file does not show them; these are the recipes of torchvision, timm and both
        collections for CIFAR."""
        if self.image_size == 32:
            return {"pad": 4, "pad_with": "black", "flip": True}
        return {"crop": "inception", "flip": True}

    def for_small_images(self) -> "Layout":
        """This layout in chenyaofo's collection of networks for CIFAR-10 and CIFAR-100."""
        mean, std = _CHENYAOFO.get(self.num_classes, (self.mean, self.std))
        return self._replace(name="chenyaofo", image_size=32, mean=mean, std=std)


# By the number of classes.
_CHENYAOFO: dict[int, tuple[Channels, Channels]] = {
    10: ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    100: ((0.5070, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761)),
}


def refuse(tensors: Tensors, reasons: dict[str, str]) -> None:
    for key, reason in reasons.items():
        if key in tensors:
            raise ValueError(f"{key}: this network has {reason}, which ours do not have")


def need(tensors: Tensors, keys: Any, whose: str) -> None:
    missing = [key for key in keys if key not in tensors]
    if missing:
        raise ValueError(
            f"{', '.join(missing)} missing, which every network with {whose}'s names has: is this only "
            "a part of one?"
        )
