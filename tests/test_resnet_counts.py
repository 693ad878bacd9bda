"""Published sizes of the plain and residual networks, to the last parameter. Only shapes are computed."""

import jax
import numpy as np
import pytest
from marks import slow_but

from resjax.models import build, defaults
from resjax.network.initial import variable_shapes

CIFAR = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962, 1202: 19_421_274}
IMAGENET = {
    18: 11_689_512,
    34: 21_797_672,
    50: 25_557_032,
    101: 44_549_160,
    152: 60_192_808,
    200: 64_673_832,
}


def count(name: str, size: int, classes: int, **fields) -> int:
    shape = (size, size, 3)
    network = build(defaults(name, **fields), image_shape=shape, num_classes=classes)
    variables = variable_shapes(network, shape)
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(variables["params"]))


def cifar(**fields) -> int:
    return count("resnet", 32, 10, **fields)


def imagenet(**fields) -> int:
    return count("imagenet_resnet", 224, 1000, **fields)


@pytest.mark.parametrize("depth", slow_but(CIFAR, *list(CIFAR)[:3]))
def test_cifar_depths(depth):
    """He et al. 2015, Table 6 prints 0.27, 0.46, 0.66, 0.85, 1.7 and 19.4 million."""
    post = {"depth": depth, "placement": "post"}
    assert cifar(**post) == CIFAR[depth]
    assert cifar(**post, shortcut="none") == CIFAR[depth]
    assert cifar(**post, transition="projection") == CIFAR[depth] + 2_752


def test_other_placements_have_the_same_size():
    assert cifar(depth=110, placement="pre") == CIFAR[110]
    assert cifar(depth=110, placement="pre", shortcut="none") == CIFAR[110]
    for placement in ("bn_after_add", "relu_before_add", "relu_pre"):
        assert cifar(depth=20, placement=placement, transition="pad_pool") == CIFAR[20]


def test_projections_everywhere():
    """Option C: 1×1 convolutions, with their BatchNorms, in all of the 9 units of a ResNet-20."""
    more = sum(c_in * c + 2 * c for c_in, c in [(16, 16)] * 3 + [(16, 32)] + [(32, 32)] * 2)
    more += sum(c_in * c + 2 * c for c_in, c in [(32, 64)] + [(64, 64)] * 2)
    assert cifar(depth=20, placement="post", shortcut="projection") == CIFAR[20] + more


@pytest.mark.parametrize("gate", ["exclusive_gate", "shortcut_gate"])
def test_gates_have_a_1x1_convolution_with_bias(gate):
    more = 3 * (16 * 16 + 16) + (16 * 32 + 32) + 2 * (32 * 32 + 32) + (32 * 64 + 64) + 2 * (64 * 64 + 64)
    assert cifar(depth=20, placement="post", shortcut=gate) == CIFAR[20] + more


def test_one_scalar_a_unit():
    assert cifar(depth=20, branch_scale="skipinit") == CIFAR[20] + 9


def test_without_normalization():
    """Each BatchNorm (γ, β) gives way to one bias; Fixup's are scalars: 4 and a multiplier a unit."""
    channels = 16 + 6 * (16 + 32 + 64)  # stem and convolutions
    assert cifar(depth=20, placement="post", norm=False) == CIFAR[20] - channels
    fixup = cifar(depth=20, placement="post", norm=False, branch_scale="fixup")
    assert fixup == CIFAR[20] - 2 * channels + 16 + 9 * 5


@pytest.mark.parametrize("depth", slow_but(IMAGENET, *list(IMAGENET)[:3]))
def test_imagenet_depths(depth):
    assert imagenet(depth=depth, version="v1") == IMAGENET[depth]


def test_the_place_of_the_stride_costs_nothing():
    assert imagenet(depth=50, version="v1.5") == IMAGENET[50]


@pytest.mark.parametrize(("depth", "expected"), [(18, 11_515_688), (34, 21_623_848)])
def test_plain_imagenet_twins(depth, expected):
    plain = imagenet(depth=depth, version="v1", shortcut="none")
    option_a = imagenet(depth=depth, version="v1", transition="pad_subsample")
    assert plain == option_a == expected


def test_imagenet_pre_activation():
    """Against v1: a BN before each unit instead of behind it, none behind the four projections."""
    assert imagenet(depth=50, version="v2") == 25_549_352


def test_wide_resnet():
    """WRN-28-10 has 36.5 million (Zagoruyko & Komodakis 2016, Table 4)."""
    wide = {"stage_sizes": (4, 4, 4), "widen": 10, "transition": "projection"}
    assert cifar(**wide) == 36_479_194


@pytest.mark.parametrize(("depth", "low", "high"), [(164, 1.65e6, 1.75e6), (1001, 10.2e6, 10.4e6)])
def test_bottlenecks(depth, low, high):
    """He et al. 2016: 1.7 and 10.2 million."""
    for transition in ("pad_subsample", "projection"):
        assert low < cifar(depth=depth, block="bottleneck", transition=transition) < high


def test_units():
    shape = (32, 32, 3)
    for fields, n in (
        ({"depth": 110}, 54),
        ({"depth": 110, "block_layers": 1}, 108),
        ({"depth": 110, "block_layers": 6}, 18),
        ({"depth": 1001, "block": "bottleneck"}, 333),
        ({"stage_sizes": (4, 4, 4), "widen": 10}, 12),
    ):
        network = build(defaults("resnet", **fields), image_shape=shape, num_classes=10)
        assert network.num_units == len(network.units) == n
