"""Writes claims.md from claims.json: ``python docs/results/claims.py``.

claims.json has an entry for each claim: its row, the claim, the paper, the criterion ``shown_if`` with its
numbers in ``limits``, the ``status`` (one of ``STATUS``), what is said beside it, the name for
``launch/reproduce.py``, and what was found. ``tolerances.py`` judges results by the same ``limits``, so page
and verdicts cannot differ.
"""

import json
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
STATUS = (
    "shown",
    "shown in part, contradicted in part",
    "met in a shorter training",
    "missed in a shorter training",
    "not run",
)
# Row → the criteria that tolerances.py applies by itself.
JUDGED = (2, 5, 6, 8, 9, 15, 20)
PARTS = {"ours": "Found", "smaller_form": "Smaller form", "evidence": "Evidence"}

INTRODUCTION = """\
# The papers' claims, one by one

<!-- Made by claims.py from claims.json: change that file, then run python docs/results/claims.py -->

What a reproduction of these papers must show, when it counts as shown, and how far this project is. The
criteria were fixed before anything was measured. The verdicts are strict:

* **shown**, **contradicted**: the row's own protocol was followed, and its tolerance was met or missed.
* **met**, **missed in a shorter training**: the row's network and criteria, but trained for 20,000 of its
  64,000 steps ([veit110](veit110.md): 7.68 % error, one seed).
* **not run**: the protocol was not followed. "Smaller form" says what a smaller or another network shows; it
  decides nothing about the row.

Of {total} rows, {shown} are shown, {split} are shown in one part and contradicted in another, {short} are
decided in a shorter training ({met} met, {missed} missed), and {not_run} are not run: they need trainings of
ResNet-110 on CIFAR-10 or of a network on ImageNet.

For CIFAR-10, `python launch/reproduce.py NAME` makes these trainings, with the NAME in the row. It can be
stopped and continued, and writes `tolerances.json`, which applies the criteria of rows {judged}
(`docs/results/tolerances.py`). Row 15 is judged when all networks of the name are finished.

| row | claim | paper | verdict |
|---|---|---|---|
"""

END = """\
## Papers

Veit, Wilber & Belongie 2016; He et al. 2015 and 2016; Huang et al. 2016 (first version); Greff et al. 2017;
Jastrzębski et al. 2018; De & Smith 2020; Littwin & Wolf 2016; Balduzzi et al. 2017; LeCun et al. 1998. What
they leave open (BatchNorm's mode, number of draws, loss reduction, …) is recorded under "choices" in every
JSON file.
"""


def claims() -> list[dict[str, Any]]:
    return json.loads((HERE / "claims.json").read_text("utf-8"))["claims"]


def _told(number: Any) -> Any:
    """A number as text has it: with a minus sign, not a hyphen."""
    if isinstance(number, list):
        return [_told(n) for n in number]
    return str(number).replace("-", "−") if isinstance(number, int | float) and number < 0 else number


def criterion(claim: dict[str, Any]) -> str:
    """``shown_if`` with its numbers."""
    return claim["shown_if"].format(**{name: _told(n) for name, n in claim["limits"].items()})


def _section(claim: dict[str, Any]) -> str:
    paper = "" if claim["paper"] == "–" else f" ({claim['paper']})"
    said = f": {claim['said']}" if "said" in claim else ""
    lines = [f"**Shown, if** {criterion(claim)}.", f"**Verdict**: {claim['status']}{said}."]
    for part, name in PARTS.items():
        if part in claim:
            lines.append(f"**{name}**: " + "; ".join(claim[part]) + ".")
    if "run" in claim:
        lines.append(f"**Run**: {claim['run']}.")
    title = claim["claim"][0].upper() + claim["claim"][1:]
    bullets = "".join(_wrapped(f"* {line}", "  ") for line in lines)
    return f"### Row {claim['row']}\n\n{_wrapped(title + paper + '.')}\n{bullets}"


def _wrapped(text: str, indent: str = "") -> str:
    whole = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.fill(text, 118, subsequent_indent=indent, **whole) + "\n"


def page() -> str:
    """The text of claims.md."""
    rows = claims()
    number = Counter(claim["status"] for claim in rows)
    shown, split, met, missed, not_run = (number[status] for status in STATUS)
    text = INTRODUCTION.format(
        total=len(rows),
        shown=shown,
        split=split,
        short=met + missed,
        met=met,
        missed=missed,
        not_run=not_run,
        judged=", ".join(map(str, JUDGED[:-1])) + f" and {JUDGED[-1]}",
    )
    for claim in rows:
        link = f"[{claim['row']}](#row-{claim['row']})"
        text += f"| {link} | {claim['claim']} | {claim['paper']} | {claim['status']} |\n"
    sections = "\n".join(_section(claim) for claim in rows)
    return f"{text}\n## Criteria and evidence\n\n{sections}\n{END}"


if __name__ == "__main__":
    (HERE / "claims.md").write_text(page(), "utf-8")
