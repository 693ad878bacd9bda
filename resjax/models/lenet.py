"""LeNet-5 (LeCun, Bottou, Bengio & Haffner 1998, §II-B), the original and the modern form.

=====  =======================================  ==============================
layer  original                                 modern
=====  =======================================  ==============================
C1     6 maps, 5×5                              the same
S2     coefficient · Σ of 2×2 + bias, squashed  2×2 max (or average) pooling
C3     16 maps, 5×5, 60 of 96 links (Table I)   16 maps, 5×5, all links
S4     as S2                                    as S2
C5     120 maps, 5×5 on 5×5: one pixel each     the same
F6     84 units                                 the same
out    10 RBFs, distances to fixed bitmaps      10 units, softmax
=====  =======================================  ==============================

The original has exactly 60,000 trainable parameters, the modern form 61,706 (62,006 on colour images). In
the original, every layer up to F6 ends with the scaled tanh, since the paper says that "units in layers up to
F6" squash, which includes convolutions. Initial biases that the paper does not give are 0.

Both take 32×32 images; smaller ones, at least 28×28, are padded with zeros. Zero is grey, not background:
``data.image_size=32`` with ``data.fit='pad'`` gives digits the background that they have in the paper.
"""

from __future__ import annotations

from resjax.models.checks import IMPLEMENTATIONS, dtype_of, one_of
from resjax.models.layers import Conv, Dense, Pool, he_normal
from resjax.models.lenet_layers import RBF, PartialConv, TrainableSubsampling, uniform_by_fan_in
from resjax.models.plain import Classifier, ConvStem, ConvUnit, DenseUnit
from resjax.models.stem_head import Head
from resjax.network import Network, Stack

VARIANTS = ("original", "modern")
POOLINGS = ("max", "average")
ACTIVATIONS = ("relu", "tanh")


def lenet5(
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    variant: str = "modern",
    pooling: str = "max",
    activation: str = "relu",
    pad: bool = True,
    dtype: str = "float32",
    conv: str = "auto",
    unroll: int = 0,
) -> Network:
    """LeNet-5; the stem is C1 and S2, the units are C3, C5 (after S4) and F6, the head is the output.

    Args:
      image_shape, num_classes: of the data; sides of 28 to 32 pixels. The original takes one channel and,
        because its codes are pictures of digits, ten classes; train it with ``train.loss='rbf_map'``.
      variant: 'original' or 'modern'.
      pooling: of the modern form, 'max' or 'average'.
      activation: of the modern form, 'relu' or 'tanh'.
      pad: pad smaller images to 32×32; else C5's kernel has the size of S4's maps.
      dtype, conv, unroll: as in ``resjax.models.resnet``; the RBFs are float32.

    Raises:
      ValueError: an unknown value, or images, channels or classes that do not fit.
    """
    one_of("model.variant", variant, VARIANTS)
    one_of("model.pooling", pooling, POOLINGS)
    one_of("model.activation", activation, ACTIVATIONS)
    one_of("model.conv", conv, IMPLEMENTATIONS)
    height, width, channels = image_shape
    if min(height, width) < 28 or max(height, width) > 32:
        raise ValueError(
            f"lenet5 takes images with sides of 28 to 32 pixels, got {height}×{width}: set data.image_size=32"
        )
    if variant == "original" and (channels, num_classes) != (1, 10):
        raise ValueError(
            "model.variant='original' has one input channel and codes for ten digits, got images of "
            f"{channels} channels and {num_classes} classes: use model.variant='modern'"
        )
    compute = dtype_of(dtype)
    original = variant == "original"
    squash = "scaled_tanh" if original else activation
    init = uniform_by_fan_in if original else he_normal
    subsampling = TrainableSubsampling(compute) if original else Pool(pooling)

    def convolution(features: int, kernel: tuple[int, int]) -> Conv:
        return Conv(
            features,
            kernel,
            padding="VALID",
            use_bias=True,
            kernel_init=init,
            dtype=compute,
            impl=conv,
        )

    margins = (_margins(height), _margins(width)) if pad else ((0, 0), (0, 0))
    c1 = convolution(6, (5, 5))
    c3 = PartialConv(dtype=compute, impl=conv) if original else convolution(16, (5, 5))
    c5 = convolution(120, (_s4(height + sum(margins[0])), _s4(width + sum(margins[1]))))
    f6 = Dense(84, kernel_init=init, dtype=compute)
    return Network(
        stem=ConvStem(c1, subsampling, activation=squash, pad=margins),
        stacks=(
            Stack("c3", ConvUnit(c3, activation=squash), 1, 1),
            Stack("c5", ConvUnit(c5, subsampling, activation=squash), 1, 2),
            Stack("f6", DenseUnit(f6, activation=squash), 1, 3),
        ),
        head=RBF() if original else Classifier(num_classes, Head.kernel_init),
        unroll=unroll,
    )


def _margins(n: int) -> tuple[int, int]:
    """Zeros (before, after) that bring a side of ``n`` pixels to 32."""
    return (32 - n) // 2, (33 - n) // 2


def _s4(n: int) -> int:
    """The side of S4's maps: C1 removes four pixels, S2 halves, C3 removes four, S4 halves."""
    return ((n - 4) // 2 - 4) // 2
