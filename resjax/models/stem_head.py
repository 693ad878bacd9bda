"""Stems and heads of plain and residual networks."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from resjax.models.layers import BatchNorm, Conv, Dense, Dtype, GlobalAveragePool, Initializer, Pool


class StemForm(NamedTuple):
    """The convolution of a stem, and whether 3×3 max pooling of stride 2 follows."""

    kernel: int
    stride: int
    pooled: bool

    @property
    def halvings(self) -> int:
        """How many times the sides are halved."""
        return (self.stride == 2) + self.pooled


STEMS = {
    "small": StemForm(3, 1, False),
    "small_pool": StemForm(3, 1, True),
    "large": StemForm(7, 2, True),
    "large_no_pool": StemForm(7, 2, False),
}


class Stem(nn.Module):
    """First convolution, then optional BatchNorm and ReLU, then an optional max pooling."""

    features: int
    norm: bool = True
    relu: bool = True
    form: StemForm = STEMS["small"]
    dtype: Dtype = jnp.float32
    conv_impl: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        kernel, stride, pooled = self.form
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
        if not pooled:
            return x
        return Pool("max", (3, 3), (2, 2), ((1, 1), (1, 1)), impl=self.conv_impl, name="pool")(x)


class Head(nn.Module):
    """Optional BatchNorm and ReLU (after the last sum, for pre-activation), global mean, classifier.

    Between mean and classifier, there is a fully connected layer with ReLU for each of ``widths``.
    """

    classes: int
    norm: bool = False
    relu: bool = False
    kernel_init: Initializer = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
    dtype: Dtype = jnp.float32
    widths: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if self.norm:
            x = BatchNorm(dtype=self.dtype, name="bn")(x, train)
        if self.relu:
            x = nn.relu(x)
        x = GlobalAveragePool(name="pool")(x)
        # At least float32: the classifier costs little, and logits in half precision lose digits.
        wide = jnp.promote_types(self.dtype, jnp.float32)
        for k, width in enumerate(self.widths, 1):
            x = nn.relu(Dense(width, dtype=wide, name=f"hidden{k}")(x))
        return Dense(self.classes, kernel_init=self.kernel_init, dtype=wide, name="classifier")(x)
