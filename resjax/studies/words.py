"""Numbers and lists as text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np


class Number(str):
    """A number as text that keeps the number, so that a mean over seeds is no mean of rounded numbers."""

    value: float
    show: Callable[[float], str]  # how another number is written in the same way

    @classmethod
    def of(cls, text: str, value: float, show: Callable[[float], str]) -> Number:
        own = cls(text)
        own.value, own.show = float(value), show
        return own


def percent(share: float) -> str:
    """0.0123 → '1.2 %'; not a number → '–'."""
    return Number.of("–" if np.isnan(share) else f"{100 * share:.1f} %", share, percent)


def factor(value: float) -> str:
    """A ratio with two significant digits: '0.013', '1.3', '130', '1.3·10⁷', '∞'."""
    return Number.of(_factor(float(value)), value, factor)  # numpy's own numbers are rounded differently


def _factor(value: float) -> str:
    if np.isnan(value):
        return "–"
    if np.isinf(value):
        return "∞"
    if value and not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}·10{superscript(int(exponent))}"
    digits = 0 if value == 0 else max(0, 1 - int(np.floor(np.log10(abs(value)))))
    return f"{round(value, digits):,.{digits}f}" if digits else f"{float(f'{value:.2g}'):,.0f}"


def superscript(n: int) -> str:
    """-12 → '⁻¹²'."""
    return str(n).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def around(ends: Iterable[np.ndarray | float]) -> str:
    """' (95 % interval 1.2 to 1.9)', to follow a factor; '' where there is no interval."""
    low, high = (float(end) for end in ends)
    known = np.isfinite([low, high]).all()
    return f" (95 % interval {factor(low)} to {factor(high)})" if known else ""


def over(ends: Iterable[np.ndarray | float], what: str, digits: int = 1) -> str:
    """', 3.9 to 4.2 over batches', to follow a number; '' where there is no interval."""
    low, high = (float(end) for end in ends)
    return "" if np.isnan(low) else f", {low:.{digits}f} to {high:.{digits}f} over {what}"


def number(value: float) -> str:
    """Four significant digits, for tables; not a number → '–'."""
    return Number.of("–" if np.isnan(value) else f"{value:.4g}", value, number)


def join(names: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def capital(text: str) -> str:
    """'at init' → 'At init'."""
    return text[0].upper() + text[1:]


def count(n: int, noun: str) -> str:
    """'1 unit', '2 units', 'no unit'."""
    return f"no {noun}" if n == 0 else f"{n:,} {noun}{'' if n == 1 else 's'}"


def duration(seconds: float) -> str:
    """0.4 → '1 s', 42 → '42 s', 100 → '2 min', 4000 → '1 h 7 min', 2·10⁵ → '56 h'."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s" if round(seconds) < 60 else "1 min"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours >= 10:
        return f"{round(seconds / 3600):,} h"
    return " ".join(f"{n} {unit}" for n, unit in ((hours, "h"), (minutes, "min")) if n)


def percents(shares: Iterable[float]) -> list[str]:
    """``percent`` of each."""
    return [percent(float(share)) for share in shares]


def numbers(values: Iterable[float]) -> list[str]:
    """``number`` of each."""
    return [number(float(value)) for value in values]


def with_ends(
    values: np.ndarray, ends: Iterable[np.ndarray], show: Callable[[float], str] = number
) -> list[str]:
    """'0.25 (0.24 to 0.26)' for each value [n] and ends of its interval, two of [n]; '0.25' without one."""
    cells = []
    for value, low, high in zip(values, *ends, strict=True):
        known = np.isfinite([value, low, high]).all()
        text = f"{show(value)} ({show(low)} to {show(high)})" if known else show(value)
        cells.append(Number.of(text, value, show))
    return list(cells)


def correlation(value: float) -> str:
    """A correlation with two digits: '0.95'; not a number → '–'."""
    return Number.of("–" if np.isnan(value) else f"{value:.2f}", value, correlation)


def columns(names: Sequence[str], rows: Iterable[Sequence[str]]) -> dict[str, list[str]]:
    """Rows of cells as {name of the column: cells}."""
    rows = list(rows)
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}
