"""What became of one case."""

from __future__ import annotations

from typing import Any, NamedTuple


class Outcome(NamedTuple):
    """One case of a campaign."""

    name: str  # such as kill-17: --only=kill-17 repeats it
    group: str  # its row in the table
    survived: bool
    what: str  # in words; what was lost, if something was
    facts: dict[str, Any]
