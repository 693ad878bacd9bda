"""Translation equivariance: do features move along when the image moves?

*Question.* Because all positions share their weights, a convolution commutes with a shift T of its input,
f(Tx) = T f(x): a feature that is found in one place is found in every place (Goodfellow et al. 2016, §9.2).
Three things break this in a real network: borders, where padding replaces what lies beyond; strides, because
behind a total stride s only shifts by multiples of s shift the features, by 1/s as many positions (Azulay &
Weiss 2019; Zhang 2019); and layers that are not convolutions. A classifier should be *in*variant: its
prediction should not change.

*Method.* The image is shifted by s pixels down, up, right and left, where s is the total stride at that place
of the network, so features should move by one position. At each place (the stem and every unit),

    whole     ‖f(Tx) − T f(x)‖ / ‖T f(x)‖   over positions that are in the map before and after,
    interior  the same                      over those that no border of image or shifted copy reaches,
    in place  ‖f(Tx) − f(x)‖ / ‖f(x)‖       over those of "whole", as if features stayed where they were.

All are roots of (sum of squares over examples, directions, positions and channels) ÷ (the same). Features
that move along have "whole" near 0; features that ignore the shift have "in place" near 0; √2 is the distance
of unrelated features of equal size. For the predictions, the image is shifted by 0, 1, 2, … pixels: error,
agreement with the unshifted image, and the relative change of the logits.

*Protocol.* Pixels that enter at the border repeat the outermost ones (networks see the edge of the picture
continued, not a bar of another color). Which positions the border reaches is measured: those whose features
change (by more than 1e-5 of the largest) when a frame as wide as the shift is replaced by noise in some
images. That frame is wider by the shift than strictly needed on one side, so the interior is a little smaller
than it could be.

*Reading it.* "interior" is 0 up to rounding in every convolutional network: that is arithmetic. "whole" says
how far borders reach into the maps; in a deep network on small images they reach every position, and
"interior" is empty. A low error on shifted images may be learned (augmentation) and does not need
equivariance. On small images a shift also pushes a part of the object out of the picture.

The study shows the same network at initialization: how far borders and strides reach does not depend on
training, so only the difference does.

*Cost.* Five forward passes for each number of pixels, one compilation. The study does it twice.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from resjax.cpu import shared_batches as on_cores
from resjax.network import Network, Variables
from resjax.studies import pointing, style
from resjax.studies.batches import BATCH_SIZE, Progress, padded_batches, reported, sharing, total
from resjax.studies.convolution import moves
from resjax.studies.costs import Cost, evaluated
from resjax.studies.examples import checked_examples, only_images, only_modules
from resjax.studies.initial import drawn
from resjax.studies.options import Options
from resjax.studies.result import Classified
from resjax.studies.study import Bench, Columns, Study
from resjax.studies.subject import Subject
from resjax.studies.words import factor, join, number, numbers, percent, percents

_PROBES = 8  # images with which the border's reach is measured


@dataclasses.dataclass(frozen=True)
class Equivariance(Classified):
    """How features and predictions change when the image is shifted."""

    place: tuple[str, ...]  # 'stem' and the names of the units
    stride: Annotated[np.ndarray, "place"]  # int, total stride there: pixels of the shift
    whole: Annotated[np.ndarray, "place"]  # relative error; NaN where nothing can be compared
    interior: Annotated[np.ndarray, "place"]  # the same over positions that no border reaches
    in_place: Annotated[np.ndarray, "place"]  # the same as if features stayed where they were
    interior_share: Annotated[np.ndarray, "place"]  # share of positions that no border reaches
    left_out: dict[str, str]  # {place: why nothing was compared}
    shift: Annotated[np.ndarray, "shift"]  # int, pixels: 0, 1, 2, …
    direction: tuple[str, ...]  # names
    error: Annotated[np.ndarray, "shift", "direction"]  # share of wrong predictions, 0 … 1
    agreement: Annotated[np.ndarray, "shift", "direction"]  # with the unshifted image, 0 … 1
    logits: Annotated[np.ndarray, "shift"]  # ‖logits(Tx) − logits(x)‖ / ‖logits(x)‖
    num_examples: int


def equivariance(
    network: Network,
    variables: Variables,
    images: Any,
    labels: ArrayLike,
    *,
    most: int = 4,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> Equivariance:
    """Shifts images and compares features and predictions before and after the shift.

    Places whose features are not maps are left out and named.

    Args: those of every analysis (``Inference``; each example runs with four shifted copies), and
      most: predictions are compared for shifts of 0 … ``most`` pixels, less than the side of the image.
      seed: of the noise that finds the border's reach.
    """
    images, labels, num_classes = checked_examples(network, variables, images, labels)
    only_images(images, "shifts", labels)
    only_modules(network, "shifts of features")
    side = min(images.shape[1:3])
    if not 1 <= most < side:
        raise ValueError(f"most={most}; allowed: 1 … {side - 1} pixels on these images")
    steps = moves.total_strides(network, images.shape[1:])
    # Both axes are shifted by the same number of pixels, so by a multiple of both strides.
    stride = np.array([math.lcm(*s) for s in steps])
    own = sorted({int(s) for s in stride if s < side})
    copies = 1 + len(moves.DIRECTIONS)  # of each example, which run together
    together = batch_size // copies or min(1, batch_size)
    sums: dict[int, moves.Sums] = {}
    multiple = on_cores.shared_cores().count
    run = sharing(lambda cores, *given: moves.moved_batch(cores, network, steps, *given), variables)
    for pixels in reported(sorted({*range(most + 1), *own}), progress):
        sums[pixels] = total(
            run(batch, pixels) for batch in padded_batches(images, labels, together, multiple=multiple)
        )
    probes = images[:_PROBES]
    noise = np.random.default_rng(seed).normal(0, 2, probes.shape).astype(probes.dtype)
    touched = {s: jax.device_get(moves.reached(network, variables, probes, noise, s)) for s in own}
    places = ("stem", *(unit.name for unit in network.units))
    values, left_out = np.full((len(places), 4), np.nan), {}
    for i, (name, s) in enumerate(zip(places, stride.tolist(), strict=True)):
        if reason := _why_not(sums[0].maps[i], s, side, steps[i]):
            left_out[name] = reason
        else:
            values[i] = _compare(sums[s].maps[i], ~touched[s][i])
    whole, interior, in_place, share = values.T
    shift, count = np.arange(most + 1), len(images)
    shifted = [sums[s] for s in shift.tolist()]
    return Equivariance(
        place=places,
        stride=stride,
        whole=whole,
        interior=interior,
        in_place=in_place,
        interior_share=share,
        left_out=left_out,
        shift=shift,
        direction=tuple(moves.DIRECTIONS),
        error=np.array([s.wrong / count for s in shifted]),
        agreement=np.array([s.agree / count for s in shifted]),
        logits=np.array([_ratio(s.change, s.size) for s in shifted]),
        num_examples=count,
        num_classes=num_classes,
        choices={
            "shift of the features": "one position, the image by the total stride there",
            "directions": "down, up, right, left; one after the other",
            "border of the moved image": "its outermost pixels, repeated",
            "BatchNorm": "running statistics",
        },
    )


def _why_not(sums: moves.Map, stride: int, side: int, step: moves.Steps) -> str | None:
    if not sums.off.size:
        return "its features are not a map"
    if stride >= side:
        return f"its total stride of {stride} pixels is as large as the image"
    if any(n <= stride // s for n, s in zip(sums.off.shape, step, strict=True)):
        return "its map has one position"
    return None


def _compare(sums: moves.Map, interior: np.ndarray) -> tuple[float, float, float, float]:
    """(whole, interior, in place, share of the interior)."""
    inner = _ratio(sums.off[interior].sum(), sums.size[interior].sum())
    in_place = _ratio(sums.off_in_place.sum(), sums.size_in_place.sum())
    return _ratio(sums.off.sum(), sums.size.sum()), inner, in_place, float(interior.mean())


def _ratio(off: float, size: float) -> float:
    return math.sqrt(off / size) if size > 0 else math.nan


# --- what the report shows ---


def plot(results: Mapping[str, Equivariance]) -> style.Figure:
    """Left: relative error of the features at each place; right: error of shifted images.

    Filled markers: whole maps; rings: the interior, where there is one; faint lines: features left in place.
    The shade on the right spans the four directions. Pale: whole maps at initialization.
    """
    fig, (left, right) = style.panels(2)
    for i, (label, result) in enumerate(results.items()):
        look: dict[str, Any] = {"color": style.color(i)}
        x = np.arange(len(result.place))
        name = f"{label}: " if label else ""
        left.plot(x, result.whole, f"{style.marker(i)}-", label=f"{name}moved along", **look)
        left.plot(x, result.in_place, ":", label=f"{name}left in place", lw=1.2, **look)
        if np.isfinite(result.interior).any():
            ring: dict[str, Any] = {"mfc": "none", "ms": 8, "mew": 1.6, **look}
            left.plot(x, result.interior, style.marker(i), label=f"{name}interior alone", **ring)
        shown = ("shift (pixels)", "relative error", "interior alone", "left in place")
        pointing.along(left, label, result.place, x, columns=shown)
        error = 100 * result.error
        right.plot(result.shift, error.mean(1), f"{style.marker(i)}-", **look)
        right.fill_between(result.shift, error.min(1), error.max(1), alpha=0.2, lw=0, **look)
    for i, label, result, look in drawn(results):
        if "alpha" in look:  # at initialization
            look |= {"color": style.color(i), "label": label}
            left.plot(np.arange(len(result.place)), result.whole, f"{style.marker(i)}-", **look)
    longest = max(results.values(), key=lambda result: len(result.place))
    for pixels in np.unique(longest.stride):  # the shift of the image above the places that share it
        first, last = np.flatnonzero(longest.stride == pixels)[[0, -1]]
        style.label_above(left, (first + last) / 2, f"{pixels} px")
        if first:
            left.axvline(first - 0.5, lw=0.8, color=style.ink(), alpha=0.35)
    left.set(xlabel="unit (0 is the stem)", ylabel="relative error of features")
    # Explicit, because points that are all NaN set no limits.
    left.set(xlim=(-0.3, len(longest.place) - 0.7), ylim=(-0.04, None))
    for chance in sorted({result.chance_error for result in results.values()}):
        style.draw_chance(right, chance)
    right.set(xlabel="shift of the image (pixels)", ylabel="error (%)", ylim=(-3, 104))
    for ax in (left, right):
        style.integer_ticks(ax)
    style.legend_above(fig, left, columns=len(results) + 1)
    return fig


# A rise of the error up to NO_RISE counts as none, a relative error up to ROUNDING as rounding.
NO_RISE, ROUNDING = 0.01, 1e-3


def verdict(r: Equivariance) -> str:
    """Whether a shift by one pixel raises the error."""
    unmoved, moved = r.error[:2].mean(1)
    return "safe" if moved - unmoved <= NO_RISE else "hurt"


def _rises(label: str, r: Equivariance) -> str:
    unmoved, moved = percents(r.error[:2].mean(1))
    return f"a shift by one pixel raises the error of {label} from {unmoved} to {moved}"


def _off(r: Equivariance, i: int) -> str:
    """'0.37', or '0.37 (at initialization 0.4)'."""
    there = "" if r.initial is None else f" (at initialization {number(r.initial.whole[i])})"
    return number(r.whole[i]) + there


def _along(r: Equivariance) -> int:
    """At how many places features are nearer to where they should have moved than to where they were."""
    known = np.isfinite(r.whole)
    return int(np.sum(r.whole[known] < r.in_place[known]))


def points(label: str, r: Equivariance) -> list[str]:
    known = np.flatnonzero(np.isfinite(r.whole))
    if not len(known):
        return [f"{label}: no features are maps that could move."]
    first, last = known[0], known[-1]
    there = "" if r.initial is None else f" (at initialization at {_along(r.initial)})"
    said = [
        f"{label}: features are off by {_off(r, first)} of their size at {r.place[first]} and by "
        f"{_off(r, last)} at {r.place[last]} when the image is shifted by the total stride there; they are "
        f"nearer to where they should have moved than to where they were at {_along(r)} of {len(known)} "
        f"places{there}."
    ]
    inner = r.interior[np.isfinite(r.interior)]
    if not len(inner):
        said.append(f"{label}: borders reach every position of every map.")
    elif inner.max() <= ROUNDING:
        said.append(
            f"{label}: where no border reaches (at {len(inner)} of {len(known)} places), features move "
            f"along, off by {factor(float(inner.max()))} of their size at most."
        )
    else:
        worst = r.place[int(np.nanargmax(r.interior))]
        said.append(
            f"{label}: even where no border reaches, features are off by {number(inner.max())} ({worst}): "
            "some layer there is not a convolution, or has a stride that resjax.describe does not see."
        )
    if r.left_out:
        said.append(f"{label}, left out: {join([f'{k} ({v})' for k, v in r.left_out.items()])}.")
    return said


def table(r: Equivariance) -> Columns:
    """One row for each place, then one for each shift."""
    places, shifts = [""] * len(r.place), [""] * len(r.shift)
    return {
        "place": [*r.place, *["answers"] * len(shifts)],
        "shift (pixels)": map(str, [*r.stride, *r.shift]),
        "relative error": numbers([*r.whole, *r.logits]),
        "interior alone": numbers(r.interior) + shifts,
        "share of the interior": percents(r.interior_share) + shifts,
        "left in place": numbers(r.in_place) + shifts,
        "error": places + percents(r.error.mean(1)),
        "agreement": places + percents(r.agreement.mean(1)),
    }


def summary(r: Equivariance) -> dict[str, str]:
    return {"error, moved by one pixel": percent(float(r.error[1].mean()))}


def unsuited(run: Subject) -> str | None:
    only_images(run.example, "shifts")
    return None if min(run.example.shape[1:3]) > 1 else "its images can't be shifted"


EXAMPLES = 256  # of the study: each runs with four copies, for every number of pixels


def _most(run: Subject) -> int:
    """The largest shift, in pixels."""
    return min(4, min(run.example.shape[1:3]) - 1)


def measure(bench: Bench) -> Equivariance:
    return equivariance(
        *bench.evaluation(EXAMPLES),
        most=_most(bench.run),
        seed=bench.options.seed,
        batch_size=bench.options.batch_size,
        progress=bench.progress,
    )


def cost(run: Subject, options: Options) -> Cost:
    only_modules(run.network, "shifts of features")
    count, shifts = evaluated(run, options, EXAMPLES), 1 + _most(run)
    # Few programs, which took as long to compile as so many passes of ResNet-56.
    return Cost(forward=5 * count * shifts, compilations=20, evaluated=count)


STUDY = Study(
    name="equivariance",
    title="Moving the image",
    question=(
        "If the image is shifted, do the features move along, and does the prediction stay? A convolution "
        "treats all positions alike; borders, strides and other layers do not."
    ),
    code="resjax.analysis.equivariance(*run.evaluation(256))",
    result=Equivariance,
    control=True,
    unsuited=unsuited,
    measure=measure,
    cost=cost,
    plot=plot,
    verdict=verdict,
    says={"hurt": _rises, "safe": "a shift by one pixel hardly raises the error of {}"},
    points=points,
    table=table,
    summary=summary,
)
