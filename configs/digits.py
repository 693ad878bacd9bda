"""A pre-activation ResNet-56 on scikit-learn's 1,797 digits: the residual half of ``make demo``.

Command:  python -m resjax.train --config=configs/digits.py --workdir=runs/digits
Hardware: @H@
Time:     @T@
Result:   @R@
"""

from ml_collections import ConfigDict

from resjax import config as configs


def get_config(arg: str = "") -> ConfigDict:
    c = configs.default("resnet", depth=56, placement="pre", transition="pad_subsample")
    c.data.name = "digits"

    c.train.duration = "20 epochs"
    c.train.batch_size = 64

    # A gentle recipe, in favour of the plain twin: at a rate of 0.1 it does not learn at all.
    c.optimizer.learning_rate = 0.01
    c.optimizer.weight_decay = 1e-4
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup = "3 epochs"

    c.log.every = "1 epochs"
    if configs.smoke(arg):
        c.model.depth = 20
        c.train.duration = "3 epochs"
        c.optimizer.warmup = "1 epochs"
    return c
