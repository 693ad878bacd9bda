"""Convolution, local connections, dense by sample size: ``python docs/results/sample_size.py DATA_DIR``.

DATA_DIR holds a prepared Fashion-MNIST. Writes sample_size_fashion_mnist.json and .png beside this file.
"""

import json
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from resjax import data
from resjax.analysis import plot
from resjax.report import compare
from resjax.studies.convolution.sample_size import STUDY, sample_size
from resjax.workdir.atomic import write
from resjax.workdir.provenance import provenance

HERE = Path(__file__).parent
SIZES, SEEDS, TEST, SIDE = (100, 300, 1000, 3000, 10_000), 3, 2000, 14
STEPS, BATCH = 1500, 32


def main(data_dir: str) -> None:
    c = data.defaults()
    # Half the resolution, because dense layers of 28 × 28 pixels have 16 times as many weights.
    c.name, c.data_dir, c.image_size = "fashion_mnist", data_dir, SIDE
    arrays = data.load(c)
    assert isinstance(arrays, data.Arrays)
    constants = data.statistics(arrays, "channel")

    def first(images: np.ndarray, labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        standardized = data.standardize(jnp.asarray(images[:count]), constants)
        return np.asarray(standardized), labels[:count]

    results = sample_size(
        first(arrays.train_images, arrays.train_labels, SIZES[-1]),
        first(arrays.test_images, arrays.test_labels, TEST),
        sizes=SIZES,
        seeds=SEEDS,
        steps=STEPS,
        batch_size=BATCH,
        progress=lambda done, of: print(f"{done}/{of}", flush=True),
    )
    finding = compare.finding(STUDY, results)
    table = compare.table(STUDY, results)
    record = {
        "made": {k: v for k, v in provenance().items() if k != "command"},
        "command": "python docs/results/sample_size.py DATA_DIR",
        "data": f"Fashion-MNIST at {SIDE}×{SIDE}: the first {SIZES[-1]:,} training and {TEST:,} test images",
        "finding": [finding.headline, *finding.points],
        "table": {"columns": table.columns, "rows": table.rows},
        "results": {label: r.to_json() for label, r in results.items()},
    }
    write(HERE / "sample_size_fashion_mnist.json", json.dumps(record) + "\n")
    plot(results).savefig(HERE / "sample_size_fashion_mnist.png", dpi=150)
    print("\n".join(record["finding"]))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
