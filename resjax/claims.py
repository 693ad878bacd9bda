"""Claims about networks in general: ``python -m resjax.claims [--names=edges,…] [--out=DIR] [--smoke]``.

Claims need no run: each makes its own networks, or trains its own small ones, on random or embedded data. The
report is like that of ``resjax.analyze``. The command can be stopped and restarted: it continues, and
finished claims are not repeated (``resjax.report.kept``).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from rich.console import Console

from resjax import command
from resjax.analyze import print_findings
from resjax.report.compute import run_claims
from resjax.report.facts import facts_of_report
from resjax.report.write import Report, write
from resjax.studies.catalogue import CLAIMS, GROUPS
from resjax.studies.options import ClaimOptions
from resjax.workdir.paths import writable
from resjax.workdir.provenance import provenance


def show(names: Sequence[str], out: str | Path, options: ClaimOptions | None = None) -> Path:
    """Runs claims and writes their report.

    Args:
      names: see ``resjax.studies.catalogue.CLAIMS``; empty for all.
      out: folder of the report.
      options: choices for all claims.

    Returns:
      The path of report.html.

    Raises:
      ValueError: an unknown claim.
    """
    command.refuse_unknown("names", names, CLAIMS)
    out = writable(out, "--out")
    chosen = [claim for name, claim in CLAIMS.items() if not names or name in names]
    console = Console(file=sys.stderr, highlight=False)
    options = options or ClaimOptions()
    results = run_claims(chosen, options, out, console)
    made = provenance()
    report = Report(
        title="What holds for networks in general",
        results=results,
        runs={},
        configs={},
        groups=GROUPS,
        left_out=["This is the small form, which only shows that the claims run."] if options.smoke else [],
        failed=[],
        made=facts_of_report(made),
        provenance=made,
        command={
            c.name: " ".join(["python -m resjax.claims", f"--names={c.name}", *options.arguments()])
            for c in chosen
        },
    )
    path = write(report, out)
    print_findings(report, Console(highlight=False))
    return path


def _main(argv: list[str]) -> None:
    command.no_arguments(argv)
    options = command.chosen(ClaimOptions, _OPTIONS)
    print(f"report: {show(_NAMES.value, _OUT.value, options)}")


if __name__ == "__main__":
    _NAMES = flags.DEFINE_list("names", [], f"any of {', '.join(CLAIMS)}; default: all")
    _OUT = flags.DEFINE_string("out", "runs/claims", "folder of the report")
    _OPTIONS = command.define_options(ClaimOptions)
    command.run(_main)
