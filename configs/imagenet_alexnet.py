"""AlexNet (Krizhevsky et al. 2012) on ImageNet: two groups, response normalization, overlapping pooling.

Command:  python -m resjax.data.prepare imagenet2012 --source=FOLDER-OF-THE-TWO-TAR-FILES
          python -m resjax.train --config=configs/imagenet_alexnet.py --workdir=runs/alexnet
          … --config.model.form=one_column for torchvision's form
Hardware: one GPU with a fast host (the images are decoded there).
Time:     not yet run.
Result:   not yet run. The paper: 40.7 % top-1, 18.2 % top-5 validation error with ten crops.

Not implemented: the paper's colour augmentation and ten-crop evaluation.
"""

from ml_collections import ConfigDict

from resjax import config as configs


def get_config(arg: str = "") -> ConfigDict:
    c = configs.default("alexnet", form="two_group")
    c.data.name = "imagenet2012"
    c.data.image_size = 224
    c.data.crop = "resize"
    c.data.flip = True
    c.data.workers = 16

    c.train.duration = "90 epochs"
    c.train.batch_size = 128
    c.train.steps_per_dispatch = 4  # each step sends its images to the device

    c.optimizer.learning_rate = 0.01
    c.optimizer.weight_decay = 5e-4
    c.optimizer.boundaries = ("30 epochs", "60 epochs", "80 epochs")

    c.eval.every = "1 epochs"
    c.eval.batch_size = 256
    c.log.every = "100 steps"
    c.checkpoint.every = "1 epochs"
    if configs.smoke(arg):
        c.data.image_size = 67
        c.data.workers = 0
        c.train.batch_size = 8
        c.train.duration = "2 steps"
    return c
