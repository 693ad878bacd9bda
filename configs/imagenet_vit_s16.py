"""ViT-S/16 on ImageNet, 90 epochs: the recipe for plain vision transformers of Beyer et al. 2022.

Command:  python -m resjax.data.prepare imagenet2012 --source=FOLDER-OF-THE-TWO-TAR-FILES
          python -m resjax.train --config=configs/imagenet_vit_s16.py --workdir=runs/vit_s16
Hardware: eight GPUs or a TPU slice.
Time:     not yet run.
Result:   not yet run. Beyer et al. 2022 (2205.01580) reach 76.5 % top-1 accuracy (23.5 % error) with 99 % of
          the training images. Their head has a hidden layer, their crops begin at 5 % of the area (here 8 %),
          and their RandAugment has 16 operations (here the 14 of its paper).
"""

from ml_collections import ConfigDict

from resjax import config as configs


def get_config(arg: str = "") -> ConfigDict:
    c = configs.default("vit", size="S", pool="mean", positions="sincos", dtype="bfloat16")
    c.data.name = "imagenet2012"
    c.data.image_size = 224
    c.data.crop = "inception"
    c.data.flip = True
    c.data.mean = c.data.std = (0.5, 0.5, 0.5)
    c.data.randaugment = 2
    c.data.randaugment_magnitude = 10.0
    c.data.workers = 16

    c.train.duration = "90 epochs"
    c.train.batch_size = 1024
    c.train.mixup = 0.2
    c.train.steps_per_dispatch = 2  # each step sends its images to the device

    c.optimizer.name = "adamw"
    c.optimizer.learning_rate = 1e-3
    c.optimizer.weight_decay = 0.1  # 1e-4 in their code, which does not multiply it by the peak rate
    c.optimizer.decay = "kernels"
    c.optimizer.clip_norm = 1.0
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup = "10000 steps"
    c.optimizer.warmup_from = 0.0

    c.eval.every = "1 epochs"
    c.eval.batch_size = 256
    c.log.every = "50 steps"
    c.checkpoint.every = "1 epochs"
    if configs.smoke(arg):
        c.model.depth = 2
        c.data.image_size = 64
        c.data.workers = 0
        c.train.batch_size = 16
        c.train.duration = "2 steps"
        c.optimizer.warmup = "1 steps"
    return c
