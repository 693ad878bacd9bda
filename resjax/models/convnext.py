"""ConvNeXt (Liu et al. 2022) and ConvNeXt V2 (Woo et al. 2023)."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from resjax.models.checks import at_least, computation, one_of, positive
from resjax.models.checks import unit_dropout as dropout_of
from resjax.models.layers import (
    Conv,
    Dense,
    Dtype,
    GlobalAveragePool,
    GlobalResponseNorm,
    LayerScale,
    gelu,
    layer_norm,
)
from resjax.models.tokens import normal_002
from resjax.network import Network, Stack
from resjax.network.unit import Unit


class Size(NamedTuple):
    stage_sizes: tuple[int, ...]
    widths: tuple[int, ...]
    patch: int


SIZES = {
    "digits": Size((2, 2), (24, 48), 1),  # chosen here, for 8×8 pixels
    "cifar": Size((2, 2, 4, 2), (48, 96, 192, 384), 1),  # chosen here, for 32×32 pixels
    "T": Size((3, 3, 9, 3), (96, 192, 384, 768), 4),  # Liu et al. 2022, §3
    "S": Size((3, 3, 27, 3), (96, 192, 384, 768), 4),
    "B": Size((3, 3, 27, 3), (128, 256, 512, 1024), 4),
    "L": Size((3, 3, 27, 3), (192, 384, 768, 1536), 4),
}


class Downsampling(nn.Module):
    """LayerNorm → 2×2 convolution of stride 2, [B, H, W, C] → [B, ⌊H/2⌋, ⌊W/2⌋, features]."""

    features: int
    norm_epsilon: float = 1e-6  # of LayerNorm
    dtype: Dtype = jnp.float32
    conv_impl: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = layer_norm(self.dtype, "norm", self.norm_epsilon)(x)
        return _patches(self.features, 2, self.dtype, self.conv_impl)(x)


class ConvNextUnit(Unit):
    """y = x + γ · branch(x), [B, H, W, C] → the same; behind a down-sampling, x is its output.

    The branch is a depthwise 7×7 convolution, LayerNorm, 4·C outputs, GELU, in ``version`` 'v2' the global
    response normalization, and C outputs. The down-sampling stays when the unit is deleted.
    """

    features: int
    version: str = "v1"
    layer_scale: float = 1e-6  # the initial γ of 'v1'; 0 for none
    downsampling: Downsampling | None = None
    norm_epsilon: float = 1e-6  # of LayerNorm
    dtype: Dtype = jnp.float32
    conv_impl: str = "auto"

    def setup(self) -> None:
        c, dense = self.features, {"kernel_init": normal_002, "dtype": self.dtype}
        self.depthwise = Conv(
            c,
            (7, 7),
            groups=c,
            use_bias=True,
            kernel_init=normal_002,
            dtype=self.dtype,
            impl=self.conv_impl,
        )
        self.norm = layer_norm(self.dtype, epsilon=self.norm_epsilon)
        self.inner, self.outer = Dense(4 * c, **dense), Dense(c, **dense)
        if self.version == "v2":
            self.grn = GlobalResponseNorm(self.dtype)
        elif self.layer_scale:
            self.scale = LayerScale(self.layer_scale, self.dtype)

    def split(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        x = self.skip(x, train)
        h = gelu(self.inner(self.norm(self.depthwise(x))))
        f = self.outer(self.grn(h) if self.version == "v2" else h)
        return x, (self.scale(f) if self.version == "v1" and self.layer_scale else f)

    def skip(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        return x if self.downsampling is None else self.downsampling(x)


class ConvNextStem(nn.Module):
    """Patches by a convolution, then LayerNorm, [B, H, W, C] → [B, H/patch, W/patch, features]."""

    features: int
    patch: int
    norm_epsilon: float = 1e-6  # of LayerNorm
    dtype: Dtype = jnp.float32
    conv_impl: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        x = _patches(self.features, self.patch, self.dtype, self.conv_impl)(x)
        return layer_norm(self.dtype, "norm", self.norm_epsilon)(x)


class ConvNextHead(nn.Module):
    """Global mean → LayerNorm → classifier, in float32 at least from the LayerNorm on; with ``norm_first``,
    LayerNorm of each position is in front of the mean."""

    classes: int
    norm_first: bool = False
    norm_epsilon: float = 1e-6  # of LayerNorm
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        wide = jnp.promote_types(self.dtype, jnp.float32)
        norm, mean = layer_norm(wide, "norm", self.norm_epsilon), GlobalAveragePool(name="pool")
        x = mean(norm(x)) if self.norm_first else norm(mean(x))
        return Dense(self.classes, kernel_init=normal_002, dtype=wide, name="classifier")(x)


def _patches(features: int, side: int, dtype: Dtype, impl: str) -> Conv:
    """A convolution of windows that do not overlap."""
    size = (side, side)
    return Conv(features, size, size, "VALID", 1, True, normal_002, dtype=dtype, impl=impl, name="conv")


def convnext(
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    size: str = "T",
    patch: int = 0,
    stage_sizes: tuple[int, ...] = (),
    widths: tuple[int, ...] = (),
    version: str = "v1",
    layer_scale: float = 1e-6,
    norm_first: bool = False,
    norm_epsilon: float = 1e-6,
    head_norm_epsilon: float = 0.0,
    unit_dropout: str = "none",
    unit_survival: float = 0.5,
    units_active: int = 0,
    unit_scale_at_test: bool = True,
    dtype: str = "float32",
    conv: str = "auto",
    unroll: int = 0,
) -> Network:
    """ConvNeXt, a residual network with the proportions of a transformer; one unit a block.

    Liu et al. 2022 (2201.03545), Woo et al. 2023 (2301.00808). In the papers, images are (224, 224, 3).
    Between two stages, LayerNorm and a 2×2 convolution halve the image; they belong to the first unit of the
    next stage and stay when it is deleted. Kernels start as a normal of deviation 0.02, biases as zeros.

    With the layer scale of the first paper, 1e-6, a unit starts as nearly the identity.

    Args: those of every builder (``resjax.models``), and
      size: 'T', 'S', 'B', 'L', or the small 'cifar' (32×32 pixels) or 'digits' (8×8): the values of the
        following fields where these are 0 or empty.
      patch: pixels of a side of the stem's windows; windows leave out a rest at the right and at the bottom.
      stage_sizes: units in each stage.
      widths: channels of each stage.
      version: 'v1', or 'v2' with a global response normalization in each branch and no layer scale.
      layer_scale: initial value of a factor for each channel of a branch of 'v1', 0 for no such factors.
      norm_first: the head's LayerNorm is in front of the mean over the positions, not behind it.
      norm_epsilon: ε of every LayerNorm.
      head_norm_epsilon: ε of the head's LayerNorm, 0 for that of the others.
      unit_dropout: 'none', 'linear', 'uniform' or 'subset', with ``unit_survival`` (p_L), ``units_active``
        (m) and ``unit_scale_at_test``, see ``resjax.network.stochastic_depth``.
    """
    one_of("model.size", size, tuple(SIZES))
    one_of("model.version", version, ("v1", "v2"))
    if patch < 0:
        raise ValueError(f"model.patch={patch}; allowed: 1 or more, or 0 for that of model.size={size!r}")
    stage_sizes = stage_sizes or SIZES[size].stage_sizes
    widths, patch = widths or SIZES[size].widths, patch or SIZES[size].patch
    for n, width in zip(stage_sizes, widths, strict=False):
        positive("model.stage_sizes", n)
        positive("model.widths", width)
    if len(stage_sizes) != len(widths):
        raise ValueError(
            f"model.stage_sizes={stage_sizes} and model.widths={widths}; give as many widths as stages"
        )
    if not 0 <= layer_scale < float("inf"):
        raise ValueError(f"model.layer_scale={layer_scale}; allowed: more than 0, or 0 for none")
    if not 0 < norm_epsilon < 1:
        raise ValueError(f"model.norm_epsilon={norm_epsilon}; allowed: more than 0, less than 1")
    if not 0 <= head_norm_epsilon < 1:
        raise ValueError(
            f"model.head_norm_epsilon={head_norm_epsilon}; allowed: more than 0, less than 1, or 0 for "
            "model.norm_epsilon"
        )
    compute = computation(dtype, conv)
    least = patch * 2 ** (len(widths) - 1)
    at_least(image_shape, least, "convnext", f"which divides them by {least} in all")

    def unit(width: int, opens: bool) -> ConvNextUnit:
        down = Downsampling(width, norm_epsilon, compute, conv) if opens else None
        return ConvNextUnit(width, version, layer_scale, down, norm_epsilon, compute, conv)

    stacks = []
    for stage, (n, width) in enumerate(zip(stage_sizes, widths, strict=True), 1):
        if stage > 1:
            stacks.append(Stack(f"stage{stage}_opening", unit(width, True), 1, stage))
        if rest := n - (stage > 1):
            stacks.append(Stack(f"stage{stage}", unit(width, False), rest, stage))
    return Network(
        stem=ConvNextStem(widths[0], patch, norm_epsilon, compute, conv),
        stacks=tuple(stacks),
        head=ConvNextHead(num_classes, norm_first, head_norm_epsilon or norm_epsilon, compute),
        unit_dropout=dropout_of(
            unit_dropout, sum(stage_sizes), unit_survival, units_active, unit_scale_at_test
        ),
        unroll=unroll,
    )
