"""The modern form of LeNet-5 (full C3, max pooling, ReLU, softmax) on MNIST.

Command:  python -m resjax.data.prepare mnist
          python -m resjax.train --config=configs/lenet5_modern_mnist.py --workdir=runs/lenet5_modern
Hardware: 2 CPU cores (Intel Xeon, Sapphire Rapids), shared.
Time:     4 min (4 min 51 s of CPU time).
Result:   0.77 % test error after the last of 20 epochs, one seed (docs/results/lenet5_modern_mnist.json);
          nothing was tuned.
"""

from ml_collections import ConfigDict

from resjax import config as configs


def get_config(arg: str = "") -> ConfigDict:
    c = configs.default("lenet5", variant="modern")
    c.data.name = "mnist"
    c.data.image_size = 32
    c.data.fit = "pad"

    c.train.duration = "20 epochs"
    c.train.batch_size = 64
    c.train.steps_per_dispatch = 200

    c.optimizer.learning_rate = 0.02
    c.optimizer.weight_decay = 5e-4
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup = "200 steps"

    c.eval.every = "1 epochs"
    c.log.every = "200 steps"
    if configs.smoke(arg):
        c.train.duration = "20 steps"
    return c
