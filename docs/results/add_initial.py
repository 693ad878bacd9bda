"""Adds initialization to a recorded result: ``python docs/results/add_initial.py FOLDER STUDY WORKDIR``.

FOLDER/STUDY.json holds a result that was measured before the study had a control. Its measurement has not
changed since, so only the network at initialization is measured (``resjax.studies.initial``), with the given
options of ``resjax.analyze`` behind WORKDIR, and stored as ``initial``. The images must be the same. Draws
FOLDER/STUDY.png anew.
"""

import dataclasses
import json
import shutil
import sys
import tempfile
from pathlib import Path

from collect import without_folders

from resjax.report import compare
from resjax.report.figures import save
from resjax.report.write import read
from resjax.studies.catalogue import STUDIES
from resjax.studies.initial import at_initialization, described
from resjax.studies.options import Options
from resjax.studies.run import load_run
from resjax.workdir.atomic import write
from resjax.workdir.provenance import provenance


def add(folder: Path, name: str, workdir: Path, options: Options) -> None:
    """Measures the network of ``workdir`` at initialization and adds it to the result of the same label."""
    study, run = STUDIES[name], load_run(workdir)
    untrained = at_initialization(run, options.batch_size)
    initial = dataclasses.replace(study, control=False).run(untrained, options)
    results = read(folder / f"{name}.json", study)
    result = results[run.label]
    images = [r.choices["data"] for r in (result, initial)]
    assert images[0] == images[1], f"recorded on {images[0]}, now on {images[1]}"
    result.choices["at initialization"] = initial.choices["network"] = described(run)
    results[run.label] = dataclasses.replace(result, initial=initial)
    data = json.loads((folder / f"{name}.json").read_text("utf-8"))
    data["runs"][run.label]["result"] = results[run.label].to_json()
    data["runs"][run.label]["initial_made"] = provenance()
    write(folder / f"{name}.json", without_folders(json.dumps(data, ensure_ascii=False)) + "\n")
    with tempfile.TemporaryDirectory() as out:
        save(lambda: study.plot(results), Path(out), name)
        shutil.copyfile(Path(out) / f"{name}.png", folder / f"{name}.png")
    print("\n".join(compare.finding(study, results).points))


if __name__ == "__main__":
    given = dict(option.removeprefix("--").split("=") for option in sys.argv[4:])
    chosen = Options(**{option: int(value) for option, value in given.items()})
    add(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), chosen)
