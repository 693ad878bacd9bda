"""ReLU against tanh on CIFAR-10: ``python docs/results/activations_cifar10.py CIFAR10.npz``.

The claim ``activations`` on 4,000 of the 50,000 images in an .npz file of CIFAR-10's arrays, as in Krizhevsky
et al. 2012, Fig. 1, in kind. Writes activations_cifar10.json and activations_cifar10.png beside this file.
"""

import sys
from collections.abc import Mapping
from typing import Any

from claim import progress, record

from resjax.analysis import activations
from resjax.studies.catalogue import CLAIMS
from resjax.studies.convolution.activations import recipe_of


def measure(file: str) -> Mapping[str, Any]:
    recipe = recipe_of(file, width=16, steps=1200, batch_size=64)
    recipe.data.train_examples = 4000
    rates = (0.003, 0.01, 0.03, 0.1)
    choice = {"choice_seeds": 1, "choice_steps": 200, "holdout": 1000}
    results = activations(recipe, rates=rates, seeds=3, progress=progress, **choice)
    for result in results.values():
        for name in ("data", "network"):
            result.choices[name] = result.choices[name].replace(file, "CIFAR-10")
    return results


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    command = "python docs/results/activations_cifar10.py CIFAR10.npz"
    record("activations_cifar10", CLAIMS["activations"], lambda: measure(sys.argv[1]), command)
