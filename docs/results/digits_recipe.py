"""The twins with a learning rate chosen on training images: ``python docs/results/digits_recipe.py WORKDIR``.

The learning rate of configs/digits.py was chosen by looking at the test images. Here it is chosen without
them: the residual network is trained at each rate of ``RATES`` on all but 300 training images and evaluated
on those; the rate with the lowest mean loss is chosen. Then the residual network and its plain twin are
trained on all training images at that rate and are tested. Finished runs are not repeated (use another
WORKDIR after a change of the recipe); digits_recipe.json beside this file is written anew after each. Half an
hour on two busy cores.
"""

import json
import sys
from pathlib import Path
from typing import Any

import by_seed
import numpy as np
from ml_collections import ConfigDict

from resjax import config as configs
from resjax.workdir.atomic import write
from resjax.workdir.provenance import provenance

HERE = Path(__file__).parent
RATES, HOLDOUT = (0.02, 0.05, 0.1), 300
CHOICE_SEEDS, TEST_SEEDS = (0, 1), (0, 1, 2)


def make_config(kind: str, rate: float, seed: int, holdout: int) -> ConfigDict:
    """``kind``: digits or digits_plain, the name of a file under configs/."""
    c = configs.load_file(HERE.parents[1] / f"configs/{kind}.py")
    c.seed, c.data.holdout, c.optimizer.learning_rate = seed, holdout, rate
    c.checkpoint.every, c.checkpoint.keep = c.train.duration, 1
    return c


def main(workdir: Path) -> None:
    choice: list[dict[str, Any]] = []
    tests: list[dict[str, Any]] = []
    record: dict[str, Any] = {
        "made": {k: v for k, v in provenance().items() if k != "command"},
        "command": "python docs/results/digits_recipe.py WORKDIR",
        "held out for the choice": f"{HOLDOUT} of the training images",
        "choice": choice,
        "tests": tests,
    }

    def note(rows: list[dict[str, Any]], row: dict[str, Any]) -> None:
        rows.append(row)
        print(row, flush=True)
        write(HERE / "digits_recipe.json", json.dumps(record, indent=1) + "\n")

    for rate in RATES:
        for seed in CHOICE_SEEDS:
            config = make_config("digits", rate, seed, HOLDOUT)
            found = by_seed.finish(
                config, workdir / f"rate{rate}" / f"seed{seed}", by_seed.errors, by_seed.DIVERGED
            )
            note(choice, {"rate": rate, "seed": seed, **found})
    losses = {rate: np.mean([c["loss"] for c in choice if c["rate"] == rate]) for rate in RATES}
    rate = min(losses, key=lambda r: losses[r])
    record["mean loss by rate"], record["chosen"] = {r: float(v) for r, v in losses.items()}, rate
    for seed in TEST_SEEDS:
        for kind in ("digits", "digits_plain"):
            found = by_seed.finish(
                make_config(kind, rate, seed, 0), workdir / f"{kind}{seed}", by_seed.errors, by_seed.DIVERGED
            )
            note(tests, {"network": kind, "seed": seed, **found})


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
