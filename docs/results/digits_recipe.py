"""Would training images alone choose the digits' recipe? ``python docs/results/digits_recipe.py WORKDIR``.

The learning rate of configs/digits.py was once chosen with an eye on the test images. This chooses it again
without them: the residual network at each rate of ``RATES`` and seed of ``SEEDS`` learns from all but 300
training images and is evaluated on those. The rate with the lowest mean loss wins. Finished runs are not
repeated (take another WORKDIR after a change of the recipe); digits_recipe.json beside this file is written
anew after each.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from resjax import config as configs
from resjax.analysis import load_run
from resjax.provenance import provenance
from resjax.train import train_and_evaluate
from resjax.workdir import write

HERE = Path(__file__).parent
RATES, SEEDS, HOLDOUT = (0.02, 0.05, 0.1), (0, 1), 300


def finish(rate: float, seed: int, workdir: Path) -> dict[str, float]:
    """Loss and error on held-out images at the end of one run, which is trained if it is not there."""
    kept = workdir / "measured.json"
    if not kept.is_file():
        c = configs.load_file(HERE.parents[1] / "configs/digits.py")
        c.seed, c.data.holdout, c.optimizer.learning_rate = seed, HOLDOUT, rate
        c.checkpoint.every, c.checkpoint.keep = c.train.duration, 1
        found = {"loss": float("inf"), "error": 1.0}  # of a run that diverges
        try:
            train_and_evaluate(c, workdir)
        except FloatingPointError as error:
            print(error, flush=True)
        else:
            last = [r for r in load_run(workdir).records if "holdout_loss" in r][-1]
            found = {k: last[f"holdout_{k}"] for k in found}
        write(kept, json.dumps(found))
    return json.loads(kept.read_text())


def main(workdir: Path) -> None:
    runs: list[dict[str, Any]] = []
    for rate in RATES:
        for seed in SEEDS:
            found = finish(rate, seed, workdir / f"rate{rate}" / f"seed{seed}")
            runs.append({"rate": rate, "seed": seed, **found})
            print(runs[-1], flush=True)
            means = {
                r: float(np.mean([x["loss"] for x in runs if x["rate"] == r]))
                for r in RATES
                if any(x["rate"] == r for x in runs)
            }
            record = {
                "made": {k: v for k, v in provenance().items() if k != "command"},
                "command": "python docs/results/digits_recipe.py WORKDIR",
                "held out": f"{HOLDOUT} of the training images",
                "finished": f"{len(runs)} of {len(RATES) * len(SEEDS)} runs",
                "mean loss by rate": means,
                "chosen": min(means, key=lambda r: means[r])
                if len(runs) == len(RATES) * len(SEEDS)
                else None,
                "runs": runs,
            }
            write(HERE / "digits_recipe.json", json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
