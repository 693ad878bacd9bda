"""The arrays of a network, and their names and layouts in PyTorch.

PyTorch stores a convolution's weights as (out, in, rows, columns), ours are (rows, columns, in, out); its
fully connected weights are (out, in), ours (in, out). A fully connected layer after an image reads its pixels
in the order channel, row, column in PyTorch and row, column, channel here, so its inputs are permuted.
BatchNorm's ``weight``, ``bias``, ``running_mean``, ``running_var`` are our scale, bias, mean, var; both
divide by √(var + 1e-5), and PyTorch's momentum of 0.1 is our 0.9. (In training, PyTorch's running variance
uses the unbiased variance of a batch, ours the biased.) Convolutions pad (k − 1) // 2 zeros on each side in
both.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from resjax.models.plain import Classifier, ConvUnit, DenseUnit
from resjax.network import Network

Shape = tuple[int, ...]
_SUFFIX = {
    "kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"
}  # fmt: skip


class Module(NamedTuple):
    """A layer."""

    part: str  # 'stem', 'head' or a stack's name
    position: int  # of its unit in the stack, 0 outside stacks
    path: tuple[str, ...]  # in the unit, such as ('shortcut', 'conv')


# From a layer to its name in a layout.
Naming = Callable[[Module], str]


class Place(NamedTuple):
    """One array of one unit, stem or head."""

    collection: str  # 'params' or 'batch_stats'
    module: Module
    leaf: str  # the name of the array in the layer
    units: int  # number of units in the layer's stack, 0 outside stacks
    shape: Shape  # of our array, in one unit
    channels: int  # of the image that a fully connected layer flattens; 0 for other layers

    def key(self, naming: Naming) -> str:
        """Its name in a layout."""
        return f"{naming(self.module)}.{_SUFFIX[self.leaf]}"

    @property
    def torch_shape(self) -> Shape:
        if len(self.shape) == 4:
            rows, columns, in_, out = self.shape
            return out, in_, rows, columns
        return self.shape[::-1]

    def fits(self, shape: Shape) -> bool:
        """Whether a tensor of ``shape`` can be this array; some layouts have 1×1 or whole-image convolutions
        instead of fully connected layers."""
        wanted = self.torch_shape
        if len(self.shape) == 2 and len(shape) == 4:
            return (shape[0], math.prod(shape[1:])) == wanted
        return shape == wanted

    def from_torch(self, tensor: np.ndarray) -> np.ndarray:
        """PyTorch's array as ours, float32."""
        with np.errstate(over="ignore"):
            array = np.asarray(tensor).astype(np.float32)
        if len(self.shape) == 4:
            return array.transpose(2, 3, 1, 0)
        if len(self.shape) < 2:
            return array
        images = array.reshape(self.shape[1], -1, self._side, self._side)
        return images.transpose(2, 3, 1, 0).reshape(self.shape)

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """Our array as PyTorch's, float32."""
        array = np.asarray(array, np.float32)
        if len(self.shape) == 4:
            return np.ascontiguousarray(array.transpose(3, 2, 0, 1))
        if len(self.shape) < 2:
            return array
        images = array.reshape(self._side, self._side, -1, self.shape[1])
        return np.ascontiguousarray(images.transpose(3, 2, 0, 1)).reshape(self.torch_shape)

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
    shapes = jax.eval_shape(lambda key: network.init(key, image_shape), jax.random.key(0))
    units = {stack.name: stack.n for stack in network.stacks}
    channels = _flattened_channels(network)
    for collection, parts in shapes.items():
        for part, tree in parts.items():
            n = units.get(part, 0)
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
