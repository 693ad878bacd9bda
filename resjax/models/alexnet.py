"""AlexNet (Krizhevsky, Sutskever & Hinton 2012): the two-group original and the one-column form.

The original ran on two GPUs. Convolutions 2, 4 and 5 read only the channels on their own GPU, so they have
two groups. Local response normalization follows the ReLU of the first two convolutions. The max poolings
overlap (3×3, stride 2). The one-column form (torchvision's numbers of channels, after Krizhevsky 2014) has
neither groups nor response normalization, and averages the maps to 6×6 before fc6.

The paper states 224×224 images, which give its 55×55 maps only with padding 2 (or 227×227 images without
padding); both work here.
"""

import functools
from typing import NamedTuple

import flax.linen as nn

from resjax.models.checks import at_least, computation, one_of, rate
from resjax.models.layers import AdaptiveAveragePool, Conv, Dense, LocalResponseNorm, Pool
from resjax.models.plain import ACTIVATIONS, Classifier, ConvStem, ConvUnit, DenseUnit
from resjax.network import Network, Stack


class Form(NamedTuple):
    widths: tuple[int, int, int, int, int]  # channels of the five convolutions
    groups: int  # in the second, fourth and fifth convolution
    lrn: bool
    adaptive: bool


FORMS = {
    "two_group": Form((96, 256, 384, 384, 256), groups=2, lrn=True, adaptive=False),
    "one_column": Form((64, 192, 384, 256, 256), groups=1, lrn=False, adaptive=True),
}
# §5: weights from N(0, 0.01); biases 1 in convolutions 2, 4, 5 and fc6, fc7, so that ReLUs start active.
_normal, _ones = nn.initializers.normal(0.01), nn.initializers.ones


def alexnet(
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    form: str = "two_group",
    lrn: str = "auto",
    overlapping: bool = True,
    dropout: float = 0.5,
    activation: str = "relu",
    dtype: str = "float32",
    conv: str = "auto",
    unroll: int = 0,
) -> Network:
    """AlexNet for images of at least 63×63; the stem is the first convolution with its pooling, the head fc8.

    Dropout acts on the outputs of fc6 and fc7 (in torchvision, on their inputs). Both forms start with the
    paper's weights and biases. The first convolution pads by 2, or by 0 for 227×227 images in the two-group
    form. Without adaptive pooling, the number of inputs of fc6 depends on the image size: it is 6·6·256 at
    224×224 and 227×227.

    In the paper, images are (224, 224, 3), with 1000 classes.

    Args: those of every builder (``resjax.models``), and
      form: 'two_group' or 'one_column'.
      lrn: local response normalization, 'on', 'off' or 'auto' (on in the two-group form only).
      overlapping: 3×3 max poolings of stride 2, else 2×2.
      dropout: rate, 0 for none.
      activation: of every layer but the classifier; the paper compares 'relu' with 'tanh' (§3.1).
    """
    one_of("model.form", form, tuple(FORMS))
    one_of("model.lrn", lrn, ("auto", "on", "off"))
    rate("model.dropout", dropout)
    one_of("model.activation", activation, tuple(ACTIVATIONS))
    at_least(image_shape, 63, "alexnet", "which divides their sides by 32")
    compute = computation(dtype, conv)
    widths, groups, has_lrn, adaptive = FORMS[form]
    normalize = LocalResponseNorm() if lrn == "on" or (lrn == "auto" and has_lrn) else None
    window = 3 if overlapping else 2
    pool = Pool("max", (window, window), (2, 2), impl=conv)
    fits = form == "two_group" and tuple(image_shape[:2]) == (227, 227)
    padding = "VALID" if fits else ((2, 2), (2, 2))

    layer = functools.partial(Conv, use_bias=True, kernel_init=_normal, dtype=compute, impl=conv)
    grouped = functools.partial(layer, groups=groups, bias_init=_ones)
    dense = Dense(4096, kernel_init=_normal, bias_init=_ones, dtype=compute)
    conv_unit = functools.partial(ConvUnit, activation=activation)
    dense_unit = functools.partial(DenseUnit, activation=activation)
    fc6 = dense_unit(dense, pool, AdaptiveAveragePool(6) if adaptive else None, dropout=dropout)
    return Network(
        stem=ConvStem(
            layer(widths[0], (11, 11), (4, 4), padding), pool, lrn=normalize, activation=activation
        ),
        stacks=(
            Stack("conv2", conv_unit(grouped(widths[1], (5, 5)), lrn=normalize), 1, 2),
            Stack("conv3", conv_unit(layer(widths[2]), pool), 1, 3),
            Stack("conv4", conv_unit(grouped(widths[3])), 1, 3),
            Stack("conv5", conv_unit(grouped(widths[4])), 1, 3),
            Stack("fc6", fc6, 1, 4),
            Stack("fc7", dense_unit(dense, dropout=dropout), 1, 4),
        ),
        head=Classifier(num_classes, _normal),
        unroll=unroll,
    )
