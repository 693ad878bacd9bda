"""LeNet-5 as published in 1998 on MNIST: partial C3, trainable subsampling, RBF output, its own loss.

Command:  python -m resjax.data.prepare mnist
          python -m resjax.train --config=configs/lenet5_mnist.py --workdir=runs/lenet5
Hardware: 2 CPU cores (Intel Xeon, Sapphire Rapids), shared.
Time:     5 min 48 s of CPU time.
Result:   0.99 % test error after the last of 20 epochs, one seed (docs/results/lenet5_mnist.json). The
          learning rate and the loss's constant were chosen on 10,000 held-out training images.

LeCun et al. (1998, §III) report 0.95 % without distortions. They train with a stochastic diagonal
Levenberg-Marquardt method, one example per step, for 20 epochs; here it is SGD with momentum on mini-batches.
"""

from ml_collections import ConfigDict

from resjax import config as configs


def get_config(arg: str = "") -> ConfigDict:
    c = configs.default("lenet5", variant="original")
    c.data.name = "mnist"
    c.data.image_size = 32
    c.data.fit = "pad"
    c.data.standardize = "lenet"

    c.train.loss = "rbf_map"
    c.train.rbf_rubbish = 10.0
    c.train.duration = "20 epochs"
    c.train.batch_size = 32
    c.train.steps_per_dispatch = 400

    c.optimizer.learning_rate = 0.002
    c.optimizer.weight_decay = 0.0
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup = "200 steps"

    c.eval.every = "1 epochs"
    c.log.every = "400 steps"
    if configs.smoke(arg):
        c.train.duration = "20 steps"
    return c
