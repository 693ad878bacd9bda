"""The layers of the networks: thin Linen modules with the usual defaults.

Parameters and batch statistics are float32 for every ``dtype`` (the dtype of the computation). Every layer
with a window or with weights is a module, so that ``resjax.describe`` lists it.
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from resjax.cpu.conv import conv
from resjax.cpu.pool import max_pool
from resjax.network.unit import CONVOLUTION, STATISTIC

Dtype = Any
Initializer = Callable[..., jax.Array]
Padding = str | tuple[tuple[int, int], tuple[int, int]]

# He et al. 2015 (1502.01852), Eq. 10: normal, variance 2 / fan-in.
he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class Conv(nn.Module):
    """Convolution [B, H, W, Cin] → [B, H', W', features], by default without bias (BatchNorm has one).

    ``padding`` is 'SAME', 'VALID', or explicit ((top, bottom), (left, right)). The default, 'torch', pads
    (k − 1) // 2 on both sides, as in the papers' frameworks; 'SAME' differs in strided layers.
    """

    features: int
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    padding: Padding = "torch"
    groups: int = 1
    use_bias: bool = False
    kernel_init: Initializer = he_normal
    bias_init: Initializer = nn.initializers.zeros
    dtype: Dtype = jnp.float32
    impl: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (*self.kernel, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        y = conv(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            strides=self.strides,
            padding=self.explicit_padding(x.shape[1:3]),
            groups=self.groups,
            impl=self.impl,
        )
        y = checkpoint_name(y, CONVOLUTION)
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype).reshape(1, 1, 1, -1)
        return y

    def explicit_padding(self, size: tuple[int, ...]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Zeros (before, after) in each direction for an input of ``size`` (H, W)."""
        if self.padding == "torch":
            return tuple(((k - 1) // 2, (k - 1) // 2) for k in self.kernel)  # type: ignore[return-value]
        if isinstance(self.padding, str):
            return tuple(lax.padtype_to_pads(size, self.kernel, self.strides, self.padding))  # type: ignore[return-value]
        return self.padding


class Dense(nn.Module):
    """Fully connected layer [B, …, n] → [B, …, features], with bias; of tokens or maps, at each position."""

    features: int
    kernel_init: Initializer = he_normal
    bias_init: Initializer = nn.initializers.zeros
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
        # Flattened before the product: of other forms, XLA:CPU transposes the gradients for the kernel's.
        rows = x.astype(self.dtype).reshape(-1, x.shape[-1]) @ kernel.astype(self.dtype)
        y = checkpoint_name(rows.reshape(*x.shape[:-1], self.features), CONVOLUTION)
        return y + _rows(bias.astype(self.dtype), x.ndim)


class BatchNorm(nn.Module):
    """Batch normalization over all axes but the last (Ioffe & Szegedy 2015), ε = 1e-5, running momentum 0.9.

    Statistics are float32, over the batch that is passed to the module: the whole batch under ``jit`` over a
    mesh, a device's share under ``pmap``.

    On a CPU, the variance is E[(x − m)²] around the batch's mean m, which reads x twice. Elsewhere, where
    layers are limited by memory bandwidth, one pass computes mean and variance. The variance is then
    E[(x − s)²] − (m − s)² around the first value s, which is within a few standard deviations of m. (The
    running mean may not be: analyses start it at arbitrary values.)
    """

    momentum: ClassVar[float] = 0.9
    epsilon: ClassVar[float] = 1e-5

    scale_init: Initializer = nn.initializers.ones
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        shape = (x.shape[-1],)
        scale = self.param("scale", self.scale_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        if train:
            axes = tuple(range(x.ndim - 1))
            wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
            mean = checkpoint_name(jnp.mean(wide, axes), STATISTIC)
            near = mean if jax.default_backend() == "cpu" else wide[(0,) * (x.ndim - 1)]
            var = checkpoint_name(_variance(wide, mean, near), STATISTIC)
            if not self.is_initializing():
                for running, new in ((running_mean, mean), (running_var, var)):
                    running.value = self.momentum * running.value + (1 - self.momentum) * new
        else:
            mean, var = running_mean.value, running_var.value
        factor = scale * lax.rsqrt(var + self.epsilon)
        offset = bias - mean * factor
        return (x * _rows(factor, x.ndim) + _rows(offset, x.ndim)).astype(self.dtype)


@jax.custom_jvp
def _variance(x: jax.Array, mean: jax.Array, near: jax.Array) -> jax.Array:
    """Variance of each channel of x [..., C] with means [C], computed around ``near`` ≈ means, [C]."""
    square = jnp.mean(jnp.square(x - _rows(near, x.ndim)), tuple(range(x.ndim - 1)))
    return jnp.maximum(square - jnp.square(mean - near), 0)


@_variance.defjvp
def _variance_jvp(
    primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    """The derivative with respect to x.

    Those with respect to the mean, where the variance is minimal, and to ``near`` are zero; JAX would compute
    both zeros as sums.
    """
    (x, mean, near), (dx, _, _) = primals, tangents
    deviation = x - _rows(mean, x.ndim)
    slope = jnp.mean(2 * deviation * dx, tuple(range(x.ndim - 1)))
    return _variance(x, mean, near), slope


def _rows(v: jax.Array, ndim: int) -> jax.Array:
    return v.reshape((1,) * (ndim - 1) + v.shape)


class Pool(nn.Module):
    """Max or average pooling, [B, H, W, C] → [B, H', W', C], by default without padding.

    Max pooling pads with −∞; average pooling does not count the padding. ``impl`` chooses the gradient of max
    pooling as ``Conv``'s does that of a convolution; only 'lax' has forward-mode derivatives.
    """

    kind: str
    window: tuple[int, int] = (2, 2)
    strides: tuple[int, int] = (2, 2)
    padding: Padding = "VALID"
    impl: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.kind == "max":
            return max_pool(x, self.window, self.strides, self.padding, impl=self.impl)
        if self.kind == "average":
            return nn.avg_pool(x, self.window, self.strides, self.padding, count_include_pad=False)
        raise ValueError(f"pooling {self.kind!r}; allowed: max, average")


class GlobalAveragePool(nn.Module):
    """Mean over all positions, [B, H, W, C] or [B, T, C] → [B, C], computed at least in float32."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        wide = jnp.promote_types(x.dtype, jnp.float32)
        return jnp.mean(x, axis=tuple(range(1, x.ndim - 1)), dtype=wide).astype(x.dtype)


class AdaptiveAveragePool(nn.Module):
    """Averages over a grid of windows that covers the image, [B, H, W, C] → [B, size, size, C].

    Window i covers pixels ⌊i·H/size⌋ to ⌈(i + 1)·H/size⌉ − 1, as in torchvision's AlexNet. Windows overlap if
    ``size`` does not divide H, and repeat pixels if the image is smaller than ``size``.
    """

    size: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if x.shape[1:3] == (self.size, self.size):
            return x
        rows, columns = (jnp.asarray(self.weights(n), x.dtype) for n in x.shape[1:3])
        return jnp.einsum("bhwc,ih,jw->bijc", x, rows, columns)

    def weights(self, n: int) -> np.ndarray:
        """The weights of each window along a side of ``n`` pixels, [size, n]."""
        i, pixel = np.arange(self.size)[:, None], np.arange(n)[None]
        inside = (pixel >= i * n // self.size) & (pixel < -(-(i + 1) * n // self.size))
        return inside / inside.sum(1, keepdims=True)


class LocalResponseNorm(nn.Module):
    """Response normalization across channels (Krizhevsky et al. 2012, §3.3), [B, H, W, C] → the same::

        b_c = a_c / (k + α Σ a_c'²)^β,   c' over the ``n`` channels around c (fewer at the ends)

    with the paper's k = 2, n = 5, α = 1e-4, β = 0.75; α is not divided by n, unlike in other software.
    """

    k: ClassVar[float] = 2.0
    n: ClassVar[int] = 5
    alpha: ClassVar[float] = 1e-4
    beta: ClassVar[float] = 0.75

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        half = self.n // 2
        squares = jnp.pad(jnp.square(wide), ((0, 0), (0, 0), (0, 0), (half, half)))
        channels = x.shape[-1]
        total = sum(squares[..., i : i + channels] for i in range(self.n))
        return (wide * (self.k + self.alpha * total) ** -self.beta).astype(x.dtype)


def gelu(x: jax.Array) -> jax.Array:
    """x Φ(x), elementwise, with the exact Φ of a standard normal (Hendrycks & Gimpel 2016).

    Computed in float32 at least, from erf, as PyTorch does. ``flax.linen.gelu`` has erfc, which is as precise
    relative to results near zero, but takes twice as long on a CPU. Here the error is relative to x.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (wide * (0.5 + 0.5 * lax.erf(wide * math.sqrt(0.5)))).astype(x.dtype)


def layer_norm(dtype: Dtype = jnp.float32, name: str | None = None, epsilon: float = 1e-6) -> nn.LayerNorm:
    """Layer normalization over the last axis (Ba et al. 2016), ε = 1e-6 as in the code of ViT and ConvNeXt.

    Mean and variance are at least float32; the variance is that around the mean, E[(x − m)²].
    """
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, use_fast_variance=False, name=name)


class LayerScale(nn.Module):
    """γ · x with one factor for each channel, initially ``initial`` (Touvron et al. 2021, CaiT, Eq. 4)."""

    initial: float
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        start = nn.initializers.constant(self.initial)
        gamma = self.param("gamma", start, (x.shape[-1],), jnp.float32)
        return _rows(gamma.astype(self.dtype), x.ndim) * x


class GlobalResponseNorm(nn.Module):
    """x + β + γ · x · N, with N = G / (mean of G over channels + 1e-6), [B, H, W, C] → the same.

    G is the L2 norm of each channel over all positions, at least float32 (Woo et al. 2023, Eq. 1 to 3). γ and
    β start as zeros.
    """

    epsilon: ClassVar[float] = 1e-6

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (1, 1, 1, x.shape[-1])
        gamma, beta = (
            self.param(name, nn.initializers.zeros, shape[-1:], jnp.float32).reshape(shape)
            for name in ("gamma", "beta")
        )
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        square = jnp.sum(jnp.square(wide), (1, 2), keepdims=True)
        zero = square == 0  # where the derivative of the root is infinite
        size = jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, square)))
        relative = size / (jnp.mean(size, -1, keepdims=True) + self.epsilon)
        return (wide * (1 + gamma * relative) + beta).astype(self.dtype)
