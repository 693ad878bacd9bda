"""Three layers of one shape: windows with shared weights, windows with separate weights, and no windows.

=================  =======================================  =================================
connections        inputs of an output                      weights
=================  =======================================  =================================
convolution        the k×k×C inputs of its window           k·k·C·O, equal at all positions
locally connected  the k×k×C inputs of its window           H'·W'·O·k·k·C, none shared
dense              all H·W·C inputs                         H'·W'·O·H·W·C
=================  =======================================  =================================

All three are layers [B, H, W, C] → [B, H', W', O] with one bias for each weight vector, and all have the same
initialization (by default He et al. 2015, 1502.01852, Eq. 10: variance 2 / number of inputs of an output). So
networks that differ only in their connections can be compared, as in LeCun (1989, *Generalization and network
design strategies*).
"""

import functools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from resjax.models.checks import one_of, positive
from resjax.models.layers import Conv, Dense, Dtype, Initializer, Pool
from resjax.models.plain import ACTIVATIONS, Classifier, ConvStem, ConvUnit
from resjax.models.stem_head import Head
from resjax.network import Network, Stack

CONNECTIONS = ("convolution", "locally connected", "dense")


@functools.cache  # equal networks must compare equal, or they are compiled again
def normal_of(axes: int, variance: float = 2.0) -> Initializer:
    """Normal, ``variance`` / fan-in; the fan-in is the product of the ``axes`` axes before the last.

    The values are drawn as one row, which does not change them: XLA:CPU takes ten times longer to compile the
    draw of an array with four axes.
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> jax.Array:
        deviation = math.sqrt(variance / math.prod(shape[-1 - axes : -1]))
        return deviation * jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)

    return init


class DenseMap(nn.Module):
    """Fully connected layer between maps, with bias: [B, H, W, C] → [B, *size, features]."""

    features: int
    size: tuple[int, int]
    kernel_init: Initializer = normal_of(1)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        outputs = math.prod(self.size) * self.features
        dense = Dense(outputs, kernel_init=self.kernel_init, name="dense")
        y = dense(x.reshape(x.shape[0], -1))
        return y.reshape(x.shape[0], *self.size, self.features)


def layer(
    connections: str,
    features: int,
    kernel: int,
    input_size: tuple[int, int],
    *,
    pad: bool = True,
    variance: float = 2.0,
) -> nn.Module:
    """One layer of stride 1 with biases, for maps of ``input_size`` (H, W).

    Args:
      connections: one of ``CONNECTIONS``.
      features: channels of the output.
      kernel: odd side of the window. For a dense layer it only decides the size of the output.
      pad: pad with zeros, so that the output has the size of the input; else it is smaller by kernel − 1.
      variance: of the initial weights, times the number of inputs of an output.

    Raises:
      ValueError: the connections are unknown, the kernel is even or too large, or ``features`` is below 1.
    """
    one_of("connections", connections, CONNECTIONS)
    positive("features", features)
    margin = (kernel - 1) // 2 if pad else 0
    size = tuple(n + 2 * margin - kernel + 1 for n in input_size)
    if kernel % 2 == 0 or min(size) < 1:
        raise ValueError(
            f"kernel={kernel}; allowed: odd sides that fit into maps of {input_size[0]}×{input_size[1]}"
        )
    padding = ((margin, margin), (margin, margin))
    if connections == "convolution":
        init = normal_of(3, variance)
        return Conv(features, (kernel, kernel), padding=padding, use_bias=True, kernel_init=init)
    init = normal_of(1, variance)
    if connections == "locally connected":
        return nn.ConvLocal(features, (kernel, kernel), padding=padding, kernel_init=init)
    return DenseMap(features, (size[0], size[1]), init)


def chain(
    connections: Sequence[str],
    widths: Sequence[int],
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    pools: Sequence[int] = (1,),
    activation: str = "relu",
) -> Network:
    """Padded 3×3 layers one behind the other, each with an activation, then a classifier.

    The stem is the first layer; each other layer is a unit. Weights have variance 2 / number of inputs with
    ReLU, which halves the mean square, and 1 / number of inputs with other activations (LeCun et al. 1998,
    §4.6).

    Args:
      connections: one of ``CONNECTIONS`` for each layer.
      widths: channels of each layer.
      image_shape, num_classes: of the data.
      pools: numbers of the layers, from 1, that 2×2 max pooling follows; not the last.
      activation: one of ``resjax.models.plain.ACTIVATIONS``.

    Raises:
      ValueError: unknown connections or activation, or maps smaller than 2×2 pixels that would be pooled.
    """
    one_of("activation", activation, tuple(ACTIVATIONS))
    size, variance = image_shape[:2], 2.0 if activation == "relu" else 1.0
    layers = []
    for number, (name, width) in enumerate(zip(connections, widths, strict=True), 1):
        layers.append(layer(name, width, 3, (size[0], size[1]), variance=variance))
        if number in pools:
            if min(size) < 2:
                raise ValueError(f"maps of {size[0]}×{size[1]} can't be pooled; use at least 2×2")
            size = (size[0] // 2, size[1] // 2)
    pooled = [Pool("max") if number in pools else None for number in range(1, len(layers))]
    return Network(
        stem=ConvStem(layers[0], pooled[0] if pooled else None, activation=activation),
        stacks=tuple(
            Stack(f"layer{number}", ConvUnit(one, pool, activation=activation), 1, 1)
            for number, one, pool in zip(
                range(2, len(layers) + 1), layers[1:], [None, *pooled[1:]], strict=True
            )
        ),
        head=Classifier(num_classes, Head.kernel_init),
    )


def twin(
    connections: str,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    widths: tuple[int, int] = (8, 16),
) -> Network:
    """Layer, ReLU, 2×2 max pooling, layer, ReLU, classifier (LeNet's order), with one kind of connections.

    ``connections`` is one of ``CONNECTIONS``, ``widths`` the channels of the two layers. The windows are 3×3
    and padded. The stem is the first layer and the pooling; the second is the only unit.

    Raises:
      ValueError: the connections are unknown, or the images are smaller than 2×2 pixels.
    """
    pair = (connections, connections)
    return chain(pair, widths, image_shape=image_shape, num_classes=num_classes)
