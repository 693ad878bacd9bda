"""Veit's control: a plain network of 15 layers with 128 channels in each, so that any layer can be deleted.

Command:  python -m resjax.data.prepare cifar10
          python -m resjax.train --config=configs/cifar10_veit_plain.py --workdir=runs/plain15
          … --config.model.norm=True for a control that the paper lacks: with BatchNorm
Hardware: one GPU.
Time:     not yet run.
Result:   not yet run. In the paper, deleting any layer gives 90 % error: chance.

The paper gives no recipe for it. Without BatchNorm, the learning rate is a tenth of the residual network's.
"""

from pathlib import Path

from ml_collections import ConfigDict

from resjax import config as configs
from resjax import models


def get_config(arg: str = "") -> ConfigDict:
    c = configs.load_file(Path(__file__).with_name("cifar10_resnet.py"), arg)
    c.model = models.defaults("veit_plain")
    c.optimizer.learning_rate = 0.01
    c.optimizer.weight_decay = 5e-4
    c.optimizer.warmup = "400 steps"
    if arg == "smoke":
        c.model.width = 8
    return c
