"""The layers that only LeNet-5 has (LeCun, Bottou, Bengio & Haffner 1998, §II-B)."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from resjax.cpu.conv import conv
from resjax.models.layers import Dtype
from resjax.models.plain import scaled_tanh

# Table I: the maps of S2 that each map of C3 sees.
C3_TABLE = (
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5),
    (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5),
    (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5), (0, 1, 2, 3, 4, 5),
)  # fmt: skip

# 7×12 pixels, drawn for this project: those printed in the paper differ.
BITMAPS = """
    ..###.. ...#... .#####. ####### .....#. ####### ....##. ####### .#####. .#####.
    .#...#. ..##... #.....# ......# ....##. ##..... ..##... ####### ##...## #.....#
    #.....# .###... ......# .....#. ...###. ##..... .##.... .....## ##...## #.....#
    #.....# ...#... ......# ....#.. ..#.##. ##..... ##..... .....## ##...## #.....#
    #.....# ...#... .....#. ...#... .#..##. ######. ##.###. ....##. .##.##. #.....#
    #.....# ...#... ....#.. ..###.. #...##. ##...## ###..## ....##. ..###.. .######
    #.....# ...#... ...#... .....#. ####### .....## ##...## ...##.. .##.##. ......#
    #.....# ...#... ..#.... ......# ####### .....## ##...## ...##.. ##...## ......#
    #.....# ...#... .#..... ......# ....##. .....## ##...## ..##... ##...## ......#
    #.....# ...#... #...... ......# ....##. .....## ##...## ..##... ##...## .....#.
    .#...#. ...#... #...... #....#. ....##. ##..##. .##.##. .##.... ##...## ...##..
    ..###.. .#####. ####### .####.. ....##. .####.. ..###.. .##.... .#####. .##....
"""


def rbf_codes() -> np.ndarray:
    """The codes of the ten classes, float32 [10, 84]: their bitmaps row by row, ink +1 and paper −1."""
    rows = np.array([[list(row) for row in line.split()] for line in BITMAPS.split("\n") if line])
    return np.where(rows.transpose(1, 0, 2) == "#", 1.0, -1.0).reshape(10, 84).astype(np.float32)


def uniform_by_fan_in(key: jax.Array, shape: tuple[int, ...], dtype: Dtype) -> jax.Array:
    """Uniform in ±2.4 / fan-in (Appendix A); the fan-in is the product of all axes but the last."""
    limit = 2.4 / math.prod(shape[:-1])
    return jax.random.uniform(key, shape, dtype, -limit, limit)


class PartialConv(nn.Module):
    """Convolution in which each output map sees only some input maps, [B, H, W, C] → [B, H', W', maps].

    Without padding, with a bias. Only the kernels of existing links are stored, [k, k, links];
    ``connections`` has the input maps of each output map.
    """

    connections: tuple[tuple[int, ...], ...] = C3_TABLE
    kernel: int = 5
    dtype: Dtype = jnp.float32
    impl: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        k, maps = self.kernel, len(self.connections)
        seen = np.array([c for inputs in self.connections for c in inputs])
        by = np.array([o for o, inputs in enumerate(self.connections) for _ in inputs])
        links = self.param("kernel", self._init, (k, k, len(seen)), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (maps,), jnp.float32)
        dense = jnp.zeros((k, k, x.shape[-1], maps), links.dtype).at[:, :, seen, by].set(links)
        dense = dense.astype(self.dtype)
        y = conv(x.astype(self.dtype), dense, padding="VALID", impl=self.impl)
        return y + bias.astype(self.dtype).reshape(1, 1, 1, -1)

    def _init(self, key: jax.Array, shape: tuple[int, ...], dtype: Dtype) -> jax.Array:
        """Uniform in ±2.4 / fan-in, which differs from map to map."""
        fan_in = [self.kernel**2 * len(inputs) for inputs in self.connections for _ in inputs]
        limit = jnp.asarray(2.4 / np.array(fan_in), dtype).reshape(1, 1, -1)
        return limit * jax.random.uniform(key, shape, dtype, -1.0, 1.0)


class TrainableSubsampling(nn.Module):
    """S2 and S4, [B, H, W, C] → [B, H/2, W/2, C]: scaled tanh(coefficient · Σ of 2×2 inputs + bias).

    Each map has one coefficient and one bias.
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        coefficient = self.param("coefficient", self._init, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        total = 4 * nn.avg_pool(x.astype(self.dtype), (2, 2), (2, 2))
        a = total * coefficient.astype(self.dtype).reshape(1, 1, 1, -1)
        return scaled_tanh(a + bias.astype(self.dtype).reshape(1, 1, 1, -1))

    def _init(self, key: jax.Array, shape: tuple[int, ...], dtype: Dtype) -> jax.Array:
        """Uniform in ±2.4 / 4: four inputs share the coefficient."""
        return jax.random.uniform(key, shape, dtype, -0.6, 0.6)


class RBF(nn.Module):
    """Euclidean radial basis functions with fixed codes, [B, 84] → logits float32 [B, 10].

    A logit is minus the squared distance to the class's code, −Σ_j (x_j − w_ij)²: the nearest code wins.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        codes = jnp.asarray(rbf_codes(), wide.dtype)
        return -jnp.sum(jnp.square(wide[:, None, :] - codes[None]), axis=-1)
