"""Weight decay in training: does it shrink a block's W and b, its branch, and make units dispensable?

*Question.* "L2 regularization shrinks w[l+2] and b[l+2]; with W = b = 0 the block is the identity." The study
``weight_decay`` shows what decay does alone. In training the gradients of the data oppose it, and with
BatchNorm the scale of W does not matter to the function. So four things are measured, for λ = 0 … 10⁻²:

    kernels    ‖W‖ of all kernels of the units, at the end ÷ at initialization
    biases     ‖b‖ of the units, at the end: of the convolutions or, with BatchNorm, its β (initially 0)
    branch     median over units of the mean of ‖F(x)‖ / ‖x‖ over examples
    dispensable units, those whose deletion raises the test error by at most one percentage point

*Protocol.* Small networks are trained on scikit-learn's digits, with and without BatchNorm, with each λ and
several seeds. A seed draws the initial weights and the batches, the same for all λ, so differences between
two λ are paired. λ × parameter is added to the gradient of *all* parameters, as Caffe and Torch do (He et
al. 2015), so BatchNorm's γ decays too. The learning rate is the one with the lowest loss on held-out training
images at λ = 10⁻⁴, and all λ share it. (With BatchNorm a smaller W makes steps relatively larger, so λ also
changes the effective learning rate; van Laarhoven 2017.) Test images serve for the final errors and deletions
only.

*Reading it.* The branch at initialization stands beside that of the trained networks: a branch may be smaller
than another and still be larger than at the start. λ is judged at the largest value whose networks still fit:
with larger ones everything is small because nothing is learned. The interval is over seeds (Student's t).

*Cost.* (numbers of λ · seeds + rates) trainings of 600 steps a network, and as many lesion studies.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import jax
import numpy as np
from ml_collections import ConfigDict

from resjax.network import Network, Variables
from resjax.studies import style
from resjax.studies.batches import Progress, part
from resjax.studies.intervals import bootstrap
from resjax.studies.lesions.batch_statistics import reestimate
from resjax.studies.lesions.lesion import lesion
from resjax.studies.options import ClaimOptions
from resjax.studies.result import Classified
from resjax.studies.small_training import (
    Trained,
    digits_recipe,
    evaluate,
    examples,
    train,
    train_tuned,
    with_numbers,
)
from resjax.studies.study import Claim, Columns
from resjax.studies.units.identity import EXAMPLES, identity
from resjax.studies.verdicts import MAY_GO, spared
from resjax.studies.words import count, factor, join, percent
from resjax.training.optimizer import in_words

DECAYS = (0.0, 1e-4, 1e-3, 3e-3, 1e-2)
RATES = {True: (0.03, 0.1, 0.3), False: (0.01, 0.03, 0.1)}  # with and without BatchNorm


@dataclasses.dataclass(frozen=True)
class DecayInTraining(Classified):
    """Networks after training with each weight decay; NaN where training diverged."""

    decay: Annotated[np.ndarray, "decay"]  # λ, the first is 0
    kernel: Annotated[np.ndarray, "decay", "seed"]  # ‖W‖ of the units ÷ that at initialization
    bias: Annotated[np.ndarray, "decay", "seed"]  # ‖b‖ of the units
    branch: Annotated[np.ndarray, "decay", "seed"]  # median over units of mean ‖F‖ / ‖x‖
    initial_branch: Annotated[np.ndarray, "seed"]  # the same before training
    train_error: Annotated[np.ndarray, "decay", "seed"]  # 0 … 1
    intact_error: Annotated[np.ndarray, "decay", "seed"]  # on test images
    error: Annotated[np.ndarray, "decay", "seed", "unit"]  # on test images, without a unit
    norm: bool  # with BatchNorm
    num_test: int  # test images

    @property
    def may_go(self) -> np.ndarray:
        """[decay, seed], units whose deletion costs at most one percentage point; NaN after divergence."""
        number = spared(self.error, self.intact_error[..., None]).sum(-1)
        return np.where(np.isnan(self.intact_error), np.nan, number)


def decay_in_training(
    recipe: ConfigDict,
    *,
    decays: Sequence[float] = DECAYS,
    rates: Sequence[float] = RATES[True],
    seeds: int = 3,
    progress: Progress | None = None,
) -> DecayInTraining:
    """Trains the residual network of a configuration with each weight decay, and measures its units.

    Args:
      recipe: a configuration with ``data.holdout`` above 0; its weight decay is that of the networks with
        which the learning rate is chosen, its seed the first one.
      decays: values of λ, the first 0.
      rates: learning rates to choose from.
      seeds: 2 or more.
      progress: counts networks.
    """
    if seeds < 2 or len(decays) < 2 or decays[0] != 0 or min(decays) < 0:
        raise ValueError(
            f"decays={tuple(decays)}, seeds={seeds}; allowed: two or more, the first 0; 2 seeds or more"
        )
    sets, numbers = examples(recipe), range(recipe.seed, recipe.seed + seeds)
    tuned = train_tuned(recipe, rates, numbers[:1], progress=part(progress, 0, 2))
    grid = [(decay, seed) for decay in decays for seed in numbers]
    recipes = [
        with_numbers(recipe, seed=seed, learning_rate=tuned.rate, weight_decay=decay) for decay, seed in grid
    ]
    trained = train(recipes, progress=part(progress, 1, 2))
    some = tuple(v[:EXAMPLES] for v in sets.train)

    def branch(network: Network, variables: Variables) -> float:
        return float(np.median(identity(network, variables, *some).ratio))

    def before_training(one: Trained) -> Variables:
        """The initial variables, with the statistics that their BatchNorm would have."""
        return reestimate(one.network, one.initial, some[0]) if recipe.model.norm else one.initial

    def measured(one: Trained) -> dict[str, Any]:
        units = one.network.num_units
        if one.diverged:
            names = ("kernel", "bias", "branch", "train_error", "intact_error")
            return {**dict.fromkeys(names, np.nan), "error": np.full(units, np.nan)}
        deleted = lesion(one.network, one.variables, *sets.test)
        return {
            "kernel": _size(one, "kernel") / _size(one._replace(variables=one.initial), "kernel"),
            "bias": _size(one, "bias"),
            "branch": branch(one.network, one.variables),
            "train_error": evaluate(one.network, one.variables, *sets.train).error,
            "intact_error": deleted.intact_error,
            "error": deleted.error,
        }

    rows = [measured(one) for one in trained]
    shape = (len(decays), seeds)
    fields = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    optimizer, sizes = recipe.optimizer, [len(labels) for _, labels in (sets.train, sets.test)]
    return DecayInTraining(
        decay=np.array(decays, float),
        **{name: values.reshape(*shape, *values.shape[1:]) for name, values in fields.items()},
        initial_branch=np.array([branch(one.network, before_training(one)) for one in trained[:seeds]]),
        norm=bool(recipe.model.norm),
        num_test=sizes[1],
        num_classes=10,
        choices={
            "training": f"{recipe.train.duration} of {recipe.train.batch_size} of {sizes[0]:,} images, "
            f"{in_words(optimizer, decay=False)}, warm-up {optimizer.warmup}",
            "weight decay": f"of {'kernels' if optimizer.decay == 'kernels' else 'all parameters'}, added to "
            f"the {'update' if optimizer.name == 'adamw' else 'gradient'}",
            "learning rate": f"{tuned.rate:g}, chosen on {recipe.data.holdout} held-out training images at "
            f"λ = {optimizer.weight_decay:g}",
            "held-out loss by rate": {f"{k:g}": v for k, v in tuned.held_out_loss.items()},
            "‖F‖ / ‖x‖": f"on {len(some[1])} training images",
            "deletions": f"on {sizes[1]} test images; running statistics are not re-estimated",
            "seeds": f"{numbers[0]} … {numbers[-1]}; each draws weights and batches, the same for all λ",
        },
    )


def _size(one: Trained, kind: str) -> float:
    """The L2 norm of all leaves of one name, ``kernel`` or ``bias``, in the units of a network."""
    stacks = [one.variables["params"][stack.name] for stack in one.network.stacks]
    found = jax.tree_util.tree_leaves_with_path(stacks)
    squares = [np.sum(np.square(v, dtype=float)) for path, v in found if path[-1].key == kind]
    return float(np.sqrt(sum(squares)))


def measure(options: ClaimOptions, progress: Progress | None) -> dict[str, DecayInTraining]:
    steps, small = 600, {}
    if options.smoke:
        steps, small = 20, {"decays": (0.0, 1e-2), "rates": (0.01,), "seeds": 2}
    depth = 8 if options.smoke else 20
    results = {}
    for i, norm in enumerate((True, False)):
        recipe = with_numbers(digits_recipe(steps, depth=depth, norm=norm), seed=options.seed)
        how: dict[str, Any] = {"rates": RATES[norm], **small, "progress": part(progress, i, 2)}
        label = "with BatchNorm" if norm else "without BatchNorm"
        results[label] = decay_in_training(recipe, **how)
        results[label].choices["data"] = "scikit-learn's digits, standardized by the images trained on"
    return results


# --- what the report shows ---


def changes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each row of positive values [decay, seed] ÷ the first: geometric mean over seeds and the ends of its
    95 % interval, [decay]."""
    logs = np.log(values) - np.log(values[0])
    return np.exp(logs.mean(-1)), *(np.exp(end) for end in bootstrap(logs))


def judged(r: DecayInTraining) -> int:
    """Index of the largest λ that costs at most one percentage point of training error; 0 if none does."""
    mean = r.train_error.mean(-1)
    return int(np.flatnonzero(mean <= mean[0] + MAY_GO + 1e-9).max(initial=0))


def _side(values: np.ndarray, i: int) -> str:
    _, low, high = (end[i] for end in changes(values))
    return "smaller" if high < 1 else "larger" if low > 1 else "unclear"


def verdict(r: DecayInTraining) -> str:
    """Whether kernels and branches shrink at the judged λ."""
    i = judged(r)
    if i == 0:
        return "unfit"
    kernels, branches = _side(r.kernel, i), _side(r.branch, i)
    if kernels != "smaller":
        return "neither"
    return {"smaller": "both", "unclear": "kernels", "larger": "against"}[branches]


def _clause(label: str, r: DecayInTraining) -> str:
    i, found = judged(r), verdict(r)
    decay = f"weight decay of {r.decay[i]:g}"
    if found == "unfit":
        return f"no weight decay of those tried lets the network {label} fit the training images"
    if found == "neither":
        return f"{decay} does not clearly shrink the kernels of the network {label}"
    kernel, branch = (percent(changes(v)[0][i]) for v in (r.kernel, r.branch))
    tail = {
        "both": f"and ‖branch‖ / ‖input‖ to {branch} of its value",
        "kernels": "but not clearly ‖branch‖ / ‖input‖",
        "against": f"but ‖branch‖ / ‖input‖ grows to {branch} of its value",
    }[found]
    return f"{decay} shrinks the kernels of the network {label} to {kernel} of their norm without it, {tail}"


def points(label: str, r: DecayInTraining) -> list[str]:
    i = judged(r)
    units = r.error.shape[-1]
    start = factor(r.initial_branch.mean())
    ends = [factor(value) for value in r.branch.mean(-1)[[0, i]]]
    found = [
        f"{label}: ‖branch‖ / ‖input‖ is {start} at initialization and {ends[0]} after training without "
        f"weight decay (median over units, mean over {count(r.kernel.shape[1], 'seed')})."
    ]
    if i:
        told = [
            f"‖{name}‖ {_change(values, i)}"
            for name, values in (("W", r.kernel), ("b", r.bias), ("branch‖ / ‖input", r.branch))
        ]
        go = r.may_go.mean(-1)
        difference = _around(r.may_go[i] - r.may_go[0])
        error = percent(r.intact_error[i].mean()), percent(r.intact_error[0].mean())
        found.append(
            f"{label}, λ = {r.decay[i]:g} against λ = 0: {join(told)}; {go[i]:.1f} instead of {go[0]:.1f} of "
            f"{units} units may go (difference {difference}); test error {error[0]} instead of {error[1]}."
        )
    unfit = [f"{decay:g}" for decay in r.decay[i + 1 :]]
    if unfit:
        errors = [percent(error) for error in r.train_error[i + 1 :].mean(-1)]
        found.append(
            f"{label}: λ = {join(unfit)} cost more than one percentage point of training error "
            f"({join(errors)}, without decay {percent(r.train_error[0].mean())}) and are not judged."
        )
    return found


def _change(values: np.ndarray, i: int) -> str:
    mean, low, high = (percent(end[i]) for end in changes(values))
    return f"is {mean} (95 % interval {low} to {high})"


def _around(differences: np.ndarray) -> str:
    low, high = bootstrap(differences)
    return f"{differences.mean():+.1f}, 95 % interval {low:+.1f} to {high:+.1f}"


def table(r: DecayInTraining) -> Columns:
    def cells(values: np.ndarray, show: Callable[[float], str]) -> list[str]:
        low, high = bootstrap(values)
        rows = zip(values.mean(-1), low, high, strict=True)
        return [f"{show(mean)} ({show(a)} – {show(b)})" for mean, a, b in rows]

    return {
        "λ": [f"{decay:g}" for decay in r.decay],
        "‖W‖ ÷ initial": cells(r.kernel, factor),
        "‖b‖": cells(r.bias, factor),
        "‖F‖/‖x‖": cells(r.branch, factor),
        "units that may go": [f"{mean:.1f}" for mean in r.may_go.mean(-1)],
        "training error": cells(r.train_error, percent),
        "test error": cells(r.intact_error, percent),
    }


def summary(r: DecayInTraining) -> dict[str, str]:
    if not (i := judged(r)):
        return {}
    shown = {"‖W‖": r.kernel, "‖F‖/‖x‖": r.branch}
    return {f"{name}, λ = {r.decay[i]:g} ÷ λ = 0": percent(changes(v)[0][i]) for name, v in shown.items()}


def plot(results: Mapping[str, DecayInTraining]) -> style.Figure:
    """‖W‖ and ‖F‖ / ‖x‖ against λ, relative to λ = 0, and units that may go; bands are 95 % intervals over
    seeds."""
    fig, panels = style.panels(3, height=0.7)
    shown = ("‖W‖, share of that at λ = 0", "‖F‖ / ‖x‖", "units that may go")
    for i, (label, r) in enumerate(results.items()):
        place = np.arange(len(r.decay))
        look: dict[str, Any] = {"color": style.color(i)}
        for ax, values in zip(panels, (r.kernel / r.kernel[0], r.branch, r.may_go), strict=True):
            ax.plot(place, values.mean(-1), f"{style.marker(i)}-", label=label, **look)
            ax.fill_between(place, *bootstrap(values), alpha=0.2, lw=0, **look)
        panels[1].axhline(r.initial_branch.mean(), ls=":", lw=1.2, **look)
    for ax, title in zip(panels, shown, strict=True):
        ax.set(title=title, xlabel="weight decay λ")
        ax.set_xticks(place, [f"{decay:g}" for decay in r.decay])
        ax.set_ylim(bottom=0)
    panels[1].plot([], [], ":", lw=1.2, color=style.ink(), label="at initialization")
    style.legend_above(fig, panels[1], columns=3)
    return fig


STUDY = Claim(
    name="decay_in_training",
    title="Weight decay in training",
    question=(
        "Does weight decay shrink the weights of residual blocks, and does it bring the blocks nearer to the "
        "identity? Networks with and without BatchNorm are trained with weight decays from 0 to 0.01, and "
        "the norm of the weights, the size of the branches and the units that may go are compared."
    ),
    code=(
        "recipe = resjax.analysis.digits_recipe(600); "
        "resjax.analysis.decay_in_training(recipe, decays=(0, 1e-2), rates=(0.1,), seeds=2)"
    ),
    labels="network",
    result=DecayInTraining,
    measure=measure,
    plot=plot,
    verdict=verdict,
    says=dict.fromkeys(("both", "kernels", "against", "neither", "unfit"), _clause),
    points=points,
    table=table,
    summary=summary,
)
