"""The arrays of a network, and their names and layouts in PyTorch.

PyTorch stores a convolution's weights as (out, in, rows, columns), ours are (rows, columns, in, out); its
fully connected weights are (out, in), ours (in, out). A fully connected layer after an image reads its pixels
in the order channel, row, column in PyTorch and row, column, channel here, so its inputs are permuted.
BatchNorm's ``weight``, ``bias``, ``running_mean``, ``running_var`` are our scale, bias, mean, var; both
divide by √(var + 1e-5), and PyTorch's momentum of 0.1 is our 0.9. (In training, PyTorch's running variance
uses the unbiased variance of a batch, ours the biased.) Convolutions pad (k − 1) // 2 zeros on each side in
both.

Other arrays, such as a class token or a layer scale, keep their order; axes of length 1 come and go. One
array of ours may be several tensors of a file: the queries, keys and values of an attention, which ours
computes with one layer, are three layers in some collections. Their outputs are joined in this order.
"""

import collections
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from resjax.models.plain import Classifier, ConvUnit, DenseUnit
from resjax.network import Network
from resjax.network.initial import variable_shapes

Shape = tuple[int, ...]
_SUFFIX = {
    "kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"
}  # fmt: skip


# Arrays that have axes of length 1 in front in PyTorch, and how many.
_AXES = {"class_token": 2, "positions": 1}


class Module(NamedTuple):
    """A layer, or what has parameters of its own, such as a stem with a class token."""

    part: str  # 'stem', 'head' or the name of a stack or group
    position: int  # of its unit in the part, 0 for stem and head
    path: tuple[str, ...]  # in the unit, such as ('shortcut', 'conv'); () for what the unit itself has


# From a layer and the name of one of its arrays ('kernel', 'scale', …) to the names of its tensors in a
# layout: one, or several whose outputs are joined.
Naming = Callable[[Module, str], tuple[str, ...]]


def of_layers(name: Callable[[Module], str]) -> Naming:
    """The naming in which ``name`` gives a layer's name, and its arrays have PyTorch's names."""
    return lambda module, leaf: (f"{name(module)}.{_SUFFIX[leaf]}",)


class Place(NamedTuple):
    """One array of one unit, stem or head."""

    collection: str  # 'params' or 'batch_stats'
    module: Module
    leaf: str  # the name of the array in the layer
    units: int  # number of units in the layer's part, 0 for stem and head
    shape: Shape  # of our array, in one unit
    channels: int  # of the image that a fully connected layer flattens; 0 for other layers

    def keys(self, naming: Naming) -> tuple[str, ...]:
        """Its names in a layout: one, or several for tensors whose outputs are joined."""
        return naming(self.module, self.leaf)

    def torch_shape(self, parts: int = 1) -> Shape:
        """Of PyTorch's tensor, or of each of ``parts`` tensors."""
        if self.leaf in _AXES:
            return (*(1,) * _AXES[self.leaf], *self.shape)
        if len(self.shape) == 4:
            rows, columns, in_, out = self.shape
            return out // parts, in_, rows, columns
        out, *rest = self.shape[::-1]
        return out // parts, *rest

    def fits(self, shape: Shape, parts: int = 1) -> bool:
        """Whether a tensor of ``shape`` can be this array, or one of its ``parts``.

        Some layouts have 1×1 or whole-image convolutions instead of fully connected layers, or an axis for
        the heads of an attention: neighbouring axes may be one here.
        """
        wanted = self.torch_shape(parts)
        if self.leaf != "kernel" and len(self.shape) > 1:
            return [n for n in shape if n != 1] == [n for n in wanted if n != 1]
        if len(self.shape) == 4:
            return shape == wanted
        if len(self.shape) < 2:
            return math.prod(shape) == math.prod(wanted)
        merged = ((math.prod(shape[:i]), math.prod(shape[i:])) for i in range(1, len(shape)))
        return any(pair == wanted for pair in merged)

    def from_torch(self, tensors: Sequence[np.ndarray]) -> np.ndarray:
        """PyTorch's array as ours, float32; several ``tensors`` are joined."""
        with np.errstate(over="ignore"):
            arrays = [np.asarray(tensor).astype(np.float32) for tensor in tensors]
        if len(arrays) > 1:
            arrays = [np.concatenate([a.reshape(self.torch_shape(len(arrays))) for a in arrays])]
        (array,) = arrays
        if len(self.shape) == 4:
            return array.transpose(2, 3, 1, 0)
        if len(self.shape) < 2 or self.leaf != "kernel":
            return array.reshape(self.shape)
        images = array.reshape(self.shape[1], -1, self._side, self._side)
        return images.transpose(2, 3, 1, 0).reshape(self.shape)

    def to_torch(self, array: np.ndarray, parts: int = 1) -> list[np.ndarray]:
        """Our array as PyTorch's, float32; as several tensors if it has ``parts``."""
        array = np.asarray(array, np.float32)
        if len(self.shape) == 4:
            array = array.transpose(3, 2, 0, 1)
        elif len(self.shape) == 2 and self.leaf == "kernel":
            images = array.reshape(self._side, self._side, -1, self.shape[1])
            array = images.transpose(3, 2, 0, 1)
        whole = np.ascontiguousarray(array).reshape(self.torch_shape())
        return np.split(whole, parts) if parts > 1 else [whole]

    @property
    def _side(self) -> int:
        """The side of the square image that is flattened; 1 if there is none."""
        side = math.isqrt(self.shape[0] // self.channels) if self.channels else 1
        if self.channels and side * side * self.channels != self.shape[0]:
            raise ValueError(
                f"{self.module.part} flattens an image that is not square: {self.shape[0]} numbers in "
                f"{self.channels} channels. PyTorch's networks flatten square ones: use square images"
            )
        return side


def places(network: Network, image_shape: Shape) -> Iterator[Place]:
    """Every array of ``network`` on images (H, W, C), unit by unit."""
    shapes = variable_shapes(network, image_shape)
    units = collections.Counter[str]()
    for stack in network.stacks:
        units[stack.part] += stack.n
    channels = _flattened_channels(network)
    for collection, parts in shapes.items():
        for part, tree in parts.items():
            n = units[part]
            for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
                *modules, name = (entry.key for entry in path)
                for position in range(n or 1):
                    shape = leaf.shape[1:] if n else leaf.shape
                    module = Module(part, position, tuple(modules))
                    yield Place(collection, module, name, n, shape, channels.get(part, 0))


def _flattened_channels(network: Network) -> dict[str, int]:
    """The first fully connected layer after convolutions, and the channels of its input."""
    for before, after in itertools.pairwise((*network.stacks, None)):
        flattens = isinstance(after.unit, DenseUnit) if after else isinstance(network.head, Classifier)
        if before and isinstance(before.unit, ConvUnit) and flattens:
            return {after.name if after else "head": before.unit.conv.features}
    return {}
