"""Names of layers in torchvision, timm, Hugging Face, and two well-known collections for CIFAR."""

from typing import NamedTuple

from resjax.models.plain import Classifier, ConvStem, ConvUnit, DenseUnit
from resjax.models.residual import ResidualUnit
from resjax.network import Network
from resjax.pretrained.places import Module, Naming


class ResidualNames(NamedTuple):
    """Names in a residual network."""

    stem: str  # the first convolution
    stem_bn: str
    unit: str  # the prefix of a unit; {stage} counts from 0, {stage1} from 1, {i} within the stage from 0
    conv: str  # of the branch, in the unit; {j} counts from 0, {j1} from 1
    bn: str
    shortcut: str  # a projection, in the unit
    shortcut_bn: str
    head_bn: str  # the BatchNorm after the last unit
    head: str  # the classifier


TORCHVISION = ResidualNames(
    stem="conv1", stem_bn="bn1", unit="layer{stage1}.{i}", conv="conv{j1}", bn="bn{j1}",
    shortcut="downsample.0", shortcut_bn="downsample.1", head_bn="bn", head="fc",
)  # fmt: skip
CIFAR = TORCHVISION._replace(shortcut="shortcut.0", shortcut_bn="shortcut.1", head="linear")
HUGGING_FACE = ResidualNames(
    stem="resnet.embedder.embedder.convolution", stem_bn="resnet.embedder.embedder.normalization",
    unit="resnet.encoder.stages.{stage}.layers.{i}",
    conv="layer.{j}.convolution", bn="layer.{j}.normalization",
    shortcut="shortcut.convolution", shortcut_bn="shortcut.normalization",
    head_bn="resnet.normalization", head="classifier.1",
)  # fmt: skip
TIMM_V2 = ResidualNames(
    stem="stem.conv", stem_bn="stem.norm",
    unit="stages.{stage}.blocks.{i}", conv="conv{j1}", bn="norm{j1}",
    shortcut="downsample.conv", shortcut_bn="downsample.norm", head_bn="norm", head="head.fc",
)  # fmt: skip


def residual(network: Network, names: ResidualNames) -> Naming:
    """The names of all layers of a network of ``ResidualUnit``."""
    units = {}
    seen: dict[int, int] = {}
    for info in network.units:
        stage = info.stack.stage - 1
        units[info.stack.name, info.position] = stage, seen.get(stage, 0)
        seen[stage] = seen.get(stage, 0) + 1

    def name(module: Module) -> str:
        part, position, path = module
        if part == "stem":
            return {"conv": names.stem, "bn": names.stem_bn}[path[0]]
        if part == "head":
            return {"classifier": names.head, "bn": names.head_bn}[path[0]]
        stage, i = units[part, position]
        prefix = names.unit.format(stage=stage, stage1=stage + 1, i=i)
        if path[0] == "shortcut":
            within = {"conv": names.shortcut, "bn": names.shortcut_bn}[path[1]]
        else:
            j = int(path[0][-1])
            template = names.conv if path[0].startswith("conv") else names.bn
            within = template.format(j=j - 1, j1=j)
        return f"{prefix}.{within}"

    return name


# Names of fc6, fc7 and fc8 in a chain of layers.
VGG_DENSE = ("classifier.0", "classifier.3", "classifier.6")
ALEXNET_DENSE = ("classifier.1", "classifier.4", "classifier.6")  # dropout precedes each
TIMM_DENSE = ("pre_logits.fc1", "pre_logits.fc2", "head.fc")


def chain(network: Network, dense: tuple[str, str, str]) -> Naming:
    """The names of a VGG or AlexNet: torchvision numbers every layer, including poolings and ReLUs."""
    assert isinstance(network.stem, ConvStem)
    numbers = {("stem", 0): 0}
    following = 3 if network.stem.bn is not None else 2  # convolution, (BatchNorm), ReLU
    following += network.stem.pool is not None
    rest = iter(dense)
    names: dict[tuple[str, int], str] = {}
    for info in network.units:
        unit, place = info.stack.unit, (info.stack.name, info.position)
        if isinstance(unit, ConvUnit):
            numbers[place] = following + (unit.pool is not None)
            following = numbers[place] + (3 if unit.bn is not None else 2)
        else:
            names[place] = next(rest)
    names["head", 0] = next(rest)

    def name(module: Module) -> str:
        place = module.part, module.position
        if place in names:
            return names[place]
        return f"features.{numbers[place] + (module.path[-1] == 'bn')}"

    return name


def torchvision(network: Network) -> Naming:
    """torchvision's names for ``network``.

    Raises:
      ValueError: torchvision has no such network: for example another placement of BatchNorm and ReLU, gates,
        or LRN.
    """
    units = [stack.unit for stack in network.stacks]
    if all(isinstance(u, ResidualUnit) for u in units):
        if all(
            (u.placement, u.norm, u.branch_scale) == ("post", True, "none")
            and u.residual
            and u.shortcut.alteration == "identity"
            for u in units
        ):
            return residual(network, TORCHVISION)
        raise ValueError(
            "torchvision's residual networks are post-activation, with BatchNorm and unaltered shortcuts: "
            "model.placement='post', norm=True, branch_scale='none', shortcut='identity'"
        )
    dense = [u for u in units if isinstance(u, DenseUnit)]
    convs = [u for u in units if isinstance(u, ConvUnit)]
    if (
        len(dense) == 2
        and len(convs) + len(dense) == len(units)
        and isinstance(network.head, Classifier)
        and all(u.lrn is None and getattr(u.conv, "groups", 0) == 1 for u in convs)
        and all(u.activation == "relu" for u in (*convs, *dense))
    ):
        return chain(network, ALEXNET_DENSE if dense[0].adaptive_pool else VGG_DENSE)
    raise ValueError(
        "torchvision has no names for this network; it has them for post-activation residual networks, for "
        "VGG and for AlexNet with model.form='one_column'"
    )
