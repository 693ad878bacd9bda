"""AdamW's rate and decay of configs/digits_vit.py: ``python docs/results/digits_vit_recipe.py WORKDIR``.

No test image takes part in the choice. The network is trained with each of three seeds on all but 300
training images and evaluated on those: first at each rate of ``RATES`` with the first of ``DECAYS``, then at
the rate with the lowest mean loss with each decay. With the decay that then has the lowest mean loss, it is
trained on all training images and tested. Finished runs are not repeated; digits_vit_recipe.json beside this
file is written anew after each. A quarter of an hour on one core.
"""

import json
import sys
from pathlib import Path
from typing import Any

import by_seed
import numpy as np
from ml_collections import ConfigDict

from resjax import config as configs
from resjax.cpu.compilation import compile_quickly, keep_compiled
from resjax.workdir.atomic import write
from resjax.workdir.provenance import provenance
from resjax.workdir.stopping import ends_process

HERE = Path(__file__).parent
RATES, DECAYS, HOLDOUT = (0.001, 0.003, 0.01, 0.03), (0.05, 0.5, 2.0), 300
SEEDS = (0, 1, 2)


def make_config(rate: float, decay: float, seed: int, holdout: int) -> ConfigDict:
    c = configs.load_file(HERE.parents[1] / "configs/digits_vit.py")
    c.seed, c.data.holdout = seed, holdout
    c.optimizer.name, c.optimizer.learning_rate, c.optimizer.weight_decay = "adamw", rate, decay
    if holdout:
        c.checkpoint.every, c.checkpoint.keep = c.train.duration, 1
    return c


def main(workdir: Path) -> None:
    choice: list[dict[str, Any]] = []
    tests: list[dict[str, Any]] = []
    record: dict[str, Any] = {
        "made": {k: v for k, v in provenance().items() if k != "command"},
        "command": "python docs/results/digits_vit_recipe.py WORKDIR",
        "held out for the choice": f"{HOLDOUT} of the training images",
        "choice": choice,
        "tests": tests,
    }

    def train(rate: float, decay: float, seed: int, holdout: int, rows: list[dict[str, Any]]) -> None:
        config = make_config(rate, decay, seed, holdout)
        name = f"rate{rate}-decay{decay}" if holdout else "digits_vit"
        found = by_seed.finish(config, workdir / f"{name}-seed{seed}", by_seed.errors, by_seed.DIVERGED)
        rows.append({"rate": rate, "decay": decay, "seed": seed, **found})
        print(rows[-1], flush=True)
        write(HERE / "digits_vit_recipe.json", json.dumps(record, indent=1) + "\n")

    def best(field: str, rows: list[dict[str, Any]]) -> float:
        """The value of a field with the lowest mean loss over the seeds."""
        values = dict.fromkeys(row[field] for row in rows)
        losses = {v: float(np.mean([row["loss"] for row in rows if row[field] == v])) for v in values}
        chosen = min(losses, key=lambda v: losses[v])
        record[f"mean loss by {field}"], record[f"chosen {field}"] = losses, chosen
        return chosen

    for rate in RATES:
        for seed in SEEDS:
            train(rate, DECAYS[0], seed, HOLDOUT, choice)
    rate = best("rate", choice)
    for decay in DECAYS[1:]:
        for seed in SEEDS:
            train(rate, decay, seed, HOLDOUT, choice)
    decay = best("decay", [row for row in choice if row["rate"] == rate])
    for seed in SEEDS:
        train(rate, decay, seed, 0, tests)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    compile_quickly()
    keep_compiled()
    with ends_process():
        main(Path(sys.argv[1]))
