"""How near to the identity each unit is, and whether that predicts what its deletion costs.

*Question.* A unit that adds little to its input is dispensable, whether or not the network is an ensemble of
paths. Let z = s + F be the sum of shortcut and branch. For a plain unit that keeps the shape, F = f(x) − x,
so deleting it is again F → 0. Each unit gets four numbers:

    ratio       mean of ‖F(x)‖ / ‖x‖: how large (Jastrzębski et al. 2018)
    cosine      mean of cos(F(x), ∂L/∂x): negative if F steps downhill, as L(x + F) ≈ L(x) + F·∂L/∂x (ibid.)
    novelty     mean of 1 − cos²(F(x), s): how new, the share of ‖F‖² orthogonal to s
    estimation  std of a_i − a_last, ÷ rms of a_last: how far from the stage's final representation (Greff
                et al. 2017: its mean stays near 0, its deviation shrinks along a stage)

x is the unit's input, L an example's loss, ∂L/∂x its gradient through all that follows x, this unit included;
a_i is the output of unit i and a_last the output of its stage's last unit. Norms, cosines and the orthogonal
share are computed over one example's whole array, then averaged over examples. Novelty splits F into a part
along s, which only rescales the shortcut (the next normalization may undo that), and the rest: 0 is a pure
rescaling, 1 is orthogonal. It does not depend on the size of F.

With the result of ``lesion``, each number is ranked against the damage of deleting the unit: Spearman's ρ and
its bootstrap interval over units. Damage is the KL divergence to the intact network, because most units cost
no error, so errors would be tied.

*Reading it.* Near-identity units predict a small ratio and harmless deletions without any ensemble. A
correlation over twenty-odd units is coarse (see its interval) and shows no cause. Cosines in tens of
thousands of dimensions are small even where the step is systematic, so look at their sign; where the loss is
nearly 0, ∂L/∂x is tiny and its direction noisy. Units that change the shape have no cosine. With a ReLU
behind the sum, x ≥ 0, and F is what is added before the ReLU.

*Cost.* One forward and one backward pass, with every unit run once more; one compilation. Activations of one
batch at a time are kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.network.losses import Loss, cross_entropy
from resjax.studies import style
from resjax.studies.batches import BATCH_SIZE, Progress, checked_examples, part, per_example
from resjax.studies.initial import drawn
from resjax.studies.intervals import bootstrap
from resjax.studies.lesions.lesion import Lesion, lesion
from resjax.studies.ranks import spearman
from resjax.studies.result import Result
from resjax.studies.study import Bench, Columns, Study
from resjax.studies.units.additions import additions
from resjax.studies.verdicts import cannot_delete
from resjax.studies.words import factor, join, numbers

MEASURES = ("ratio", "cosine", "novelty", "estimation")
EXAMPLES = 256  # training examples of the study


@dataclasses.dataclass(frozen=True)
class Identity(Result):
    """Four measures of each unit, NaN where there is none, and their rank correlation with the damage."""

    unit: tuple[str, ...]  # names of all units in order
    stage: Annotated[np.ndarray, "unit"]  # int
    residual: Annotated[np.ndarray, "unit"]  # bool, whether the unit has a shortcut when intact
    ratio: Annotated[np.ndarray, "unit"]  # mean over examples, as the next two
    cosine: Annotated[np.ndarray, "unit"]
    novelty: Annotated[np.ndarray, "unit"]
    cosine_error: Annotated[np.ndarray, "unit"]  # standard error of the mean cosine
    estimation_mean: Annotated[np.ndarray, "unit"]  # mean of a_i − a_last over all entries
    estimation_std: Annotated[np.ndarray, "unit"]
    scale: Annotated[np.ndarray, "unit"]  # root mean square of a_last
    measure: tuple[str, ...]  # the names in MEASURES
    num_examples: int
    # With lesions; without, these four are None. ρ and its interval: NaN for fewer than four units.
    damage: Annotated[np.ndarray | None, "unit"] = None  # KL(p_intact ‖ p_without), nats
    correlation: Annotated[np.ndarray | None, "measure"] = None  # Spearman's ρ with the damage
    low: Annotated[np.ndarray | None, "measure"] = None  # ends of its 95 % interval
    high: Annotated[np.ndarray | None, "measure"] = None

    @property
    def estimation(self) -> np.ndarray:
        """[unit], the deviation of a_i from a_last in units of a_last."""
        return self.estimation_std / self.scale

    def measured(self, name: str) -> np.ndarray:
        """One of the measures, NaN where it is 0 by definition: the estimation of a stage's last unit."""
        values = getattr(self, name)
        is_last = np.append(np.diff(self.stage) != 0, True)
        return np.where(is_last, np.nan, values) if name == "estimation" else values


def identity(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    lesions: Lesion | None = None,
    seed: int = 0,
    loss: Loss = cross_entropy,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> Identity:
    """Size, direction and novelty of what each unit adds, and its distance from the stage's last output.

    A plain unit that changes the shape has no measure but the estimation error. Use training images, because
    the cosine is about a training step.

    Args: those of every analysis (``Inference``), and
      lesions: result of ``lesion`` for the same network, whose damage is correlated with the measures.
      seed: of the bootstrap.
    """
    images, labels, _ = checked_examples(network, variables, images, labels)
    names = tuple(unit.name for unit in network.units)
    if lesions is not None and lesions.unit != names:
        raise ValueError(
            f"the lesions are those of {len(lesions.unit)} units, {lesions.unit[0]} to {lesions.unit[-1]}; "
            f"this network has {len(names)}, {names[0]} to {names[-1]}: delete its own units"
        )
    run = partial(additions, network, loss, variables)
    of_each = per_example(run, images, labels, batch_size, progress)
    means = {name: _mean(values) for name, values in of_each.items()}
    deviation = of_each["cosine"] - means["cosine"][:, None]
    variance = means["square"] - means["estimation"] ** 2
    result = Identity(
        unit=names,
        stage=np.array([unit.stack.stage for unit in network.units]),
        residual=np.array([unit.stack.unit.residual for unit in network.units]),
        **{name: means[name] for name in ("ratio", "cosine", "novelty")},
        cosine_error=np.sqrt(_mean(deviation**2) / len(images)),
        estimation_mean=means["estimation"],
        estimation_std=np.sqrt(np.maximum(variance, 0)),
        scale=np.sqrt(means["last"]),
        measure=MEASURES,
        num_examples=len(images),
        choices={
            "F of a plain unit": "f(x) − x, where shapes agree",
            "∂L/∂x": "of each example's own loss, through all units behind x and the unit itself",
            "BatchNorm": "running statistics",
            "estimation error": "over examples, positions and channels of a stage's units of one shape",
            "damage": "KL(p_intact ‖ p_without the unit)",
        },
    )
    return result if lesions is None else _against(result, lesions.kl, seed)


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the examples that have a value, [unit, N] → [unit]; NaN where none has."""
    known = np.isfinite(values)
    total = np.sum(values, 1, dtype=np.float64, where=known)
    return total / np.where(known.any(1), known.sum(1), np.nan)


def _against(result: Identity, damage: np.ndarray, seed: int) -> Identity:
    found = np.full((3, len(result.measure)), np.nan)
    for i, name in enumerate(result.measure):
        pair = np.stack([result.measured(name), damage])
        pair = pair[:, np.isfinite(pair).all(0)]
        if pair.shape[1] >= 4:
            found[:, i] = _rho(pair), *bootstrap(pair, _rho, seed=seed)
    rho, low, high = found
    return dataclasses.replace(result, damage=damage, correlation=rho, low=low, high=high)


def _rho(pair: np.ndarray, axis: int = -1) -> np.ndarray:
    """Spearman's ρ of the rows of [2, n]; 0 if a row is constant, as in some resamples."""
    del axis
    return np.nan_to_num(spearman(*pair))


# --- what the report shows ---

NAMES = {
    "ratio": "size ‖F‖/‖x‖",
    "cosine": "cosine with ∂L/∂x",
    "novelty": "novelty",
    "estimation": "distance from the stage's last output",
}


def plot(results: Mapping[str, Identity]) -> style.Figure:
    """Each measure unit by unit, and its rank correlation with the damage, if lesions were given."""
    narrow = style.is_narrow()
    ranked = any(r.correlation is not None for r in results.values())
    cells = [*MEASURES, *["damage"] * ranked]
    rows = [[k] for k in cells] if narrow else [cells[:2], cells[2:4], *[cells[4:] * 2] * ranked]
    fig, axes = style.mosaic(rows)
    fig.set_figheight((0.5 if narrow else 0.62) * fig.get_figheight() * len(rows))
    on_axis = [NAMES[measure].replace("from the ", "from\n") for measure in MEASURES]
    for measure, label_of_axis in zip(MEASURES, on_axis, strict=True):
        ax = axes[measure]
        for i, label, r, look in drawn(results):
            look |= {"ms": 3.5, "color": style.color(i), "label": label}
            unit = 1 + np.arange(len(r.unit))
            ax.plot(unit, r.measured(measure), style.marker(i) + "-", **look)
        is_log = measure in ("ratio", "estimation")
        ax.set(xlabel="unit", ylabel=label_of_axis, yscale="log" if is_log else "linear")
        style.integer_ticks(ax)
    axes["cosine"].axhline(0, lw=1, color=style.ink())
    if ranked:
        ax, place = axes["damage"], np.arange(len(MEASURES))
        for i, r in enumerate(results.values()):
            if r.correlation is not None and r.low is not None and r.high is not None:
                # The bootstrap interval may exclude the estimate itself.
                sides = np.clip([r.correlation - r.low, r.high - r.correlation], 0, None)
                look = {"fmt": style.marker(i), "color": style.color(i), "lw": 1.4}
                y = place + 0.16 * (i - (len(results) - 1) / 2)
                ax.errorbar(r.correlation, y, xerr=sides, **look)
        ax.axvline(0, lw=1, color=style.ink())
        ax.set_yticks(place, on_axis)
        ax.set(xlim=(-1.03, 1.03), ylim=(len(place) - 0.5, -0.5))
        ax.set_xlabel("rank correlation with the damage (ρ)")
    style.legend_above(fig, axes["ratio"], 3)
    return fig


def downhill(r: Identity) -> tuple[int, int]:
    """Units whose mean cosine is negative beyond two standard errors, of those that have one."""
    known = np.isfinite(r.cosine)
    return int(np.sum(r.cosine[known] < -2 * r.cosine_error[known])), int(known.sum())


def _stages(r: Identity, values: np.ndarray, fits: Callable[[np.ndarray], Any]) -> tuple[int, int]:
    """Stages that ``fits`` holds for, of those with three units or more, all with a value."""
    found = [values[r.stage == stage] for stage in np.unique(r.stage)]
    found = [own for own in found if len(own) >= 3 and np.isfinite(own).all()]
    return sum(bool(fits(own)) for own in found), len(found)


def openings(r: Identity) -> tuple[int, int]:
    """Stages whose first unit is the largest of the stage, of those with three units or more."""
    return _stages(r, r.ratio, lambda own: own.argmax() == 0)


def refining(r: Identity) -> tuple[int, int]:
    """Stages along which the estimation error never grows, of those with three units or more."""
    return _stages(r, r.estimation, lambda own: np.all(np.diff(own) <= 0))


def _size(r: Identity) -> str:
    return factor(float(np.nanmedian(r.ratio)))


def points(label: str, r: Identity) -> list[str]:
    (down, known), (first, stages), (shrinking, of) = downhill(r), openings(r), refining(r)
    told = [
        f"{label}: {down} of {known} units step against the gradient (mean cosine below 0 by two "
        f"standard errors); novelty is {factor(float(np.nanmedian(r.novelty)))} in the median."
    ]
    if stages:
        told.append(f"The first unit adds most, relative to its input, in {first} of {stages} stages.")
    if of:
        last = "The distance from the stage's last output shrinks steadily"
        told.append(f"{last} in {shrinking} of {of}.")
    return [" ".join([*told, *_ranks(r)])]


def _ranks(r: Identity) -> list[str]:
    """How the measures rank with the damage: with an interval above 0, below 0, or around it."""
    if r.correlation is None or r.low is None or r.high is None:
        return []
    rows = list(zip(map(NAMES.get, r.measure), r.correlation, r.low, r.high, strict=True))
    rho = [f"{k} {v:+.2f} ({low:+.2f} to {high:+.2f})" for k, v, low, high in rows if np.isfinite(v)]
    if not rho:
        return ["Too few units were measured to rank them against the damage."]
    told = [f"Rank correlation with the damage: {', '.join(rho)}."]
    if up := [str(k) for k, _, low, _ in rows if low > 0]:
        told.append(f"The damage rises with the {join(up)}.")
    if down := [str(k) for k, _, _, high in rows if high < 0]:
        told.append(f"The damage falls as the {join(down)} grows.")
    return told if up or down else [*told, "None of them predicts the damage."]


def table(r: Identity) -> Columns:
    damage = np.full(len(r.unit), np.nan) if r.damage is None else r.damage
    return {
        "unit": r.unit,
        "‖F‖/‖x‖": numbers(r.ratio),
        "cosine": numbers(r.cosine),
        "novelty": numbers(r.novelty),
        "distance from last": numbers(r.estimation),
        "mean of it": numbers(r.estimation_mean),
        "damage (KL)": numbers(damage),
    }


def measure(bench: Bench) -> Identity:
    images, labels = bench.training(min(EXAMPLES, bench.options.max_examples))
    bench.choices["data"] = f"the first {len(images):,} training examples, not augmented"
    given, how = (*bench.network(), images, labels), bench.how
    how["progress"] = part(bench.progress, 0, 2)
    lesions = lesion(*given, **how)
    how["progress"] = part(bench.progress, 1, 2)
    return identity(*given, lesions=lesions, seed=bench.options.seed, **how)


STUDY = Study(
    name="identity",
    title="How close to the identity is each unit?",
    question=(
        "A unit that adds little is dispensable, whether or not the network is an ensemble. How large is "
        "what each unit adds, does it point downhill in the loss, is it new, how far is its output "
        "from that of the stage, and does any of this predict what deleting the unit costs?"
    ),
    code=(
        f"given = (run.network, run.variables, *run.examples('train', {EXAMPLES}))\n"
        "lesions = resjax.analysis.lesion(*given, loss=run.loss)\n"
        "resjax.analysis.identity(*given, lesions=lesions, loss=run.loss)"
    ),
    result=Identity,
    control=True,
    unsuited=cannot_delete,
    measure=measure,
    plot=plot,
    verdict=lambda r: "residual" if r.residual.any() else "plain",
    says={
        "residual": lambda k, r: f"the median unit of {k} adds {_size(r)} times the norm of its input",
        "plain": lambda k, r: f"the median unit of {k} changes its input by {_size(r)} times its norm",
    },
    points=points,
    table=table,
    summary=lambda r: {"‖F‖/‖x‖, median unit": _size(r)},
)
