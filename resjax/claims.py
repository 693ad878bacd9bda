"""What holds for networks in general: ``python -m resjax.claims [--names=edges,…] [--out=DIR] [--smoke]``.

Claims need no run: each makes its own networks, or trains its own small ones, on random or embedded data. The
report is like that of ``resjax.analyze``. It can be stopped: the same command continues, and claims that are
finished are not done again (``resjax.report.kept``).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags
from rich.console import Console

from resjax import command
from resjax.analyze import print_findings
from resjax.report.compute import run_claims
from resjax.report.facts import facts_of_report
from resjax.report.write import Report, write
from resjax.studies.catalogue import CLAIMS, GROUPS
from resjax.workdir.provenance import provenance


def show(names: Sequence[str], out: str | Path, *, smoke: bool = False, seed: int = 0) -> Path:
    """Runs claims and writes their report.

    Args:
      names: see ``resjax.report.CLAIMS``; none for all.
      out: folder of the report.
      smoke: smaller and quicker, to see that it runs.
      seed: of everything that is drawn.

    Returns:
      The path of report.html.

    Raises:
      ValueError: an unknown claim.
    """
    unknown = sorted(set(names) - set(CLAIMS))
    if unknown:
        raise ValueError(f"names={', '.join(unknown)}; allowed: {', '.join(CLAIMS)}")
    chosen = [claim for name, claim in CLAIMS.items() if not names or name in names]
    console = Console(file=sys.stderr, highlight=False)
    results = run_claims(chosen, smoke, seed, Path(out), console)
    made = provenance()
    options = f"{' --smoke' if smoke else ''}{f' --seed={seed}' if seed else ''}"
    report = Report(
        title="What holds for networks in general",
        results=results,
        runs={},
        configs={},
        groups=GROUPS,
        left_out=["This is the small form, to see that it runs."] if smoke else [],
        failed=[],
        made=facts_of_report(made),
        provenance=made,
        command={c.name: f"python -m resjax.claims --names={c.name}{options}" for c in chosen},
    )
    path = write(report, Path(out))
    print_findings(report, Console(highlight=False))
    return path


def _main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}; see --help")
    print(f"report: {show(_NAMES.value, _OUT.value, smoke=_SMOKE.value, seed=_SEED.value)}")


if __name__ == "__main__":
    _NAMES = flags.DEFINE_list("names", [], f"of {', '.join(CLAIMS)}; default all")
    _OUT = flags.DEFINE_string("out", "runs/claims", "folder of the report")
    _SMOKE = flags.DEFINE_bool("smoke", False, "smaller and quicker, to see that it runs")
    _SEED = flags.DEFINE_integer("seed", 0, "of everything that is drawn", lower_bound=0)
    command.run(_main)
