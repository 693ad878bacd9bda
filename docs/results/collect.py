"""Copies what a result table quotes out of a workdir: ``python docs/results/collect.py WORKDIR [WORKDIR …]``.

Writes ``docs/results/<name of the workdir>.json`` with the configuration, every start (commit, versions,
device, date, command), the wall time that the files tell, and every evaluation.
"""

import json
import sys
from pathlib import Path

from resjax import config as configs
from resjax.writers import read_records


def collect(workdir: Path) -> dict:
    """The contents of one result file."""
    records = read_records(workdir)
    evaluations = [r for r in records if any(k.endswith("_error") for k in r)]
    log = workdir / "metrics.jsonl"
    return {
        "config": configs.load(workdir).to_dict(),
        "starts": json.loads((workdir / "runs.json").read_text()),
        "seconds_from_start_to_last_record": round(
            log.stat().st_mtime - (workdir / "config.json").stat().st_mtime
        ),
        "images_per_second": [r["images_per_second"] for r in records if "images_per_second" in r],
        "evaluations": evaluations,
    }


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(__file__).parent / f"{Path(name).name}.json"
        path.write_text(json.dumps(collect(Path(name)), indent=1) + "\n")
        print(path)
