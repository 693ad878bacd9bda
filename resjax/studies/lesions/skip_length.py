"""How many layers may a shortcut pass over? Equal layers, shortcuts over 1, 2, 3 or 6 of them, or none.

*Question.* y = x + F(x), where F has two layers in He et al. (2015), who write (§3.2): "more layers are
possible. But if F has only a single layer, [it] is similar to a linear layer, for which we have not observed
advantages." Zagoruyko & Komodakis (2016, Table 3) compare 1 to 4 layers with equal parameters, and 2 are
best. So do shortcuts over 1, 3 or 6 layers help training too? And what does a deletion cost, when longer
branches are fewer?

*Protocol.* All networks have the same convolutions, BatchNorms and ReLUs in the same order (post-activation),
so the same number of parameters: 36 convolutions in three stages, and the stem. They differ in what is added:
the input of every 1st, 2nd, 3rd or 6th layer to what comes out of the 1, 2, 3 or 6 layers, in front of the
ReLU. The plain network has no addition. Each is trained on scikit-learn's digits for the same number of
steps, with a learning rate of its own, chosen on held-out training images. Seeds draw initial weights and
batches.

Two kinds of damage are measured on test images, without further training: deleting one unit (of 1, 2, 3 or 6
layers), and deleting *the same six consecutive layers* in every network, at the places where all networks
allow it. A deleted plain layer is replaced by its input, so layers that change the shape stay.

*Reading it.* Training loss at an equal budget says what trains faster, not what is best in the end. The rise
of the error by a unit, divided by its layers, is the damage per layer if damages add up. The same six layers
avoid this assumption, but a network that has not learned has nothing to lose. Depth, width and data are one
small choice.

*Cost.* (rates + seeds − 1) trainings for each length, and as many forward passes as there are units.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from resjax.network import Network
from resjax.studies import style
from resjax.studies.batches import Progress, part
from resjax.studies.intervals import bootstrap
from resjax.studies.options import ClaimOptions
from resjax.studies.result import Classified
from resjax.studies.small_training import (
    Trained,
    digits_recipe,
    evaluate,
    examples,
    train_tuned,
    with_numbers,
)
from resjax.studies.study import Claim, Columns
from resjax.studies.variants import measure as measure_variants
from resjax.studies.variants import with_gates
from resjax.studies.words import count, factor, join, percent
from resjax.training.optimizer import in_words

LENGTHS = (1, 2, 3, 6)
RATES = (0.03, 0.1, 0.3)
RUN = 6  # consecutive layers that are deleted in all networks


@dataclasses.dataclass(frozen=True)
class SkipLength(Classified):
    """Networks whose shortcuts pass over ``length`` layers; NaN after divergence."""

    length: int  # 0 for a plain network
    num_layers: int  # convolutions in all units
    train_loss: Annotated[np.ndarray, "seed", "tenth"]  # mean over each tenth of the steps
    train_error: Annotated[np.ndarray, "seed"]  # after training, 0 … 1
    intact_error: Annotated[np.ndarray, "seed"]  # on test images
    unit_layers: int  # convolutions in a unit
    error: Annotated[np.ndarray, "seed", "unit"]  # on test images, without a unit; NaN where it must stay
    run_error: Annotated[np.ndarray, "seed", "run"]  # without six consecutive layers
    num_test: int

    @property
    def per_layer(self) -> np.ndarray:
        """[seed], median over units of the rise of the error, divided by the layers of a unit."""
        rise = self.error - self.intact_error[:, None]
        return np.asarray(np.nanmedian(rise, 1) / self.unit_layers)

    @property
    def of_run(self) -> np.ndarray:
        """[seed], mean rise of the error by deleting six consecutive layers."""
        return np.asarray((self.run_error - self.intact_error[:, None]).mean(1))

    @property
    def final_loss(self) -> np.ndarray:
        """[seed], training loss in the last tenth of the steps."""
        return self.train_loss[:, -1]


def skip_length(
    recipe: ConfigDict,
    lengths: Sequence[int] = (0, *LENGTHS),
    *,
    rates: Sequence[float] = RATES,
    seeds: int = 5,
    progress: Progress | None = None,
) -> dict[str, SkipLength]:
    """Trains networks of equal layers whose shortcuts pass over each number of layers.

    Args:
      recipe: a configuration of a ``resnet`` with ``data.holdout`` above 0, without bottlenecks, whose depth
        fits all lengths; its seed is the first one. ``block_layers`` and ``shortcut`` are set here.
      lengths: numbers of layers, 0 for a plain network. All divide ``RUN``.
      rates: learning rates to choose from.
      seeds: 2 or more.
      progress: counts trainings.

    Returns:
      {'plain' or 'over 2 layers': result}.
    """
    unsuited = [n for n in lengths if n < 0 or (n and RUN % n)]
    if unsuited or not lengths or seeds < 2:
        raise ValueError(
            f"lengths={tuple(lengths)}, seeds={seeds}; allowed: 0 and divisors of {RUN}, and 2 seeds or more"
        )
    sets, numbers = examples(recipe), range(recipe.seed, recipe.seed + seeds)
    results = {}
    for i, length in enumerate(lengths):
        own = recipe.copy_and_resolve_references()
        own.model.block_layers = max(length, 1)
        own.model.shortcut = "identity" if length else "none"
        tuned = train_tuned(own, rates, numbers, progress=part(progress, i, len(lengths)))
        rows = [_measured(one, own.model.block_layers, sets.train, sets.test) for one in tuned.trained]
        units = tuned.trained[0].network.num_units
        results[label_of(length)] = SkipLength(
            length=length,
            num_layers=units * own.model.block_layers,
            **{name: np.array([row[name] for row in rows]) for name in rows[0]},
            unit_layers=own.model.block_layers,
            num_test=len(sets.test[1]),
            num_classes=sets.num_classes,
            choices={
                "training": f"{recipe.train.duration} of {recipe.train.batch_size} of "
                f"{len(sets.train[1]):,} images, {in_words(recipe.optimizer)}",
                "learning rate": f"{tuned.rate:g}, chosen on {recipe.data.holdout} held-out training images",
                "held-out loss by rate": {f"{k:g}": v for k, v in tuned.held_out_loss.items()},
                "deletions": f"on {len(sets.test[1])} test images; running statistics are not re-estimated",
                "seeds": f"{numbers[0]} … {numbers[-1]}",
            },
        )
    return results


def label_of(length: int) -> str:
    """0 → 'plain', 2 → 'over 2 layers'."""
    return f"over {length} {'layer' if length == 1 else 'layers'}" if length else "plain"


def runs_of(network: Network, unit_layers: int) -> np.ndarray:
    """bool [run, unit]: the units of each run of six consecutive layers of a stage, counted from its start,
    without runs whose first layer changes the shape, which must stay in a plain network.

    Args:
      unit_layers: convolutions in a unit, a divisor of six.
    """
    stages = np.array([unit.stack.stage for unit in network.units])
    size, found = RUN // unit_layers, []
    for stage in np.unique(stages):
        own = np.flatnonzero(stages == stage)
        for start in range(0 if stage == stages[0] else size, len(own) - size + 1, size):
            found.append(np.isin(np.arange(len(stages)), own[start : start + size]))
    return np.array(found)


def _measured(one: Trained, unit_layers: int, train: Any, test: Any) -> dict[str, Any]:
    network, variables = one.network, one.variables
    shape = test[0].shape[1:]
    tenths = np.array([np.mean(losses) for losses in np.array_split(one.loss, 10)])
    allowed, runs = network.deletable(variables, shape), runs_of(network, unit_layers)
    single = np.eye(network.num_units, dtype=bool)[allowed]
    error, run_error = np.full(network.num_units, np.nan), np.full(len(runs), np.nan)
    intact, fitted = np.nan, np.nan
    if not one.diverged:
        gates = np.where(np.concatenate([single, runs]), np.float32(0), np.float32(1))
        changed, whole = measure_variants(network, variables, test[0], test[1], with_gates, gates)
        error[allowed], run_error = changed.error[: len(single)], changed.error[len(single) :]
        intact, fitted = float(whole.error[0]), evaluate(network, variables, *train).error
    return {
        "train_loss": tenths,
        "train_error": fitted,
        "intact_error": intact,
        "error": error,
        "run_error": run_error,
    }


def measure(options: ClaimOptions, progress: Progress | None) -> dict[str, SkipLength]:
    recipe = with_numbers(digits_recipe(20 if options.smoke else 400, depth=38), seed=options.seed)
    small: dict[str, Any] = {"lengths": (0, 2, 6), "rates": (0.05,), "seeds": 2} if options.smoke else {}
    results = skip_length(recipe, **small, progress=progress)
    for result in results.values():
        result.choices["data"] = "scikit-learn's digits, standardized by the images trained on"
    return results


# --- what the report shows ---


class Sides(NamedTuple):
    """Lengths of shortcuts, compared with one of them."""

    lower: list[int]
    higher: list[int]
    unclear: list[int]


def sides(results: Mapping[str, SkipLength], values: Callable[[SkipLength], np.ndarray], base: str) -> Sides:
    """Lengths of shortcuts whose networks have lower values than the network ``base``, higher ones, and
    neither clearly, by the 95 % interval of the difference over seeds."""
    found = Sides([], [], [])
    for label, r in results.items():
        if label != base:
            low, high = bootstrap(values(r) - values(results[base]))
            (found.lower if high < 0 else found.higher if low > 0 else found.unclear).append(r.length)
    return found


def _told(found: Sides, lower: str, higher: str) -> str:
    parts = zip((lower, higher, "not clearly different"), found, strict=True)
    return ", ".join(f"{word} with shortcuts {_over(lengths)}" for word, lengths in parts if lengths)


def _over(lengths: list[int]) -> str:
    """'over 1 layer', 'over 2 and 6 layers'."""
    return f"over {join(list(map(str, lengths)))} {'layer' if lengths == [1] else 'layers'}"


def headline(results: Mapping[str, SkipLength]) -> str:
    """What trains to a lower loss than the plain network, and where deletions cost more than over 2."""
    clauses = []
    if "plain" in results and len(results) > 1:
        found = sides(results, lambda r: r.final_loss, "plain")
        clauses.append(f"compared with no shortcut, the training loss is {_told(found, 'lower', 'higher')}")
    base, others = label_of(2), {k: r for k, r in results.items() if r.length}
    if base in others and len(others) > 1:
        found = sides(others, lambda r: r.of_run, base)
        told = _told(found, "less", "more").replace("different", "more or less")
        clauses.append(f"compared with shortcuts {base}, deleting the same six layers costs {told}")
    return "; ".join(clauses) or "one network alone says nothing about the length of shortcuts"


def _mean(values: np.ndarray, show: Callable[[float], str], least: float | None = 0) -> str:
    """Mean over seeds and its interval, which does not go below ``least``."""
    low, high = np.maximum(bootstrap(values), -np.inf if least is None else least)
    return f"{show(values.mean())} (95 % interval {show(float(low))} to {show(float(high))})"


def points(label: str, r: SkipLength) -> list[str]:
    rise, each = (_mean(values, percent, None) for values in (r.of_run, r.per_layer))
    return [
        f"{label}: training loss {_mean(r.final_loss, factor)} in the last tenth of the steps, training "
        f"error {percent(r.train_error.mean())}, test error {_mean(r.intact_error, percent)}, over "
        f"{count(len(r.final_loss), 'seed')}. Deleting six consecutive layers raises the test error by "
        f"{rise}; a unit of {count(r.unit_layers, 'layer')}, by {each} a layer in the median over units."
    ]


def table(r: SkipLength) -> Columns:
    return {
        "units": [str(r.error.shape[1])],
        "training loss": [_mean(r.final_loss, factor)],
        "training error": [_mean(r.train_error, percent)],
        "test error": [_mean(r.intact_error, percent)],
        "rise a deleted layer": [_mean(r.per_layer, percent, None)],
        "rise by six layers": [_mean(r.of_run, percent, None)],
    }


def summary(r: SkipLength) -> dict[str, str]:
    return {
        "training loss": factor(r.final_loss.mean()),
        "rise of the error by deleting six layers": percent(r.of_run.mean()),
    }


def plot(results: Mapping[str, SkipLength]) -> style.Figure:
    """Training loss over the course of training (mean, 95 % interval over seeds), and the rise of the test
    error by deletions for each length, a dot for each seed."""
    fig, panels = style.panels(3, height=0.75)
    for i, (label, r) in enumerate(results.items()):
        look: dict[str, Any] = {"color": style.color(i)}
        tenth = 10 * (np.arange(r.train_loss.shape[1]) + 0.5)
        panels[0].plot(tenth, r.train_loss.mean(0), f"{style.marker(i)}-", label=label, **look)
        low, high = bootstrap(r.train_loss.T)
        panels[0].fill_between(tenth, np.maximum(low, r.train_loss.min() / 2), high, alpha=0.15, lw=0, **look)
        for ax, values in zip(panels[1:], (r.per_layer, r.of_run), strict=True):
            ax.plot(np.full(len(values), i), 100 * values, style.marker(i), alpha=0.6, **look)
            ax.plot([i - 0.3, i + 0.3], [100 * values.mean()] * 2, "-", **look)
    panels[0].set(title="training loss", xlabel="share of the steps (%)", yscale="log")
    for ax, title in zip(panels[1:], ("one unit, a layer", "the same six layers"), strict=True):
        names = [str(r.length) if r.length else "none" for r in results.values()]
        ax.set_xticks(range(len(results)), names)
        ax.set(
            title=f"deleted: {title}", xlabel="layers under a shortcut", ylabel="rise of test error (points)"
        )
    style.legend_above(fig, panels[0], columns=5)
    return fig


STUDY = Claim(
    name="skip_length",
    title="Shortcuts over several layers",
    question=(
        "How many layers may a shortcut pass over? Networks of equal layers, with shortcuts over 1, 2, 3 or "
        "6 of them or without any, are trained for equally many steps; then units are deleted."
    ),
    code=(
        "recipe = resjax.analysis.digits_recipe(400, depth=38); "
        "resjax.analysis.skip_length(recipe, (0, 2), rates=(0.1,), seeds=2)"
    ),
    result=SkipLength,
    measure=measure,
    plot=plot,
    headline=headline,
    points=points,
    table=table,
    summary=summary,
)
