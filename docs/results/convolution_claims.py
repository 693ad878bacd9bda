"""Claims on convolution, measured: ``python docs/results/convolution_claims.py NAME [CIFAR10.npz]``.

NAME is equal_parameters, sharing_by_layer or activations, as ``python -m resjax.claims --names=NAME`` runs
them on scikit-learn's digits; or activations_cifar10, which trains on 4,000 images of CIFAR-10, the first in
an .npz file of its arrays. Writes NAME.json and NAME.png beside this file.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from resjax.analysis import activations, plot
from resjax.report import compare
from resjax.studies.catalogue import CLAIMS
from resjax.studies.convolution.activations import recipe_of
from resjax.studies.options import ClaimOptions
from resjax.workdir.provenance import provenance
from resjax.workdir.workdir import write

HERE = Path(__file__).parent


def progress(done: int, of: int) -> None:
    print(f"{done}/{of}", flush=True)


def cifar10(file: str) -> dict[str, Any]:
    """ReLU against tanh on CIFAR-10, as in Krizhevsky's Fig. 1, but on 4,000 of its 50,000 images."""
    recipe = recipe_of(file, width=16, steps=1200, batch_size=64)
    recipe.data.train_examples = 4000
    rates = (0.003, 0.01, 0.03, 0.1)
    choice = {"choice_seeds": 1, "choice_steps": 200, "holdout": 1000}
    return activations(recipe, rates=rates, seeds=3, progress=progress, **choice)


def main(name: str, file: str = "") -> None:
    claim = CLAIMS[name.removesuffix("_cifar10")]
    start = time.perf_counter()
    results = cifar10(file) if name.endswith("_cifar10") else claim.measure(ClaimOptions(), progress)
    finding, table = compare.finding(claim, results), compare.table(claim, results)
    for result in results.values():
        if file:
            result.choices["data"] = result.choices["data"].replace(file, "CIFAR-10")
            result.choices["network"] = result.choices["network"].replace(file, "CIFAR-10")
    record = {
        "made": {k: v for k, v in provenance().items() if k != "command"},
        "command": f"python docs/results/convolution_claims.py {name}{' CIFAR10.npz' if file else ''}",
        "seconds": round(time.perf_counter() - start),
        "finding": [finding.headline, *finding.points],
        "table": {"columns": table.columns, "rows": table.rows},
        "results": {label: r.to_json() for label, r in results.items()},
    }
    write(HERE / f"{name}.json", json.dumps(record) + "\n")
    plot(results, claim.name).savefig(HERE / f"{name}.png", dpi=150)
    print("\n".join(record["finding"]))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
