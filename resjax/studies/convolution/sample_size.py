"""Does sharing reduce overfitting? Three networks of one shape, trained on more and more examples.

*Question.* The argument for convolution says: fewer parameters, hence less overfitting, hence a lower test
error from few examples. LeCun (1989) trained networks for one task that differed in their connections and
found so on 480 small digits. Does this hold here, and is the reason sparseness or sharing?

*Method.* ``resjax.models.local.twin`` builds layer, ReLU, pooling, layer, ReLU, classifier three times, with
as many units each time: with convolutions, with the same windows but weights of their own at every position,
and dense. All are trained on the same n examples with one recipe, for n = 50, 100, …; the gap is test error
minus training error. Sharing helps if features that are useful in one place are useful in others, so there
are three settings:

    centred   trained and tested on images in the middle of a field ``margin`` pixels wider on each side,
    shifted   trained on those, tested on images moved by ``margin`` pixels in each of 8 directions,
    moved     trained and tested on images at these 9 places; each training image has one place, drawn once.

Moving loses no pixel. Test errors are means over all places, so nothing is drawn in testing.

*Protocol.* A seed draws the n examples, their places, the initial weights and the batches, the same for the
three networks: differences are paired. Training uses Adam (Kingma & Ba 2015), a learning rate that falls to 0
by a cosine, batches drawn with replacement, no augmentation and no weight decay. The number of steps is equal
for all n and all networks, enough to fit the examples, or nearly so (the training error is reported). The
recipe was chosen for running time and training error, without a search.

*Reading it.* Intervals are over seeds (``intervals.bootstrap``); there is one test set. At n = all images,
seeds share the examples, so the interval covers initial weights and batches only. The three networks differ
in their number of parameters by design. One small shape on one data set shows what can happen, not what must:
a dense network also has more features to choose from, and many training images make prior knowledge
unnecessary.

*Cost.* (networks · settings of training · sizes · seeds) · steps small training steps; one compilation for
each network.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from resjax.models.local import CONNECTIONS, twin
from resjax.studies import style
from resjax.studies.batches import Progress
from resjax.studies.convolution.few_examples import (
    Examples,
    Training,
    field,
    fit,
    num_classes,
    num_parameters,
    standardized_digits,
)
from resjax.studies.intervals import bootstrap
from resjax.studies.options import ClaimOptions
from resjax.studies.result import Result
from resjax.studies.study import Claim, Columns
from resjax.studies.words import join, percent, percents

SIZES = (50, 100, 200, 400, 800, 1400)
SETTINGS = ("centred", "shifted", "moved")


@dataclasses.dataclass(frozen=True)
class SampleSize(Result):
    """Errors of one network, 0 … 1, by the number of its training examples."""

    size: Annotated[np.ndarray, "size"]  # int
    setting: tuple[str, ...]  # names
    train_error: Annotated[np.ndarray, "setting", "size", "seed"]
    test_error: Annotated[np.ndarray, "setting", "size", "seed"]
    parameters: int  # trainable numbers
    num_test: int  # test images, each seen at all its places
    num_classes: int

    @property
    def gap(self) -> np.ndarray:
        """[setting, size, seed], test minus training error."""
        return self.test_error - self.train_error


def difference(a: SampleSize, b: SampleSize) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Test error of ``a`` minus that of ``b`` over paired seeds: mean and ends of the 95 % interval, each
    [setting, size]."""
    off = a.test_error - b.test_error
    return off.mean(-1), *bootstrap(off)


def sample_size(
    train: Examples,
    test: Examples,
    *,
    sizes: Sequence[int] = SIZES,
    seeds: int = 5,
    steps: int = 600,
    batch_size: int = 16,
    learning_rate: float = 3e-3,
    margin: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, SampleSize]:
    """Trains a convolutional, a locally connected and a dense network of one shape on n examples each:
    one result for each of ``resjax.models.local.CONNECTIONS``.

    Args:
      train, test: images float32 [N, H, W, C], standardized, and labels int [N]. The top left pixel of the
        first image is used as the background around all of them.
      sizes: numbers of training examples, each at most N.
      seeds, seed: number of seeds, 2 or more, and the first of them.
      steps, batch_size, learning_rate: of Adam, the same for all.
      margin: pixels by which images are moved.
      progress: counts trainings, of ``seeds`` networks each.
    """
    if seeds < 2 or margin < 1:
        raise ValueError(f"seeds={seeds}, margin={margin}; allowed: seeds from 2, margins from 1")
    classes, shape = num_classes(train, test), field(train, margin)
    networks = {c: twin(c, image_shape=shape, num_classes=classes) for c in CONNECTIONS}
    # Networks take turns, so that two compile in parallel.
    trainings = [
        Training(network, moved, n, learning_rate)
        for moved, n, network in itertools.product((False, True), sizes, CONNECTIONS)
    ]
    done = fit(
        networks,
        trainings,
        train,
        test,
        seeds=range(seed, seed + seeds),
        steps=steps,
        batch_size=batch_size,
        margin=margin,
        progress=progress,
    )
    grid = (2, len(sizes), len(CONNECTIONS), seeds)  # trained on moved images?, size, network, seed
    fitted, tested = done.train.reshape(grid), done.test.reshape(*grid, -1)
    choices = {
        "training": f"Adam, learning rate {learning_rate} to 0 by a cosine, {steps} steps of "
        f"{batch_size} examples drawn with replacement, no augmentation, no weight decay",
        "recipe": "alike for all; chosen for running time and training error, without a search",
        "field": f"{shape[0]}×{shape[1]} pixels; images are moved by {margin}",
        "seeds": f"{seed} … {seed + seeds - 1}; each draws examples, places, weights, batches",
    }
    return {
        c: SampleSize(
            size=np.array(sizes),
            setting=SETTINGS,
            **errors_by_setting(fitted[:, :, i], tested[:, :, i]),
            parameters=num_parameters(networks[c], shape),
            num_test=len(test[1]),
            num_classes=classes,
            choices=choices,
        )
        for i, c in enumerate(CONNECTIONS)
    }


def errors_by_setting(fitted: np.ndarray, tested: np.ndarray) -> dict[str, np.ndarray]:
    """Training and test error [setting, size, seed], from those of networks that were trained on centred and
    on moved images: ``fitted`` [2, size, seed] and ``tested`` [2, size, seed, place]."""
    centred, shifted, moved = tested[0, ..., 0], tested[0, ..., 1:].mean(-1), tested[1].mean(-1)
    return {"train_error": fitted[[0, 0, 1]], "test_error": np.stack([centred, shifted, moved])}


def measure(options: ClaimOptions, progress: Progress | None) -> dict[str, SampleSize]:
    train, test = standardized_digits()
    small: dict[str, Any] = {"sizes": (50, 200), "seeds": 2, "steps": 60} if options.smoke else {}
    results = sample_size(train, test, seed=options.seed, progress=progress, **small)
    for result in results.values():
        result.choices["data"] = "scikit-learn's digits, standardized by all training images"
    return results


# --- what the report shows ---


def plot(results: Mapping[str, SampleSize]) -> style.Figure:
    """Test error (with its interval over seeds) and training error (dashed); one panel for each setting."""
    settings = next(iter(results.values())).setting
    fig, panels = style.panels(len(settings), height=0.7)
    for k, (ax, setting) in enumerate(zip(panels, settings, strict=True)):
        for i, (label, result) in enumerate(results.items()):
            look: dict[str, Any] = {"color": style.color(i)}
            test, train = (100 * e[k] for e in (result.test_error, result.train_error))
            ax.plot(result.size, test.mean(-1), f"{style.marker(i)}-", label=label, **look)
            ax.fill_between(result.size, *bootstrap(test), alpha=0.2, lw=0, **look)
            ax.plot(result.size, train.mean(-1), "--", lw=1.1, **look)
        ax.set(xscale="log", title=setting, xlabel="training examples")
        ax.set_xticks(result.size, [f"{n:,}" for n in result.size], rotation=45)
        ax.minorticks_off()
        ax.set_ylim(bottom=-0.02 * ax.get_ylim()[1])
    for ax in panels if style.is_narrow() else panels[:1]:
        ax.set_ylabel("error (%)")
    style.legend_above(fig, panels[0], columns=3)
    return fig


def compare(a: SampleSize, b: SampleSize) -> dict[str, tuple[int, int]]:
    """{setting: at how many sizes ``a`` has a lower test error than ``b``, and at how many a higher one}, by
    an interval over seeds that excludes 0."""
    _, low, high = difference(a, b)
    counts = zip((high < 0).sum(1).tolist(), (low > 0).sum(1).tolist(), strict=True)
    return dict(zip(a.setting, counts, strict=True))


def _verdict(lower: int, higher: int, sizes: int) -> str:
    """The clause on one setting; it names the number of sizes where these are fewer than half."""
    if lower and higher:
        return "a test error that is lower at some numbers of examples and higher at others"
    if not lower and not higher:
        return "no clearly different test error"
    side, clear = ("lower", lower) if lower else ("higher", higher)
    where = "" if clear >= sizes / 2 else f" at {clear} of {sizes} sizes only"
    return f"a {side} test error{where}"


def headline(results: Mapping[str, SampleSize]) -> str:
    """In which settings the first network of the results generalizes better than the last one."""
    if len(results) < 2:
        return "one network alone says nothing about sharing"
    names = list(results)
    first, last = results[names[0]], results[names[-1]]
    verdicts: dict[str, list[str]] = {}
    for setting, sides in compare(first, last).items():
        verdicts.setdefault(_verdict(*sides, len(first.size)), []).append(setting)
    parts = [f"{verdict} ({join(settings)})" for verdict, settings in verdicts.items()]
    return f"against {names[-1]} layers of the same shape, {names[0]} has {'; '.join(parts)}"


def points(label: str, r: SampleSize) -> list[str]:
    parts = []
    for setting, error, gap in zip(r.setting, r.test_error.mean(-1), r.gap.mean(-1), strict=True):
        ends = [
            f"{percent(error[i])} from {r.size[i]:,} (gap {percent(gap[i])})"
            for i in dict.fromkeys((0, len(r.size) - 1))
        ]
        parts.append(f"{setting} {' and '.join(ends)}")
    return [f"{label}, {r.parameters:,} parameters, test error: {'; '.join(parts)}."]


def notes(results: Mapping[str, SampleSize]) -> list[str]:
    """Every pair of networks, setting by setting."""
    said = []
    for (a, r), (b, other) in itertools.combinations(results.items(), 2):
        phrases = []
        for setting, counts in compare(r, other).items():
            both = zip(("lower", "higher"), counts, strict=True)
            sides = [f"{word} at {n}" for word, n in both if n]
            clear = " and ".join(sides) or "no clear difference at any"
            phrases.append(f"{setting}: {clear} of {len(r.size)} sizes")
        said.append(f"Test error of {a} against {b}: {'; '.join(phrases)}.")
    return said


def table(r: SampleSize) -> Columns:
    """One row for each setting and number of examples."""
    low, high = (percents(end.ravel()) for end in bootstrap(r.test_error))
    return {
        "setting": [setting for setting in r.setting for _ in r.size],
        "examples": [f"{n:,}" for n in r.size] * len(r.setting),
        "train error": percents(r.train_error.mean(-1).ravel()),
        "test error": percents(r.test_error.mean(-1).ravel()),
        "95 % interval": [f"{a} … {b}" for a, b in zip(low, high, strict=True)],
        "gap": percents(r.gap.mean(-1).ravel()),
    }


def summary(r: SampleSize) -> dict[str, str]:
    ends = percents(r.test_error[-1, [0, -1]].mean(-1))
    row = f"test error, {r.setting[-1]}, {r.size[0]:,} → {r.size[-1]:,} examples"
    return {row: " → ".join(ends)}


STUDY = Claim(
    name="sample_size",
    title="Does sharing reduce overfitting?",
    question=(
        "Convolution is said to overfit less, because it has fewer parameters. Three networks of one shape "
        "are trained on the same few examples: convolutional; with the same windows but weights of their "
        "own at every position; and dense. Digits stay in the middle, are moved in the test alone, or are "
        "moved in training too. Lines: test error; dashed: training error."
    ),
    code=(
        "from resjax import data\n"
        "digits = data.load(data.defaults())\n"
        "constants = data.statistics(digits, 'channel')\n"
        "train = data.standardize(digits.train_images, constants), digits.train_labels\n"
        "test = data.standardize(digits.test_images, constants), digits.test_labels\n"
        "resjax.analysis.sample_size(train, test)"
    ),
    result=SampleSize,
    measure=measure,
    plot=plot,
    headline=headline,
    points=points,
    notes=notes,
    table=table,
    summary=summary,
)
