"""Vision transformers (Dosovitskiy et al. 2021), with attention and MLP as units of their own."""

from typing import NamedTuple

from resjax.models.checks import computation, one_of, or_of_size, patches
from resjax.models.checks import unit_dropout as dropout_of
from resjax.models.tokens import POOLS, POSITIONS, PatchEmbedding, TokenHead
from resjax.models.transformer import (
    ACTIVATIONS,
    PLACEMENTS,
    Attention,
    Mlp,
    NormedUnit,
    TransformerLayer,
    alternating,
)
from resjax.network import Network, Stack


class Size(NamedTuple):
    width: int
    depth: int
    heads: int
    mlp_width: int
    patch: int


SIZES = {
    "digits": Size(48, 6, 4, 96, 2),  # chosen here, for 8×8 pixels
    "cifar": Size(256, 7, 4, 512, 4),  # ViT-Lite-7/4 of Hassani et al. 2021, for 32×32 pixels
    "Ti": Size(192, 12, 3, 768, 16),  # Touvron et al. 2021, DeiT, Table 1
    "S": Size(384, 12, 6, 1536, 16),  # ibid.
    "B": Size(768, 12, 12, 3072, 16),  # Dosovitskiy et al. 2021, Table 1
    "L": Size(1024, 24, 16, 4096, 16),  # ibid.
}


def vit(
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    size: str = "B",
    patch: int = 0,
    width: int = 0,
    depth: int = 0,
    heads: int = 0,
    mlp_width: int = 0,
    pool: str = "cls",
    positions: str = "learned",
    placement: str = "pre",
    grain: str = "unit",
    layer_scale: float = 0.0,
    activation: str = "gelu",
    norm_epsilon: float = 1e-6,
    input_norm: bool = False,
    representation: int = 0,
    unit_dropout: str = "none",
    unit_survival: float = 0.5,
    units_active: int = 0,
    unit_scale_at_test: bool = True,
    dtype: str = "float32",
    conv: str = "auto",
    unroll: int = 0,
) -> Network:
    """A vision transformer: patches, a class token, layers of attention and MLP, LayerNorm, classifier.

    Dosovitskiy et al. 2021 (2010.11929), Eq. 1 to 4. In the paper, images are (224, 224, 3). Kernels of the
    layers start as in the authors' code, uniform after Glorot & Bengio 2010. Biases start as zeros and the
    classifier as a normal of deviation 0.02 (Touvron et al. 2021, DeiT). The authors' code starts the
    classifier as zeros, through which no gradient would reach a unit in the first step.

    Stochastic depth draws a gate for each unit and batch, as in the other networks here. Other software draws
    one for each example, and has the same rate for both units of a layer.

    Args: those of every builder (``resjax.models``), and
      size: 'Ti', 'S', 'B', 'L', or the small 'cifar' (32×32 pixels) or 'digits' (8×8): the values of the
        following fields where these are 0.
      patch: P, pixels of a side of a patch; it divides the sides of the image.
      width: D, numbers of a token.
      depth: number of layers.
      heads: of each attention; it divides the width.
      mlp_width: outputs of an MLP's first layer.
      pool: what the classifier reads after the last LayerNorm: 'cls', the class token; 'mean', the mean of
        all tokens, without a class token; or 'patches', the mean of all tokens but the class token, which
        LayerNorm follows (He et al. 2022, MAE, in fine-tuning).
      positions: 'learned', or 'sincos', which are fixed (Beyer et al. 2022).
      placement: of LayerNorm: 'pre', in front of each branch, and once in front of the classifier; or 'post',
        behind each sum, as in the original transformer (Vaswani et al. 2017).
      grain: 'unit' for two units a layer, attention and MLP; 'layer' for one (only with placement 'pre').
      layer_scale: initial value of a factor for each channel of a branch, 0 for no such factors (Touvron et
        al. 2021, CaiT: 0.1 to 1e-6, smaller in deeper networks).
      activation: of the MLPs: 'gelu', exact; or its approximations, 'gelu_tanh' (the authors' code) and
        'quick_gelu' (Radford et al. 2021, CLIP).
      norm_epsilon: ε of every LayerNorm.
      input_norm: LayerNorm in front of the first layer (CLIP).
      representation: width of a layer with tanh in front of the classifier, 0 for none (Dosovitskiy et al.
        2021, §3.1, in pre-training).
      unit_dropout: 'none', 'linear', 'uniform' or 'subset', with ``unit_survival`` (p_L), ``units_active``
        (m) and ``unit_scale_at_test``, see ``resjax.network.stochastic_depth``.
    """
    one_of("model.size", size, tuple(SIZES))
    width, depth, heads, mlp_width, patch = or_of_size(
        size, SIZES[size], Size(width, depth, heads, mlp_width, patch)
    )
    one_of("model.pool", pool, POOLS)
    one_of("model.positions", positions, POSITIONS)
    one_of("model.placement", placement, PLACEMENTS)
    one_of("model.grain", grain, ("unit", "layer"))
    one_of("model.activation", activation, tuple(ACTIVATIONS))
    compute = computation(dtype, conv)
    patches(image_shape, patch)
    if width % heads:
        raise ValueError(f"model.heads={heads} do not divide model.width={width}; allowed: its divisors")
    if positions == "sincos" and (width % 4 or width < 8):
        raise ValueError(f"model.width={width}; allowed with model.positions='sincos': 8, 12, 16, …")
    if grain == "layer" and placement == "post":
        raise ValueError(
            "model.grain='layer' with model.placement='post': LayerNorm stands between attention and MLP, so "
            "a layer is no sum of a shortcut and a branch; use model.grain='unit' or model.placement='pre'"
        )
    if not 0 <= layer_scale < float("inf"):
        raise ValueError(f"model.layer_scale={layer_scale}; allowed: more than 0, or 0 for none")
    if not 0 < norm_epsilon < 1:
        raise ValueError(f"model.norm_epsilon={norm_epsilon}; allowed: more than 0, less than 1")
    if representation < 0:
        raise ValueError(f"model.representation={representation}; allowed: 1 or more, or 0 for none")
    if pool == "patches" and placement == "post":
        raise ValueError(
            "model.pool='patches' with model.placement='post': use 'mean' or model.placement='pre'"
        )
    attention, mlp = (
        NormedUnit(branch, placement, layer_scale, compute, norm_epsilon)
        for branch in (Attention(heads, compute), Mlp(mlp_width, dtype=compute, activation=activation))
    )
    if grain == "layer":
        stacks: tuple[Stack, ...] = (Stack("layers", TransformerLayer(attention, mlp), depth, 1),)
    else:
        stacks = alternating({"attention": attention, "mlp": mlp}, depth)
    dropout = dropout_of(
        unit_dropout, sum(s.n for s in stacks), unit_survival, units_active, unit_scale_at_test
    )
    return Network(
        stem=PatchEmbedding(patch, width, pool != "mean", positions, compute, conv, input_norm, norm_epsilon),
        stacks=stacks,
        head=TokenHead(
            num_classes,
            pool,
            norm=placement == "pre",
            dtype=compute,
            norm_epsilon=norm_epsilon,
            representation=representation,
        ),
        unit_dropout=dropout,
        unroll=unroll,
    )
