"""Does a residual block learn the identity more easily than a plain one?

*Question.* "If a residual block is not needed, it becomes the identity: it only has to drive its weights to
0." A plain block that should do nothing has to learn the identity as a function. How long does each take,
does an L2 penalty help, and what do the units of a trained network do that is deeper than its task needs?

*Method, one block.* A block of two dense layers and ReLUs (``identity_fit``) is trained from random weights
to return its input x ≥ 0. Measured is the error E‖y − x‖² / E‖x‖² on held-out x, and the number of steps
until it is at most 1 %. Plain and residual blocks have the same weights, biases, inputs and numbers of
steps; each has its own learning rate, the best of several for other blocks of its kind. λ is the weight of
an L2 penalty.

*Method, a whole network.* Plain and residual networks of two depths are trained on digits, which the shallow
ones solve already. Measured is the distance of each unit from the identity, ‖F(x)‖ / ‖x‖, with F the branch
or, in a plain network, F = f(x) − x (study ``identity``), in the median over units that keep the shape,
before and after training. Statistics of BatchNorm are re-estimated before training, for else it would
normalize nothing.

*Reading it.* The first part shows how fast a function is fitted, with plain SGD and at this size. It says
nothing of whether a network *wants* its units to be identities: that is what the second part looks at. A
ratio that is smaller after training than before means that units moved towards the identity; in a residual
network it can also be small at the start, because of BatchNorm (``branch_variance``). A plain block can get
stuck: an output whose ReLU is never active has no gradient, and its share of the error stays.

*Cost.* (rates · tries + seeds) fits of 1,000 steps for each kind and λ, and 16 trainings of 400 steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from scipy import stats

from resjax.studies import style
from resjax.studies.batches import Progress, part, reported
from resjax.studies.intervals import bootstrap
from resjax.studies.lesions.batch_statistics import reestimate
from resjax.studies.marks import plain_log_ticks
from resjax.studies.options import ClaimOptions
from resjax.studies.result import Result
from resjax.studies.small_training import Trained, digits_recipe, evaluate, examples, train_tuned
from resjax.studies.study import Claim, Columns
from resjax.studies.units.identity import identity
from resjax.studies.units.identity_fit import BATCH, HELD_OUT, MOMENTUM, WIDTH, fit, steps_to
from resjax.studies.words import factor, join, numbers, percent

ENOUGH = 0.01  # the error at which the identity counts as learned
EXAMPLES = 256  # training images on which ‖F‖/‖x‖ is measured


@dataclasses.dataclass(frozen=True)
class LearnsIdentity(Result):
    """How one kind of block, plain or residual, learns the identity, and how near to it trained units are."""

    residual: bool
    decay: Annotated[np.ndarray, "decay"]  # λ of the L2 penalty, the first is 0
    rate: Annotated[np.ndarray, "decay"]  # learning rates that were chosen
    steps: Annotated[np.ndarray, "decay", "seed"]  # until the error is at most 1 %; ∞ if never
    point: Annotated[np.ndarray, "point"]  # steps at which the errors below are given
    error: Annotated[np.ndarray, "decay", "seed", "point"]  # ‖y − x‖² ÷ ‖x‖² on held-out x
    depth: Annotated[np.ndarray, "depth"]  # layers of the networks
    initial_ratio: Annotated[np.ndarray, "depth", "run"]  # median over units of ‖F‖/‖x‖ before training
    ratio: Annotated[np.ndarray, "depth", "run"]  # and after
    train_error: Annotated[np.ndarray, "depth", "run"]  # 0 … 1

    def median(self, i: int) -> tuple[float, float, float]:
        """Median number of steps at λ number ``i``, and the ends of its 95 % interval (order statistics)."""
        ranked = np.sort(self.steps[i])
        n = len(ranked)
        k = int(stats.binom.ppf(0.025, n, 0.5))
        return float(np.median(ranked)), float(ranked[max(k - 1, 0)]), float(ranked[min(n - k, n - 1)])

    def approach(self, i: int) -> tuple[float, float, float]:
        """Ratio after ÷ before training at depth number ``i``: geometric mean over runs, and its interval."""
        logs = np.log(self.ratio[i]) - np.log(self.initial_ratio[i])
        low, high = (float(np.exp(end)) for end in bootstrap(logs))
        return float(np.exp(logs.mean())), low, high


def learns_identity(
    residual: bool,
    *,
    decays: Sequence[float] = (0.0, 1e-3, 1e-2),
    rates: Sequence[float] = (0.01, 0.03, 0.1, 0.3),
    hidden: int = 2 * WIDTH,
    steps: int = 1000,
    seeds: int = 20,
    tries: int = 5,
    depths: Sequence[int] = (8, 32),
    network_rates: Sequence[float] = (0.02, 0.1),
    network_steps: int = 400,
    runs: int = 3,
    seed: int = 0,
    progress: Progress | None = None,
) -> LearnsIdentity:
    """Fits the identity with blocks of one kind, and trains networks of such units (see the module).

    Args:
      residual: whether blocks have a shortcut.
      decays: weights of the L2 penalty, the first 0.
      rates, steps, seeds, tries, hidden: of the single blocks; ``tries`` further blocks choose the rate.
      depths, network_rates, network_steps, runs: of the networks; the rate is chosen on held-out training
        images.
      seed: of everything.
      progress: counts the λ, then the networks.

    Raises:
      ValueError: a first λ other than 0, or fewer than two blocks or runs.
    """
    if not decays or decays[0] != 0 or seeds < 2 or runs < 2 or tries < 1:
        raise ValueError(
            f"decays={tuple(decays)}, seeds={seeds}, runs={runs}, tries={tries}; allowed: decays from 0 "
            "on, 2 seeds and runs or more, 1 try or more"
        )
    size: dict[str, Any] = {
        "hidden": hidden,
        "steps": steps,
        "seeds": seeds,
        "tries": tries,
        "enough": ENOUGH,
    }
    fits = [
        fit(residual, decay, rates=rates, **size, seed=seed)
        for decay in reported(tuple(decays), part(progress, 0, 2))
    ]
    shown = np.unique(np.geomspace(1, steps + 1, 40).astype(int)) - 1
    found, chosen = [], {}
    for i, depth in enumerate(depths):
        shortcut = "identity" if residual else "none"
        recipe = digits_recipe(network_steps, depth=depth, shortcut=shortcut)
        recipe.seed = seed
        tuned = train_tuned(
            recipe,
            network_rates,
            range(seed, seed + runs),
            progress=part(part(progress, 1, 2), i, len(depths)),
        )
        chosen[str(depth)] = tuned.rate
        images, labels = (v[:EXAMPLES] for v in examples(recipe).train)
        found.append([_of_network(one, images, labels) for one in tuned.trained])
    before, after, error = np.moveaxis(np.array(found), -1, 0)
    return LearnsIdentity(
        residual=residual,
        decay=np.array(decays, float),
        rate=np.array([f.rate for f in fits]),
        steps=np.stack([steps_to(f.error, ENOUGH) for f in fits]),
        point=shown,
        error=np.stack([f.error[:, shown] for f in fits]),
        depth=np.array(depths),
        initial_ratio=before,
        ratio=after,
        train_error=error,
        choices={
            "block": f"dense {WIDTH} → {hidden} → {WIDTH}, ReLU after each, He-normal weights, biases 0",
            "input": f"absolute values of a standard normal, {BATCH} new ones a step, {HELD_OUT} held out",
            "optimizer": f"SGD, momentum {MOMENTUM}; the penalty is of all weights and biases",
            "rate of a block": f"of {', '.join(f'{r:g}' for r in rates)}, chosen with {tries} other blocks",
            "networks": f"digits, {network_steps} steps of {recipe.train.batch_size}, weight decay "
            f"{recipe.optimizer.weight_decay:g}; rate of each depth, chosen on held-out images: {chosen}",
            "‖F‖/‖x‖": f"on {EXAMPLES} training images; units that keep the shape",
            "seed": seed,
        },
    )


def _of_network(one: Trained, images: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """Median distance from the identity before and after training, and the training error."""
    initial = reestimate(one.network, one.initial, images)
    pair = [identity(one.network, values, images, labels) for values in (initial, one.variables)]
    stage = pair[0].stage
    keeps = np.append(True, stage[1:] == stage[:-1])  # all but the first unit of a later stage
    before, after = (float(np.median(r.ratio[keeps])) for r in pair)
    return before, after, evaluate(one.network, one.variables, images, labels).error


# --- what the report shows ---


def plot(results: Mapping[str, LearnsIdentity]) -> style.Figure:
    """Left: error of single blocks by step, median over blocks, one line for each λ. Right: distance of a
    network's units from the identity, before (hollow) and after training."""
    fig, (left, right) = style.panels(2, height=0.9)
    for i, (label, r) in enumerate(results.items()):
        look: dict[str, Any] = {"color": style.color(i)}
        for j, decay in enumerate(r.decay):
            name = f"{label}, λ = {decay:g}".strip(", ")
            middle = np.median(r.error[j], axis=0)
            left.plot(r.point + 1, middle, style.LINES[j % 4], label=name, **look)
        x = np.arange(len(r.depth)) + 0.12 * (i - (len(results) - 1) / 2)
        for values, filled in ((r.initial_ratio, "none"), (r.ratio, style.color(i))):
            mean = np.exp(np.log(values).mean(1))
            right.plot(x, mean, style.marker(i), mfc=filled, **look)
            right.plot(x[:, None] + np.zeros_like(values), values, ".", ms=2, alpha=0.6, **look)
    left.axhline(ENOUGH, ls=":", lw=1, color=style.ink())
    left.set(xscale="log", yscale="log", xlabel="steps + 1", ylabel="error of y = x", ylim=(1e-6, 3))
    depths = next(iter(results.values())).depth
    right.set(xticks=np.arange(len(depths)), xlabel="depth of the network", ylabel="‖F‖ / ‖x‖", yscale="log")
    right.set_xticklabels([str(d) for d in depths])
    plain_log_ticks(right.yaxis)
    right.set_xlim(-0.5, len(depths) - 0.5)
    style.legend_above(fig, left, columns=3)
    return fig


def told_steps(steps: float) -> str:
    """'12', or 'never' for ∞."""
    return "never" if np.isinf(steps) else f"{steps:g}"


def faster(results: Mapping[str, LearnsIdentity]) -> str:
    """'residual', 'plain' or 'undecided': which kind of block needs fewer steps at every λ."""
    kinds = {r.residual: r for r in results.values()}
    if set(kinds) != {True, False}:
        return "undecided"
    sides = set()
    for i in range(min(len(r.decay) for r in kinds.values())):
        (_, low, high), (_, other_low, other_high) = kinds[True].median(i), kinds[False].median(i)
        sides.add("residual" if high < other_low else "plain" if other_high < low else "undecided")
    return sides.pop() if len(sides) == 1 else "undecided"


def moved(r: LearnsIdentity, i: int) -> str:
    """'towards', 'away' or 'undecided': where training moved the units at depth number ``i``."""
    _, low, high = r.approach(i)
    return "towards" if high < 1 else "away" if low > 1 else "undecided"


def headline(results: Mapping[str, LearnsIdentity]) -> str:
    """Which block learns the identity faster, and whether units of the deepest network moved towards it."""
    words = {
        "residual": "a residual block learns the identity in fewer steps than a plain one",
        "plain": "a plain block learns the identity in fewer steps than a residual one",
        "undecided": "it is undecided which block learns the identity in fewer steps",
    }
    medians = [f"{label} {told_steps(r.median(0)[0])}".strip() for label, r in results.items()]
    told = {
        "towards": "move towards the identity",
        "away": "move away from the identity",
        "undecided": "have no clear direction",
    }
    clauses = [
        f"the units of {label} networks of {r.depth[-1]} layers {told[moved(r, -1)]}"
        for label, r in results.items()
    ]
    steps = f"median without penalty: {', '.join(medians)}"
    return f"{words[faster(results)]} ({steps}); in training, {join(clauses)}"


def points(label: str, r: LearnsIdentity) -> list[str]:
    """Steps for each λ, and the distance from the identity at each depth."""
    n = r.steps.shape[1]
    parts = []
    for i, decay in enumerate(r.decay):
        middle, low, high = map(told_steps, r.median(i))
        reached = int(np.isfinite(r.steps[i]).sum())
        parts.append(f"λ = {decay:g}: {middle} ({low} to {high}), {reached} of {n} blocks")
    text = (
        f"{label}: error before training {percent(np.median(r.error[0, :, 0]))}; steps to {percent(ENOUGH)}, "
        f"median and its 95 % interval: {'; '.join(parts)}."
    )
    networks = []
    for i, depth in enumerate(r.depth):
        before, after = (factor(np.exp(np.log(v[i]).mean())) for v in (r.initial_ratio, r.ratio))
        change, low, high = map(factor, r.approach(i))
        networks.append(
            f"with {depth} layers ‖F‖/‖x‖ goes from {before} to {after}, by the factor {change} ({low} to "
            f"{high} over {r.ratio.shape[1]} seeds), at {percent(r.train_error[i].mean())} training error"
        )
    return [text, f"{label}, networks: {'; '.join(networks)}."]


def table(r: LearnsIdentity) -> Columns:
    medians = [tuple(map(told_steps, r.median(i))) for i in range(len(r.decay))]
    return {
        "λ": [f"{decay:g}" for decay in r.decay],
        "learning rate": numbers(r.rate),
        "steps to 1 %, median": [m for m, _, _ in medians],
        "95 % interval": [f"{low} to {high}" for _, low, high in medians],
        "blocks that reach it": [f"{int(np.isfinite(s).sum())} of {len(s)}" for s in r.steps],
        "error before": numbers(np.median(r.error[..., 0], axis=1)),
        "error at the end": numbers(np.median(r.error[..., -1], axis=1)),
    }


def measure(options: ClaimOptions, progress: Progress | None) -> dict[str, LearnsIdentity]:
    small: dict[str, Any] = {}
    if options.smoke:
        small = {"decays": (0.0, 1e-2), "rates": (0.1,), "steps": 20, "seeds": 4, "tries": 1}
        small |= {"depths": (8,), "network_rates": (0.05,), "network_steps": 10, "runs": 2}
    return {
        label: learns_identity(residual, **small, seed=options.seed, progress=part(progress, i, 2))
        for i, (label, residual) in enumerate({"residual": True, "plain": False}.items())
    }


STUDY = Claim(
    name="learns_identity",
    title="A residual block learns the identity easily",
    question=(
        "A block that is not needed should do nothing. How many steps does a residual block take to learn "
        "y = x, and how many a plain one, with and without an L2 penalty? And do the units of a network that "
        "is deeper than its task needs move towards the identity?"
    ),
    code="resjax.analysis.learns_identity(True), resjax.analysis.learns_identity(False)",
    labels="block",
    result=LearnsIdentity,
    measure=measure,
    plot=plot,
    headline=headline,
    points=points,
    table=table,
)
