"""The residual networks of He et al. 2015 (§4.2) on CIFAR-10: post-activation, option A, depth 6n + 2.

Command:  python -m resjax.data.prepare cifar10
          python -m resjax.train --config=configs/cifar10_resnet.py --workdir=runs/resnet20
          … --config.model.depth=110 --config.optimizer.warmup="400 steps"   (56, 44, 32 need no warm-up)
          … --config.parallel.mode=pmap on two GPUs: BatchNorm over 64 images each, as in the paper
Hardware: one GPU.
Time:     not yet run.
Result:   not yet run. Test error in the paper's Table 6: depth 20, 32, 44, 56, 110: 8.75, 7.51, 7.17, 6.97,
          6.61 ± 0.16 %.
"""

from ml_collections import ConfigDict

from resjax import config as configs


def get_config(arg: str = "") -> ConfigDict:
    c = configs.default("resnet", depth=20, placement="post", transition="pad_subsample")
    c.data.name = "cifar10"
    c.data.standardize = "pixel"
    c.data.pad = 4
    c.data.flip = True

    c.train.duration = "64000 steps"
    c.train.batch_size = 128

    c.optimizer.learning_rate = 0.1
    c.optimizer.momentum = 0.9
    c.optimizer.weight_decay = 1e-4
    c.optimizer.boundaries = ("32000 steps", "48000 steps")
    # Depth 110 starts at a tenth of the rate until the training error is below 80 %: about 400 steps.
    c.optimizer.warmup_shape = "constant"
    c.optimizer.warmup_from = 0.1

    c.eval.every = "5 epochs"
    c.log.every = "100 steps"
    c.checkpoint.every = "10 epochs"
    if configs.smoke(arg):
        c.model.depth = 8
        c.train.duration = "4 steps"
        c.train.batch_size = 16
    return c
