"""Does a network with ReLU train faster than one with tanh?

*Question.* "Deep convolutional networks with ReLUs train several times faster than their equivalents with
tanh units" (Krizhevsky, Sutskever & Hinton 2012, §3.1). Their Fig. 1: a convolutional network of four layers
reaches 25 % training error on CIFAR-10 six times faster with ReLU.

*Method.* One network of four layers, three 3×3 convolutions (the first two with 2×2 max pooling) and a
classifier, in two forms that differ in the activation only. Steps are counted until the training error has
fallen to 25 %: the mean error of ``WINDOW`` batches in a row, each before the update that uses it. The result
is the number of steps with tanh ÷ that with ReLU, in pairs of one seed, with a Student interval of the mean
logarithm over seeds.

*Protocol.* SGD with momentum 0.9 and a constant rate, no weight decay, dropout or augmentation, as in the
paper's figure. Initial weights have variance 2/fan-in with ReLU (He et al. 2015) and 1/fan-in with tanh
(LeCun et al. 1998), so that each form starts with signals of constant size. As in the paper, each form has
its own rate, "chosen independently to make training as fast as possible": the rate with the lowest loss on
held-out training images after a short training, of ``choice_steps``, with other seeds than those of the
result. The test images have no part in this.

*Reading it.* More than 1: ReLU is faster. The ratio holds for one network, one data set, one optimizer and
one threshold. The losses behind the choice of the rate are in the result, so that it can be judged. A form
that does not reach 25 % within all steps counts with all steps, and the finding says so: the ratio is then a
bound.

*Cost.* 2 forms · rates · (choice_seeds · choice_steps + seeds · steps) small training steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from ml_collections import ConfigDict

from resjax import config as configs
from resjax.models.local import chain
from resjax.network import Network
from resjax.studies import style
from resjax.studies.batches import Progress, following
from resjax.studies.intervals import bootstrap
from resjax.studies.options import ClaimOptions
from resjax.studies.result import Result
from resjax.studies.small_training import best_rate, examples, loss_after, train, with_holdout, with_numbers
from resjax.studies.study import Claim, Columns
from resjax.studies.words import columns, count, number
from resjax.training.optimizer import in_words

THRESHOLD = 0.25  # training error
WINDOW = 10  # batches whose errors are averaged
MOST_POINTS = 200  # of a curve in a result
RATES = (0.01, 0.03, 0.1, 0.3)


def four_layers(
    *, image_shape: tuple[int, int, int], num_classes: int, activation: str = "relu", width: int = 16
) -> Network:
    """Three 3×3 convolutions of ``width``, 2·``width`` and 2·``width`` channels, and a classifier."""
    return chain(
        ("convolution",) * 3,
        (width, 2 * width, 2 * width),
        image_shape=image_shape,
        num_classes=num_classes,
        pools=(1, 2),
        activation=activation,
    )


FORMS = {"ReLU": "relu", "tanh": "tanh"}  # by label


@dataclasses.dataclass(frozen=True)
class TrainingSpeed(Result):
    """How fast one form of a network trains, with the rate that was chosen for it."""

    rate: Annotated[np.ndarray, "rate"]  # that were tried
    held_out_loss: Annotated[np.ndarray, "rate"]  # mean over the seeds of the choice; infinite: diverged
    chosen: float  # the rate with the lowest one
    reached: Annotated[np.ndarray, "seed"]  # steps until ``THRESHOLD``; infinite: not within all steps
    step: Annotated[np.ndarray, "point"]  # int
    error: Annotated[np.ndarray, "seed", "point"]  # training error around each step, 0 … 1
    total: int  # number of steps

    @property
    def counted(self) -> np.ndarray:
        """``reached``, with all steps where the threshold was not reached: a lower bound."""
        return np.minimum(self.reached, self.total)

    @property
    def missed(self) -> int:
        """How many seeds did not reach the threshold."""
        return int(np.isinf(self.reached).sum())


def activations(
    recipe: ConfigDict | None = None,
    *,
    rates: Sequence[float] = RATES,
    seeds: int = 5,
    seed: int = 0,
    choice_seeds: int = 2,
    choice_steps: int = 50,
    holdout: int = 300,
    progress: Progress | None = None,
) -> dict[str, TrainingSpeed]:
    """Trains a network with ReLU and with tanh, each with its own rate: one result for each.

    Args:
      recipe: a configuration whose model has the field ``activation``; None for ``digits()``.
      rates: constant learning rates, from which one is chosen for each form.
      seeds, seed: number of seeds of the result, 2 or more, and the first of them.
      choice_seeds, choice_steps: number and steps of the trainings with each rate, before the choice.
      holdout: training images on which the choice is made; in the result they are trained on.
      progress: counts trainings.

    Raises:
      ValueError: fewer than 2 seeds, or a training shorter than ``WINDOW`` steps.
      Refusal: no rate of a form has a finite loss.
    """
    recipe = digits() if recipe is None else recipe
    if seeds < 2 or choice_seeds < 1:
        raise ValueError(f"seeds={seeds}, choice_seeds={choice_seeds}; allowed: from 2 and from 1")
    short = with_holdout(recipe, holdout)
    short.train.duration = f"{choice_steps} steps"
    results: dict[str, TrainingSpeed] = {}
    each = len(rates) * choice_seeds, seeds
    for label, activation in FORMS.items():
        done = sum(each) * len(results)
        first, last = (following(progress, done + n, sum(each) * len(FORMS)) for n in (0, each[0]))
        # The seeds of the choice follow those of the result.
        tried = [
            with_numbers(_form(short, activation), seed=seed + seeds + j, learning_rate=rate)
            for rate in rates
            for j in range(choice_seeds)
        ]
        loss = held_out_loss(tried, progress=first)
        loss = loss.reshape(len(rates), choice_seeds).mean(1)
        chosen = float(rates[int(best_rate(rates, loss))])
        recipes = [
            with_numbers(_form(recipe, activation), seed=seed + j, learning_rate=chosen) for j in range(seeds)
        ]
        trained = train(recipes, progress=last)
        batch_error = np.stack([one.error for one in trained])
        mean_error = np.stack([smoothed(errors) for errors in batch_error])
        every = max(1, mean_error.shape[1] // MOST_POINTS)
        results[label] = TrainingSpeed(
            rate=np.array(rates, float),
            held_out_loss=loss,
            chosen=chosen,
            reached=np.array([steps_until(errors) for errors in batch_error]),
            step=WINDOW // 2 + np.arange(0, mean_error.shape[1], every),
            error=mean_error[:, ::every],
            total=batch_error.shape[1],
            choices={
                "network": str(dict(_form(recipe, activation).model)),
                "data": f"{recipe.data.name}, {recipe.data.train_examples or 'all'} training images",
                "optimizer": f"{in_words(recipe.optimizer)}, batches of {recipe.train.batch_size}",
                "choice of the rate": f"lowest loss on {holdout} held-out training images after "
                f"{choice_steps} steps, {choice_seeds} other seed{'' if choice_seeds == 1 else 's'}",
                "seeds": f"{seed} … {seed + seeds - 1}",
            },
        )
    return results


def held_out_loss(recipes: Sequence[ConfigDict], *, progress: Progress | None = None) -> np.ndarray:
    """The loss of each trained configuration on the training images that are held out; infinite after a
    divergence."""
    held_out = examples(recipes[0]).held_out
    assert held_out is not None
    return np.array([loss_after(one, held_out) for one in train(recipes, progress=progress)])


def smoothed(batch_error: np.ndarray) -> np.ndarray:
    """Mean of each ``WINDOW`` successive values: [steps] → [steps − WINDOW + 1]."""
    if len(batch_error) < WINDOW:
        raise ValueError(f"{len(batch_error)} steps; allowed: {WINDOW} or more")
    return np.lib.stride_tricks.sliding_window_view(batch_error, WINDOW).mean(-1)


def steps_until(batch_error: np.ndarray) -> float:
    """The number of steps before the middle of the first ``WINDOW`` batches whose mean error is at most
    ``THRESHOLD``; infinite if there are none. Values behind a divergence are NaN, and are not."""
    below = np.flatnonzero(smoothed(batch_error) <= THRESHOLD + 1e-9)  # a margin for rounding
    return float(below[0] + WINDOW // 2) if len(below) else np.inf


def _form(recipe: ConfigDict, activation: str) -> ConfigDict:
    c = recipe.copy_and_resolve_references()
    c.model.activation = activation
    return c


def recipe_of(data_name: str, *, width: int, steps: int, batch_size: int) -> ConfigDict:
    """A configuration of ``four_layers`` as in the paper's figure: constant rate, nothing regularizes."""
    c = configs.default(f"{__name__}:four_layers", width=width)
    c.data.name = data_name
    c.train.duration = f"{steps} steps"
    c.train.batch_size = batch_size
    c.optimizer.schedule = "constant"
    c.optimizer.weight_decay = 0.0
    return c


def digits(steps: int = 120) -> ConfigDict:
    """scikit-learn's 1,400 training digits."""
    return recipe_of("digits", width=16, steps=steps, batch_size=32)


def measure(options: ClaimOptions, progress: Progress | None) -> dict[str, TrainingSpeed]:
    small: dict[str, Any] = (
        {"recipe": digits(40), "rates": RATES[1:3], "seeds": 2, "choice_seeds": 1, "choice_steps": 12}
        if options.smoke
        else {}
    )
    return activations(seed=options.seed, progress=progress, **small)


# --- what the report shows ---

_TO = f"{100 * THRESHOLD:.0f} % training error"


def ratio(slow: TrainingSpeed, fast: TrainingSpeed) -> tuple[float, float, float]:
    """Steps of ``slow`` ÷ steps of ``fast``: geometric mean over paired seeds, and its 95 % interval."""
    logs = np.log(slow.counted / fast.counted)
    return tuple(float(np.exp(value)) for value in (logs.mean(), *bootstrap(logs)))  # type: ignore[return-value]


def plot(results: Mapping[str, TrainingSpeed]) -> style.Figure:
    """Training error over steps: each seed thin, the mean over seeds thick; dashed: the threshold."""
    fig, ax = style.axes()
    for i, (label, r) in enumerate(results.items()):
        color = style.color(i)
        ax.plot(r.step, 100 * r.error.T, lw=0.6, alpha=0.5, color=color)
        ax.plot(r.step, 100 * r.error.mean(0), color=color, label=f"{label}, rate {number(r.chosen)}")
    ax.axhline(100 * THRESHOLD, ls="--", lw=1, color="gray")
    ax.set(xlabel="step", ylabel="training error (%)", ylim=(0, None))
    ax.legend()
    return fig


def headline(results: Mapping[str, TrainingSpeed]) -> str:
    """Whether the first form of the results needs fewer steps than the last."""
    if len(results) < 2:
        return "one form alone says nothing about activations"
    names = list(results)
    fast, slow = results[names[0]], results[names[-1]]
    if fast.missed and slow.missed:
        return f"undecided: neither form always reached {_TO}"
    bounds = bool(fast.missed or slow.missed)  # censored numbers have no interval: every seed must agree
    logs = np.log(slow.counted / fast.counted)
    value, low, high = (
        (float(np.exp(end)) for end in (logs.mean(), logs.min(), logs.max())) if bounds else ratio(slow, fast)
    )
    if high < 1:
        names, value, low, high = names[::-1], 1 / value, 1 / high, 1 / low
    seeds = count(len(fast.reached), "seed")
    how = f"at least, in each of {seeds}" if bounds else f"95 % interval {low:.2f} to {high:.2f}, {seeds}"
    if low <= 1 <= high and bounds:
        return f"undecided: some seeds never reached {_TO}, and seeds disagree on the faster form"
    if low <= 1 <= high:
        return f"undecided: {names[-1]} needs {value:.2f} times the steps of {names[0]} to {_TO} ({how})"
    return f"{names[0]} is faster: {names[-1]} needs {value:.2f} times its steps to {_TO} ({how})"


def points(label: str, r: TrainingSpeed) -> list[str]:
    tried = ", ".join(number(rate) for rate in r.rate)
    low, high = (number(float(end)) for end in (r.counted.min(), r.counted.max()))
    text = (
        f"{label}: {number(float(r.counted.mean()))} steps to {_TO} ({low} to {high} in "
        f"{count(len(r.reached), 'seed')}), with rate {number(r.chosen)} of {tried}"
    )
    if r.missed:
        text += f"; {r.missed} of {len(r.reached)} seeds did not reach it within {r.total:,} steps"
    if len(r.rate) > 1 and r.chosen in (r.rate.min(), r.rate.max()):
        text += f"; no {'smaller' if r.chosen == r.rate.min() else 'larger'} rate was tried"
    return [f"{text}."]


def table(r: TrainingSpeed) -> Columns:
    """One row for each rate."""
    chosen = r.rate == r.chosen
    steps = ", ".join("never" if np.isinf(n) else number(n) for n in r.reached)
    rows = [
        (number(rate), "diverged" if np.isinf(loss) else number(loss), steps if own else "")
        for rate, loss, own in zip(r.rate, r.held_out_loss, chosen, strict=True)
    ]
    return columns(("rate", "held-out loss", f"steps to {_TO}, by seed"), rows)


def summary(r: TrainingSpeed) -> dict[str, str]:
    return {f"steps to {_TO}": number(float(r.counted.mean()))}


STUDY = Claim(
    name="activations",
    title="Does a network with ReLU train faster than one with tanh?",
    question=(
        "A network of three convolutions and a classifier is trained with ReLU and with tanh, each with the "
        "learning rate that suits it best. After how many steps is the training error 25 %? In Krizhevsky et "
        "al. (2012, Fig. 1), a network with ReLU got there in a sixth of the time. Thin lines: one seed each."
    ),
    code="resjax.analysis.activations()",
    labels="activation",
    result=TrainingSpeed,
    measure=measure,
    plot=plot,
    headline=headline,
    points=points,
    table=table,
    summary=summary,
)
