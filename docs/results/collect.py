"""Copies the files behind the result tables: ``python docs/results/collect.py FOLDER [FOLDER …]``.

Of a workdir, ``docs/results/<its name>.json``: the configuration, every start (commit, versions, device,
date, command), the wall time recorded in the files, and every evaluation. Of a report of ``resjax.analyze``,
``docs/results/<its name>/``: the numbers of each study and the PNG figures. Paths of the machine are cut to
their last part.
"""

import json
import re
import shutil
import sys
from pathlib import Path

from resjax import config as configs
from resjax.workdir.atomic import write
from resjax.workdir.writers import read_records

HERE = Path(__file__).parent


def collect_run(workdir: Path, to: Path) -> None:
    """The configuration, starts and evaluations of a run, as one file."""
    records = read_records(workdir)
    evaluations = [r for r in records if any(k.endswith("_error") for k in r)]
    log = workdir / "metrics.jsonl"
    result = {
        "config": configs.load(workdir).to_dict(),
        "starts": json.loads((workdir / "runs.json").read_text()),
        "seconds_from_start_to_last_record": round(
            log.stat().st_mtime - (workdir / "config.json").stat().st_mtime
        ),
        "images_per_second": [r["images_per_second"] for r in records if "images_per_second" in r],
        "evaluations": evaluations,
    }
    write(to, without_folders(json.dumps(result, indent=1)) + "\n")


def without_folders(text: str) -> str:
    """``text`` with absolute paths cut to their last part: /home/me/runs/a.npz → a.npz."""
    return re.sub(r'(?<![\w./])/(?:[^\s/",=]+/)+', "", text)


def collect_report(report: Path, to: Path) -> None:
    """Studies and figures of a report; the page itself can be made again from the runs only."""
    to.mkdir(exist_ok=True)
    for path in sorted(report.glob("*.json")):
        data = json.loads(path.read_text("utf-8"))
        indent = 1 if path.stem == "tolerances" else None
        text = json.dumps(data, ensure_ascii=False, indent=indent)
        write(to / path.name, without_folders(text) + "\n")
    for path in sorted((report / "figures").glob("*.png")):
        shutil.copyfile(path, to / path.name)


if __name__ == "__main__":
    for name in map(Path, sys.argv[1:]):
        if (name / "report.html").is_file():
            out = HERE / name.name
            collect_report(name, out)
        else:
            out = HERE / f"{name.name}.json"
            collect_run(name, out)
        print(out)
