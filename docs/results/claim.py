"""One claim, recorded: ``python docs/results/claim.py NAME``.

Runs the claim with its default settings, as ``python -m resjax.claims --names=NAME`` does, and writes
NAME.json and NAME.png beside this file. ``NAMES`` are those that are recorded here.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from resjax.analysis import plot
from resjax.report import compare
from resjax.studies.catalogue import CLAIMS
from resjax.studies.options import ClaimOptions
from resjax.studies.study import Claim
from resjax.workdir.atomic import write
from resjax.workdir.provenance import provenance

HERE = Path(__file__).parent
NAMES = (
    "vanishing",
    "learns_identity",
    "decay_in_training",
    "added_layers",
    "skip_length",
    "equal_parameters",
    "sharing_by_layer",
    "activations",
    "rank_collapse",
)


def progress(done: int, of: int) -> None:
    print(f"{done}/{of}", flush=True)


def record(name: str, study: Claim, measure: Callable[[], Mapping[str, Any]], command: str) -> None:
    """Measures, and writes what was found, with the time that it took, as NAME.json and NAME.png."""
    start = time.perf_counter()
    made = {k: v for k, v in provenance().items() if k != "command"}  # of the code that is about to run
    results = measure()
    finding, table = compare.finding(study, results), compare.table(study, results)
    said = [finding.headline, *finding.points]
    written = {
        "made": made,
        "command": command,
        "seconds": round(time.perf_counter() - start),
        "finding": said,
        "table": {"columns": table.columns, "rows": table.rows},
        "results": {label: r.to_json() for label, r in results.items()},
    }
    write(HERE / f"{name}.json", json.dumps(written) + "\n")
    plot(results, study=study.name).savefig(HERE / f"{name}.png", dpi=150)
    print("\n".join(said))


def main(name: str) -> None:
    study = CLAIMS[name]
    command = f"python docs/results/claim.py {name}"
    record(name, study, lambda: study.measure(ClaimOptions(), progress), command)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in NAMES:
        raise SystemExit(__doc__)
    main(sys.argv[1])
