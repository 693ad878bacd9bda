"""ConvMixer-256/8 of Trockman & Kolter 2022 on CIFAR-10: patches of 2×2 pixels, 5×5 depthwise windows.

Command:  python -m resjax.data.prepare cifar10
          python -m resjax.train --config=configs/cifar10_convmixer.py --workdir=runs/convmixer
Hardware: one GPU.
Time:     not yet run.
Result:   not yet run. The authors' script for CIFAR-10 reaches about 92.5 % test accuracy (7.5 % error) after
          25 epochs. Its rate rises to epoch 10 as here, and then falls along two lines, not a cosine; its
          RandAugment is that of torchvision, with a magnitude of 12 of 30.
"""

from ml_collections import ConfigDict

from resjax import config as configs


def get_config(arg: str = "") -> ConfigDict:
    c = configs.default("convmixer", width=256, depth=8, kernel=5, patch=2)
    c.data.name = "cifar10"
    c.data.flip = True
    c.data.pad_with = "black"
    c.data.randaugment = 2
    c.data.randaugment_magnitude = 4.0

    c.train.duration = "25 epochs"
    c.train.batch_size = 512

    c.optimizer.name = "adamw"
    c.optimizer.learning_rate = 0.05
    c.optimizer.weight_decay = 0.005
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup = "10 epochs"
    c.optimizer.warmup_from = 0.0

    c.eval.every = "1 epochs"
    c.log.every = "50 steps"
    if configs.smoke(arg):
        c.model.width = 16
        c.model.depth = 2
        c.train.duration = "4 steps"
        c.train.batch_size = 16
        c.optimizer.warmup = "1 steps"
    return c
