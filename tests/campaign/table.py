"""The table of a campaign."""

from __future__ import annotations

from collections.abc import Iterable

from tests.campaign.outcome import Outcome


def table(outcomes: Iterable[Outcome]) -> str:
    """A row for each kind and phase: how many were tried, ended well, were lost, or changed what nobody could
    notice; and how many signals came within the phase."""
    rows: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        rows.setdefault((outcome.name.partition("-")[0], outcome.group), []).append(outcome)
        rows.setdefault((outcome.name.partition("-")[0], "all"), []).append(outcome)
    lines = [
        "| kind | phase or file | tried | survived | lost | not promised | within the phase |",
        "|---|---|---|---|---|---|---|",
    ]
    for (kind, group), own in sorted(rows.items(), key=lambda row: (row[0][0], row[0][1] == "all")):
        unseen = sum(not one.facts.get("promised", True) for one in own)
        good = sum(one.survived for one in own) - unseen
        told = [one.facts["in_phase"] for one in own if "in_phase" in one.facts]
        within = str(sum(told)) if told else ""
        lost = len(own) - good - unseen
        lines.append(f"| {kind} | {group} | {len(own)} | {good} | {lost} | {unseen} | {within} |")
    return "\n".join(lines)
