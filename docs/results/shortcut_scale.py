"""Constant shortcut scaling at initialization: ``python docs/results/shortcut_scale.py``.

He et al. (2016, Eq. 8): with x_{l+1} = λ x_l + F(x_l) the "1" of "1 + …" becomes ∏λ. Measured in an untrained
ResNet-56 with shortcut='scale' on digits, for each λ and seed: the norm of the signal through the shortcuts
alone, ‖d‖, and of the whole signal, ‖c‖, in front of some units, both relative to the gradient at the head.
Writes shortcut_scale.json beside this file, with 95 % intervals over seeds, and prints the table that
docs/analyses/backward_signal.md shows.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from resjax import config as configs
from resjax import data
from resjax.analysis import backward_signal
from resjax.studies.intervals import of_mean
from resjax.training.experiment import load_experiment
from resjax.workdir.atomic import write
from resjax.workdir.provenance import provenance

HERE = Path(__file__).parent
SCALES, SEEDS = (1.0, 0.9, 0.5), (0, 1, 2)
BATCHES, BATCH = 8, 64


def measure(scale: float, seed: int) -> tuple[dict[str, float], int]:
    """‖d‖ and ‖c‖ ÷ ‖c_n‖ at three places, means over batches; and the number of units."""
    c = configs.load_file(HERE.parents[1] / "configs/digits.py")
    c.seed, c.model.shortcut, c.model.shortcut_scale = seed, "scale", scale
    experiment = load_experiment(c)
    network, task = experiment.task.network, experiment.task
    count, dataset = BATCHES * BATCH, experiment.dataset
    images = data.standardize(dataset.train_images[:count], task.constants)
    variables = experiment.create_state().variables
    signal = backward_signal(
        network,
        variables,
        images,
        dataset.train_labels[:count],
        loss=task.loss,
        batch_size=BATCH,
        max_batches=BATCHES,
    )
    head = signal.total[0, :, -1:]
    one = (signal.shortcut[0] / head).mean(0)
    whole = (signal.total[0] / head).mean(0)
    # The first unit behind the last transition: the first of the last stage's equal units.
    stages = [unit.stack.stage for unit in network.units]
    behind = stages.index(max(stages)) + 1
    found = {
        "last unit": one[-2],
        "first unit behind the last transition": one[behind],
        "first unit of all": one[0],
        "the whole signal at the first unit": whole[0],
    }
    return {name: float(value) for name, value in found.items()}, network.num_units


def main() -> None:
    rows: dict[str, Any] = {}
    for scale in SCALES:
        runs = []
        for seed in SEEDS:
            found, units = measure(scale, seed)
            runs.append(found)
        rows[f"{scale:g}"] = {"in closed form without transitions": scale**units}
        for name in runs[0]:
            values = np.array([run[name] for run in runs])
            low, high = of_mean(values, 0)
            rows[f"{scale:g}"][name] = {
                "mean": float(values.mean()),
                "interval_95": [float(low), float(high)],
                "of seeds": values.tolist(),
            }
            print(f"λ = {scale:g}, {name}: {values.mean():.2g} ({low:.2g} to {high:.2g})", flush=True)
    record = {
        "made": {k: v for k, v in provenance().items() if k != "command"},
        "command": "python docs/results/shortcut_scale.py",
        "choices": {
            "network": "configs/digits.py with shortcut='scale', untrained",
            "batches": f"{BATCHES} of {BATCH} training images, statistics of the batch",
            "seeds": list(SEEDS),
        },
        "by scale": rows,
    }
    write(HERE / "shortcut_scale.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
