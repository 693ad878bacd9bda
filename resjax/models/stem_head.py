"""Stems and heads of plain and residual networks."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from resjax.models.layers import BatchNorm, Conv, Dense, Dtype, GlobalAveragePool, Initializer, Pool


class Stem(nn.Module):
    """First convolution, then optional BatchNorm and ReLU, then a pooling for large images.

    ``large`` is the form for ImageNet: 7×7, stride 2, and 3×3 max pooling of stride 2.
    """

    features: int
    norm: bool = True
    relu: bool = True
    large: bool = False
    dtype: Dtype = jnp.float32
    conv_impl: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        kernel, stride = (7, 2) if self.large else (3, 1)
        x = Conv(
            self.features,
            (kernel, kernel),
            (stride, stride),
            use_bias=not self.norm,
            dtype=self.dtype,
            impl=self.conv_impl,
            name="conv",
        )(x)
        if self.norm:
            x = BatchNorm(dtype=self.dtype, name="bn")(x, train)
        if self.relu:
            x = nn.relu(x)
        return Pool("max", (3, 3), (2, 2), ((1, 1), (1, 1)), name="pool")(x) if self.large else x


class Head(nn.Module):
    """Optional BatchNorm and ReLU (after the last sum, for pre-activation), global mean, classifier."""

    classes: int
    norm: bool = False
    relu: bool = False
    kernel_init: Initializer = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if self.norm:
            x = BatchNorm(dtype=self.dtype, name="bn")(x, train)
        if self.relu:
            x = nn.relu(x)
        x = GlobalAveragePool(name="pool")(x)
        # At least float32: the classifier costs little, and logits in half precision lose digits.
        wide = jnp.promote_types(self.dtype, jnp.float32)
        return Dense(self.classes, kernel_init=self.kernel_init, dtype=wide, name="classifier")(x)
