"""Old path studies with equal weights: ``python docs/results/path_weights.py NAME.json [NAME.json …]``.

Files of ``paths`` and ``path_growth`` that were measured before batches counted alike hold every batch's
norms, so they need no network: networks whose checkpoints are gone can be described anew. The script divides
each draw by the norm of the whole gradient of its batch, which the exact part of the same file holds,
computes means and intervals again (``resjax.studies.paths``), notes this under "recomputed", and draws
NAME.png. The norms stay as they were measured, and so does the entry "made".
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from resjax.report.write import read
from resjax.studies import style
from resjax.studies.catalogue import STUDIES
from resjax.studies.paths.path_exact import PathSpectrum
from resjax.studies.paths.path_sampled import PathSample, of_draws
from resjax.studies.result import Result
from resjax.workdir.atomic import write
from resjax.workdir.provenance import provenance


def with_totals(sample: dict[str, Any], exact: PathSpectrum) -> PathSample:
    """The draws of an older file, of which draw d used batch d of the exact part, in turn."""
    norm, batches = np.array(sample["norm"], float), exact.total.shape[1]
    if not sample["choices"]["batches"].startswith(f"{batches} of {exact.batch_size} "):
        raise ValueError(f"draws on {sample['choices']['batches']}, but exact sums of {batches} batches")
    total = exact.total[0][np.arange(norm.shape[1]) % batches]
    counts = {name: sample[name] for name in ("num_residual", "num_plain", "batch_size")}
    told = {"mean norm": "each draw ÷ the norm of the whole gradient of its batch"}
    return of_draws(norm, total, **counts, batches=batches, choices={**sample["choices"], **told})


def recompute(result: dict[str, Any]) -> dict[str, Any]:
    """The JSON of one result of ``paths``; that of ``path_growth`` holds norms alone and stays."""
    if "sample" not in result:
        return result
    exact = {mode: PathSpectrum.from_json(one) for mode, one in result["exact"].items()}
    samples = {
        mode: one if one.get("batches") else with_totals(one, exact[mode]).to_json()
        for mode, one in result["sample"].items()
    }
    return {**result, "sample": samples}


def main(path: Path) -> None:
    record = json.loads(path.read_text("utf-8"))
    for run in record["runs"].values():
        run["result"] = recompute(run["result"])
    record["recomputed"] = provenance()
    write(path, json.dumps(record, ensure_ascii=False) + "\n")
    study = STUDIES[record["study"]]
    results: dict[str, Result] = read(path, study)
    with style.theme():
        study.plot(results).savefig(path.with_suffix(".png"), dpi=200, facecolor="white")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        main(Path(name))
