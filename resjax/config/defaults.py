"""Every field of a configuration, with its default."""

from typing import Any

from ml_collections import ConfigDict

from resjax import data, models


def default(model: str = "resnet", **model_fields: Any) -> ConfigDict:
    """A complete configuration of ``model``, with changes to that model's defaults."""
    c = ConfigDict()
    c.seed = 0  # of initial weights, order of examples, augmentation and dropout
    c.model = models.defaults(model, **model_fields)
    c.data = data.defaults()

    c.train = ConfigDict()
    c.train.duration = "20 epochs"
    c.train.batch_size = 128  # examples per step, over all devices of all hosts
    c.train.loss = "cross_entropy"  # or 'rbf_map', for LeNet-5's original output
    c.train.rbf_rubbish = 10.0  # j of Eq. 9 of LeCun et al. 1998, for 'rbf_map'
    c.train.label_smoothing = 0.0  # probability that is spread evenly over the classes
    c.train.mixup = 0.0  # α of mixup (Zhang et al. 2018), 0 for none
    c.train.cutmix = 0.0  # α of CutMix (Yun et al. 2019), 0 for none; with both, each at half of the steps
    c.train.shuffle = "none"  # or a random order of equal 'units' or of 'layers' in each step
    c.train.ema = 0.0  # decay of an average of the variables, which is evaluated; 0 for none
    c.train.teacher = ""  # workdir of a trained network, whose soft targets are then part of the loss
    c.train.temperature = 4.0  # of the soft targets (``losses.distillation``); as in Tian et al. 2020
    c.train.teacher_weight = 0.9  # of the soft targets, 1 minus that of `loss`; as in Tian et al. 2020
    c.train.steps_per_dispatch = 50  # maximum number of steps in one program

    c.optimizer = ConfigDict()
    c.optimizer.name = "sgd"  # or 'adamw' (Loshchilov & Hutter 2019)
    c.optimizer.learning_rate = 0.1  # the peak of the schedule, for the whole batch
    c.optimizer.momentum = 0.9  # of 'adamw' β₁
    c.optimizer.nesterov = False
    c.optimizer.beta2 = 0.999  # of 'adamw': decay of the mean of squared gradients
    c.optimizer.epsilon = 1e-8  # of 'adamw': added to the root of that mean
    # × parameter, added to the gradient (L2 regularization); with 'adamw' to the update, before the rate
    c.optimizer.weight_decay = 1e-4
    c.optimizer.decay = "all"  # or 'kernels': not norms, biases, scalars, class tokens or positions
    c.optimizer.clip_norm = 0.0  # largest global gradient norm, 0 for no clipping
    c.optimizer.scalar_factor = 1.0  # on the updates of Fixup's and SkipInit's biases and scales
    c.optimizer.schedule = "step"  # or 'cosine', 'constant'
    c.optimizer.boundaries = ("50 epochs",)  # 'step': where the rate is multiplied by `factor`
    c.optimizer.factor = 0.1
    c.optimizer.warmup = "0 steps"
    c.optimizer.warmup_from = 0.1  # × learning_rate at the start of the warm-up
    c.optimizer.warmup_shape = "linear"  # or 'constant' (He et al. 2015, §4.2)

    c.eval = ConfigDict()
    c.eval.every = "5 epochs"
    c.eval.batch_size = 500

    c.log = ConfigDict()
    c.log.every = "50 steps"
    c.log.activations = False  # also the norm of every unit's output; costs a forward pass
    c.log.tensorboard = False  # also event files, with tensorboardX

    c.checkpoint = ConfigDict()
    c.checkpoint.every = "5 epochs"
    c.checkpoint.keep = 2  # number of newest checkpoints on disk

    c.parallel = ConfigDict()
    c.parallel.mode = "jit"  # BatchNorm over the whole batch; 'pmap': over each device's share
    c.parallel.distributed = False  # many hosts: jax.distributed.initialize()
    c.parallel.cpu_devices = 0  # number of devices of a CPU; 0: see resjax.training.cores
    return c
