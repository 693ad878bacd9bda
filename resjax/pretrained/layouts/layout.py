"""What is known of a network from the names and shapes of its tensors."""

from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from resjax.data.info import IMAGENET_MEAN, IMAGENET_STD, Channels
from resjax.network import Network
from resjax.pretrained.constants import CIFAR
from resjax.pretrained.places import Naming
from resjax.pretrained.reading.files import Tensors


class Layout(NamedTuple):
    """The recognized network of a set of tensors."""

    name: str  # of the naming scheme
    model: ConfigDict  # the configuration of the network
    naming: Callable[[Network], Naming]  # from a network to the names of its layers
    num_classes: int  # of its training data, from shapes; 0 if there is no classifier
    image_size: int  # of its training data, inferred from shapes
    mean: Channels = IMAGENET_MEAN  # the authors' constants for standardizing pixels in 0 … 1
    std: Channels = IMAGENET_STD
    channels: int = 3  # of its images
    constants_of: str = "ImageNet"  # where ``mean`` and ``std`` come from

    @property
    def has_positions(self) -> bool:
        """Whether positions were learned for images of ``image_size``."""
        return self.model.get("positions") == "learned"

    @property
    def augmentation(self) -> dict[str, Any]:
        """Fields of ``config.data`` for the crops and flips of the authors' training, from which the running
        statistics come. A file does not show them; these are the recipes of torchvision, timm and both
        collections for CIFAR."""
        if self.image_size == 32:
            return {"pad": 4, "pad_with": "black", "flip": True}
        return {"crop": "inception", "flip": True}

    def for_small_images(self) -> "Layout":
        """This layout for CIFAR-10 and CIFAR-100, with the constants of most collections for them."""
        mean, std = CIFAR.get(self.num_classes, (self.mean, self.std))
        whose = f"CIFAR-{self.num_classes}" if self.num_classes in CIFAR else self.constants_of
        return self._replace(image_size=32, mean=mean, std=std, constants_of=whose)


def refuse(tensors: Tensors, reasons: dict[str, str]) -> None:
    for key, reason in reasons.items():
        if key in tensors:
            raise ValueError(f"{key}: this network has {reason}, which ours do not have")
