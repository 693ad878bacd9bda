"""Does it hurt or help to add two layers to a trained network and to train on?

*Question.* "Adding two layers somewhere in the middle or at the end does not hurt, because a residual block
learns the identity easily, and often it helps." The study ``surgery`` shows that the same function is
*there*, and that a few dozen steps keep it. Here the deeper network is trained on for as many steps as the
first training took. Does it end better than the same network trained on without new layers? And is a plain
network different?

*Protocol.* Small post-activation networks, with shortcuts and without, are trained on scikit-learn's digits.
Then a unit of two layers is inserted in the middle or at the end, in two ways (``units.insertion``):

    identity      the new unit passes its input on: with a shortcut its branch is 0; a plain one has identity
                  kernels, a solution that training would have to find
    initialized   the new unit has the initial values of training from scratch, so the function changes

These four networks and the untouched one are trained on with the same batches, the same number of steps and
the same schedule, each with a learning rate of its own, chosen on held-out training images. The networks are
small, so that they do not fit the training images completely and a deeper one could be better. A seed draws
initial weights and batches; differences to the untouched network are paired.

*Reading it.* By the test error, an added unit *helps* if the 95 % interval of the difference over seeds
(Student's t) lies below 0, *hurts* if it lies above 0, and *does not hurt* if it reaches no further than one
percentage point above 0. Otherwise nothing is decided. The training loss is compared by its ratio, because a
network that already has few errors can still fit better or worse. More layers are also more parameters, and
one small data set shows what can happen, not what must.

*Cost.* 6 · (rates · tries + seeds − tries) small trainings for each of both networks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Annotated, Any

import jax
import numpy as np
from ml_collections import ConfigDict

from resjax.network import Network, Variables
from resjax.studies import style
from resjax.studies.batches import Progress, part
from resjax.studies.intervals import bootstrap
from resjax.studies.options import ClaimOptions
from resjax.studies.result import Classified
from resjax.studies.run import Examples
from resjax.studies.small_training import (
    Trained,
    digits_recipe,
    evaluate,
    examples,
    train_tuned,
    with_numbers,
)
from resjax.studies.study import Claim, Columns
from resjax.studies.units.insertion import insert
from resjax.studies.verdicts import MAY_GO
from resjax.studies.words import count, factor, join, percent
from resjax.training.optimizer import in_words

RATES = (0.03, 0.1, 0.3)
TRIED = 32  # examples on which inserted units are tried
UNTOUCHED = "untouched"


@dataclasses.dataclass(frozen=True)
class AddedLayers(Classified):
    """Networks after further training, the first one without new layers; NaN after divergence."""

    case: tuple[str, ...]  # 'untouched', or place and start of the new unit
    train_loss: Annotated[np.ndarray, "case", "seed"]  # of batches, mean over the last tenth of the steps
    test_loss: Annotated[np.ndarray, "case", "seed"]
    test_error: Annotated[np.ndarray, "case", "seed"]  # 0 … 1
    before_loss: Annotated[np.ndarray, "seed"]  # of batches, in the last tenth of the first training
    before_error: Annotated[np.ndarray, "seed"]  # on test images, before further training
    num_units: int  # before
    num_test: int


def added_layers(
    recipe: ConfigDict,
    *,
    rates: Sequence[float] = RATES,
    seeds: int = 6,
    tries: int = 1,
    progress: Progress | None = None,
) -> AddedLayers:
    """Trains a network, adds a unit in the middle or at the end, and trains on, beside the untouched network.

    Args:
      recipe: a configuration with ``data.holdout`` above 0, used for both trainings; its seed is the first.
      rates: learning rates to choose from.
      seeds, tries: number of seeds, 2 or more, and of those with which the rate is chosen.
      progress: counts trainings.

    Raises:
      Refusal: no unit can be the identity there.
    """
    if seeds < 2:
        raise ValueError(f"seeds={seeds}; allowed: 2 or more")
    sets, numbers = examples(recipe), range(recipe.seed, recipe.seed + seeds)
    cases = [None, *product(("middle", "end"), (True, False))]
    first = train_tuned(recipe, rates, numbers, tries=tries, progress=part(progress, 0, len(cases) + 1))
    network = first.trained[0].network
    places = {"middle": (network.num_units - 1) // 2, "end": network.num_units - 1}
    tried = sets.train[0][:TRIED]

    def enlarged(i: int, place: str, identity: bool) -> tuple[Network, Variables]:
        key = jax.random.fold_in(jax.random.key(numbers[i]), places[place] + 1)
        variables = first.trained[i].variables
        return insert(network, variables, tried, after=places[place], key=key, identity=identity)

    rows, chosen = [], {}
    for k, case in enumerate(cases):
        begins = [enlarged(i, *case) if case else (network, first.trained[i].variables) for i in range(seeds)]
        tuned = train_tuned(
            recipe,
            rates,
            numbers,
            tries=tries,
            network=begins[0][0] if case else None,
            starts=[variables for _, variables in begins],
            progress=part(progress, k + 1, len(cases) + 1),
        )
        name = f"{case[0]}, {'identity' if case[1] else 'initialized'}" if case else UNTOUCHED
        chosen[name] = f"{tuned.rate:g}"
        rows.append(_scores(tuned.trained, sets.test))
    train_loss, test_loss, test_error = (np.stack(values) for values in zip(*rows, strict=True))
    before_loss, _, before_error = _scores(first.trained, sets.test)
    return AddedLayers(
        case=tuple(chosen),
        train_loss=train_loss,
        test_loss=test_loss,
        test_error=test_error,
        before_loss=before_loss,
        before_error=before_error,
        num_units=network.num_units,
        num_test=len(sets.test[1]),
        num_classes=sets.num_classes,
        choices={
            "training": f"twice {recipe.train.duration} of {recipe.train.batch_size} of "
            f"{len(sets.train[1]):,} images, {in_words(recipe.optimizer)}, the optimizer anew",
            "learning rate": f"{first.rate:g}, then by case; chosen on {recipe.data.holdout} held-out "
            f"training images ({tries} of the seeds)",
            "learning rate by case": chosen,
            "new unit": f"two layers, behind unit {places['middle'] + 1} or {places['end'] + 1} of "
            f"{network.num_units}",
            "seeds": f"{numbers[0]} … {numbers[-1]}; each draws weights and batches, the same for all cases",
        },
    )


def _scores(trained: Sequence[Trained], test: Examples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training loss, test loss and test error, [seed]; NaN after divergence."""
    on_test = [evaluate(one.network, one.variables, *test) for one in trained]
    loss = np.array([one.loss[-max(len(one.loss) // 10, 1) :].mean() for one in trained])
    nothing = np.where(np.isnan(loss), np.nan, 0.0)
    return loss, np.array([e.loss for e in on_test]) + nothing, np.array([e.error for e in on_test]) + nothing


def measure(options: ClaimOptions, progress: Progress | None) -> dict[str, AddedLayers]:
    steps, small = 400, {}
    if options.smoke:
        steps, small = 20, {"rates": (0.03,), "seeds": 2, "tries": 1}
    results = {}
    for i, (label, shortcut) in enumerate((("residual", "identity"), ("plain", "none"))):
        recipe = digits_recipe(steps, depth=14, widths=(4, 8, 16), shortcut=shortcut)
        given: dict[str, Any] = {**small, "progress": part(progress, i, 2)}
        results[label] = added_layers(with_numbers(recipe, seed=options.seed), **given)
        results[label].choices["data"] = "scikit-learn's digits, standardized by the images trained on"
    return results


# --- what the report shows ---


def differences(r: AddedLayers) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Test error minus that of the untouched network, [case]: mean over seeds, ends of the 95 % interval."""
    off = r.test_error - r.test_error[0]
    return off.mean(-1), *bootstrap(off)


def effects(r: AddedLayers) -> dict[str, str]:
    """{case: 'helps', 'hurts', 'does not hurt' or 'undecided'}, by the test error."""
    _, low, high = differences(r)
    found = {}
    for case, a, b in list(zip(r.case, low, high, strict=True))[1:]:
        clear = "helps" if b < 0 else "hurts" if a > 0 else ""
        found[case] = clear or ("does not hurt" if b <= MAY_GO else "undecided")
    return found


def fits(r: AddedLayers) -> dict[str, str]:
    """{case: 'lower', 'higher' or 'unclear'}: the training loss against that of the untouched network, by the
    95 % interval of the mean logarithm of their ratio."""
    low, high = bootstrap(np.log(r.train_loss / r.train_loss[0]))
    sides = np.where(high < 0, "lower", np.where(low > 0, "higher", "unclear"))
    return dict(zip(r.case[1:], sides[1:].tolist(), strict=True))


VERBS = {
    "helps": "two more layers help",
    "does not hurt": "they do not hurt",
    "hurts": "they hurt",
    "undecided": "it is undecided whether they hurt",
}


def headline(results: Mapping[str, AddedLayers]) -> str:
    """What two more layers do in each network."""
    clauses = []
    for label, r in results.items():
        groups: dict[str, list[str]] = {}
        for case, effect in effects(r).items():
            groups.setdefault(effect, []).append(f"“{case}”")
        told = [f"{verb} ({join(groups[effect])})" for effect, verb in VERBS.items() if effect in groups]
        first = told[0].replace("they", "two more layers", 1)
        clause = f"in the trained {label} network, {join([first, *told[1:]])}"
        losses = []
        for side in ("lower", "higher"):
            if cases := [f"“{case}”" for case, found in fits(r).items() if found == side]:
                losses.append(f"{side} ({join(cases)})")
        clauses.append(clause + (f", while the training loss is {join(losses)}" if losses else ""))
    return "; ".join(clauses)


def _points(difference: float) -> str:
    """A signed difference of shares in percentage points; one that is rounded to 0 has no minus."""
    return f"{round(100 * difference, 1) + 0.0:+.1f}"


def points(label: str, r: AddedLayers) -> list[str]:
    rows = list(zip(r.case, *differences(r), strict=True))[1:]
    told = [f"{_points(m)} points ({_points(a)} to {_points(b)}) with “{case}”" for case, m, a, b in rows]
    losses = [
        f"{factor(loss)} with “{case}”" for case, loss in zip(r.case, r.train_loss.mean(-1), strict=True)
    ]
    return [
        f"{label}: the test error was {percent(r.before_error.mean())}, and "
        f"{percent(r.test_error[0].mean())} after further training without new layers (mean over "
        f"{count(r.test_error.shape[1], 'seed')}). Against that, two more layers change it by {join(told)} "
        "(95 % intervals).",
        f"{label}: the training loss was {factor(r.before_loss.mean())} and becomes {join(losses)}.",
    ]


def table(r: AddedLayers) -> Columns:
    def cells(values: np.ndarray, show: Any) -> list[str]:
        ends = (np.maximum(end, 0) for end in bootstrap(values))
        return [f"{show(m)} ({show(a)} – {show(b)})" for m, a, b in zip(values.mean(-1), *ends, strict=True)]

    return {
        "new unit": list(r.case),
        "training loss": cells(r.train_loss, factor),
        "it is": ["–", *fits(r).values()],
        "test loss": cells(r.test_loss, factor),
        "test error": cells(r.test_error, percent),
        "difference in points": [
            "–",
            *(
                f"{_points(m)} ({_points(a)} – {_points(b)})"
                for m, a, b in list(zip(*differences(r), strict=True))[1:]
            ),
        ],
        "effect": ["–", *effects(r).values()],
    }


def summary(r: AddedLayers) -> dict[str, str]:
    return {f"two more layers, {case}": effect for case, effect in effects(r).items()}


def plot(results: Mapping[str, AddedLayers]) -> style.Figure:
    """Difference of the test error to the untouched network, for each place and start: each seed, mean and 95
    % interval; the shaded range up to one point counts as no harm."""
    fig, panels = style.panels(len(results), height=0.75, sharey=True)
    for ax, (label, r) in zip(panels, results.items(), strict=True):
        off = 100 * (r.test_error - r.test_error[0])[1:]
        mean, low, high = off.mean(-1), *bootstrap(off)
        place = np.arange(len(off))
        ax.axhspan(0, 100 * MAY_GO, alpha=0.12, lw=0, color=style.ink())
        ax.axhline(0, lw=1, color=style.ink())
        for i, values in enumerate(off):
            spread = np.linspace(-0.15, 0.15, len(values))
            ax.plot(place[i] + spread, values, ".", ms=4, alpha=0.5, color=style.color(0))
        ax.errorbar(place, mean, [mean - low, high - mean], fmt="o", capsize=3, color=style.color(1))
        ax.set_xticks(place, [case.replace(", ", "\n") for case in r.case[1:]])
        ax.set(title=f"{label}: two more layers")
    for ax in panels if style.is_narrow() else panels[:1]:
        ax.set_ylabel("change of test error (points)")
    return fig


STUDY = Claim(
    name="added_layers",
    title="Two more layers, trained on",
    question=(
        "Does it hurt or help to add two layers to a trained network? A unit is inserted in the middle or at "
        "the end, as the identity or as initialized, and the network is trained on, beside the same network "
        "without new layers; with shortcuts and without."
    ),
    code=(
        "recipe = resjax.analysis.digits_recipe(400, depth=14, widths=(4, 8, 16)); "
        "resjax.analysis.added_layers(recipe, rates=(0.1,), seeds=2, tries=1)"
    ),
    labels="network",
    result=AddedLayers,
    measure=measure,
    plot=plot,
    headline=headline,
    points=points,
    table=table,
    summary=summary,
)
