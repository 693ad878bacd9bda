"""How training on few examples is shown; numbers: ``resjax.studies.convolution.sample_size``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from resjax import data
from resjax.studies.batches import Progress
from resjax.studies.convolution import sample_size
from resjax.studies.convolution.sample_size import SampleSize, by_sample_size, difference
from resjax.studies.intervals import bootstrap
from resjax.studies.old_study import Claim, Finding, Table
from resjax.studies.words import join, percent

Results = Mapping[str, SampleSize]


def _run(smoke: bool, seed: int, progress: Progress | None) -> dict[str, SampleSize]:
    digits = data.load(data.defaults())
    assert isinstance(digits, data.Arrays)
    constants = data.statistics(digits, "channel")
    train, test = (
        (np.asarray(data.standardize(jnp.asarray(images), constants)), labels)
        for images, labels in (
            (digits.train_images, digits.train_labels),
            (digits.test_images, digits.test_labels),
        )
    )
    small: dict[str, Any] = {"sizes": (50, 200), "seeds": 2, "steps": 60} if smoke else {}
    results = by_sample_size(train, test, seed=seed, progress=progress, **small)
    for result in results.values():
        result.choices["data"] = "scikit-learn's digits, standardized by all training images"
    return results


def compare(a: SampleSize, b: SampleSize) -> list[tuple[int, int]]:
    """[setting]: at how many sizes ``a`` has a lower test error than ``b``, and at how many a higher one,
    by an interval over seeds that leaves out 0."""
    _, low, high = difference(a, b)
    return list(zip((high < 0).sum(1).tolist(), (low > 0).sum(1).tolist(), strict=True))


def _against(a: str, b: str, results: Results) -> list[str]:
    """One phrase a setting."""
    r = results[a]
    phrases = []
    for setting, (lower, higher) in zip(r.setting, compare(r, results[b]), strict=True):
        said = [f"{word} at {n}" for word, n in (("lower", lower), ("higher", higher)) if n]
        phrases.append(
            f"{setting}: {' and '.join(said) or 'no clear difference at any'} of {len(r.size)} sizes"
        )
    return phrases


def _verdict(lower: int, higher: int, sizes: int) -> str:
    """What is said of one setting; a difference at less than half of the sizes is told with their number."""
    if lower and higher:
        return "a test error that is lower or higher by the number of examples"
    if not lower and not higher:
        return "no clearly different test error"
    side = "lower" if lower else "higher"
    where = (
        "" if max(lower, higher) >= sizes / 2 else f" at {max(lower, higher)} of {sizes} sizes only"
    )
    return f"a {side} test error{where}"


def finding(results: Results) -> Finding:
    """Where the first network of the results generalizes better than the last, and where not."""
    names = list(results)
    if len(names) < 2:
        return Finding(
            "One network alone says nothing about sharing.", _ends(names[0], results[names[0]])
        )
    first, last = names[0], names[-1]
    verdicts: dict[str, list[str]] = {}
    for setting, (lower, higher) in zip(
        results[first].setting, compare(results[first], results[last]), strict=True
    ):
        verdict = _verdict(lower, higher, len(results[first].size))
        verdicts.setdefault(verdict, []).append(setting)
    parts = [f"{verdict} ({join(settings)})" for verdict, settings in verdicts.items()]
    points = [
        f"Test error of {a} against {b}: {'; '.join(_against(a, b, results))}."
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    ]
    for name in names:
        points += _ends(name, results[name])
    return Finding(
        f"Against {last} layers of the same shape, {first} has {'; '.join(parts)}.", points
    )


def _ends(name: str, r: SampleSize) -> list[str]:
    """Errors and gap at the smallest and the largest number of examples."""
    parts = []
    for k, setting in enumerate(r.setting):
        ends = " and ".join(
            f"{percent(r.test_error[k, i].mean())} from {r.size[i]:,} (gap {percent(r.gap[k, i].mean())})"
            for i in dict.fromkeys((0, len(r.size) - 1))
        )
        parts.append(f"{setting} {ends}")
    return [f"{name}, {r.parameters:,} parameters, test error: {'; '.join(parts)}."]


def table(results: Results) -> Table:
    """One row a network, setting and number of examples."""
    rows = []
    for label, r in results.items():
        low, high = bootstrap(r.test_error)
        rows += [
            (
                label,
                setting,
                f"{n:,}",
                percent(r.train_error[k, i].mean()),
                percent(r.test_error[k, i].mean()),
                f"{percent(low[k, i])} … {percent(high[k, i])}",
                percent(r.gap[k, i].mean()),
            )
            for k, setting in enumerate(r.setting)
            for i, n in enumerate(r.size)
        ]
    columns = (
        "network",
        "setting",
        "examples",
        "train error",
        "test error",
        "95 % interval",
        "gap",
    )
    return Table(columns, rows)


def summary(results: Results) -> dict[str, dict[str, str]]:
    """The last setting's test error at the smallest and the largest number of examples."""
    return {
        label: {
            f"test error, {r.setting[-1]}, {r.size[0]:,} → {r.size[-1]:,} examples": " → ".join(
                percent(r.test_error[-1, i].mean()) for i in (0, -1)
            )
        }
        for label, r in results.items()
    }


CLAIM = Claim(
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
        "from resjax.studies.convolution import sample_size\n"
        "digits = data.load(data.defaults())\n"
        "constants = data.statistics(digits, 'channel')\n"
        "train = data.standardize(digits.train_images, constants), digits.train_labels\n"
        "test = data.standardize(digits.test_images, constants), digits.test_labels\n"
        "sample_size.by_sample_size(train, test)"
    ),
    result=SampleSize,
    run=_run,
    plot=sample_size.plot,
    finding=finding,
    table=table,
    summary=summary,
)
