"""ConvNeXt-T on ImageNet, 300 epochs (Liu et al. 2022).

Command:  python -m resjax.data.prepare imagenet2012 --source=FOLDER-OF-THE-TWO-TAR-FILES
          python -m resjax.train --config=configs/imagenet_convnext_t.py --workdir=runs/convnext_t
Hardware: 32 GPUs or a TPU slice, for 4,096 images in each step.
Time:     not yet run.
Result:   not yet run. Liu et al. 2022 reach 82.1 % top-1 accuracy (17.9 % error). They also erase random
          boxes and vary RandAugment's magnitude, and their stochastic depth draws a gate for each example.
"""

from ml_collections import ConfigDict

from resjax import config as configs


def get_config(arg: str = "") -> ConfigDict:
    c = configs.default("convnext", size="T", unit_dropout="linear", unit_survival=0.9, dtype="bfloat16")
    c.data.name = "imagenet2012"
    c.data.image_size = 224
    c.data.crop = "inception"
    c.data.flip = True
    c.data.randaugment = 2
    c.data.randaugment_probability = 0.5
    c.data.workers = 16

    c.train.duration = "300 epochs"
    c.train.batch_size = 4096
    c.train.label_smoothing = 0.1
    c.train.mixup = 0.8
    c.train.cutmix = 1.0
    c.train.ema = 0.9999
    c.train.steps_per_dispatch = 1  # each step sends its images to the device

    c.optimizer.name = "adamw"
    c.optimizer.learning_rate = 4e-3
    c.optimizer.weight_decay = 0.05
    c.optimizer.decay = "kernels"
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup = "20 epochs"
    c.optimizer.warmup_from = 0.0

    c.eval.every = "1 epochs"
    c.eval.batch_size = 256
    c.log.every = "50 steps"
    c.checkpoint.every = "1 epochs"
    if configs.smoke(arg):
        c.model.widths = (8, 8, 16, 16)
        c.model.stage_sizes = (1, 1, 2, 1)
        c.data.image_size = 64
        c.data.workers = 0
        c.train.batch_size = 16
        c.train.duration = "2 steps"
        c.optimizer.warmup = "1 steps"
    return c
