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

*What is judged.* Each of these has an interval over images, and is shown beside the same network at
initialization (``resjax.studies.initial``), because an untrained network has some of these properties too:

* the share of units whose mean cosine is negative;
* whether a stage's first unit has the largest ratio of its stage;
* how fast the distance from a_last shrinks: what is left of it, on average over the units between a stage's
  first and last, ÷ that of the first. It always shrinks, because fewer additions remain: additions of one
  size in directions of their own leave about 2/3;
* Greff's own criterion, a mean near 0: |mean of a_i − a_last| is at most a tenth of its deviation. That is
  1 % of the mean squared distance; the paper names no number.

With the result of ``lesion``, each number is ranked against the damage of deleting the unit: Spearman's ρ and
its bootstrap interval over units. Damage is the KL divergence to the intact network, because most units cost
no error, so errors would be tied. All of these numbers depend on a unit's place in its stage, and so does the
damage. So partial correlations are given as well: with the place in the stage held fixed, and with place and
stage (``resjax.studies.ranks``).

*Reading it.* Near-identity units predict a small ratio and harmless deletions without any ensemble. A
correlation over twenty-odd units is coarse (see its interval) and shows no cause. Cosines in tens of
thousands of dimensions are small even where the step is systematic, so look at their sign; where the loss is
nearly 0, ∂L/∂x is tiny and its direction noisy. Units that change the shape have no cosine. With a ReLU
behind the sum, x ≥ 0, and F is what is added before the ReLU. Intervals over images do not cover other seeds.

*Cost.* One forward and one backward pass, with every unit run once more; one compilation. Activations of one
batch at a time are kept. The study also deletes each unit, and does all of it twice.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from resjax.cpu import shared_batches as on_cores
from resjax.network import Network, Variables
from resjax.network.losses import Loss, cross_entropy
from resjax.studies.batches import BATCH_SIZE, Progress, part, per_example, sharing
from resjax.studies.costs import Cost, data
from resjax.studies.examples import checked_examples
from resjax.studies.intervals import bootstrap
from resjax.studies.lesions.lesion import Lesion, lesion
from resjax.studies.lesions.passes import each_alone
from resjax.studies.options import Options
from resjax.studies.ranks import spearman
from resjax.studies.study import Bench, Study
from resjax.studies.subject import Subject
from resjax.studies.units import identity_shown as shown
from resjax.studies.units import over_images
from resjax.studies.units.additions import additions
from resjax.studies.units.identity_result import GIVEN, MEASURES, Identity
from resjax.studies.verdicts import cannot_delete

EXAMPLES = 1024  # training examples of the study


def identity(
    network: Network,
    variables: Variables,
    images: Any,
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
    run = sharing(lambda cores, *given: additions(cores, network, loss, *given), variables)
    cores = on_cores.shared_cores().count
    of_each = per_example(lambda *batch: run(batch), images, labels, batch_size, progress, cores)
    stage = np.array([unit.stack.stage for unit in network.units])
    once = over_images.averages(of_each, np.ones((1, len(labels))))
    found = {name: values[..., 0] for name, values in over_images.statistics(once, stage).items()}
    ends = over_images.intervals(of_each, stage, seed)
    result = Identity(
        unit=names,
        stage=stage,
        residual=np.array([unit.stack.unit.residual for unit in network.units]),
        **{name: found[name] for name in _STORED},  # type: ignore[arg-type]
        interval=np.stack([ends[name] for name in MEASURES]),
        bias_interval=ends["bias"],
        below_interval=ends["below"],
        lead_interval=ends["lead"],
        remaining_interval=ends["remaining"],
        measure=MEASURES,
        num_examples=len(labels),
        choices={
            "F of a plain unit": "f(x) − x, where shapes agree",
            "∂L/∂x": "of each example's own loss, through all units behind x and the unit itself",
            "BatchNorm": "running statistics",
            "estimation error": "over examples, positions and channels of a stage's units of one shape",
            "damage": "KL(p_intact ‖ p_without the unit)",
            "intervals": "over images, which all units share; of rank correlations over units",
        },
    )
    return result if lesions is None else against(result, lesions.kl, seed)


_STORED = ("ratio", "cosine", "novelty", "estimation_mean", "estimation_std", "scale")


def against(result: Identity, damage: np.ndarray, seed: int = 0) -> Identity:
    """``result`` with the rank correlations of its measures with the damage [unit], raw and partial.

    Too few units are fewer than four, and two more for each series that is held fixed.
    """
    place, groups = _place(result.stage)
    found = np.full((3, len(GIVEN), len(result.measure)), np.nan)
    for i, name in enumerate(result.measure):
        rows = np.stack([result.measured(name), damage, place, *groups])
        rows = rows[:, np.isfinite(rows).all(0)]
        for j, count in enumerate((0, 1, 1 + len(groups))):
            if rows.shape[1] >= 4 + 2 * count:
                own = rows[: 2 + count]
                found[:, j, i] = _rho(own), *bootstrap(own, _rho, resamples=1000, seed=seed)
    rho, low, high = found
    return dataclasses.replace(result, damage=damage, given=GIVEN, correlation=rho, low=low, high=high)


def _place(stage: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[unit]: 1, 2, … within each stage; [stages − 1, unit]: 1 in one stage but the first, else 0."""
    stages, counts = np.unique(stage, return_counts=True)
    place = np.concatenate([1.0 + np.arange(n) for n in counts])
    return place, (stages[1:, None] == stage).astype(float)


def _rho(rows: np.ndarray, axis: int = -1) -> np.ndarray:
    """Spearman's ρ of the first two rows given the others; 0 where it is undefined, as in some resamples."""
    del axis
    return np.nan_to_num(spearman(rows[0], rows[1], list(rows[2:])))


def measure(bench: Bench) -> Identity:
    images, labels = bench.data(bench.options.at_most("max_examples", EXAMPLES))
    given, how, judged = (*bench.network(), images, labels), bench.running, bench.how
    judged["progress"] = part(bench.progress, 0, 2)
    lesions = lesion(*given, **judged)
    how["progress"] = part(bench.progress, 1, 2)
    return identity(*given, lesions=lesions, seed=bench.options.seed, **how)


def cost(run: Subject, options: Options) -> Cost:
    count = data(run, min(EXAMPLES, options.max_examples))
    passes = each_alone(run) + 2
    return Cost(forward=count * passes, backward=count, compilations=6.5, evaluated=count)


STUDY = Study(
    name="identity",
    title="How close to the identity is each unit?",
    question=(
        "A unit that adds little is dispensable, whether or not the network is an ensemble. How large is "
        "what each unit adds, does it point downhill in the loss, is it new, how far is its output "
        "from that of the stage, and does any of this predict what deleting the unit costs? How much of "
        "it does an untrained network do as well?"
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
    cost=cost,
    plot=shown.plot,
    verdict=lambda r: "residual" if r.residual.any() else "plain",
    says={
        "residual": lambda k, r: f"the median unit of {k} adds {shown.size(r)} times the norm of its input",
        "plain": lambda k, r: f"the median unit of {k} changes its input by {shown.size(r)} times its norm",
    },
    points=shown.points,
    table=shown.table,
    summary=lambda r: {"‖F‖/‖x‖, median unit": shown.size(r)},
)
