"""The network of Veit et al. 2016 for their deletions: a pre-activation ResNet-110 of 54 modules.

Command:  python -m resjax.data.prepare cifar10
          python -m resjax.train --config=configs/cifar10_veit.py --workdir=runs/veit110
          python -m resjax.analyze --workdir=runs/veit110
Hardware: one GPU.
Time:     64,000 steps: not yet run. One NVIDIA H200: 20,000 steps in 5.4 minutes (13 to 16 ms a step).
Result:   64,000 steps: not yet run; the paper's network has 6.10 % test error. 20,000 steps, the rate lowered
          at 10,000 and 15,000: 7.68 %, and most of its units may go (docs/results/veit110.md).

The recipe is that of He et al. 2016 (64,000 steps of 128), without stochastic depth.
"""

from pathlib import Path

from ml_collections import ConfigDict

from resjax import config as configs


def get_config(arg: str = "") -> ConfigDict:
    return configs.load_file(Path(__file__).with_name("cifar10_preact.py"), arg)
