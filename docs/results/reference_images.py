"""BatchNorm statistics re-estimated on augmented and on whole images.

    python docs/results/reference_images.py FOLDER WORKDIR [WORKDIR …]

WORKDIR is what ``python -m resjax.pretrained FILE --workdir=WORKDIR`` made. The study ``recalibrate`` on
2,000 test and 2,048 reference images, twice: with reference images cropped and flipped as in training, and
with the same ones whole; ``WORKDIR:augmented`` leaves the second out, which takes half of the time. It is
measured in pieces, which FOLDER keeps; after seven minutes the script ends with exit status 3, and goes on
when it is called again. At the end it writes pretrained/recalibrate.json, and a figure for each network
beside it.
"""

import dataclasses
import json
import pickle
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from resjax.analysis import load_run
from resjax.studies import style
from resjax.studies.lesions import recalibrate
from resjax.studies.lesions.batch_statistics import measure_recalibrated
from resjax.studies.lesions.recalibrate import Recalibrated
from resjax.studies.lesions.single_deletions import score_deletions
from resjax.studies.lesions.subsets import candidates
from resjax.studies.options import Options
from resjax.studies.run import Run
from resjax.studies.scores import Scores
from resjax.studies.study import Bench
from resjax.workdir.atomic import write
from resjax.workdir.provenance import provenance

HERE = Path(__file__).parent
EXAMPLES, ROWS, SECONDS = 2_000, 5, 420
KINDS = {"augmented": Options(), "whole images": Options(plain_reference=True)}
START = time.monotonic()


def kept(path: Path, make: Callable[[], Scores]) -> Scores:
    """What ``make`` returned when it was called first."""
    if not path.is_file():
        if time.monotonic() - START > SECONDS:
            sys.exit(3)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(make()))
        print(f"{path}: {time.monotonic() - START:.0f} s", flush=True)
    return pickle.loads(path.read_bytes())


def measure(run: Run, options: Options, folder: Path, kind: str) -> Recalibrated:
    """As the study ``recalibrate``, from kept pieces."""
    bench = Bench(run, dataclasses.replace(options, max_examples=EXAMPLES))
    given, reference, how = bench.evaluation(), bench.reference(), bench.how
    del how["progress"]
    allowed, never = candidates(run.network, run.variables, given[2])

    def both() -> Scores:
        lesioned, intact = score_deletions(*given, allowed, **how)
        return Scores.join([intact, lesioned])

    old = kept(folder / "running", both)
    gates, new = recalibrate.deletion_gates(allowed), []

    def estimated(rows: np.ndarray) -> Scores:
        return measure_recalibrated(*given, {"gates": rows}, reference, **how)[0]

    for first in range(0, len(gates), ROWS):
        piece = folder / kind / f"{first:03}"
        new.append(kept(piece, partial(estimated, gates[first : first + ROWS])))
    made = recalibrate.assemble(run.network, allowed, never, (old, Scores.join(new)), len(reference), 128)
    made.choices.update(bench.choices)
    return made


def main(folder: Path, workdirs: list[str]) -> None:
    entries: dict[str, Any] = {}
    for name in workdirs:
        workdir, _, only = name.partition(":")
        run = load_run(workdir)
        results = {
            f"{run.label}, {kind}": measure(run, options, folder / run.label, kind)
            for kind, options in KINDS.items()
            if not only or kind == only
        }
        with style.theme():
            recalibrate.plot(results).savefig(HERE / f"pretrained/recalibrate_{run.label}.png", dpi=150)
        facts = {"step": run.step, "config": run.config.to_dict(), "starts": run.starts}
        entries |= {label: {**facts, "result": result.to_json()} for label, result in results.items()}
    record = {"study": "recalibrate", "made": provenance(), "runs": entries}
    write(HERE / "pretrained/recalibrate.json", json.dumps(record, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
