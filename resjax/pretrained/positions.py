"""Learned positions of tokens for images of another size, and for a class token without one.

Positions belong to a grid of patches, [T, D] in the order of rows. For another grid, each of their D numbers
is an image that is resized: by cubic convolution (Keys 1981, a = −1/2), antialiased where the grid becomes
smaller, as in timm. Other collections interpolate in other ways. A class token's position, which comes first,
stays as it is. Where a file has none (DeiT III), it is 0: nothing is added to the class token.
"""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from resjax.models.tokens import PatchEmbedding
from resjax.network import Network
from resjax.pretrained.places import Naming, Place, Shape
from resjax.pretrained.reading.files import Lazy, Tensors


def adapted(
    tensors: Tensors, network: Network, places: Sequence[Place], naming: Naming, image_shape: Shape
) -> Tensors:
    """``tensors`` with positions for images (H, W, C), of the class token too if ``network`` has one."""
    stem = network.stem
    learned = next((place for place in places if place.leaf == "positions"), None)
    if learned is None or not isinstance(stem, PatchEmbedding):
        return tensors
    (name,) = learned.keys(naming)
    if name not in tensors or tensors[name].shape[-1:] != learned.shape[1:]:
        return tensors
    height, width = (side // stem.patch for side in image_shape[:2])
    get = {name: partial(tensors.__getitem__, name) for name in tensors}
    return Lazy(get | {name: partial(_fitted, tensors, name, (height, width), stem.class_token)})


def _fitted(tensors: Tensors, name: str, grid: tuple[int, int], class_token: bool) -> np.ndarray:
    """The positions ``name``, [1, T, D], for another grid (rows, columns); unchanged where no grid fits."""
    found = tensors[name]
    rows = found.reshape(-1, found.shape[-1])
    wanted = math.prod(grid) + class_token
    if len(rows) == wanted:
        return found
    first = int(class_token)
    side = math.isqrt(max(len(rows) - first, 0))
    if side == 0 or side**2 + first != len(rows):
        side, first = math.isqrt(len(rows)), 0  # without a class token's
        if side**2 != len(rows):
            return found
    patches = resized(rows[first:].astype(np.float32).reshape(side, side, -1), grid)
    patches = patches.reshape(math.prod(grid), -1)
    token = (
        rows[:first].astype(np.float32) if first else np.zeros((int(class_token), rows.shape[1]), np.float32)
    )
    return np.concatenate([token, patches])[None]


def resized(positions: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Positions float32 [rows, columns, D] on a grid of another size (rows, columns)."""
    if positions.shape[:2] == grid:
        return positions
    shape = (*grid, positions.shape[2])
    return np.asarray(jax.image.resize(jnp.asarray(positions), shape, "bicubic", antialias=True))
