"""One claim, recorded: ``python docs/results/claim.py NAME``.

Runs the claim with its default settings, as ``python -m resjax.claims --names=NAME`` does, and writes
NAME.json and NAME.png beside this file. ``NAMES`` are those that are recorded here.
"""

import json
import sys
import time
from pathlib import Path

from resjax.analysis import plot
from resjax.report import compare
from resjax.studies.catalogue import CLAIMS
from resjax.studies.options import ClaimOptions
from resjax.workdir.provenance import provenance
from resjax.workdir.workdir import write

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
)


def main(name: str) -> None:
    start, study = time.perf_counter(), CLAIMS[name]
    made = {k: v for k, v in provenance().items() if k != "command"}  # of the code that is about to run
    results = study.measure(ClaimOptions(), lambda done, of: print(f"{done}/{of}", flush=True))
    finding, table = compare.finding(study, results), compare.table(study, results)
    said = [finding.headline, *finding.points]
    record = {
        "made": made,
        "command": f"python docs/results/claim.py {name}",
        "seconds": round(time.perf_counter() - start),
        "finding": said,
        "table": {"columns": table.columns, "rows": table.rows},
        "results": {label: r.to_json() for label, r in results.items()},
    }
    write(HERE / f"{name}.json", json.dumps(record) + "\n")
    plot(results, study=name).savefig(HERE / f"{name}.png", dpi=150)
    print("\n".join(said))


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in NAMES:
        raise SystemExit(__doc__)
    main(sys.argv[1])
