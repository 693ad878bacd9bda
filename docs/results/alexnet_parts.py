"""AlexNet's parts on a small image set: ``python docs/results/alexnet_parts.py WORKDIR [DATA_DIR]``.

AlexNet as published (two groups, response normalization, overlapping pooling), without each of the last two,
and its one-column form, each trained for one epoch on 5,000 images of CIFAR-10 enlarged to 64×64. A finished
run is not repeated; after each, alexnet_parts.json beside this file is written anew.
"""

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from resjax import config as configs
from resjax import data
from resjax.studies.intervals import bootstrap, wilson
from resjax.train import train_and_evaluate
from resjax.workdir.atomic import write
from resjax.workdir.provenance import provenance
from resjax.workdir.writers import read_records

HERE = Path(__file__).parent
FORMS: dict[str, dict[str, Any]] = {
    "as published": {},
    "no response normalization": {"lrn": "off"},
    "pooling without overlap": {"overlapping": False},
    "one column": {"form": "one_column"},
}
SEEDS, TRAIN, TEST, SIDE = (0,), 5000, 2000, 64


def make_set(path: Path, data_dir: str) -> None:
    """The first images of CIFAR-10 as an .npz file."""
    c = data.defaults()
    c.name, c.data_dir = "cifar10", data_dir
    arrays = data.load(c)
    assert isinstance(arrays, data.Arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"partial-{path.name}")
    np.savez(
        temporary,
        train_images=arrays.train_images[:TRAIN],
        train_labels=arrays.train_labels[:TRAIN],
        test_images=arrays.test_images[:TEST],
        test_labels=arrays.test_labels[:TEST],
    )
    temporary.replace(path)


def config_of(form: str, seed: int, images: Path) -> ConfigDict:
    c = configs.load_file(HERE.parents[1] / "configs/imagenet_alexnet.py")
    c.seed = seed
    c.model.update(FORMS[form])
    c.data.name, c.data.image_size = str(images), SIDE
    c.train.duration = c.eval.every = c.checkpoint.every = "1 epochs"
    # The paper's rate for 128 images, in proportion; smaller batches, because one epoch has few steps.
    c.train.batch_size, c.optimizer.learning_rate = 32, 0.01 * 32 / 128
    c.optimizer.schedule, c.optimizer.warmup = "constant", "0 steps"
    c.log.every = "39 steps"
    c.checkpoint.keep = 1
    return c


def main(workdir: Path, data_dir: str) -> None:
    images = workdir / f"cifar10-{TRAIN}-{TEST}.npz"
    if not images.is_file():
        make_set(images, data_dir)
    rows: list[dict[str, Any]] = []
    runs = list(itertools.product(SEEDS, FORMS))
    for number, (seed, form) in enumerate(runs, 1):
        print(f"[{number}/{len(runs)}] {form}, seed {seed}", flush=True)
        config = config_of(form, seed, images)
        folder = workdir / f"alexnet-{form.replace(' ', '-')}-seed{seed}"
        train_and_evaluate(config, folder)
        records = read_records(folder)
        errors = [r["test_error"] for r in records if "test_error" in r]
        losses = [r["loss"] for r in records if "loss" in r]
        rows.append({"form": form, "seed": seed, "test_error": errors[-1], "losses": losses})
        print(f"  test error {errors[-1]:.3f}, losses {losses}", flush=True)
        summary = {}
        for name in FORMS:
            values = np.array([r["test_error"] for r in rows if r["form"] == name])
            if len(values) > 1:
                low, high = bootstrap(values)
                ends, of = [float(low), float(high)], "the mean over seeds, Student's t"
            elif len(values):
                low, high = wilson(float(values[0]), TEST)
                ends, of = [float(low), float(high)], "one run, Wilson, over test images"
            else:
                continue
            summary[name] = {
                "mean": float(values.mean()),
                "interval_95": ends,
                "interval of": of,
                "n": len(values),
            }
        config.data.name = f"the first {TRAIN:,} training and {TEST:,} test images of CIFAR-10"
        record = {
            "made": {k: v for k, v in provenance().items() if k != "command"},
            "command": "python docs/results/alexnet_parts.py WORKDIR [DATA_DIR]",
            "config": {**config.to_dict(), "seed": list(SEEDS), "forms": FORMS},
            "finished": f"{number} of {len(runs)} runs",
            "summary": summary,
            "runs": rows,
        }
        write(HERE / "alexnet_parts.json", json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
