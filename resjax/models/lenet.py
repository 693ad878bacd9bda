"""LeNet-5 (LeCun, Bottou, Bengio & Haffner 1998, §II-B), the original and the modern form.

=====  =======================================  ==============================
layer  original                                 modern
=====  =======================================  ==============================
C1     6 maps, 5×5                              the same
S2     coefficient · Σ of 2×2 + bias, squashed  2×2 max (or average) pooling
C3     16 maps, 5×5, 60 of 96 links (Table I)   16 maps, 5×5, all links
S4     as S2                                    as S2
C5     120 maps, 5×5 on 5×5: one pixel each     the same
F6     84 units                                 the same
out    10 RBFs, distances to fixed bitmaps      10 units, softmax
=====  =======================================  ==============================

The original has exactly 60,000 trainable parameters, the modern form 61,706 (62,006 on colour images). In
the original, every layer up to F6, convolutions included, ends with the scaled tanh: the paper applies it to
"units in layers up to F6". Biases whose initial value the paper does not give start at 0.

Both take 32×32 images; smaller ones, at least 28×28, are padded with zeros. After standardization zero is
grey, not background; ``data.image_size=32`` with ``data.fit='pad'`` pads with background, as in the paper.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from resjax.cpu.conv import conv
from resjax.models.checks import computation, one_of
from resjax.models.layers import Conv, Dense, Dtype, Pool, he_normal
from resjax.models.plain import Classifier, ConvStem, ConvUnit, DenseUnit, scaled_tanh
from resjax.models.stem_head import Head
from resjax.network import Network, Stack

# Table I: the maps of S2 that each map of C3 reads.
C3_TABLE = (
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5),
    (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5),
    (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5), (0, 1, 2, 3, 4, 5),
)  # fmt: skip

# Bitmaps of 7×12 pixels, drawn for this project; those printed in the paper differ.
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


def _uniform_by_fan_in(key: jax.Array, shape: tuple[int, ...], dtype: Dtype) -> jax.Array:
    """Uniform in ±2.4 / fan-in (Appendix A); the fan-in is the product of all axes but the last."""
    limit = 2.4 / math.prod(shape[:-1])
    return jax.random.uniform(key, shape, dtype, -limit, limit)


class PartialConv(nn.Module):
    """Convolution in which each output map reads only some input maps, [B, H, W, C] → [B, H', W', maps].

    Without padding, with a bias. Only the kernels of existing links are stored, [k, k, links];
    ``connections`` lists the input maps of each output map.
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


def lenet5(
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    variant: str = "modern",
    pooling: str = "max",
    activation: str = "relu",
    pad: bool = True,
    dtype: str = "float32",
    conv: str = "auto",
    unroll: int = 0,
) -> Network:
    """LeNet-5; the stem is C1 and S2, the units are C3, C5 (after S4) and F6, the head is the output.

    Images have sides of 28 to 32 pixels. The original takes one channel and, because its codes are pictures
    of digits, ten classes; train it with ``train.loss='rbf_map'``. Its RBFs are computed in float32.

    Args: those of every builder (``resjax.models``), and
      variant: 'original' or 'modern'.
      pooling: 'max' or 'average', for the modern form only.
      activation: 'relu' or 'tanh', for the modern form only.
      pad: pad smaller images to 32×32; else C5's kernel has the size of S4's maps.
    """
    one_of("model.variant", variant, ("original", "modern"))
    one_of("model.pooling", pooling, ("max", "average"))
    one_of("model.activation", activation, ("relu", "tanh"))
    compute = computation(dtype, conv)
    height, width, channels = image_shape
    if min(height, width) < 28 or max(height, width) > 32:
        raise ValueError(
            f"lenet5 takes images with sides of 28 to 32 pixels, got {height}×{width}: set data.image_size=32"
        )
    original = variant == "original"
    if original and (channels, num_classes) != (1, 10):
        raise ValueError(
            "model.variant='original' has one input channel and codes for ten digits, got images of "
            f"{channels} channels and {num_classes} classes: use model.variant='modern'"
        )
    squash = "scaled_tanh" if original else activation
    init = _uniform_by_fan_in if original else he_normal
    subsampling = TrainableSubsampling(compute) if original else Pool(pooling, impl=conv)
    layer = functools.partial(
        Conv, padding="VALID", use_bias=True, kernel_init=init, dtype=compute, impl=conv
    )
    # Zeros (before, after) that bring each side to 32.
    margins: Any = tuple(((32 - n) // 2, (33 - n) // 2) if pad else (0, 0) for n in (height, width))
    # The sides of S4's maps: C1 removes four pixels, S2 halves, C3 removes four, S4 halves.
    s4: Any = tuple((((32 if pad else n) - 4) // 2 - 4) // 2 for n in (height, width))
    c3 = PartialConv(dtype=compute, impl=conv) if original else layer(16, (5, 5))
    c5 = layer(120, s4)
    f6 = Dense(84, kernel_init=init, dtype=compute)
    return Network(
        stem=ConvStem(layer(6, (5, 5)), subsampling, activation=squash, pad=margins),
        stacks=(
            Stack("c3", ConvUnit(c3, activation=squash), 1, 1),
            Stack("c5", ConvUnit(c5, subsampling, activation=squash), 1, 2),
            Stack("f6", DenseUnit(f6, activation=squash), 1, 3),
        ),
        head=RBF() if original else Classifier(num_classes, Head.kernel_init),
        unroll=unroll,
    )
