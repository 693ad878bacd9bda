"""Stochastic depth on CIFAR-10 (Huang et al. 2016): ResNet-110, survival decreasing linearly to 0.5.

Command:  python -m resjax.data.prepare cifar10
          python -m resjax.train --config=configs/cifar10_stochastic_depth.py --workdir=runs/depth110
Hardware: one GPU.
Time:     not yet run.
Result:   not yet run. The paper: 5.23 % with, 6.41 % without (unit_dropout='none'), at the best epoch on
5,000
          held-out images; here at the last epoch (data.holdout=5000 holds them out).
"""

from pathlib import Path

from ml_collections import ConfigDict

from resjax import config as configs


def get_config(arg: str = "") -> ConfigDict:
    c = configs.load_file(Path(__file__).with_name("cifar10_resnet.py"), arg)
    c.model.transition = "pad_pool"
    c.model.unit_dropout = "linear"
    c.model.unit_survival = 0.5
    c.optimizer.nesterov = True
    c.optimizer.boundaries = ("250 epochs", "375 epochs")
    if arg != "smoke":
        c.model.depth = 110
        c.train.duration = "500 epochs"
    return c
