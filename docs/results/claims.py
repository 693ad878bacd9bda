"""Writes claims.md from claims.json: ``python docs/results/claims.py``.

claims.json has an entry for each claim: its row, the claim, the paper, the criterion ``shown_if`` with its
numbers in ``limits``, the name for ``launch/reproduce.py``, and what was ``found``: for each trial its
``setting`` (one of ``SETTINGS``), what it was ``on``, its ``n``, what was ``measured`` with its interval,
the ``verdict`` (one of ``VERDICTS``), and ``where`` it is told. ``tolerances.py`` judges results by the same
``limits``; a trial that is ``judged`` by it names folder, network, row, and how the names of its criteria
begin; one that is ``recorded`` names a file that a script of its own has judged. A test compares the
verdicts.
"""

import json
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
VERDICTS = ("shown", "contradicted", "undecided", "not run")
# What a trial shares with the row's protocol.
SETTINGS = {"paper": "", "shorter": "shorter training: ", "in kind": "in kind: "}
# Rows whose criteria tolerances.py applies by itself.
JUDGED = (2, 5, 6, 8, 9, 15, 20)

INTRODUCTION = """\
# The papers' claims, one by one

<!-- Made by claims.py from claims.json: change that file, then run python docs/results/claims.py -->

What a reproduction of these papers must show, when it counts as shown, and how far this project is. The
criteria were fixed before the measurement, except where a row's remark says otherwise (rows 20 and 21).
There are four verdicts:

* **shown**: the whole 95 % interval of what was measured lies within the criterion's bounds.
* **contradicted**: the whole interval lies outside of them.
* **undecided**: the interval crosses a bound, or there is none, as for one seed where recipes are compared.
* **not run**: nothing was measured that the criterion applies to.

Column "on" says what was measured. Where it begins with *shorter training*, the paper's network was trained
for fewer steps ([veit110](veit110.md): 7.68 % error, one seed). Where it begins with *in kind*, another
network or other data stand in, at a size that two CPU cores can train; such a verdict speaks of that
network, not of the paper's. Otherwise, the row's own protocol was followed. Column "n" gives the networks or
seeds, and the sample behind the interval.

Of {total} rows, {own} followed the paper's own protocol: {split}. {other} others have verdicts on a shorter
training or in kind only, and {none} have none. What is not run needs trainings of ResNet-110 on CIFAR-10, of
networks on ImageNet, or language models.

For CIFAR-10, `python launch/reproduce.py NAME` makes these trainings, with the NAME in the row. It can be
stopped and continued, and writes `tolerances.json`, which applies the criteria of rows {judged}
(`docs/results/tolerances.py`). Row 15 is judged when all networks of the name are finished.

| row | claim | on | n | measured, 95 % interval | verdict |
|---|---|---|---|---|---|
"""

END = """\
## Papers

Veit, Wilber & Belongie 2016; He et al. 2015 and 2016; Huang et al. 2016 (first version); Greff et al. 2017;
Jastrzębski et al. 2018; De & Smith 2020; Littwin & Wolf 2016; Balduzzi et al. 2017; LeCun et al. 1998. Rows
28 to 33: Bhojanapalli et al. 2021 (arXiv 2103.14586), Lad et al. 2024 (2406.19384), He, Sun, Shen & Li 2024
(2406.15786), Gromov et al. 2024 (2403.17887), Freiberger et al. 2024 (2407.04513), Li & Papyan 2023
(2401.09018). What they leave open (BatchNorm's mode, number of draws, loss reduction, …) is recorded under
"choices" in every JSON file, or in the docstring of the script that judges a row.
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


def _lines(claim: dict[str, Any]) -> str:
    """The lines of a claim in the table: one for each trial, after one for a protocol that was not run."""
    row = f"[{claim['row']}](#row-{claim['row']})"
    lines = []
    if all(trial["setting"] != "paper" for trial in claim["found"]):
        lines.append((row, claim["claim"], "the paper's protocol", "–", claim.get("note", "–"), "not run"))
    for trial in claim["found"]:
        part = f"{trial['part']}: " if "part" in trial else ""
        first = ("", "") if lines else (row, claim["claim"])
        on = SETTINGS[trial["setting"]] + trial["on"]
        measured = f"{part}{trial['measured']}; {trial['where']}"
        lines.append((*first, on, trial["n"], measured, f"**{trial['verdict']}**"))
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _section(claim: dict[str, Any]) -> str:
    paper = "" if claim["paper"] == "–" else f" ({claim['paper']})"
    lines = [f"**Shown, if** {criterion(claim)}."]
    if "remark" in claim:
        lines.append(f"**Remark**: {claim['remark']}.")
    if "evidence" in claim:
        lines.append("**Evidence**: " + "; ".join(claim["evidence"]) + ".")
    if "run" in claim:
        lines.append(f"**Run**: {claim['run']}.")
    title = claim["claim"][0].upper() + claim["claim"][1:]
    bullets = "".join(_wrapped(f"* {line}", "  ") for line in lines)
    return f"### Row {claim['row']}\n\n{_wrapped(title + paper + '.')}\n{bullets}"


def _wrapped(text: str, indent: str = "") -> str:
    whole = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.fill(text, 118, subsequent_indent=indent, **whole) + "\n"


def _introduction(rows: list[dict[str, Any]]) -> str:
    own = {c["row"]: {t["verdict"] for t in c["found"] if t["setting"] == "paper"} for c in rows}
    number = Counter(next(iter(v)) if len(v) == 1 else "mixed" for v in own.values() if v)
    words = [f"{number[v]} {'is' if number[v] == 1 else 'are'} {v}" for v in VERDICTS if number[v]]
    if number["mixed"]:
        words.append(f"{number['mixed']} have different verdicts on their parts")
    decided = [c for c in rows if not own[c["row"]] and {t["verdict"] for t in c["found"]} - {"not run"}]
    paper = sum(number.values())
    return INTRODUCTION.format(
        total=len(rows),
        own=paper,
        split=", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else words[0],
        other=len(decided),
        none=len(rows) - paper - len(decided),
        judged=", ".join(map(str, JUDGED[:-1])) + f" and {JUDGED[-1]}",
    )


def page() -> str:
    """The text of claims.md."""
    rows = claims()
    sections = "\n".join(map(_section, rows))
    return f"{_introduction(rows)}{''.join(map(_lines, rows))}\n## Criteria and evidence\n\n{sections}\n{END}"


if __name__ == "__main__":
    (HERE / "claims.md").write_text(page(), "utf-8")
