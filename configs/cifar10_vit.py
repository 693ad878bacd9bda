"""ViT-Lite-7/4 of Hassani et al. 2021 on CIFAR-10: 7 layers, so 14 units, on 64 patches of 4×4 pixels.

Command:  python -m resjax.data.prepare cifar10
          python -m resjax.train --config=configs/cifar10_vit.py --workdir=runs/vit
          … --config.train.shuffle=layers                     (a random order of the layers in each step)
Hardware: one GPU.
Time:     not yet run.
Result:   not yet run. Hassani et al. 2021 reach 91.38 % test accuracy (8.62 % error) after 200 epochs. They
          have AutoAugment's policy for CIFAR-10 in place of RandAugment, and dropout in attention and units.
"""

from ml_collections import ConfigDict

from resjax import config as configs


def get_config(arg: str = "") -> ConfigDict:
    c = configs.default("vit", size="cifar")
    c.data.name = "cifar10"
    c.data.flip = True
    c.data.randaugment = 2

    c.train.duration = "200 epochs"
    c.train.batch_size = 128
    c.train.label_smoothing = 0.1

    c.optimizer.name = "adamw"
    c.optimizer.learning_rate = 5e-4
    c.optimizer.weight_decay = 0.03
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup = "5 epochs"

    c.eval.every = "5 epochs"
    c.log.every = "100 steps"
    c.checkpoint.every = "10 epochs"
    if configs.smoke(arg):
        c.model.depth = 2
        c.train.duration = "4 steps"
        c.train.batch_size = 16
        c.optimizer.warmup = "1 steps"
    return c
