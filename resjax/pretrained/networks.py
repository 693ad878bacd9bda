"""Forms of pretrained networks that ``resjax.models`` lacks."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from resjax.models.checks import computation
from resjax.models.layers import Conv, Dtype, Pool
from resjax.models.resnet import resnet
from resjax.network import Network


class BareStem(nn.Module):
    """7×7 convolution of stride 2 and max pooling, without BatchNorm and ReLU."""

    features: int
    dtype: Dtype = jnp.float32
    conv_impl: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        x = Conv(self.features, (7, 7), (2, 2), dtype=self.dtype, impl=self.conv_impl, name="conv")(x)
        return Pool("max", (3, 3), (2, 2), ((1, 1), (1, 1)), name="pool")(x)


def timm_resnetv2(
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    stage_sizes: tuple[int, ...] = (3, 4, 6, 3),
    block: str = "bottleneck",
    dtype: str = "float32",
    conv: str = "auto",
    unroll: int = 0,
) -> Network:
    """A pre-activation ResNet as in timm's ``resnetv2_*``, with a bottleneck's stride in its 3×3.

    In ``imagenet_resnet`` with version='v2', BatchNorm and ReLU are in the stem, before its max pooling, and
    the first unit starts with a convolution, as in He et al. 2016. Here the pooling comes first, and every
    unit starts with BatchNorm and ReLU. The two are equal only if no scale of that BatchNorm is negative.

    Arguments are those of ``resjax.models.resnet.resnet``, with four ``stage_sizes``.
    """
    network = resnet(
        image_shape=image_shape,
        num_classes=num_classes,
        stage_sizes=stage_sizes,
        widths=(64, 128, 256, 512),
        stem="large",
        block=block,
        bottleneck_stride="3x3",
        placement="pre",
        transition="projection",
        dtype=dtype,
        conv=conv,
        unroll=unroll,
    )
    first, *others = network.stacks
    return dataclasses.replace(
        network,
        stem=BareStem(64, computation(dtype, conv), conv),
        stacks=(dataclasses.replace(first, unit=first.unit.clone(first=False)), *others),
    )
