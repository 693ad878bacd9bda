"""Texts of several seeds as one: cells become means with an interval, sentences keep what they agree on."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from resjax.studies.intervals import of_mean
from resjax.studies.words import Number, factor

_SIGNS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
# Not the digits of a name, such as stage1/unit2, and no superscript alone.
_NUMBER = re.compile(
    r"(?<![\w/.])[-−]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+|·10[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)?(?![\w/]|\.\d|,\d{3})"
)
# A number and its unit, "of 27", and a bracket, which may hold the interval over draws or images.
_CELL = re.compile(rf"({_NUMBER.pattern})([^\d(]*?)( of [\d,]+)?( \([^()]*\))?")
_INTERVAL = re.compile(r" \([^()]* to [^()]*\)")


def mean_and_interval(values: np.ndarray, *, log: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over the first axis, seeds, and the ends of its 95 % interval (Student's t).

    Args:
      values: [seed, …], two seeds or more.
      log: the geometric mean, and its interval on a logarithmic scale; NaN where a value is 0 or less.
    """
    values = np.asarray(values, float)
    if log:
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.where(values > 0, np.log(values), np.nan)
        mean, low, high = (np.exp(part) for part in mean_and_interval(logs))
        return mean, low, high
    return values.mean(0), *of_mean(values, 0)


def pool_cells(cells: Sequence[str]) -> str:
    """One cell for several seeds: 'mean (low to high)' of numbers, else each seed's text.

    Ratios (``words.factor``) have a geometric mean. An interval within a seed, in brackets, gives way to the
    interval over seeds. A text with several numbers that differ shows the smallest and the largest of each.
    """
    if len(set(cells)) == 1:
        return str(cells[0])
    if all(isinstance(cell, Number) for cell in cells):
        values = np.array([cell.value for cell in cells])  # type: ignore[attr-defined]
        show: Callable[[float], str] = cells[0].show  # type: ignore[attr-defined]
        return _mean(values, show) or " / ".join(cells)
    found = [match.groups() for match in map(_CELL.fullmatch, cells) if match]
    if len(found) == len(cells):
        numbers, units, totals, brackets = zip(*found, strict=True)
        if all(map(_INTERVAL.fullmatch, brackets)) if all(brackets) else not any(brackets):
            brackets = ("",) * len(cells)
        if len({*zip(units, totals, brackets, strict=True)}) == 1:
            show = factor if any("·10" in text for text in numbers) else _like(numbers)
            values = np.array([_value(text) for text in numbers])
            return _mean(values, show, units[0]) + (totals[0] or "") + brackets[0]
    merged = merge(cells)
    return merged[0][0] if len(merged) == 1 else " / ".join(cells)


def _mean(values: np.ndarray, show: Callable[[float], str], unit: str = "") -> str:
    """'mean (low to high)', or '' if a value is not finite."""
    if not np.isfinite(values).all():
        return ""
    parts = mean_and_interval(values, log=show is factor and bool((values > 0).all()))
    mean, low, high = (f"{show(float(part))}{unit}" for part in parts)
    return f"{mean} ({low} to {high})"


def _like(numbers: Sequence[str]) -> Callable[[float], str]:
    """Writes a mean with as many decimals as these numbers have, but at least one, and with their minus."""
    decimals = max(1, *(len(text.partition(".")[2]) for text in numbers))
    minus = "−" if any("−" in text for text in numbers) else "-"
    return lambda value: f"{value:,.{decimals}f}".replace("-", minus)


def _value(text: str) -> float:
    """'1.3·10⁷', '1,200', '1e-05' or '−0.5', with a hyphen or a minus sign, as a number."""
    mantissa, times, exponent = text.replace(",", "").replace("−", "-").partition("·10")
    return float(f"{mantissa}e{exponent.translate(_SIGNS)}") if times else float(mantissa)


def merge(texts: Sequence[str]) -> list[tuple[str, int]]:
    """Texts that differ only in numbers as one, with the smallest and the largest of each number.

    ['16 of 27 units', '19 of 27 units', 'no unit'] → [('16–19 of 27 units', 2), ('no unit', 1)]

    Returns:
      (text, how many of ``texts`` it stands for), the most frequent first.
    """
    alike: dict[str, list[str]] = {}
    for text in texts:
        alike.setdefault(_NUMBER.sub("0", text), []).append(text)
    merged = []
    for own in alike.values():
        ranges = map(_range, zip(*map(_NUMBER.findall, own), strict=True))
        parts = [part + next(ranges, "") for part in _NUMBER.split(own[0])]
        merged.append(("".join(parts), len(own)))
    return sorted(merged, key=lambda pair: -pair[1])


def _range(numbers: Sequence[str]) -> str:
    least, most = min(numbers, key=_value), max(numbers, key=_value)
    if least == most:
        return least
    return f"{least} to {most}" if _value(least) < 0 else f"{least}–{most}"
