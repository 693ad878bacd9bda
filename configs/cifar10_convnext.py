"""A small ConvNeXt on CIFAR-10: 10 units of 48 to 384 channels, with the recipe of Liu et al. 2022.

Command:  python -m resjax.data.prepare cifar10
          python -m resjax.train --config=configs/cifar10_convnext.py --workdir=runs/convnext
          … --config.model.version=v2                                   (Woo et al. 2023)
Hardware: one GPU.
Time:     not yet run.
Result:   not yet run. The paper has no network for CIFAR-10. Size, duration and learning rate are chosen
          here, and nothing is tuned.
"""

from ml_collections import ConfigDict

from resjax import config as configs


def get_config(arg: str = "") -> ConfigDict:
    c = configs.default("convnext", size="cifar")
    c.data.name = "cifar10"
    c.data.pad = 4
    c.data.flip = True
    c.data.randaugment = 2
    c.data.randaugment_probability = 0.5

    c.train.duration = "100 epochs"
    c.train.batch_size = 128
    c.train.label_smoothing = 0.1
    c.train.mixup = 0.8
    c.train.cutmix = 1.0
    c.train.ema = 0.999  # so a mean over about 1,000 steps; the paper's 0.9999 is for longer trainings

    c.optimizer.name = "adamw"
    c.optimizer.learning_rate = 1e-3
    c.optimizer.weight_decay = 0.05
    c.optimizer.decay = "kernels"
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup = "5 epochs"
    c.optimizer.warmup_from = 0.0

    c.eval.every = "5 epochs"
    c.log.every = "100 steps"
    c.checkpoint.every = "10 epochs"
    if configs.smoke(arg):
        c.model.widths = (8, 8, 16, 16)
        c.model.stage_sizes = (1, 1, 2, 1)
        c.train.duration = "4 steps"
        c.train.batch_size = 16
        c.optimizer.warmup = "1 steps"
    return c
