"""From an image to tokens, and from tokens to logits: stem and head of ViT and Mixer.

The stem cuts the image into patches of P×P pixels and maps each to D numbers, a *token* (Dosovitskiy et al.
2021, Eq. 1): a convolution with a P×P window and stride P. Tokens are in the order of rows. A class token may
precede them, and positions are added.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from resjax.models.layers import Conv, Dense, Dtype, GlobalAveragePool, Initializer, layer_norm

POOLS = ("cls", "mean", "patches")
POSITIONS = ("learned", "sincos")

# Of the classifier, and of learned positions (BERT's; Dosovitskiy et al. 2021, in their code).
normal_002 = nn.initializers.normal(0.02)
# LeCun et al. 1998: normal, variance 1 / fan-in.
lecun_normal = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


class PatchEmbedding(nn.Module):
    """Images [B, H, W, C] → tokens [B, T, width], T = H·W / patch², one more with a class token.

    The class token is first, and starts as zeros. ``positions`` are 'learned', 'sincos' (fixed, those of
    ``sincos``, 0 for the class token), or 'none'. With ``norm``, LayerNorm of each token follows.
    """

    patch: int
    width: int
    class_token: bool = False
    positions: str = "none"
    dtype: Dtype = jnp.float32
    conv_impl: str = "auto"
    norm: bool = False
    norm_epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        side = (self.patch, self.patch)
        maps = Conv(
            self.width,
            side,
            side,
            "VALID",
            use_bias=True,
            kernel_init=lecun_normal,
            dtype=self.dtype,
            impl=self.conv_impl,
            name="conv",
        )(x)
        batch, height, width, features = maps.shape
        tokens = maps.reshape(batch, height * width, features)
        if self.class_token:
            cls = self.param("class_token", nn.initializers.zeros, (features,), jnp.float32)
            first = jnp.broadcast_to(cls.astype(tokens.dtype)[None, None], (batch, 1, features))
            tokens = jnp.concatenate([first, tokens], axis=1)
        if self.positions == "learned":
            at = self.param("positions", normal_002, tokens.shape[1:], jnp.float32)
            tokens = tokens + at.astype(tokens.dtype)[None]
        elif self.positions == "sincos":
            at = jnp.asarray(np.pad(sincos(height, width, features), ((int(self.class_token), 0), (0, 0))))
            tokens = tokens + at.astype(tokens.dtype)[None]
        return layer_norm(self.dtype, "norm", self.norm_epsilon)(tokens) if self.norm else tokens


def sincos(height: int, width: int, features: int) -> np.ndarray:
    """Fixed positions of a grid, float32 [height·width, features] (Beyer et al. 2022; Chen et al. 2021).

    With ω_i = 10000^(−i / (F − 1)), i = 0 … F − 1, F = features / 4, the token at row y and column x has
    [sin x ω, cos x ω, sin y ω, cos y ω].
    """
    quarter = features // 4
    omega = 10_000.0 ** -(np.arange(quarter) / (quarter - 1))
    y, x = (grid.reshape(-1, 1) * omega for grid in np.mgrid[:height, :width])
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], 1).astype(np.float32)


class ClassToken(nn.Module):
    """The first token, [B, T, D] → [B, D]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x[:, 0]


def _same(x: jax.Array) -> jax.Array:
    return x


class TokenHead(nn.Module):
    """Optional LayerNorm of each token, then the class token or the mean of all tokens, then a classifier.

    With ``pool`` 'patches', the mean of all tokens but the class token comes first, and LayerNorm reads it.
    ``representation`` is the width of a fully connected layer with tanh in front of the classifier, 0 for
    none (Dosovitskiy et al. 2021, §3.1, in pre-training).
    """

    classes: int
    pool: str = "mean"  # one of POOLS
    norm: bool = True
    kernel_init: Initializer = normal_002
    dtype: Dtype = jnp.float32
    norm_epsilon: float = 1e-6
    representation: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        norm = layer_norm(self.dtype, "norm", self.norm_epsilon) if self.norm else _same
        if self.pool == "patches":
            x = norm(GlobalAveragePool(name="pool")(x[:, 1:]))
        else:
            x = (ClassToken if self.pool == "cls" else GlobalAveragePool)(name="pool")(norm(x))
        # At least float32: the classifier costs little, and logits in half precision lose digits.
        wide = jnp.promote_types(self.dtype, jnp.float32)
        if self.representation:
            x = nn.tanh(Dense(self.representation, lecun_normal, dtype=wide, name="representation")(x))
        return Dense(self.classes, kernel_init=self.kernel_init, dtype=wide, name="classifier")(x)
