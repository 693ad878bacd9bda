"""Biases that a file has and our network lacks, or the reverse, without a change of what it computes.

A BatchNorm subtracts its running mean from the output of a convolution, so a bias b of that convolution only
shifts this mean: mean ← mean − b. This is exact at the border too, since the bias is added after the zeros of
the padding have been multiplied. A missing bias is 0.
"""

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np

from resjax.network import Network
from resjax.pretrained.places import Module, Naming, Place
from resjax.pretrained.reading.files import Lazy, Tensors


def adapted(tensors: Tensors, network: Network, places: Sequence[Place], naming: Naming) -> Tensors:
    """``tensors`` with the biases that ``network`` has: others folded into BatchNorm, missing ones 0.

    Raises:
      ValueError: no BatchNorm of the unit follows a convolution whose bias is not 0.
    """
    means = {place.module: place.keys(naming)[0] for place in places if place.leaf == "mean"}
    named = ((place, place.keys(naming)) for place in places)
    own = {key: place.torch_shape(len(keys)) for place, keys in named for key in keys}
    get = {name: partial(tensors.__getitem__, name) for name in tensors}
    for module in _weighted(places, rank=4):
        (bias,) = naming(module, "bias")
        if bias not in tensors or bias in own:
            continue
        del get[bias]
        if not np.any(tensors[bias]):
            continue
        mean = means.get(_normalization(module, network))
        if mean is None:
            raise ValueError(
                f"{bias} is not 0. Our convolutions have no bias here, and no BatchNorm of this unit follows "
                "into whose mean it could be folded"
            )
        if mean in tensors and tensors[mean].shape == tensors[bias].shape:
            get[mean] = partial(_difference, tensors, mean, bias)
    for layers in _groups(places):
        # If only some are missing, the file is damaged, or its names differ.
        names = [pair for layer in layers for pair in _biases(layer, naming)]
        if not any(bias in tensors for bias, _ in names):
            for bias, weight in names:
                if bias in own and weight in tensors:
                    get[bias] = partial(np.zeros, own[bias], np.float32)
    return Lazy(get)


def _groups(places: Sequence[Place]) -> tuple[list[Module], ...]:
    """Layers that have biases together or not at all. In many transformers, those of queries, keys and values
    have none."""
    dense = _weighted(places, rank=2)
    attention = [module for module in dense if module.path[-1] == "qkv"]
    return attention, [module for module in dense if module not in attention], _weighted(places, rank=4)


def _biases(layer: Module, naming: Naming) -> Iterable[tuple[str, str]]:
    """The names of its bias and its weights, of each of its tensors."""
    return zip(naming(layer, "bias"), naming(layer, "kernel"), strict=True)


def _weighted(places: Iterable[Place], rank: int) -> list[Module]:
    """The convolutions (rank 4) or fully connected layers (rank 2)."""
    return [place.module for place in places if place.leaf == "kernel" and len(place.shape) == rank]


def _normalization(module: Module, network: Network) -> Module:
    """The BatchNorm that follows a convolution with nothing between them, if it exists."""
    *outer, name = module.path
    number = name.removeprefix("conv")
    stack = next((stack for stack in network.stacks if stack.part == module.part), None)
    # In pre-activation units, BatchNorm j precedes convolution j.
    if number and getattr(stack and stack.unit, "placement", "post") == "pre":
        number = str(int(number) + 1)
    return module._replace(path=(*outer, f"bn{number}"))


def _difference(tensors: Tensors, mean: str, bias: str) -> np.ndarray:
    return np.asarray(tensors[mean], np.float64) - np.asarray(tensors[bias], np.float64)
