"""Which names the layers of a residual network have among a file's tensors.

Each role is looked up on its own, since people mix the names of collections: ``fc`` with ``shortcut.0``,
``linear`` with ``downsample.0``. Of a role's names, the first that the file has is taken.
"""

import itertools
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from resjax.pretrained.layouts import heads
from resjax.pretrained.layouts.naming import ResidualNames, unit_prefix, within
from resjax.pretrained.reading.files import Tensors


class UnitNames(NamedTuple):
    """Names of units and of their layers."""

    unit: str  # the prefix of a unit, see ``naming.unit_prefix``
    conv: str  # in the unit, see ``naming.within``
    bn: str

    def layer(self, stage: int, i: int, template: str, j: int = 0) -> str:
        """The name of layer ``template`` number ``j`` in unit ``i`` of a stage; all count from 0."""
        return f"{unit_prefix(self.unit, stage, i)}.{within(template, j)}"

    @property
    def marker(self) -> str:
        """A tensor that every network with these names has: the weights of its first unit's first layer."""
        return f"{self.layer(0, 0, self.conv)}.weight"


LAYERS = UnitNames("layer{stage1}.{i}", "conv{j1}", "bn{j1}")
RESIDUAL_FUNCTIONS = UnitNames("conv{stage2}_x.{i}", "residual_function.{j3}", "residual_function.{j31}")
BLOCKS = UnitNames("block{stage1}.layer.{i}", "conv{j1}", "bn{j1}")
TIMM_V2 = UnitNames("stages.{stage}.blocks.{i}", "conv{j1}", "norm{j1}")
HUGGING_FACE = UnitNames(
    "resnet.encoder.stages.{stage}.layers.{i}", "layer.{j}.convolution", "layer.{j}.normalization"
)
UNITS = (LAYERS, RESIDUAL_FUNCTIONS, BLOCKS, TIMM_V2, HUGGING_FACE)

_STAGES = 16
_STEMS = ("conv1", "conv1.0", "conv", "conv_1", "conv0", "stem", "stem.0", "stem.conv", "conv_stem",
          "init_conv", "resnet.embedder.embedder.convolution")  # fmt: skip
# BatchNorm outside the units: after the stem, or, in a pre-activation network, after the last unit.
NORMS = ("bn1", "conv1.1", "bn", "bn_1", "bn0", "stem.1", "stem.bn", "stem.norm", "bn_stem", "norm1", "norm",
         "init_bn", "resnet.embedder.embedder.normalization")  # fmt: skip
LAST_NORMS = ("bn_final", "final_bn", "bn_last")  # never after the stem
_OF_EITHER = {"bn", "norm"}  # names of both
_SHORTCUTS = ("downsample.0", "shortcut.0", "downsample.conv", "shortcut.convolution", "shortcut.conv",
              "convShortcut", "shortcut", "downsample", "skip.0", "projection.0")  # fmt: skip
SHORTCUT_NORMS = ("downsample.1", "shortcut.1", "downsample.norm", "downsample.bn", "shortcut.normalization",
                   "shortcut.bn", "skip.1", "projection.1")  # fmt: skip


class Found(NamedTuple):
    """A residual network's names, "" for a layer that it lacks, and what they say of its form."""

    names: ResidualNames
    units: UnitNames
    sizes: tuple[int, ...]  # units of each stage
    pre: bool  # whether a BatchNorm precedes each convolution of a unit
    headless: bool  # no classifier of a known name; ``names.head`` is a placeholder


def find(tensors: Tensors, units: UnitNames) -> Found:
    """The names of a residual network whose units have the names ``units``.

    Raises:
      ValueError: the first convolution has no known name, or a normalization is not BatchNorm.
    """
    sizes = tuple(itertools.takewhile(bool, (_count(tensors, units, stage) for stage in itertools.count())))
    if len(sizes) > _STAGES:
        raise ValueError(f"a network of {len(sizes):,} stages; at most {_STAGES} are imported")
    stem = _first(name for name in _STEMS if _rank(tensors, name) == 4)
    if not stem:
        raise ValueError(
            f"the units of {len(sizes)} stages were found ({units.layer(0, 0, units.conv)}, …), but not the "
            f"first convolution. Known names of it: {', '.join(_STEMS)}. Rename yours: --names=FILE"
        )
    first = [unit_prefix(units.unit, stage, 0) for stage in range(len(sizes))]
    found = {}
    for role, known in {"shortcut": _SHORTCUTS, "shortcut_bn": SHORTCUT_NORMS}.items():
        rank = 4 if role == "shortcut" else 1
        found[role] = _first(
            name for name in known if any(_rank(tensors, f"{p}.{name}") == rank for p in first)
        )
    pre = _is_pre(tensors, units, sizes)
    head = heads.dense(tensors)
    stem_bn, head_bn = _norms(tensors, units, sizes, stem, pre)
    names = ResidualNames(
        stem=stem, stem_bn=stem_bn, head_bn=head_bn, head=head or heads.ROOTS[:1], **units._asdict(), **found
    )
    return Found(names, units, sizes, pre, not head)


def _norms(tensors: Tensors, units: UnitNames, sizes: Sequence[int], stem: str, pre: bool) -> tuple[str, str]:
    """The names of the BatchNorms after the stem and after the last unit, told apart by their channels."""
    there = [name for name in (*NORMS, *LAST_NORMS) if _rank(tensors, name) == 1]
    for name in (*there, units.layer(0, 0, units.bn), units.layer(0, 0, units.bn, 1)):
        if f"{name}.weight" in tensors and f"{name}.running_mean" not in tensors:
            raise ValueError(
                f"{name} has no running_mean, so this network's normalization is not BatchNorm, the only one "
                "that ours have"
            )

    def of(channels: int) -> list[str]:
        return [name for name in there if tensors[f"{name}.weight"].shape[0] == channels]

    stem_out, out = tensors[f"{stem}.weight"].shape[0], _channels_out(tensors, units, sizes)
    if not pre:
        return _first(name for name in of(stem_out) if name in NORMS), ""
    if stem_out != out:
        return _first(of(stem_out)), _first(of(out))
    same = of(out)
    return (same[0], same[1]) if len(same) > 1 else ("", _first(same))


def _is_pre(tensors: Tensors, units: UnitNames, sizes: Sequence[int]) -> bool:
    """Whether the first BatchNorm of a unit has the channels of its input: those of its first convolution's
    input and output differ in some unit. Where they never differ, the BatchNorm outside the units shows it by
    its name.

    Raises:
      ValueError: it does not.
    """
    for stage, n in enumerate(sizes):
        for i in range(n):
            out, into = tensors[f"{units.layer(stage, i, units.conv)}.weight"].shape[:2]
            bn = f"{units.layer(stage, i, units.bn)}.weight"
            if out != into and bn in tensors:
                return tensors[bn].shape[0] == into
    ends = [name for name in (*NORMS, *LAST_NORMS) if _rank(tensors, name) == 1]
    if ends and set(ends) <= _OF_EITHER:
        line = rf"^{re.escape(ends[0])}\. ->"
        raise ValueError(
            f"all units have as many channels, so shapes do not show whether {ends[0]} follows the first "
            "convolution (post-activation) or the last unit (pre-activation). Save the line "
            f"{line} bn1. or, in the second case, {line} bn_last. as names.txt and use --names=names.txt"
        )
    return bool(set(ends) & set(LAST_NORMS))


def _channels_out(tensors: Tensors, units: UnitNames, sizes: Sequence[int]) -> int:
    """Channels of the last unit's output."""
    last = len(sizes) - 1, sizes[-1] - 1
    names = (f"{units.layer(*last, units.conv, j)}.weight" for j in itertools.count())
    *_, name = itertools.takewhile(tensors.__contains__, names)
    return tensors[name].shape[0]


def _count(tensors: Tensors, units: UnitNames, stage: int) -> int:
    """Units of a stage."""
    return next(i for i in itertools.count() if f"{units.layer(stage, i, units.conv)}.weight" not in tensors)


def _rank(tensors: Tensors, name: str) -> int:
    """Dimensions of the weights of layer ``name``; 0 if there are none."""
    return tensors[f"{name}.weight"].ndim if f"{name}.weight" in tensors else 0


def _first(names: Iterable[str]) -> str:
    return next(iter(names), "")
