"""Units on tokens [B, T, D]: attention, MLPs, and where their LayerNorm is.

The two branches of a transformer (Vaswani et al. 2017; Dosovitskiy et al. 2021, Eq. 2 and 3)::

    attention   concat_h softmax(Q_h K_hᵀ / √d) V_h · W_out,  [Q K V] = x W_qkv,  d = D / heads
    MLP         GELU(x W_1 + b_1) W_2 + b_2,  GELU(x) = x Φ(x) (Hendrycks & Gimpel 2016)

Each is a unit of its own, so a layer is two units: x + f(LN(x)), where LayerNorm is in front ('pre'), or
LN(x + f(x)), where it follows the sum ('post', the original transformer). ``TransformerLayer`` joins both
into one unit. With layer scale, f is multiplied by a factor γ for each channel.

GELU has the exact Φ, or one of that paper's two approximations (``ACTIVATIONS``).

A deleted 'post' unit still normalizes its input. All projections have biases, as in ViT.
"""

from collections.abc import Callable, Mapping
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from resjax.models.layers import Dense, Dtype, Initializer, LayerScale, layer_norm
from resjax.network import Stack
from resjax.network.unit import Unit

PLACEMENTS = ("pre", "post")
# x Φ(x), with Φ as 'gelu' has it, by tanh (Flax's default), or as the logistic function of 1.702 x (CLIP).
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": partial(nn.gelu, approximate=False),
    "gelu_tanh": partial(nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}

# Glorot & Bengio 2010: uniform, variance 2 / (fan-in + fan-out).
glorot_uniform = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
# The same for matrices D → D that stand beside each other in one kernel.
glorot_square = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


class AttentionProduct(nn.Module):
    """softmax(Q Kᵀ / √d) V of each head, [B, T, 3·D] (Q, K, V) → [B, T, D]; the softmax is float32."""

    heads: int

    @nn.compact
    def __call__(self, qkv: jax.Array) -> jax.Array:
        batch, tokens, features = qkv.shape
        shape = (batch, tokens, self.heads, features // 3 // self.heads)
        q, k, v = (part.reshape(shape) for part in jnp.split(qkv, 3, axis=-1))
        return jax.nn.dot_product_attention(q, k, v).reshape(batch, tokens, features // 3)


class Attention(nn.Module):
    """Multi-head self-attention of all tokens, [B, T, D] → [B, T, D]; ``heads`` divides D."""

    heads: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        qkv = Dense(3 * width, kernel_init=glorot_square, dtype=self.dtype, name="qkv")(x)
        y = AttentionProduct(self.heads, name="product")(qkv)
        return Dense(width, kernel_init=glorot_uniform, dtype=self.dtype, name="out")(y)


class Mlp(nn.Module):
    """Two fully connected layers with a GELU between them, [B, …, D] → ``width`` → [B, …, D]."""

    width: int
    kernel_init: Initializer = glorot_uniform
    dtype: Dtype = jnp.float32
    activation: str = "gelu"  # one of ACTIVATIONS

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = Dense(self.width, kernel_init=self.kernel_init, dtype=self.dtype, name="inner")(x)
        h = ACTIVATIONS[self.activation](h)
        return Dense(x.shape[-1], kernel_init=self.kernel_init, dtype=self.dtype, name="outer")(h)


class NormedUnit(Unit):
    """x + γ · branch(LN(x)), or with placement 'post' LN(x + γ · branch(x)), [B, T, D] → [B, T, D]."""

    branch: nn.Module  # x → an array of the same shape
    placement: str = "pre"  # one of PLACEMENTS
    layer_scale: float = 0.0  # the initial γ; 0 for none
    dtype: Dtype = jnp.float32
    norm_epsilon: float = 1e-6

    def setup(self) -> None:
        self.norm = layer_norm(self.dtype, epsilon=self.norm_epsilon)
        if self.layer_scale:
            self.scale = LayerScale(self.layer_scale, self.dtype)

    def split(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        del train
        f = self.branch(x if self.placement == "post" else self.norm(x))
        return x, (self.scale(f) if self.layer_scale else f)

    def merge(self, z: jax.Array, train: bool) -> jax.Array:
        return self.norm(z) if self.placement == "post" else z

    def skip(self, x: jax.Array, train: bool = False) -> jax.Array:
        return self.merge(x, train)


class TransformerLayer(Unit):
    """Attention and MLP as one unit: x + a(x) + m(x + a(x)), with the 'pre' branches a and m of two units."""

    attention: NormedUnit
    mlp: NormedUnit

    def split(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        _, a = self.attention.split(x, train)
        _, m = self.mlp.split(x + a, train)
        return x, a + m

    def skip(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        return x


def alternating(units: Mapping[str, Unit], depth: int) -> tuple[Stack, ...]:
    """``depth`` layers of these units, {name: unit}: stacks of one unit each, in a group for each name, which
    run in one loop over the layers (``resjax.network.periods``)."""
    return tuple(
        Stack(f"{name}{i + 1}", unit, 1, 1, name, i) for i in range(depth) for name, unit in units.items()
    )
