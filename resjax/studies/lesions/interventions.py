"""Interventions on one unit at a time: what is it that the network needs of a unit?

*Question.* Deletion (``resjax.studies.lesions.lesion``) takes all of f away from z = s + f(x). These take
less, or something else:

========  ======================================  ====================================================
scale     z = s + α·f(x)                          how much of the branch? α = 0 deletes it, 1 changes nothing
freeze    z = s + mean of f over a reference set  must the unit *look* at its input, or is it a constant?
reset     the unit as it was at step 0            did training have to change it?
redraw    the unit of a fresh initialization      does any random unit do, or was step 0 special?
parallel  z = x + Σ_i f_i(x), for a whole stack   must units see one another's work?
========  ======================================  ====================================================

(s the shortcut, x the input, f the branch.) Zhang, Bengio & Singer (2022) call a layer *robust* if the
network survives its reset, else *critical*; these two need no shortcut, so on a plain network they tell "this
layer does not matter" from "the shortcut lets me delete it". A network is more sensitive to a fresh draw than
to a reset if the weights that it learned stayed near their start. The parallel form is what a stack would be
if its units were independent voters on one input, the literal reading of "ensemble" (Sun et al. 2025 run
Transformer layers so, averaging where the sum stands here).

*Decisions.* Reset and redrawn units get parameters alone, BatchNorm's scale and bias among them, and keep
the trained running statistics: those of step 0 (mean 0, variance 1) describe no data, and training never
normalized with them. ``reset_statistics=True`` takes them too. The mean of a frozen branch is taken over
examples alone, so it is an image [H, W, C]. A plain unit is scaled by α·f(x) + (1 − α)·x, where shapes agree.
In parallel, every unit adds s_i(x) − x + f_i(x) to x, which is f_i(x) with an identity shortcut; what follows
the sum is the last unit's; units that change the shape stay where they are. Nothing is trained again, and
BatchNorm elsewhere keeps its running statistics.

*Reading it.* A unit that may be frozen but not deleted carries an offset, not information. A reset that
hurts more than a deletion shows noise being added, not a function being missed. α > 1 also pushes the later
layers off their statistics. Harmless is not useless: see the KL divergence, and units two at a time.

*Cost.* One forward pass for each unit and intervention, four compilations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.network.losses import Loss, cross_entropy
from resjax.studies import style
from resjax.studies.batches import Progress, check_images, count_classes, part
from resjax.studies.intervals import bootstrap
from resjax.studies.lesions.forwards import (
    can_run_in_parallel,
    in_parallel,
    mean_branches,
    with_means,
    with_variables,
)
from resjax.studies.result import Classified
from resjax.studies.variants import Forward, measure, with_gates

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MEASURES = ("error", "loss", "kl", "agreement")
# What became of one unit; a result has one row for each α, and one for each draw.
KINDS = ("scale", "freeze", "reset", "redraw")
# The mean branches of 'freeze' are told as this part of the work.
MEANS = 20


@dataclasses.dataclass(frozen=True)
class Interventions(Classified):
    """Test performance after each intervention on each unit; NaN where it is impossible.

    Attributes:
      unit: names of all units in order.
      residual: bool [unit], whether the unit has a shortcut in the intact network.
      intervention: names, like 'scale 0.5', 'freeze', 'reset', 'redraw 1'; the first word is one of KINDS.
      alpha: [alpha], of the rows 'scale', which come first.
      error, loss, kl, agreement: [intervention, unit], as in ``DeleteEach``.
      stack: names of the stacks whose units ran in parallel.
      first, size: int [stack], their first unit (from 0) and how many there are.
      parallel_error, parallel_loss, parallel_kl, parallel_agreement: [stack], one stack in parallel.
      left_out: unit name → why it can't be scaled.
      intact_error, intact_loss: of the whole network.
      num_examples, num_classes: of the data and the network.
      choices: what the papers leave open.
    """

    AXES: ClassVar = {
        "residual": ("unit",),
        "alpha": ("alpha",),
        **dict.fromkeys(MEASURES, ("intervention", "unit")),
        **dict.fromkeys(("first", "size"), ("stack",)),
        **{f"parallel_{measure}": ("stack",) for measure in MEASURES},
    }

    unit: tuple[str, ...]
    residual: np.ndarray
    intervention: tuple[str, ...]
    alpha: np.ndarray
    error: np.ndarray
    loss: np.ndarray
    kl: np.ndarray
    agreement: np.ndarray
    stack: tuple[str, ...]
    first: np.ndarray
    size: np.ndarray
    parallel_error: np.ndarray
    parallel_loss: np.ndarray
    parallel_kl: np.ndarray
    parallel_agreement: np.ndarray
    left_out: dict[str, str]
    intact_error: float
    intact_loss: float
    num_examples: int
    num_classes: int
    choices: dict[str, Any]

    def of(self, kind: str, measure: str = "error") -> np.ndarray:
        """[rows of that kind, unit] of one measure; no row where it was not asked for.

        Raises:
          ValueError: an unknown kind.
        """
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r}; allowed: {', '.join(KINDS)}")
        rows = [i for i, name in enumerate(self.intervention) if name.split()[0] == kind]
        values: np.ndarray = getattr(self, measure)[rows]
        return values

    @property
    def deleted(self) -> np.ndarray | None:
        """[unit], the error at α = 0, or None where that was not asked for."""
        rows = self.of("scale")[self.alpha == 0]
        return rows[0] if len(rows) else None

    def lines(self) -> Iterator[tuple[str, np.ndarray, tuple[np.ndarray, np.ndarray] | None]]:
        """What happened to the unit, its error [unit], and the ends of an interval if there is one."""
        if self.deleted is not None:
            yield "deleted", self.deleted, None
        for kind, name in (("freeze", "frozen to the mean"), ("reset", "reset to step 0")):
            if len(self.of(kind)):
                yield name, self.of(kind)[0], None
        if len(self.of("redraw")):
            mean, low, high = self.redrawn()
            yield "drawn afresh", mean, (low, high)

    def redrawn(self, measure: str = "error") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean over the draws and the ends of its 95 % interval, each [unit]."""
        draws = self.of("redraw", measure).T
        return draws.mean(-1), *bootstrap(draws)


def intervene_each(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    initial: Variables | None = None,
    reference: ArrayLike | None = None,
    alphas: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.25, 1.5, 2.0),
    draws: int = 5,
    reset_statistics: bool = False,
    loss: Loss = cross_entropy,
    batch_size: int = 128,
    seed: int = 0,
    progress: Progress | None = None,
) -> Interventions:
    """Scales, freezes, resets and redraws each unit, one at a time, and runs each stack in parallel.

    Args:
      network: any; what a unit does not allow is left out and named.
      variables: of the network, as ``Network.init`` returns them.
      images: float [N, H, W, C], standardized as in training; any N ≥ 1, each counted once.
      labels: int [N].
      initial: variables at step 0, for 'reset'; None leaves it out.
      reference: float [M, H, W, C], training images that the mean of 'freeze' is taken over; None leaves
        it out.
      alphas: factors on the branch, for 'scale'; () leaves it out.
      draws: fresh initializations, for 'redraw', 2 or more; 0 leaves it out.
      reset_statistics: reset and redrawn units get BatchNorm's running statistics of step 0, too.
      loss: (logits [B, classes], labels [B]) → [B].
      batch_size: most examples at a time; memory grows with it, the result does not depend on it.
      seed: of the fresh initializations.
      progress: called as ``progress(work done, work in all)``.

    Raises:
      ValueError: no example, images or labels of a wrong form, initial variables of another network, one
        draw, or nothing to do.
    """
    images = np.asarray(images)
    check_images(images)
    shape, n = images.shape[1:], network.num_units
    if draws < 0 or draws == 1:
        raise ValueError(f"draws={draws}; allowed: 0 for none, or 2 or more, to have an interval")
    if initial is not None:
        _check_alike(initial, variables)
    can_go = network.deletable(variables, shape)
    means = None
    if reference is not None:
        means = mean_branches(
            network,
            variables,
            reference,
            batch_size=batch_size,
            progress=part(progress, 0, MEANS),
        )
    others = {} if initial is None else {"reset": initial}
    for draw in range(draws):
        # Folded apart from the split keys of training: the same seed must not draw step 0 again.
        key = jax.random.fold_in(jax.random.key(seed), 2**31 - 1 - draw)
        others[f"redraw {draw + 1}"] = _fresh(network, shape, key)
    if not reset_statistics:
        others = {name: {"params": other["params"]} for name, other in others.items()}
    jobs, together = _jobs(network, can_go, alphas, means, others), _together(network)
    if not jobs and not together.variants.any():
        raise ValueError(
            "nothing to do: give initial variables, reference images, alphas or draws, and a network with "
            "a unit or stack that allows them"
        )

    every = [*jobs, together] if together.variants.any() else jobs
    total, scores = sum(len(job.variants) for job in every), {}
    intact: Any = None
    for i, job in enumerate(every):
        done = sum(len(before.variants) for before in every[:i])

        def tell(passes: int, of: int, done: int = done, share: int = len(job.variants)) -> None:
            if progress:
                rest = done + passes * share // of
                progress(total + (MEANS - 1) * rest, MEANS * total)

        scores[job.name], intact = measure(
            network,
            variables,
            images,
            labels,
            job.forward,
            job.variants,
            extra=job.extra,
            loss=loss,
            batch_size=batch_size,
            progress=tell,
        )

    def row(job: _Job, m: str) -> np.ndarray:
        values = np.full(len(job.which), np.nan)
        values[job.which] = getattr(scores[job.name], m)
        return values

    found = [place for place in network.places(variables) if can_run_in_parallel(place.stack)]
    return Interventions(
        unit=tuple(unit.name for unit in network.units),
        residual=np.array([unit.stack.unit.residual for unit in network.units]),
        intervention=tuple(job.name for job in jobs),
        alpha=np.array(alphas if can_go.any() else (), float),
        **{m: np.array([row(job, m) for job in jobs]).reshape(-1, n) for m in MEASURES},
        stack=tuple(place.stack.name for place in found),
        first=np.array([place.units.start for place in found], int),
        size=np.array([place.stack.n for place in found], int),
        **{
            f"parallel_{m}": row(together, m)[together.which] if found else np.zeros(0)
            for m in MEASURES
        },
        left_out={
            unit.name: "no shortcut, and its input and output differ in shape"
            for unit, can in zip(network.units, can_go, strict=True)
            if not can
        },
        intact_error=float(intact.error[0]),
        intact_loss=float(intact.loss[0]),
        num_examples=len(images),
        num_classes=count_classes(network, variables, shape),
        choices={
            "reset and redrawn units": "parameters and BatchNorm's running statistics of step 0"
            if reset_statistics
            else "parameters alone; BatchNorm keeps its trained running statistics",
            "fresh draws": f"{draws}, seed {seed}",
            "frozen units": "mean of the branch over examples, one for each position and channel"
            + ("" if reference is None else f"; {len(np.asarray(reference)):,} reference images"),
            "in parallel": "x + Σ f_i(x) over a stack's units, then what follows the last one's sum",
            "BatchNorm elsewhere": "running statistics of training, not re-estimated",
        },
    )


class _Job(NamedTuple):
    """One intervention on each unit (or stack) in ``which``, with one variant for each."""

    name: str
    which: np.ndarray
    forward: Forward
    variants: np.ndarray
    extra: Any = None


def _jobs(
    network: Network,
    can_go: np.ndarray,
    alphas: Sequence[float],
    means: Any,
    others: Mapping[str, Variables],
) -> list[_Job]:
    one, every = np.eye(network.num_units, dtype=bool), np.ones(network.num_units, bool)
    jobs = []
    for alpha in alphas if can_go.any() else ():
        gates = np.where(one, np.float32(alpha), np.float32(1))
        jobs.append(_Job(f"scale {alpha:g}", can_go, with_gates, gates[can_go]))
    if means is not None:
        jobs.append(_Job("freeze", every, with_means, one, means))
    return jobs + [_Job(name, every, with_variables, one, other) for name, other in others.items()]


def _together(network: Network) -> _Job:
    which = np.array([can_run_in_parallel(stack) for stack in network.stacks])
    return _Job("parallel", which, in_parallel, np.eye(len(which), dtype=bool)[which])


def _check_alike(other: Variables, variables: Variables) -> None:
    shapes = [jax.tree.map(jnp.shape, dict(tree)) for tree in (other, variables)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "the initial variables have other names or shapes than those of the network; take them from "
            "Network.init for the same network (of a run: run.initial.variables)"
        )


@partial(jax.jit, static_argnums=(0, 1), compiler_options={"xla_backend_optimization_level": 0})
def _fresh(network: Network, shape: tuple[int, ...], key: jax.Array) -> Variables:
    return network.init(key, shape)


def plot(results: Interventions | Mapping[str, Interventions]) -> Figure:
    """For each network, the error after each intervention by unit, and as a function of α.

    Left, the band around fresh draws is their interval, thick lines are stacks in parallel. Right, the line
    is the median over units, the bands hold half and all of them.
    """
    named = {"": results} if isinstance(results, Interventions) else dict(results)
    narrow = style.is_narrow()
    scaled = any(len(r.alpha) for r in named.values())
    columns = 2 if scaled and not narrow else 1
    rows = len(named) * (2 if scaled and narrow else 1)
    fig, grid = style.axes_grid(rows, columns, **({} if narrow else _WIDTHS[columns]))
    fig.set_figheight((0.62 if narrow else 0.78) * fig.get_figheight() * max(rows, 1) + 0.5)
    cells = [ax for row in grid for ax in row]
    for i, (label, result) in enumerate(named.items()):
        own = cells[i * (2 if scaled else 1) :]
        _by_unit(own[0], result, label)
        if scaled:
            _by_alpha(own[1], result, label if narrow else "")
    style.legend_above(fig, cells[0], 3)
    return fig


_WIDTHS: dict[int, dict[str, Any]] = {1: {}, 2: {"width_ratios": (2.2, 1)}}


def _by_unit(ax: Axes, result: Interventions, label: str) -> None:
    number = 1 + np.arange(len(result.unit))
    for i, (name, error, interval) in enumerate(result.lines()):
        look: dict[str, Any] = {"color": style.color(i)}
        ax.plot(number, 100 * error, style.marker(i) + "-", lw=1, label=name, **look)
        if interval is not None:
            low, high = interval
            ax.fill_between(number, 100 * low, 100 * high, alpha=0.2, lw=0, **look)
    ends = zip(result.first, result.size, result.parallel_error, strict=True)
    for j, (first, size, error) in enumerate(ends):
        span = (first + 0.7, first + size + 0.3)
        name = "a stack's units in parallel" if j == 0 else "_"
        ax.plot(
            span, [100 * error] * 2, color=style.ink(), lw=4, alpha=0.45, label=name, zorder=1.5
        )
    ax.axhline(100 * result.chance_error, lw=1, ls=":", color=style.ink(), label="chance")
    ax.set(xlabel="changed unit", ylabel="error (%)", ylim=(-3, 104), title=label)
    ax.set_xlim(0.2, len(result.unit) + 0.8)
    style.integer_ticks(ax)


def _by_alpha(ax: Axes, result: Interventions, label: str) -> None:
    order = np.argsort([*result.alpha, 1.0])
    alpha = np.array([*result.alpha, 1.0])[order]
    scaled = result.of("scale")[:, [unit not in result.left_out for unit in result.unit]]
    error = 100 * np.vstack([scaled, np.full((1, scaled.shape[1]), result.intact_error)])[order]
    color = style.color(4)
    for low, high in ((0, 100), (25, 75)):
        ends = np.percentile(error, (low, high), axis=1)
        ax.fill_between(alpha, *ends, color=color, alpha=0.2, lw=0)
    ax.plot(alpha, np.median(error, axis=1), "o-", color=color)
    ax.axhline(100 * result.chance_error, lw=1, ls=":", color=style.ink())
    ax.set(xlabel="one branch times α", ylabel="error (%)", ylim=(-3, 104), title=label)
