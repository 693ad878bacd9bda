"""The plain twins of configs/cifar10_resnet.py: the same branches, parameters and recipe, no shortcuts.

Command:  python -m resjax.data.prepare cifar10
          python -m resjax.train --config=configs/cifar10_plain.py --workdir=runs/plain20
          … --config.model.depth=56, at which it is worse than the residual network
Hardware: one GPU.
Time:     not yet run.
Result:   not yet run. Test error read off the paper's Fig. 6: depth 20, 32, 44, 56: about 9.7, 10.1, 11.4,
          13.3 %; 110: above 60 %.
"""

from pathlib import Path

from ml_collections import ConfigDict

from resjax import config as configs


def get_config(arg: str = "") -> ConfigDict:
    c = configs.load_file(Path(__file__).with_name("cifar10_resnet.py"), arg)
    c.model.shortcut = "none"
    return c
