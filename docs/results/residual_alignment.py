"""Row 33: the largest singular values of branches' Jacobians by depth (Li & Papyan 2023, RA4).

    python docs/results/residual_alignment.py WORKDIR digits|cifar10 [DATA]

*Protocol.* Pre-activation ResNets of 6, 12 and 24 units, three seeds, trained as ``twelve_units`` says; DATA
is an .npz file of CIFAR-10. ‖J_f‖₂ of each unit's branch by ``resjax.analysis.jacobians``, 20 iterations,
at 8 training images. Units that change the shape are left out: their branch has no square Jacobian. A network
has one number, the geometric mean over its other units and the images; a seed has one slope, of log number on
log units, by least squares over three depths. The same networks at initialization are measured beside them,
with BatchNorm's statistics re-estimated.

*Criteria* of docs/results/claims.json, committed before the measurement: the slope, and the trained minus the
initial slope. Intervals are Student's t over seeds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import by_seed
import numpy as np
import twelve_units
from by_seed import Criterion, Row
from layer_rows import LIMITS
from whose_layers import kept, path_of

from resjax.analysis import at_initialization, jacobians
from resjax.cpu.compilation import compile_quickly, keep_compiled
from resjax.studies.run import Run
from resjax.studies.subject import Subject
from resjax.train import train_and_evaluate
from resjax.workdir.atomic import write
from resjax.workdir.provenance import provenance
from resjax.workdir.stopping import ends_process

HERE = Path(__file__).resolve().parent
FILES = {"digits": "residual_alignment.json", "cifar10": "residual_alignment_cifar10.json"}
NETWORKS = ("resnet6", "resnet", "resnet24")
IMAGES = 8


def largest(run: Subject) -> Row:
    """Geometric mean over images of ‖J_f‖₂, for each unit that keeps the shape."""
    images, labels = run.examples("train", IMAGES)
    found = jacobians(run.network, run.variables, images, labels, loss=run.loss, probes=2)
    keeps = [not unit.stack.name.endswith("opening") for unit in run.network.units]
    return {
        "unit": [name for name, same in zip(found.unit, keeps, strict=True) if same],
        "norm": np.exp(np.log(found.branch[0]).mean(0))[keeps].tolist(),
        "last_relative_change": float(found.change[0]),
    }


def measured(run: Run) -> Row:
    return {"trained": largest(run), "initial": largest(at_initialization(run))}


def level(found: Row) -> float:
    """One number for a network."""
    return float(np.exp(np.mean(np.log(found["norm"]))))


def slopes(rows: list[Row], state: str) -> np.ndarray:
    """The slope of each seed."""
    units = np.log(LIMITS[33]["units"])
    seeds = sorted({r["seed"] for r in rows})
    levels = [[level(r[state]) for r in rows if r["seed"] == seed] for seed in seeds]
    return np.array([np.polyfit(units, np.log(own), 1)[0] for own in levels])


def judged(rows: list[Row]) -> Row:
    """Row 33."""
    low, high = LIMITS[33]["low"], LIMITS[33]["high"]
    trained, initial = slopes(rows, "trained"), slopes(rows, "initial")
    criteria = {
        "slope": by_seed.judge(Criterion(f"{low} to {high}", least=low, most=high), trained),
        "slope − that at initialization": by_seed.judge(Criterion("< 0", most=0), trained - initial),
    }
    told = {
        f"{network}, {state}": by_seed.estimate([level(r[state]) for r in rows if r["network"] == network])
        for network in NETWORKS
        for state in ("trained", "initial")
    }
    return {
        "33": {
            "verdict": by_seed.verdict_of(criteria),
            **criteria,
            "slope at initialization": by_seed.estimate(initial),
            "levels": told,
        }
    }


def main(workdir: Path, part: str, data: str) -> None:
    rows: list[Row] = []
    for seed in twelve_units.SEEDS:
        for network in NETWORKS:
            folder = workdir / f"{part}-{network}-seed{seed}"
            if not path_of(folder, "jacobians").is_file():
                train_and_evaluate(twelve_units.config_of(part, network, seed, data), folder)
            rows.append({"network": network, "seed": seed, **kept(folder, "jacobians", measured)})
            print(network, seed, {state: level(rows[-1][state]) for state in ("trained", "initial")})
    record = {
        "made": {k: v for k, v in provenance().items() if k != "command"},
        "command": f"python docs/results/residual_alignment.py WORKDIR {part}",
        "config": twelve_units.config_of(part, "resnet", 0).to_dict()
        | {"seed": list(twelve_units.SEEDS), "stage_sizes": twelve_units.DEPTHS},
        "judged": judged(rows),
        "runs": rows,
    }
    write(HERE / FILES[part], json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(record["judged"], indent=1, ensure_ascii=False))


if __name__ == "__main__":
    workdir, part, data = (*sys.argv[1:], *[""] * 3)[:3]
    if part not in FILES or len(sys.argv) > 4:
        raise SystemExit(__doc__)
    compile_quickly()
    keep_compiled()
    with ends_process():
        main(Path(workdir), part, data)
