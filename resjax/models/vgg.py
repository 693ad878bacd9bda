"""VGG networks (Simonyan & Zisserman 2015), and the plain control of Veit et al. 2016.

Simonyan and Zisserman's Table 1: five stages of 3×3 convolutions, each followed by 2×2 max pooling, then
three fully connected layers. In configuration C, the last convolution of stages 3 to 5 is 1×1.
"""

from resjax.models.checks import at_least, computation, one_of, positive, rate
from resjax.models.layers import BatchNorm, Conv, Dense, Dtype, Pool
from resjax.models.plain import Classifier, ConvStem, ConvUnit, DenseUnit, Layer, stacks
from resjax.models.stem_head import Head
from resjax.network import Network, Stack

# Kernel sizes of each stage's convolutions; A, B, D, E have 11, 13, 16, 19 weight layers, C has 16.
CONFIGURATIONS = {
    "A": ((3,), (3,), (3, 3), (3, 3), (3, 3)),
    "B": ((3, 3),) * 5,
    "C": ((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1)),
    "D": ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    "E": ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3)),
}


def vgg(
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    configuration: str = "D",
    norm: bool = False,
    fc_layers: int = 2,
    fc_width: int = 4096,
    dropout: float = 0.5,
    dtype: str = "float32",
    conv: str = "auto",
    unroll: int = 0,
) -> Network:
    """A VGG network for images of at least 32×32; the stem is the first convolution, the head is fc8.

    The initialization is He-normal, for the classifier with variance 1/fan-in. With the paper's N(0, 0.01),
    only configuration A trains; the paper initializes the others from it. Dropout acts on the outputs of fc6
    and fc7. fc6 has 7·7·512 inputs at 224×224, 512 at 32×32. In the paper, images are (224, 224, 3), with
    1000 classes.

    Args: those of every builder (``resjax.models``), and
      configuration: 'A' (VGG-11), 'B' (13), 'C' (16, with 1×1 convolutions), 'D' (16) or 'E' (19).
      norm: BatchNorm after every convolution, which keeps its bias, as in torchvision.
      fc_layers: fully connected layers before the classifier: 2 (fc6 and fc7), 1 or 0, where the classifier
        reads the last pooling, as in VGGs for CIFAR.
      fc_width: outputs of fc6 and fc7.
      dropout: rate, 0 for none.
    """
    one_of("model.configuration", configuration, tuple(CONFIGURATIONS))
    one_of("model.fc_layers", fc_layers, (0, 1, 2))
    positive("model.fc_width", fc_width)
    rate("model.dropout", dropout)
    at_least(image_shape, 32, "vgg", "which halves them five times")
    compute = computation(dtype, conv)
    widths = (64, 128, 256, 512, 512)
    stem, convs = _convolutions(CONFIGURATIONS[configuration], widths, norm, compute, conv)
    dense = Dense(fc_width, dtype=compute)
    pool = Pool("max", impl=conv)
    fc6, fc7 = DenseUnit(dense, pool, dropout=dropout), DenseUnit(dense, dropout=dropout)
    hidden = (Stack("fc6", fc6, 1, 6), Stack("fc7", fc7, 1, 6))[:fc_layers]
    return Network(
        stem=stem,
        stacks=(*stacks(convs), *hidden),
        head=Classifier(num_classes, Head.kernel_init, None if hidden else pool),
        unroll=unroll,
    )


def veit_plain(
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    depth: int = 15,
    width: int = 128,
    num_stages: int = 3,
    norm: bool = False,
    dtype: str = "float32",
    conv: str = "auto",
    unroll: int = 0,
) -> Network:
    """The plain control of Veit et al. 2016, §4.1: a VGG in which any layer can be removed.

    The paper specifies 15 layers with 128 channels each; the rest is chosen here. The 15 are weight layers,
    as He and Simonyan count them: 14 convolutions of 3×3 and the classifier. 2×2 max poolings divide the
    convolutions into three stages of 5, 5 and 4, with the resolutions of the residual network in the
    comparison. Global average pooling precedes the classifier. Every convolution but the first (the stem) is
    a removable unit; a pooling before it stays. The paper's network has no BatchNorm; ``norm`` is a control
    that the paper lacks. In the paper, images are (32, 32, 3), with 10 classes.

    Args: those of every builder (``resjax.models``), and
      depth: number of weight layers, including the classifier.
      width: channels of every convolution.
      num_stages: number of resolutions, each half of the previous; left-over layers go to the earlier
        stages.
      norm: BatchNorm after every convolution, which keeps its bias.
    """
    positive("model.width", width)
    compute = computation(dtype, conv)
    if num_stages < 1 or depth - 1 < num_stages:
        raise ValueError(
            f"model.depth={depth} has {depth - 1} convolutions and model.num_stages={num_stages}; each "
            "stage needs at least one: use more layers or fewer stages (1 or more)"
        )
    why = f"whose {num_stages} stages halve them {num_stages - 1} times"
    at_least(image_shape, 2 ** (num_stages - 1), "veit_plain", why)
    each, odd = divmod(depth - 1, num_stages)
    kernels = tuple((3,) * (each + (stage < odd)) for stage in range(num_stages))
    stem, convs = _convolutions(kernels, (width,) * num_stages, norm, compute, conv)
    return Network(stem=stem, stacks=stacks(convs), head=Head(num_classes), unroll=unroll)


def _convolutions(
    kernels: tuple[tuple[int, ...], ...],
    widths: tuple[int, ...],
    norm: bool,
    dtype: Dtype,
    impl: str,
) -> tuple[ConvStem, list[Layer]]:
    """The stem and the other convolutions; poolings are between stages, with none after the last."""
    bn = BatchNorm(dtype=dtype) if norm else None
    pool = Pool("max", impl=impl)
    # If the first stage has one convolution, the stem includes the pooling after it.
    lone = len(kernels[0]) == 1 and len(kernels) > 1
    layers: list[Layer] = []
    features = 0
    for stage, (sizes, width) in enumerate(zip(kernels, widths, strict=True), 1):
        for j, k in enumerate(sizes):
            conv = Conv(width, (k, k), use_bias=True, dtype=dtype, impl=impl)
            opens = j == 0 and stage > (2 if lone else 1)
            unit = ConvUnit(conv, pool if opens else None, bn)
            layers.append(Layer(f"conv{stage}_{j + 1}", stage, features, unit))
            features = width
    stem = ConvStem(layers[0].unit.conv, pool if lone else None, bn)
    return stem, layers[1:]
