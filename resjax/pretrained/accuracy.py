"""The accuracy that a file itself states, and whether the imported network has it.

Training scripts save it beside the weights, under names such as ``acc``, ``best_prec1``, ``val_metrics.top1``
or ``test_err``, in percent or as a fraction.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from scipy import stats

_WHEN = "(best|val|valid|test|eval|max|final)?"
_ACCURACY = re.compile(f"{_WHEN}(acc|accuracy)@?1?|{_WHEN}(prec|top)@?1")
_ERROR = re.compile(f"{_WHEN}(err|error)@?1?")
# Of the training images, of the first five guesses, or no result at all.
_OTHER = re.compile("(train|tr|trn|training).*|.*(5|loss)|threshold|target|optimizer")
# Points of percent: a few of 10,000 images, whose class depends on the rounding of another machine.
_SAME = 0.05


class Stated(NamedTuple):
    """An accuracy or error in a file."""

    name: str  # its full name
    value: float  # as in the file
    error: float  # in percent
    resolution: float  # half a unit of the last digit, in points of percent; at most half a point


def stated(values: Mapping[str, Any]) -> Stated | None:
    """What ``values`` of a file, by full name, state about the error on images outside its training, if
    anything.

    The best of a whole training comes last, since the network may be that of another epoch.
    """
    found = [one for name, value in values.items() if (one := _read(name, value))]
    return min(found, key=lambda one: ("best" in one.name.lower(), _images(one.name)), default=None)


def agrees(claim: Stated, errors: float, count: int) -> bool:
    """Whether ``errors`` of ``count`` images are the stated error."""
    return abs(100 * errors / count - claim.error) <= max(_SAME, claim.resolution) + 1e-9


def compared(claim: Stated, errors: float, count: int) -> str:
    """A sentence on the stated error and ``errors`` of ``count`` images."""
    off = 100 * errors / count - claim.error
    begin = f"the file states {claim.name} = {claim.value:.6g}, an error of {claim.error:.2f} %"
    if agrees(claim, errors, count):
        return f"{begin}: they agree"
    said = (
        f"{begin}: measured are {abs(off):.2f} points {'more' if off > 0 else 'less'}. If these are the same "
        "images, something below is assumed wrongly"
    )
    interval = stats.binomtest(round(errors), count).proportion_ci(method="wilson")
    low, high = 100 * interval.low, 100 * interval.high
    if low <= claim.error <= high:
        said += f"; if they are others, chance explains it (95 %: {low:.2f} … {high:.2f} %)"
    if "best" in claim.name.lower():
        said += ". The saved epoch need not be the best one"
    return said


def _means(name: str) -> str | None:
    """'accuracy' or 'error' if ``name`` says so; None for other numbers."""
    separate = re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower()
    words = re.split("[^a-z0-9@]+", separate)
    if any(map(_OTHER.fullmatch, words)):
        return None
    if any(map(_ERROR.fullmatch, words)):
        return "error"
    return "accuracy" if any(map(_ACCURACY.fullmatch, words)) else None


def _read(name: str, value: Any) -> Stated | None:
    means = _means(name)
    if means is None or isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 100:
        return None
    if value == 1 and isinstance(value, int):  # a class, a number of images, everything right, or 1 %
        return None
    fraction = value <= 1
    percent = 100.0 * value if fraction else float(value)
    decimals = len(f"{value:.15g}".partition(".")[2]) - 2 * fraction
    # A fraction such as 0.9 is not rounded to tens of percent.
    resolution = 0.5 * 10.0 ** -max(decimals, 0)
    return Stated(name, value, percent if means == "error" else 100 - percent, resolution)


def _images(name: str) -> int:
    """0 for the test set, 1 where it is not said, 2 for images that were held out."""
    return 0 if "test" in name.lower() else 2 if re.search("val|dev", name.lower()) else 1
