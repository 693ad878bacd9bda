"""ConvMixer (Trockman & Kolter 2022): patches, then depthwise and pointwise convolutions."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from resjax.models.checks import computation, one_of, patches, positive
from resjax.models.checks import unit_dropout as dropout_of
from resjax.models.layers import BatchNorm, Conv, Dtype, gelu
from resjax.models.stem_head import Head
from resjax.network import Network, Stack
from resjax.network.unit import Unit

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": gelu,
    "relu": nn.relu,
}


class ActivatedConv(nn.Module):
    """Convolution with bias → activation → BatchNorm, [B, H, W, C] → [B, H', W', conv.features]."""

    conv: Conv
    activation: str = "gelu"  # one of ACTIVATIONS
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        h = ACTIVATIONS[self.activation](self.conv(x))
        return BatchNorm(dtype=self.dtype, name="bn")(h, train)


class ConvMixerUnit(Unit):
    """y = pointwise(x + depthwise(x)), [B, H, W, C] → [B, H, W, C].

    Only the depthwise convolution is beside the shortcut. The pointwise one follows the sum, so it stays when
    the unit is deleted.
    """

    depthwise: ActivatedConv
    pointwise: ActivatedConv

    def split(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        return x, self.depthwise(x, train)

    def merge(self, z: jax.Array, train: bool) -> jax.Array:
        return self.pointwise(z, train)

    def skip(self, x: jax.Array, train: bool = False) -> jax.Array:
        return self.merge(x, train)


def convmixer(
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    width: int = 1536,
    depth: int = 20,
    kernel: int = 9,
    patch: int = 7,
    activation: str = "gelu",
    unit_dropout: str = "none",
    unit_survival: float = 0.5,
    units_active: int = 0,
    unit_scale_at_test: bool = True,
    dtype: str = "float32",
    conv: str = "auto",
    unroll: int = 0,
) -> Network:
    """ConvMixer: one unit a layer, whose branch is the depthwise convolution.

    Trockman & Kolter 2022 (2201.09792), Eq. 1 to 3. Each convolution has a bias and is followed by an
    activation, usually the exact GELU, and BatchNorm. The defaults are ConvMixer-1536/20 for images
    (224, 224, 3); for CIFAR-10 the paper has ConvMixer-256/8. Kernels start He-normal, as in the
    convolutional networks here; the authors keep PyTorch's default, uniform with variance 1/(3 fan-in).

    Args: those of every builder (``resjax.models``), and
      width: h, channels.
      depth: d, number of layers.
      kernel: k, side of the depthwise window; odd, so that it has a middle.
      patch: p, pixels of a side of a patch; it divides the sides of the image.
      activation: 'gelu', or 'relu' as in the authors' ConvMixer-768/32.
      unit_dropout: 'none', 'linear', 'uniform' or 'subset', with ``unit_survival`` (p_L), ``units_active``
        (m) and ``unit_scale_at_test``, see ``resjax.network.stochastic_depth``.
    """
    for name, value in (("width", width), ("depth", depth), ("kernel", kernel), ("patch", patch)):
        positive(f"model.{name}", value)
    if kernel % 2 == 0:
        raise ValueError(f"model.kernel={kernel}; allowed: 1, 3, 5, …, which have a middle")
    one_of("model.activation", activation, tuple(ACTIVATIONS))
    compute = computation(dtype, conv)
    patches(image_shape, patch)

    def layer(side: int, stride: int = 1, groups: int = 1) -> ActivatedConv:
        shared = {"use_bias": True, "dtype": compute, "impl": conv}
        padding = "VALID" if stride > 1 else "torch"
        own = Conv(width, (side, side), (stride, stride), padding, groups, **shared)
        return ActivatedConv(own, activation, compute)

    unit = ConvMixerUnit(layer(kernel, groups=width), layer(1))
    return Network(
        stem=layer(patch, patch),
        stacks=(Stack("layers", unit, depth, 1),),
        head=Head(num_classes, dtype=compute),
        unit_dropout=dropout_of(unit_dropout, depth, unit_survival, units_active, unit_scale_at_test),
        unroll=unroll,
    )
