"""Three layers of one shape: windows with shared weights, windows with separate weights, and no windows.

=================  =======================================  =================================
connections        inputs of an output                      weights
=================  =======================================  =================================
convolution        the k×k×C inputs of its window           k·k·C·O, equal at all positions
locally connected  the k×k×C inputs of its window           H'·W'·O·k·k·C, none shared
dense              all H·W·C inputs                         H'·W'·O·H·W·C
=================  =======================================  =================================

All three are layers [B, H, W, C] → [B, H', W', O] with one bias for each weight vector, and all have the same
initialization (He et al. 2015, 1502.01852, Eq. 10: variance 2 / number of inputs of an output). So networks
that differ only in their connections can be compared, as in LeCun (1989, *Generalization and network design
strategies*).
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from resjax.models.checks import one_of, positive
from resjax.models.layers import Conv, Dense, Dtype, Initializer, Pool
from resjax.models.plain import Classifier, ConvStem, ConvUnit
from resjax.models.stem_head import Head
from resjax.network import Network, Stack

CONNECTIONS = ("convolution", "locally connected", "dense")


@functools.cache  # equal networks must compare equal, or they are compiled again
def he_normal_of(axes: int) -> Initializer:
    """Normal, variance 2 / fan-in; the fan-in is the product of the ``axes`` axes before the last.

    The values are drawn as one row, which does not change them: XLA:CPU takes ten times longer to compile the
    draw of an array with four axes.
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> jax.Array:
        deviation = math.sqrt(2 / math.prod(shape[-1 - axes : -1]))
        return deviation * jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)

    return init


class DenseMap(nn.Module):
    """Fully connected layer between maps, with bias: [B, H, W, C] → [B, *size, features]."""

    features: int
    size: tuple[int, int]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        outputs = math.prod(self.size) * self.features
        dense = Dense(outputs, kernel_init=he_normal_of(1), name="dense")
        y = dense(x.reshape(x.shape[0], -1))
        return y.reshape(x.shape[0], *self.size, self.features)


def layer(
    connections: str, features: int, kernel: int, input_size: tuple[int, int], *, pad: bool = True
) -> nn.Module:
    """One layer of stride 1 with biases, for maps of ``input_size`` (H, W).

    Args:
      connections: one of ``CONNECTIONS``.
      features: channels of the output.
      kernel: odd side of the window. For a dense layer it only decides the size of the output.
      pad: pad with zeros, so that the output has the size of the input; else it is smaller by kernel − 1.

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
        return Conv(features, (kernel, kernel), padding=padding, use_bias=True, kernel_init=he_normal_of(3))
    if connections == "locally connected":
        return nn.ConvLocal(features, (kernel, kernel), padding=padding, kernel_init=he_normal_of(1))
    return DenseMap(features, (size[0], size[1]))


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
    height, width, _ = image_shape
    if min(height, width) < 2:
        raise ValueError(f"images of {height}×{width} can't be pooled; use at least 2×2")
    first = layer(connections, widths[0], 3, (height, width))
    second = layer(connections, widths[1], 3, (height // 2, width // 2))
    return Network(
        stem=ConvStem(first, Pool("max")),
        stacks=(Stack("layer2", ConvUnit(second), 1, 1),),
        head=Classifier(num_classes, Head.kernel_init),
    )
