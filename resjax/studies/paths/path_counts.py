"""How many paths there are, and how long: the closed forms.

*Question.* A residual unit y = x + f(x) offers two ways from its output back to its input, past its branch or
through it. Veit, Wilber & Belongie (2016, §3) unravel a network of n such units into 2ⁿ paths. How long are
they, which of them survive when units are deleted, and which could carry a gradient?

*Method.* The *length* of a path is the number of branches that it crosses. A plain unit has no way past its
branch, so every path crosses it: of p plain and r residual units,

    paths of length k:                  C(r, k − p), so lengths are p + Binomial(r, ½)
    share left after d deletions:       C(r − d, k − p) / C(r, k − p)           (ibid., §6, Fig. 7)
    total gradient of length k, if each branch multiplies a path's gradient by g
    and no two paths cancel:            ∝ C(r, k − p) gᵏ, so p + Binomial(r, g/(1 + g))

The last line turns one number, the attenuation g, into a range of *effective* lengths: of 54 units, g = ¼
gives the paper's 5 to 17.

*Protocol.* Units that change the shape count as any other, because a shortcut leads past them as well. The
*effective range* is the central 95 %: it leaves out 2.5 % at the short end and 2.5 % at the long one, rounded
towards more. The paper does not say where "almost all" ends.

*Reading it.* Counting says nothing about a network that was trained; ``path_gradients`` measures. Nor are
2ⁿ paths 2ⁿ networks: only the gradient is a sum over paths, the output is not a sum of models.

*Cost.* None: exact integers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from resjax.network import Network
from resjax.studies import style
from resjax.studies.paths.path_lengths import (
    attenuated_shares,
    central_range,
    count_units,
    path_lengths,
    path_shares,
    surviving_share,
)
from resjax.studies.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What Veit et al. 2016 delete in their Fig. 7 and speak of in §6, as shares of their 54 units.
_DELETED = (1 / 54, 10 / 54, 20 / 54)
_ATTENUATIONS = (0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0)


@dataclasses.dataclass(frozen=True)
class PathCounts(Result):
    """The paths of one network.

    Attributes:
      length: int [length], branches crossed.
      share: [length], of all paths.
      deleted: int [deletion], how many residual units are deleted.
      surviving: [deletion, length], share of the paths of each length that is left.
      attenuation: [g].
      effective: [g, end], first and last length of the central 95 % of the total gradient that g gives.
      num_residual, num_plain: units of the network.
      choices: what the paper leaves open.
    """

    AXES: ClassVar = {
        "length": ("length",),
        "share": ("length",),
        "deleted": ("deletion",),
        "surviving": ("deletion", "length"),
        "attenuation": ("g",),
        "effective": ("g", "end"),
    }

    length: np.ndarray
    share: np.ndarray
    deleted: np.ndarray
    surviving: np.ndarray
    attenuation: np.ndarray
    effective: np.ndarray
    num_residual: int
    num_plain: int
    choices: dict[str, Any]

    @property
    def central(self) -> tuple[float, float]:
        """First and last length of the central 95 % of all paths."""
        return central_range(self.length, self.share)


def count_paths(
    network: Network,
    *,
    deleted: Sequence[int] | None = None,
    attenuations: Sequence[float] = _ATTENUATIONS,
) -> PathCounts:
    """Counts the paths of a network, without running it; Veit et al. 2016, Fig. 6a and 7.

    Args:
      network: any; a plain network has one path.
      deleted: numbers of residual units to delete; None for the paper's 1, 10 and 20 of 54, in proportion.
      attenuations: values of g for which the effective range is told.

    Raises:
      ValueError: more deletions than residual units, or a negative attenuation.
    """
    residual, plain = count_units(network)
    if deleted is None:
        deleted = sorted({min(max(1, round(share * residual)), residual) for share in _DELETED})
    length = path_lengths(residual, plain)
    ranges = [central_range(length, attenuated_shares(residual, g, plain)) for g in attenuations]
    return PathCounts(
        length=length,
        share=path_shares(residual, plain),
        deleted=np.array(deleted, int),
        surviving=np.array([surviving_share(residual, d, plain) for d in deleted]),
        attenuation=np.array(attenuations, float),
        effective=np.array(ranges),
        num_residual=residual,
        num_plain=plain,
        choices={
            "length of a path": "branches crossed; units that change the shape count as any other",
            "range": "central 95 %",
        },
    )


def plot(results: PathCounts | Mapping[str, PathCounts]) -> Figure:
    """Left: how long paths are. Right: how many of each length are left after deletions.

    The shaded band is the central 95 % of all paths. Networks with the same paths share a line.
    """
    named = {"": results} if isinstance(results, PathCounts) else dict(results)
    narrow = style.is_narrow()
    fig, grid = style.axes_grid(*((2, 1) if narrow else (1, 2)))
    left, right = (ax for row in grid for ax in row)
    if narrow:
        fig.set_size_inches(style.NARROW[0], 1.8 * style.NARROW[1])
    alike: dict[tuple[int, int], list[str]] = {}
    for label, result in named.items():
        alike.setdefault((result.num_residual, result.num_plain), []).append(label)
    for i, labels in enumerate(alike.values()):
        label, result = ", ".join(labels), named[labels[0]]
        units = f"{result.num_residual + result.num_plain} units"
        look: dict[str, Any] = {"color": style.color(i)}
        name = f"{label}, {units}".strip(", ")
        left.plot(result.length, 100 * result.share, style.marker(i) + "-", label=name, **look)
        low, high = result.central
        left.axvspan(low - 0.5, high + 0.5, color=style.color(i), alpha=0.12, lw=0)
        for d, surviving in enumerate(result.surviving):
            line = style.LINES[d % len(style.LINES)]
            name = f"{result.deleted[d]} of {result.num_residual} deleted"
            right.plot(result.length, 100 * surviving, line, label=name, **look)
    left.set(xlabel="length (branches crossed)", ylabel="share of all paths (%)")
    right.set(xlabel="length (branches crossed)", ylabel="paths left (%)", ylim=(-3, 104))
    right.legend(fontsize=8, loc="upper right")
    for ax in (left, right):
        style.integer_ticks(ax)
    if "" not in named:
        style.legend_above(fig, left)
    return fig
