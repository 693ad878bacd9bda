"""MLP-Mixer (Tolstikhin et al. 2021): a transformer in which an MLP over the tokens stands for attention."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from resjax.models.checks import computation, one_of, or_of_size, patches
from resjax.models.checks import unit_dropout as dropout_of
from resjax.models.layers import Dtype
from resjax.models.tokens import PatchEmbedding, TokenHead, lecun_normal
from resjax.models.transformer import ACTIVATIONS, Mlp, NormedUnit, alternating
from resjax.network import Network


class Size(NamedTuple):
    width: int
    depth: int
    token_width: int
    mlp_width: int
    patch: int


SIZES = {
    "digits": Size(48, 6, 24, 96, 2),  # chosen here, for 8×8 pixels
    "cifar": Size(256, 8, 64, 512, 4),  # chosen here, for 32×32 pixels
    "S": Size(512, 8, 256, 2048, 16),  # Tolstikhin et al. 2021, Table 1
    "B": Size(768, 12, 384, 3072, 16),  # ibid.
}


class TokenMixing(nn.Module):
    """An MLP along the tokens, the same for each channel, [B, T, D] → [B, T, D]."""

    width: int
    dtype: Dtype = jnp.float32
    activation: str = "gelu"  # one of ACTIVATIONS

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        mlp = Mlp(self.width, lecun_normal, self.dtype, self.activation, name="mlp")
        return jnp.swapaxes(mlp(jnp.swapaxes(x, 1, 2)), 1, 2)


def mixer(
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    size: str = "B",
    patch: int = 0,
    width: int = 0,
    depth: int = 0,
    token_width: int = 0,
    mlp_width: int = 0,
    activation: str = "gelu",
    unit_dropout: str = "none",
    unit_survival: float = 0.5,
    units_active: int = 0,
    unit_scale_at_test: bool = True,
    dtype: str = "float32",
    conv: str = "auto",
    unroll: int = 0,
) -> Network:
    """MLP-Mixer: two units a layer, an MLP along the tokens and one along the channels.

    Tolstikhin et al. 2021 (2105.01601), Eq. 1. In the paper, images are (224, 224, 3). LayerNorm is in front
    of each branch and of the mean over the tokens, which the classifier reads. There are no positions: the
    first kernel along the tokens has a row for each. Kernels start as a normal of variance 1/fan-in, as in
    the authors' code; the classifier as a normal of deviation 0.02, not as zeros (``resjax.models.vit``).

    Args: those of every builder (``resjax.models``), and
      size: 'S', 'B', or the small 'cifar' (32×32 pixels) or 'digits' (8×8): the values of the following
        fields where these are 0.
      patch: P, pixels of a side of a patch; it divides the sides of the image.
      width: D, numbers of a token (C in the paper).
      depth: number of layers.
      token_width: outputs of the first layer along the tokens (D_S).
      mlp_width: outputs of the first layer along the channels (D_C).
      activation: of both MLPs, see ``resjax.models.vit``; 'gelu_tanh' in the authors' code.
      unit_dropout: see ``resjax.models.vit``, with ``unit_survival``, ``units_active`` and
        ``unit_scale_at_test``.
    """
    one_of("model.size", size, tuple(SIZES))
    width, depth, token_width, mlp_width, patch = or_of_size(
        size, SIZES[size], Size(width, depth, token_width, mlp_width, patch)
    )
    one_of("model.activation", activation, tuple(ACTIVATIONS))
    compute = computation(dtype, conv)
    patches(image_shape, patch)
    token, channel = (
        NormedUnit(branch, dtype=compute)
        for branch in (
            TokenMixing(token_width, compute, activation),
            Mlp(mlp_width, lecun_normal, compute, activation),
        )
    )
    dropout = dropout_of(unit_dropout, 2 * depth, unit_survival, units_active, unit_scale_at_test)
    return Network(
        stem=PatchEmbedding(patch, width, dtype=compute, conv_impl=conv),
        stacks=alternating({"tokens": token, "channels": channel}, depth),
        head=TokenHead(num_classes, dtype=compute),
        unit_dropout=dropout,
        unroll=unroll,
    )
