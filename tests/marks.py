"""Parameters of tests, some of them for the slow tier only."""

from collections.abc import Hashable, Iterable

import pytest


def slow_but(values: Iterable[Hashable], *fast: Hashable) -> list:
    """All ``values`` as parameters; those that are not in ``fast`` are marked slow."""
    values = list(values)
    assert fast and set(fast) <= set(values), f"{set(fast) - set(values)} are none of {values}"
    return [value if value in fast else pytest.param(value, marks=pytest.mark.slow) for value in values]
