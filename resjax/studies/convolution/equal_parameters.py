"""Do sharing and sparseness reduce overfitting, at equal numbers of parameters?

*Question.* Sharing and sparse connections are said to reduce overfitting, because they leave fewer parameters
(LeCun 1989). ``sample_size`` compares layers with as many *units*, so that the dense network has 31 times the
parameters of the convolutional one. Here all networks have as many *parameters*: is there still less
overfitting, so that it is the form of the connections that counts, not their number?

*Method.* Two layers with ReLU and a classifier, in three forms:

    convolution         3×3 windows, shared weights; 2×2 pooling between the layers
    locally connected   the same windows, weights of their own at each position
    dense               two fully connected layers, without pooling: they have no positions

``widths`` gives each form the channels (or units) with which it comes closest to the same number of
parameters; with 11,000 on 10×10 pixels, all are within 1 % of it. The gap is test error minus training error.
Sharing is the difference between the first two forms, sparseness that between the last two.

*Protocol.* Settings, draws and training are those of ``sample_size``, but each network has its own learning
rate for each number of examples n and each kind of training, chosen on training images that are held out
(``tuned``). Differences are paired by seed and averaged over n: one Student interval over seeds for each pair
of forms and each setting.

*Reading it.* A convolution with as many parameters as a dense network has many more units: it computes more,
and its classifier sees more features. So neither comparison is "the" fair one, and both are needed. A gap of
a network that fits its training examples is its test error.

*Cost.* 3 networks · 2 kinds of training · sizes · (rates · choice_seeds + seeds) small trainings.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from resjax.models.layers import Initializer
from resjax.models.local import CONNECTIONS, DenseMap, normal_of, twin
from resjax.models.plain import Classifier, ConvStem, ConvUnit
from resjax.models.stem_head import Head
from resjax.network import Network, Stack
from resjax.studies.batches import Progress
from resjax.studies.convolution import sample_size
from resjax.studies.convolution.few_examples import Examples, field, num_classes, standardized_digits
from resjax.studies.convolution.tuned import Tuned, by_examples, over_sizes
from resjax.studies.options import ClaimOptions
from resjax.studies.study import Claim, Columns
from resjax.studies.words import count, join, number, percent

PARAMETERS = 11_000
SIZES = (50, 200, 1000)
MOST_WIDTH = 1000  # channels or units that are tried
CLOSE = 0.01  # deviation from the wanted number within which the ratio of the widths decides


def equal_parameters(
    train: Examples,
    test: Examples,
    *,
    parameters: int = PARAMETERS,
    sizes: Sequence[int] = SIZES,
    margin: int = 1,
    **how: Any,
) -> dict[str, Tuned]:
    """Trains three networks with about ``parameters`` trainable numbers on n examples each: one result for
    each of ``resjax.models.local.CONNECTIONS``.

    Args:
      train, test, sizes, margin, **how: see ``tuned.by_examples``.
      parameters: wanted number, at least that of the smallest network of each form.
    """
    shape, classes = field(train, margin), num_classes(train, test)
    networks = {
        form: _network(form, widths(form, shape, classes, parameters), shape, classes) for form in CONNECTIONS
    }
    return by_examples(networks, train, test, sizes=sizes, margin=margin, **how)


def num_parameters(form: str, width: tuple[int, int], shape: tuple[int, int, int], classes: int) -> int:
    """The number of parameters of a form with these widths, by the formulas of ``resjax.models.local``."""
    (height, breadth, channels), (a, b) = shape, width
    if form == "dense":
        return a * (height * breadth * channels + 1) + b * (a + 1) + classes * (b + 1)
    places = height * breadth, (height // 2) * (breadth // 2)
    times = (1, 1) if form == "convolution" else places
    first, second = a * (9 * channels + 1), b * (9 * a + 1)
    return times[0] * first + times[1] * second + classes * (places[1] * b + 1)


def widths(form: str, shape: tuple[int, int, int], classes: int, wanted: int) -> tuple[int, int]:
    """Widths of both layers, with which ``form`` has about ``wanted`` parameters.

    The second width is between the first and its triple. Of the pairs within ``CLOSE`` of the wanted number,
    the one with a ratio nearest to 2, else the pair that is nearest in number.
    """

    def rank(width: tuple[int, int]) -> tuple[float, float]:
        off = abs(num_parameters(form, width, shape, classes) / wanted - 1)
        return (0.0 if off <= CLOSE else off), abs(width[1] / width[0] - 2) + off

    pairs = [
        (a, b)
        for a in range(1, MOST_WIDTH)
        if num_parameters(form, (a, a), shape, classes) <= 2 * wanted
        for b in range(a, 3 * a + 1)
    ]
    if not pairs or num_parameters(form, (1, 1), shape, classes) > wanted * (1 + CLOSE):
        least = num_parameters(form, (1, 1), shape, classes)
        raise ValueError(f"parameters={wanted}; allowed: {least:,} or more, the smallest {form} network")
    return min(pairs, key=rank)


def _network(form: str, width: tuple[int, int], shape: tuple[int, int, int], classes: int) -> Network:
    if form != "dense":
        return twin(form, image_shape=shape, num_classes=classes, widths=width)
    init: Initializer = normal_of(1)
    first, second = (DenseMap(units, (1, 1), init) for units in width)
    return Network(
        stem=ConvStem(first),
        stacks=(Stack("layer2", ConvUnit(second), 1, 1),),
        head=Classifier(classes, Head.kernel_init),
    )


def measure(options: ClaimOptions, progress: Progress | None) -> dict[str, Tuned]:
    small: dict[str, Any] = (
        {"sizes": (50, 200), "seeds": 2, "steps": 60, "rates": (0.003, 0.01), "choice_seeds": 1}
        if options.smoke
        else {}
    )
    results = equal_parameters(*standardized_digits(), seed=options.seed, progress=progress, **small)
    for result in results.values():
        result.choices["data"] = "scikit-learn's digits, standardized by all training images"
    return results


# --- what the report shows ---

SMALLER = {-1: "smaller", 0: "not clearly different", 1: "larger"}
LOWER = {-1: "lower", 0: "not clearly different", 1: "higher"}


def sides(a: np.ndarray, b: np.ndarray) -> list[int]:
    """For each setting, −1 if ``a`` is lower than ``b``, [setting, size, seed] each, and 1 if it is higher:
    the interval of the mean difference over sizes excludes 0. Else 0."""
    _, low, high = over_sizes(a, b)
    return [int(low_end > 0) - int(high_end < 0) for low_end, high_end in zip(low, high, strict=True)]


def grouped(settings: Sequence[str], verdicts: Sequence[str]) -> str:
    """'lower (moved) and not clearly different (centred and shifted)'."""
    groups: dict[str, list[str]] = {}
    for setting, verdict in zip(settings, verdicts, strict=True):
        groups.setdefault(verdict, []).append(setting)
    return join([f"{verdict} ({join(names)})" for verdict, names in groups.items()])


def headline(results: Mapping[str, Tuned]) -> str:
    """Whether the first network of the results overfits less than the last one, and errs less."""
    if len(results) < 2:
        return "one network alone says nothing about overfitting"
    names = list(results)
    a, b = results[names[0]], results[names[-1]]
    gap = grouped(a.setting, [SMALLER[side] for side in sides(a.gap, b.gap)])
    error = grouped(a.setting, [LOWER[side] for side in sides(a.test_error, b.test_error)])
    return (
        f"against {names[-1]} layers with as many parameters, {names[0]} has a gap between test and training "
        f"error that is {gap}, and a test error that is {error}"
    )


def points(label: str, r: Tuned) -> list[str]:
    """Errors at the smallest and largest size, and how many choices of a rate were at an end."""
    ends = f"The rate is at an end of those tried in {r.at_the_ends} of {r.chosen.size} choices."
    return [f"{text} {ends}" for text in sample_size.points(label, r)]


def differences(settings: Sequence[str], a: np.ndarray, b: np.ndarray) -> str:
    """'centred −1.0 (−2.0 to 0.1), moved 3.1 (2.5 to 3.7)': a − b in points, mean over sizes, interval."""
    parts = []
    for setting, *ends in zip(settings, *over_sizes(a, b), strict=True):
        mean, low, high = (f"{100 * end + 0.0:.1f}".replace("-", "−") for end in ends)
        parts.append(f"{setting} {mean} ({low} to {high})")
    return ", ".join(parts)


def notes(results: Mapping[str, Tuned]) -> list[str]:
    """Every pair of networks: mean differences over sizes, with their intervals over seeds."""
    said = []
    for (a, r), (b, other) in itertools.combinations(results.items(), 2):
        over = f"mean over {count(len(r.size), 'size')} and {count(r.gap.shape[-1], 'seed')}"
        for what, x, y in (("Gap", r.gap, other.gap), ("Test error", r.test_error, other.test_error)):
            said.append(f"{what} of {a} minus {b} in points, {over}: {differences(r.setting, x, y)}.")
    return said


def table(r: Tuned) -> Columns:
    """One row for each setting and number of examples."""
    trained_on = [int(setting == "moved") for setting in r.setting]  # shifted images are for tests only
    rates = [number(rate) for rate in r.chosen[trained_on].ravel()]
    return {**sample_size.table(r), "rate": rates}


def summary(r: Tuned) -> dict[str, str]:
    return {
        f"gap, {setting}, mean over sizes": percent(gap)
        for setting, gap in zip(r.setting, r.gap.mean((1, 2)), strict=True)
    }


STUDY = Claim(
    name="equal_parameters",
    title="Do sharing and sparseness reduce overfitting at equal parameters?",
    question=(
        "Convolution is said to overfit less. Three networks with as many parameters each are trained on the "
        "same few examples: convolutional; with the same windows but weights of their own at every position; "
        "and dense. Each has its own learning rate, chosen on training images that are held out. Lines: test "
        "error; dashed: training error; the gap is the distance between them."
    ),
    code=(
        "from resjax.studies.convolution.few_examples import standardized_digits\n"
        "resjax.analysis.equal_parameters(*standardized_digits())"
    ),
    result=Tuned,
    measure=measure,
    plot=sample_size.plot,
    headline=headline,
    points=points,
    notes=notes,
    table=table,
    summary=summary,
)
