"""Names of a ConvNeXt's layers in its authors' files, timm, torchvision and Hugging Face.

In files, the down-sampling between two stages stands beside the units. In our networks it belongs to the
first unit of its stage, or, where units were cut, to the part behind them. So stages are counted by the
down-samplings on the way.
"""

from collections.abc import Iterator
from typing import NamedTuple

import flax.linen as nn

from resjax.models.convnext import ConvNextUnit, Downsampling
from resjax.network import Network
from resjax.network.cut import HeadAfter, Remnant, UnitAfter
from resjax.pretrained.layouts.naming import unit_prefix
from resjax.pretrained.places import Module, Naming, of_layers


class ConvNextNames(NamedTuple):
    """Names of layers, and of the tensors of those that PyTorch has no layer for."""

    collection: str
    stem: str
    stem_norm: str
    down: str  # the prefix of a down-sampling, see ``naming.unit_prefix``; .0 is LayerNorm, .1 a convolution
    unit: str  # the prefix of a unit
    depthwise: str  # in the unit
    norm: str
    inner: str
    outer: str
    scale: str  # a tensor in the unit: γ of the layer scale
    grn: tuple[str, str]  # tensors in the unit: γ and β of the global response normalization
    head_norm: str
    head: str

    @property
    def marker(self) -> str:
        """A tensor that every network with these names has: the weights of its first unit's first layer."""
        return f"{self.of_unit(0, 0)}.{self.depthwise}.weight"

    def of_unit(self, stage: int, i: int) -> str:
        """The prefix of a unit; both count from 0."""
        return unit_prefix(self.unit, stage, i)

    def of_down(self, stage: int) -> str:
        """The prefix of the down-sampling in front of a stage, which counts from 0."""
        return unit_prefix(self.down, stage, 0)


TIMM = ConvNextNames(
    collection="timm", stem="stem.0", stem_norm="stem.1", down="stages.{stage}.downsample",
    unit="stages.{stage}.blocks.{i}", depthwise="conv_dw", norm="norm", inner="mlp.fc1", outer="mlp.fc2",
    scale="gamma", grn=("mlp.grn.weight", "mlp.grn.bias"), head_norm="head.norm", head="head.fc",
)  # fmt: skip
AUTHORS = ConvNextNames(
    collection="facebookresearch", stem="downsample_layers.0.0", stem_norm="downsample_layers.0.1",
    down="downsample_layers.{stage}", unit="stages.{stage}.{i}", depthwise="dwconv", norm="norm",
    inner="pwconv1", outer="pwconv2", scale="gamma", grn=("grn.gamma", "grn.beta"), head_norm="norm",
    head="head",
)  # fmt: skip
TORCHVISION = ConvNextNames(
    collection="torchvision", stem="features.0.0", stem_norm="features.0.1", down="features.{even}",
    unit="features.{odd}.{i}", depthwise="block.0", norm="block.2", inner="block.3", outer="block.5",
    scale="layer_scale", grn=("", ""), head_norm="classifier.0", head="classifier.2",
)  # fmt: skip
HUGGING_FACE, HUGGING_FACE_V2 = (
    ConvNextNames(
        collection="Hugging Face", stem=f"{own}.embeddings.patch_embeddings",
        stem_norm=f"{own}.embeddings.layernorm", down=f"{own}.encoder.stages.{{stage}}.downsampling_layer",
        unit=f"{own}.encoder.stages.{{stage}}.layers.{{i}}", depthwise="dwconv", norm="layernorm",
        inner="pwconv1", outer="pwconv2", scale="layer_scale_parameter", grn=("grn.weight", "grn.bias"),
        head_norm=f"{own}.layernorm", head="classifier",
    )
    for own in ("convnext", "convnextv2")
)  # fmt: skip
NAMES = (TIMM, AUTHORS, TORCHVISION, HUGGING_FACE, HUGGING_FACE_V2)


class Stages(NamedTuple):
    """Where the units and down-samplings of a ConvNeXt stand in files; all counts are from 0."""

    units: dict[tuple[str, int], tuple[int, int]]  # {(part, row): (stage, unit in it)}
    downs: dict[tuple[str, int, tuple[str, ...]], int]  # {(part, row, path in it): the stage that follows}
    depths: tuple[int, ...]  # units of each stage; a cut may leave none
    widths: tuple[int, ...]


def stages(network: Network) -> Stages:
    """The stages of a ConvNeXt, whole or cut."""
    units: dict[tuple[str, int], tuple[int, int]] = {}
    downs: dict[tuple[str, int, tuple[str, ...]], int] = {}
    depths, widths = [0], [network.stem.features]
    parts = [(unit.part, unit.row, unit.stack.unit) for unit in network.units]
    for part, row, module in (*parts, ("head", 0, network.head)):
        for path, down in _downsamplings(module):
            downs[part, row, path] = len(depths)
            depths.append(0)
            widths.append(down.features)
        if part != "head":
            units[part, row] = len(depths) - 1, depths[-1]
            depths[-1] += 1
    return Stages(units, downs, tuple(depths), tuple(widths))


def convnext(network: Network, names: ConvNextNames) -> Naming:
    """The names of all layers of a ConvNeXt, whole or cut without maps."""
    units, downs, _, _ = stages(network)
    layers = {"depthwise": names.depthwise, "norm": names.norm, "inner": names.inner, "outer": names.outer}
    alone: dict[tuple[str, ...], str] = {
        ("scale", "gamma"): names.scale, ("grn", "gamma"): names.grn[0], ("grn", "beta"): names.grn[1]
    }  # fmt: skip

    def layer(module: Module) -> str:
        part, row, path = module
        if part == "stem":
            return {"conv": names.stem, "norm": names.stem_norm}[path[0]]
        if path[-2:-1] == ("downsampling",):
            down = names.of_down(downs[part, row, path[:-1]])
            return f"{down}.{('norm', 'conv').index(path[-1])}"
        if part == "head":
            return {"norm": names.head_norm, "classifier": names.head}[path[-1]]
        return f"{names.of_unit(*units[part, row])}.{layers[path[-1]]}"

    named = of_layers(layer)

    def name(module: Module, leaf: str) -> tuple[str, ...]:
        if own := alone.get((*module.path[-1:], leaf)):
            return (f"{names.of_unit(*units[module.part, module.position])}.{own}",)
        return named(module, leaf)

    return name


def _downsamplings(
    module: nn.Module, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Downsampling]]:
    """The down-samplings in a unit or head with their paths, in the order in which they run."""
    if isinstance(module, UnitAfter | HeadAfter):
        for k, before in enumerate(module.before):
            yield from _downsamplings(before, (*path, f"before_{k}"))
    if isinstance(module, UnitAfter | Remnant):
        yield from _downsamplings(module.unit, (*path, "unit"))
    if isinstance(module, ConvNextUnit) and module.downsampling is not None:
        yield (*path, "downsampling"), module.downsampling
