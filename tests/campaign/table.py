"""The table of a campaign."""

from __future__ import annotations

from collections.abc import Iterable

from tests.campaign.outcome import Outcome


def table(outcomes: Iterable[Outcome]) -> str:
    """A row for each kind and phase: tried, survived, lost, and how many signals came within the phase."""
    rows: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        rows.setdefault((outcome.name.partition("-")[0], outcome.group), []).append(outcome)
        rows.setdefault((outcome.name.partition("-")[0], "all"), []).append(outcome)
    lines = [
        "| kind | phase or file | tried | survived | lost | within the phase |",
        "|---|---|---|---|---|---|",
    ]
    for (kind, group), own in sorted(rows.items(), key=lambda row: (row[0][0], row[0][1] == "all")):
        good = sum(one.survived for one in own)
        told = [one.facts["in_phase"] for one in own if "in_phase" in one.facts]
        within = str(sum(told)) if told else ""
        lines.append(f"| {kind} | {group} | {len(own)} | {good} | {len(own) - good} | {within} |")
    return "\n".join(lines)
