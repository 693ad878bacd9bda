"""Forms of pretrained networks that ``resjax.models`` lacks."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from resjax.models.checks import computation, one_of
from resjax.models.layers import Conv, Dtype, Pool
from resjax.models.resnet import resnet
from resjax.models.stem_head import STEMS, Head, StemForm
from resjax.network import Network, Stack


class BareStem(nn.Module):
    """First convolution and optional max pooling, without BatchNorm and ReLU."""

    features: int
    form: StemForm
    dtype: Dtype = jnp.float32
    conv_impl: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        k, s, pooled = self.form
        x = Conv(self.features, (k, k), (s, s), dtype=self.dtype, impl=self.conv_impl, name="conv")(x)
        if not pooled:
            return x
        return Pool("max", (3, 3), (2, 2), ((1, 1), (1, 1)), impl=self.conv_impl, name="pool")(x)


def preact_resnet(
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    stage_sizes: tuple[int, ...] = (2, 2, 2, 2),
    widths: tuple[int, ...] = (64, 128, 256, 512),
    widen: int = 1,
    stem: str = "small",
    block: str = "basic",
    block_layers: int = 2,
    bottleneck_stride: str = "3x3",
    shortcut: str = "identity",
    transition: str = "projection",
    pad_centre: bool = False,
    projection_of: str = "activated",
    head_norm: bool = True,
    head_widths: tuple[int, ...] = (),
    dtype: str = "float32",
    conv: str = "auto",
    unroll: int = 0,
) -> Network:
    """A pre-activation ResNet in which every unit starts with BatchNorm and ReLU, the first one too.

    In ``resjax.models.resnet`` with placement='pre', as in He et al. 2016, they are in the stem instead: its
    max pooling follows them, and the first unit's shortcut has their output. Here the stem is a convolution
    and its pooling. The first units compute the same only if they project and no pooling comes before, or
    if no scale of that BatchNorm is negative.

    Args: those of ``resjax.models.resnet.resnet``, and
      projection_of: what a projection has as its input: 'activated', the input of the unit's first
        convolution, as in He et al. 2016; or 'input', that of the unit.
      head_norm: BatchNorm and ReLU after the last unit.
    """
    one_of("model.projection_of", projection_of, ("activated", "input"))
    network = resnet(
        image_shape=image_shape,
        num_classes=num_classes,
        stage_sizes=stage_sizes,
        widths=widths,
        widen=widen,
        stem=stem,
        block=block,
        block_layers=block_layers,
        bottleneck_stride=bottleneck_stride,
        placement="pre",
        shortcut=shortcut,
        transition=transition,
        pad_centre=pad_centre,
        head_widths=head_widths,
        dtype=dtype,
        conv=conv,
        unroll=unroll,
    )
    compute = computation(dtype, conv)
    whole = [
        dataclasses.replace(stack, unit=stack.unit.clone(first=False, project_input=projection_of == "input"))
        for stack in network.stacks
    ]
    head = network.head if head_norm else Head(num_classes, dtype=compute, widths=tuple(head_widths))
    bare = BareStem(widths[0], STEMS[stem], compute, conv)
    return dataclasses.replace(network, stem=bare, stacks=_joined(whole), head=head)


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

    Arguments are those of ``preact_resnet``, with four ``stage_sizes``.
    """
    return preact_resnet(
        image_shape=image_shape,
        num_classes=num_classes,
        stage_sizes=stage_sizes,
        stem="large",
        block=block,
        dtype=dtype,
        conv=conv,
        unroll=unroll,
    )


def _joined(stacks: list[Stack]) -> tuple[Stack, ...]:
    """The first two stacks as one, if their units are equal now and have the same shapes."""
    first, *others = stacks
    if others and others[0].stage == first.stage and first.unit == others[0].unit:
        return (dataclasses.replace(others[0], n=first.n + others[0].n), *others[1:])
    return tuple(stacks)
