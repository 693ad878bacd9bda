"""ResNet-50 (v1.5) on ImageNet, 90 epochs.

Command:  python -m resjax.data.prepare imagenet2012 --source=FOLDER-OF-THE-TWO-TAR-FILES
          python -m resjax.train --config=configs/imagenet_resnet50.py --workdir=runs/resnet50
Hardware: eight GPUs or a TPU slice.
Time:     not yet run.
Result:   not yet run. Goyal et al. 2017 reach 76.4 % top-1 accuracy (23.6 % error) with this recipe.
"""

from ml_collections import ConfigDict

from resjax import config as configs


def get_config(arg: str = "") -> ConfigDict:
    c = configs.default("imagenet_resnet", depth=50, version="v1.5", dtype="bfloat16", zero_gamma=True)
    c.data.name = "imagenet2012"
    c.data.image_size = 224
    c.data.crop = "inception"
    c.data.flip = True
    c.data.workers = 16

    c.train.duration = "90 epochs"
    c.train.batch_size = 256
    c.train.steps_per_dispatch = 2  # each step sends its images to the device

    c.optimizer.learning_rate = 0.1
    c.optimizer.nesterov = True
    c.optimizer.weight_decay = 1e-4
    c.optimizer.decay = "kernels"
    c.optimizer.boundaries = ("30 epochs", "60 epochs", "80 epochs")
    c.optimizer.warmup = "5 epochs"

    c.eval.every = "1 epochs"
    c.eval.batch_size = 256
    c.log.every = "100 steps"
    c.checkpoint.every = "1 epochs"
    if configs.smoke(arg):
        c.model.depth = 18
        c.data.image_size = 64
        c.data.workers = 0
        c.train.batch_size = 8
        c.train.duration = "2 steps"
        c.optimizer.warmup = "0 steps"
    return c
