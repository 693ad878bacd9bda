"""The network of Veit et al. 2016: a pre-activation ResNet-110, 54 modules, whose modules they delete.

Command:  python -m resjax.data.prepare cifar10
          python -m resjax.train --config=configs/cifar10_veit.py --workdir=runs/veit110
          python -m resjax.analyze --workdir=runs/veit110
Hardware: one GPU.
Time:     not yet run.
Result:   not yet run. The paper's network has 6.10 % test error.

Recipe of He et al. 2016 (64,000 steps of 128); the training has no dropped units.
"""

from pathlib import Path

from ml_collections import ConfigDict

from resjax import config as configs


def get_config(arg: str = "") -> ConfigDict:
    return configs.load_file(Path(__file__).with_name("cifar10_preact.py"), arg)
