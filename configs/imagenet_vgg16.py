"""VGG-16 (configuration D of Simonyan & Zisserman 2015) on ImageNet.

Command:  python -m resjax.data.prepare imagenet2012 --source=FOLDER-OF-THE-TWO-TAR-FILES
          python -m resjax.train --config=configs/imagenet_vgg16.py --workdir=runs/vgg16
          … --config.model.norm=True --config.optimizer.learning_rate=0.1 for the form with BatchNorm
Hardware: eight GPUs or a TPU slice.
Time:     not yet run.
Result:   not yet run. The paper, one scale of 256: 27.0 % top-1, 8.8 % top-5 validation error.

The paper initializes deeper configurations with a trained A; He-normal weights make that unnecessary.
"""

from ml_collections import ConfigDict

from resjax import config as configs


def get_config(arg: str = "") -> ConfigDict:
    c = configs.default("vgg", configuration="D", dtype="bfloat16")
    c.data.name = "imagenet2012"
    c.data.image_size = 224
    c.data.crop = "resize"
    c.data.flip = True
    c.data.workers = 16

    c.train.duration = "74 epochs"
    c.train.batch_size = 256
    c.train.steps_per_dispatch = 2  # each step sends its images to the device

    c.optimizer.learning_rate = 0.01
    c.optimizer.weight_decay = 5e-4
    c.optimizer.boundaries = ("25 epochs", "45 epochs", "60 epochs")

    c.eval.every = "1 epochs"
    c.eval.batch_size = 256
    c.log.every = "100 steps"
    c.checkpoint.every = "1 epochs"
    if configs.smoke(arg):
        c.model.fc_width = 32
        c.data.image_size = 32
        c.data.workers = 0
        c.train.batch_size = 8
        c.train.duration = "2 steps"
    return c
