"""Plain and residual networks for small images (He et al. 2015, §4.2; 2016) and for ImageNet."""

from collections.abc import Callable

import flax.linen as nn

from resjax.models.checks import at_least, computation, one_of, positive
from resjax.models.checks import unit_dropout as dropout_of
from resjax.models.residual import BRANCH_SCALES, PLACEMENTS, ResidualUnit
from resjax.models.shortcuts import ALTERATIONS, PADDED, TRANSITIONS, Shortcut
from resjax.models.stem_head import STEMS, Head, Stem
from resjax.network import Network, Stack

# Units of each stage, by depth; from depth 50 on, all units are bottlenecks.
IMAGENET_SIZES = {
    18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3),
    101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3),
}  # fmt: skip


def resnet(
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    depth: int = 56,
    stage_sizes: tuple[int, ...] = (),
    widths: tuple[int, ...] = (16, 32, 64),
    widen: int = 1,
    stem: str = "small",
    block: str = "basic",
    block_layers: int = 2,
    bottleneck_stride: str = "1x1",
    placement: str = "pre",
    shortcut: str = "identity",
    transition: str = "pad_subsample",
    pad_centre: bool = False,
    shortcut_scale: float = 1.0,
    shortcut_branch_scale: float = 1.0,
    gate_bias: float = -6.0,
    norm: bool = True,
    zero_gamma: bool = False,
    branch_scale: str = "none",
    unit_dropout: str = "none",
    unit_survival: float = 0.5,
    units_active: int = 0,
    unit_scale_at_test: bool = True,
    head_widths: tuple[int, ...] = (),
    dtype: str = "float32",
    conv: str = "auto",
    unroll: int = 0,
) -> Network:
    """A residual network, or its plain twin (``shortcut='none'``); the defaults are for small images.

    Args: those of every builder (``resjax.models``), and
      depth: number of weight layers of the main path; with three stages of n units and m layers per unit, it
        is 3·n·m + 2 (6n + 2 for m = 2).
      stage_sizes: units in each stage, instead of a depth; one number for each of ``widths``.
      widths: channels of each stage (a bottleneck's output has four times as many); from the second stage
        on, the first unit halves the image.
      widen: factor on ``widths`` after the stem (Zagoruyko & Komodakis 2016). That paper counts projections
        as layers: WRN-28-10 is stage_sizes=(4, 4, 4), widen=10, transition='projection'.
      stem: 'small' (3×3), 'small_pool' (3×3 and max pooling; halves the sides), 'large' (7×7 of stride 2 and
        max pooling; quarters them) or 'large_no_pool' (7×7 of stride 2; halves them).
      block: 'basic' (3×3 convolutions) or 'bottleneck' (1×1, 3×3, 1×1).
      block_layers: convolutions per basic unit, 1 or more.
      bottleneck_stride: the convolution with the stride, '1x1' (the first, as in the papers) or '3x3' (as in
        torchvision).
      placement: of BatchNorm and ReLU, see ``resjax.models.residual``.
      shortcut: 'identity', an alteration of it, or 'none', see ``resjax.models.shortcuts``.
      transition: the shortcut where shapes change, see ``resjax.models.shortcuts``.
      pad_centre: ``Shortcut.centre`` of a padded transition.
      shortcut_scale, shortcut_branch_scale: the constants of shortcut='scale'.
      gate_bias: initial bias of the gates.
      norm, zero_gamma, branch_scale: see ``resjax.models.residual.ResidualUnit``.
      unit_dropout: 'none', 'linear', 'uniform' or 'subset', with ``unit_survival`` (p_L), ``units_active``
        (m) and ``unit_scale_at_test``, see ``resjax.network.stochastic_depth``.
      head_widths: outputs of the fully connected layers with ReLU between the global mean and the classifier.
    """
    one_of("model.stem", stem, tuple(STEMS))
    one_of("model.block", block, ("basic", "bottleneck"))
    positive("model.block_layers", block_layers)
    one_of("model.bottleneck_stride", bottleneck_stride, ("1x1", "3x3"))
    one_of("model.placement", placement, PLACEMENTS)
    one_of("model.shortcut", shortcut, (*ALTERATIONS, "none"))
    one_of("model.transition", transition, TRANSITIONS)
    one_of("model.branch_scale", branch_scale, BRANCH_SCALES)
    for width in head_widths:
        positive("model.head_widths", width)
    compute = computation(dtype, conv)
    _check_start(placement, norm, zero_gamma, branch_scale, shortcut)
    if not widths or min(widths) < 1 or widen < 1:
        raise ValueError(f"model.widths={widths}, model.widen={widen}; allowed: 1 channel or more")
    padded = transition != "projection" and shortcut in PADDED
    if padded and tuple(widths) != tuple(sorted(widths)):
        raise ValueError(
            f"model.widths={widths} decrease, but padding can only add channels: use "
            "model.transition='projection'"
        )
    halvings = len(widths) - 1 + STEMS[stem].halvings
    at_least(image_shape, 2**halvings, "this network", f"which halves them {halvings} times")
    bottleneck = block == "bottleneck"
    sizes = _stage_sizes(depth, stage_sizes, len(widths), 3 if bottleneck else block_layers)
    num_units = sum(sizes)
    pre = placement == "pre"

    def unit(in_features: int, width: int, stride: int, first: bool) -> ResidualUnit:
        strided = 1 if bottleneck and bottleneck_stride == "3x3" else 0
        convs = [(1, width), (3, width), (1, 4 * width)] if bottleneck else [(3, width)] * block_layers
        layers = tuple((k, f, stride if j == strided else 1) for j, (k, f) in enumerate(convs))
        path = Shortcut(
            in_features,
            layers[-1][1],
            stride,
            transition,
            alteration=shortcut,
            centre=pad_centre,
            norm=norm and not pre,
            scale=shortcut_scale,
            branch_scale=shortcut_branch_scale,
            gate_bias=gate_bias,
            dtype=compute,
            conv_impl=conv,
        )
        return ResidualUnit(
            None if shortcut == "none" else path,
            layers,
            placement,
            first=first and pre,
            norm=norm,
            zero_gamma=zero_gamma,
            branch_scale=branch_scale,
            depth=num_units,
            dtype=compute,
            conv_impl=conv,
        )

    dropout = dropout_of(unit_dropout, num_units, unit_survival, units_active, unit_scale_at_test)
    return Network(
        stem=Stem(widths[0], norm, True, STEMS[stem], compute, conv),
        stacks=_stacks(unit, sizes, tuple(w * widen for w in widths), widths[0]),
        head=Head(
            num_classes,
            norm=norm and pre,
            relu=placement in ("pre", "relu_pre"),
            kernel_init=nn.initializers.zeros if branch_scale == "fixup" else Head.kernel_init,
            dtype=compute,
            widths=tuple(head_widths),
        ),
        unit_dropout=dropout,
        unroll=unroll,
    )


def imagenet_resnet(
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    depth: int = 50,
    version: str = "v1.5",
    stem: str = "large",
    shortcut: str = "identity",
    transition: str = "projection",
    zero_gamma: bool = False,
    dtype: str = "float32",
    conv: str = "auto",
    unroll: int = 0,
) -> Network:
    """An ImageNet ResNet, or its plain twin (``shortcut='none'``; the papers have plain 18 and 34 layers).

    In the papers, images are (224, 224, 3), with 1000 classes.

    Args: those of ``resnet``, and
      depth: 18, 34 (basic units), 50, 101, 152 or 200 (bottlenecks).
      version: 'v1' (He 2015: a bottleneck's stride is in its first 1×1), 'v1.5' (in its 3×3, as in
        torchvision), 'v2' (He 2016: full pre-activation, stride in the 3×3).
    """
    one_of("model.depth", depth, tuple(IMAGENET_SIZES))
    one_of("model.version", version, ("v1", "v1.5", "v2"))
    return resnet(
        image_shape=image_shape,
        num_classes=num_classes,
        stage_sizes=IMAGENET_SIZES[depth],
        widths=(64, 128, 256, 512),
        stem=stem,
        block="bottleneck" if depth >= 50 else "basic",
        bottleneck_stride="1x1" if version == "v1" else "3x3",
        placement="pre" if version == "v2" else "post",
        shortcut=shortcut,
        transition=transition,
        zero_gamma=zero_gamma,
        dtype=dtype,
        conv=conv,
        unroll=unroll,
    )


def _stacks(
    unit: Callable[[int, int, int, bool], ResidualUnit],
    sizes: tuple[int, ...],
    widths: tuple[int, ...],
    features: int,
) -> tuple[Stack, ...]:
    """Stages of equal units; the first unit of a stage is a stack of its own if its shape or form differs."""
    stacks = []
    for stage, (n, width) in enumerate(zip(sizes, widths, strict=True), 1):
        opening = unit(features, width, 1 if stage == 1 else 2, stage == 1)
        in_features, features = features, opening.layers[-1][1]
        following = unit(features, width, 1, False)
        if in_features == features and opening == following:
            stacks.append(Stack(f"stage{stage}", following, n, stage))
            continue
        stacks.append(Stack(f"stage{stage}_opening", opening, 1, stage))
        if n > 1:
            stacks.append(Stack(f"stage{stage}", following, n - 1, stage))
    return tuple(stacks)


def _stage_sizes(
    depth: int, stage_sizes: tuple[int, ...], stages: int, layers_per_unit: int
) -> tuple[int, ...]:
    if stage_sizes:
        if len(stage_sizes) != stages or min(stage_sizes) < 1:
            raise ValueError(
                f"model.stage_sizes={tuple(stage_sizes)} does not fit {stages} model.widths; "
                "give one number of units (1 or more) for each width"
            )
        return tuple(stage_sizes)
    step = stages * layers_per_unit
    n, rest = divmod(depth - 2, step)
    if rest or n < 1:
        near = max(n, 1) * step + 2
        raise ValueError(
            f"model.depth={depth}; with {stages} stages of {layers_per_unit}-layer units, allowed are "
            f"{step}n + 2, e.g. {near} or {near + step}; or give model.stage_sizes"
        )
    return (n,) * stages


def _check_start(placement: str, norm: bool, zero_gamma: bool, branch_scale: str, shortcut: str) -> None:
    """Raises ValueError for networks whose initialization prevents learning."""
    if placement == "bn_after_add" and not norm:
        raise ValueError("model.placement='bn_after_add' needs model.norm=True")
    if branch_scale == "fixup" and (norm or placement != "post"):
        raise ValueError(
            "model.branch_scale='fixup' is for networks without normalization: it needs model.norm=False and "
            f"model.placement='post', got {norm} and {placement!r}"
        )
    if shortcut == "none" and (zero_gamma or branch_scale != "none"):
        raise ValueError(
            f"model.branch_scale={branch_scale!r}, model.zero_gamma={zero_gamma} initialize branches to 0, "
            "so a network without shortcuts can't learn; use 'none' and False"
        )
    if zero_gamma and not (norm and placement in ("post", "relu_pre") and branch_scale == "none"):
        # γ gets no gradient before a ReLU (derivative 0 at 0), or if a second factor of the branch is 0.
        raise ValueError(
            "model.zero_gamma needs model.norm=True, model.branch_scale='none' and model.placement='post' "
            "or 'relu_pre', where the branch ends with BatchNorm: elsewhere γ = 0 never gets a gradient; "
            f"for placement {placement!r} use model.branch_scale='skipinit'"
        )
