"""Rank correlations of an older result of ``identity``: ``python docs/results/identity_ranks.py FOLDER``.

The correlations of a unit's measures with the damage of its deletion follow from the numbers of each unit, so
they can be computed from FOLDER/identity.json without the network. Writes them into that file, with those in
which the place in the stage is held fixed, and draws FOLDER/identity.png anew. What was measured stays as it
is; what later versions measure in addition (intervals over images, initialization) stays unknown.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from resjax.report import compare
from resjax.report.figures import save
from resjax.report.write import read
from resjax.studies.units.identity import STUDY, against
from resjax.studies.units.identity_result import Identity
from resjax.workdir.atomic import write
from resjax.workdir.provenance import provenance


def ranked(folder: Path) -> dict[str, Identity]:
    """{label: result} of a folder, with all rank correlations."""
    found = {}
    for label, result in read(folder / "identity.json", STUDY).items():
        assert result.damage is not None, f"{label} was measured without lesions"
        found[label] = against(result, result.damage)
    return found


if __name__ == "__main__":
    for name in map(Path, sys.argv[1:]):
        data = json.loads((name / "identity.json").read_text("utf-8"))
        results = ranked(name)
        for label, result in results.items():
            data["runs"][label]["result"] = result.to_json()
            made = provenance()
            told = {k: made[k] for k in ("date", "commit", "resjax")}
            data["runs"][label]["rank_correlations"] = {**told, "script": "docs/results/identity_ranks.py"}
        write(name / "identity.json", json.dumps(data, ensure_ascii=False) + "\n")
        with tempfile.TemporaryDirectory() as out:
            save(lambda results=results: STUDY.plot(results), Path(out), "identity")
            shutil.copyfile(Path(out) / "identity.png", name / "identity.png")
        print("\n".join(compare.finding(STUDY, results).points))
