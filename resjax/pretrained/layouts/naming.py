"""From a layer to the names of its arrays among a file's tensors, and torchvision's names for export."""

from typing import NamedTuple

from resjax.models.plain import Classifier, ConvStem, ConvUnit, DenseUnit
from resjax.models.residual import ResidualUnit
from resjax.models.stem_head import Head, Stem
from resjax.network import Network
from resjax.network.cut import HeadAfter, UnitAfter
from resjax.network.maps import Map
from resjax.pretrained.places import Module, Naming, of_layers


class ResidualNames(NamedTuple):
    """Names in a residual network."""

    stem: str  # the first convolution
    stem_bn: str
    unit: str  # the prefix of a unit, see ``unit_prefix``
    conv: str  # of the branch, in the unit, see ``within``
    bn: str
    shortcut: str  # a projection, in the unit
    shortcut_bn: str
    head_bn: str  # the BatchNorm after the last unit
    head: tuple[str, ...]  # the fully connected layers; the last is the classifier


TORCHVISION = ResidualNames(
    stem="conv1", stem_bn="bn1", unit="layer{stage1}.{i}", conv="conv{j1}", bn="bn{j1}",
    shortcut="downsample.0", shortcut_bn="downsample.1", head_bn="bn", head=("fc",),
)  # fmt: skip


def unit_prefix(template: str, stage: int, i: int) -> str:
    """The prefix of a unit's names: {stage} counts from 0, {stage1} from 1, {stage2} from 2, {even} and {odd}
    in steps of 2 from 0 and from 1, {i} within the stage from 0."""
    counts = {
        "stage": stage,
        "stage1": stage + 1,
        "stage2": stage + 2,
        "even": 2 * stage,
        "odd": 2 * stage + 1,
    }
    return template.format(**counts, i=i)


def within(template: str, j: int) -> str:
    """A layer's name in its unit: {j} counts from 0, {j1} from 1; {j3} and {j31} count every third number,
    from 0 and from 1, as where convolution, BatchNorm and ReLU take turns."""
    return template.format(j=j, j1=j + 1, j3=3 * j, j31=3 * j + 1)


def residual(network: Network, names: ResidualNames) -> Naming:
    """The names of all layers of a network of ``ResidualUnit``."""
    units = {}
    seen: dict[int, int] = {}
    for info in network.units:
        stage = info.stack.stage - 1
        units[info.part, info.row] = stage, seen.get(stage, 0)
        seen[stage] = seen.get(stage, 0) + 1

    def name(module: Module) -> str:
        part, position, path = module
        if part == "stem":
            return {"conv": names.stem, "bn": names.stem_bn}[path[0]]
        if part == "head":
            return names.head_bn if path[0] == "bn" else _dense(names.head, path[0])
        stage, i = units[part, position]
        prefix = unit_prefix(names.unit, stage, i)
        if path[0] == "shortcut":
            own = {"conv": names.shortcut, "bn": names.shortcut_bn}[path[1]]
        else:
            own = within(names.conv if path[0].startswith("conv") else names.bn, int(path[0][-1]) - 1)
        return f"{prefix}.{own}"

    return of_layers(name)


def _dense(names: tuple[str, ...], layer: str) -> str:
    """The name of the classifier or of a hidden layer of the head, ``hidden{k}``; where the file has fewer
    hidden layers, our own."""
    numbered = {f"hidden{k}": name for k, name in enumerate(names[:-1], 1)}
    return {**numbered, "classifier": names[-1]}.get(layer, layer)


# Names of fc6, fc7 and fc8 in a chain of layers.
VGG_DENSE = ("classifier.0", "classifier.3", "classifier.6")
ALEXNET_DENSE = ("classifier.1", "classifier.4", "classifier.6")  # dropout precedes each
TIMM_DENSE = ("pre_logits.fc1", "pre_logits.fc2", "head.fc")
# By the number of hidden layers.
_EXPORTED_DENSE = {0: ("classifier",), 1: ("classifier.0", "classifier.3"), 2: VGG_DENSE}


def chain(network: Network, dense: tuple[str, ...]) -> Naming:
    """The names of a VGG or AlexNet: torchvision numbers every layer, including poolings and ReLUs.

    ``dense`` are the fully connected layers, the classifier last; where some are absent, our own names.
    """
    assert isinstance(network.stem, ConvStem)
    numbers = {("stem", 0): 0}
    following = 3 if network.stem.bn is not None else 2  # convolution, (BatchNorm), ReLU
    following += network.stem.pool is not None
    rest = iter(dense)
    names: dict[tuple[str, int], str] = {}
    for info in network.units:
        unit, place = info.stack.unit, (info.part, info.row)
        if isinstance(unit, ConvUnit):
            numbers[place] = following + (unit.pool is not None)
            following = numbers[place] + (3 if unit.bn is not None else 2)
        else:
            names[place] = next(rest, info.part)
    names["head", 0] = next(rest, "classifier")

    def name(module: Module) -> str:
        place = module.part, module.position
        if place in names:
            return names[place]
        return f"features.{numbers[place] + (module.path[-1] == 'bn')}"

    return of_layers(name)


def torchvision(network: Network) -> Naming:
    """torchvision's names for ``network``.

    The units of a cut network are counted as they are now, so names have no gaps.

    Raises:
      ValueError: torchvision has no such network: for example another placement of BatchNorm and ReLU, gates,
        or LRN; or a cut has left a map, a shortcut, or a stage without units.
    """
    check_cut(network)
    units = [stack.unit for stack in network.stacks]
    if all(isinstance(u, ResidualUnit) for u in units) and (
        isinstance(network.stem, Stem) and isinstance(network.head, Head)
    ):
        _check_stages(network)
        if all(
            (u.placement, u.norm, u.branch_scale) == ("post", True, "none")
            and u.residual
            and u.shortcut.alteration == "identity"
            for u in units
        ):
            hidden = len(network.head.widths)
            # As in a Sequential of fully connected layers and ReLUs.
            head = tuple(f"fc.{2 * j}" for j in range(hidden + 1)) if hidden else TORCHVISION.head
            return residual(network, TORCHVISION._replace(head=head))
        raise ValueError(
            "torchvision's residual networks are post-activation, with BatchNorm and unaltered shortcuts: "
            "model.placement='post', norm=True, branch_scale='none', shortcut='identity'"
        )
    dense = [u for u in units if isinstance(u, DenseUnit)]
    convs = [u for u in units if isinstance(u, ConvUnit)]
    if (
        len(dense) in _EXPORTED_DENSE
        and len(convs) + len(dense) == len(units)
        and isinstance(network.head, Classifier)
        and all(u.lrn is None and getattr(u.conv, "groups", 0) == 1 for u in convs)
        and all(u.activation == "relu" for u in (*convs, *dense))
    ):
        if len(dense) == 2 and dense[0].adaptive_pool:
            return chain(network, ALEXNET_DENSE)
        if all(u.conv.kernel in ((1, 1), (3, 3)) for u in convs):
            return chain(network, _EXPORTED_DENSE[len(dense)])
    raise ValueError(
        "torchvision has no names for this network; it has them for post-activation residual networks, for "
        "VGG and for AlexNet with model.form='one_column', and timm for vision transformers with "
        "model.placement='pre', for ConvNeXt, MLP-Mixer and ConvMixer"
    )


FOR_JAX = "or write it for JAX, --export=FILE, which takes every network"


def check_cut(network: Network, whose: str = "torchvision", shortcuts: bool = False) -> None:
    """Raises ValueError where a cut has left what no network of ``whose`` has.

    ``shortcuts`` says that they have what is left of a unit without its branch.
    """
    parts = [(unit.name, unit.stack.unit) for unit in network.units]
    for name, part in (*parts, ("the head", network.head)):
        if not isinstance(part, UnitAfter | HeadAfter):
            continue
        if any(isinstance(module, Map) for module in part.before):
            raise ValueError(
                f"{whose}'s networks have no maps, and {name} begins with the map of the units that were "
                f"cut in front of it: cut them without --map, {FOR_JAX}"
            )
        if not shortcuts:
            raise ValueError(
                f"{whose}'s networks have no shortcut without a branch, and {name} begins with that of a "
                "unit that was cut in front of it: cut other units (those whose shortcut is the identity "
                f"leave nothing), {FOR_JAX}"
            )


def _check_stages(network: Network) -> None:
    """Raises ValueError if a stage of a residual network has no unit."""
    stages = {stack.stage for stack in network.stacks}
    if empty := sorted(set(range(1, max(stages) + 1)) - stages):
        raise ValueError(
            f"torchvision's networks have a unit or more in every stage, and stage {empty[0]} has none left: "
            f"cut one unit less of it, {FOR_JAX}"
        )
