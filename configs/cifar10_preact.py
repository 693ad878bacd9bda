"""The pre-activation networks of He et al. 2016 on CIFAR-10, and their tables of variants.

Command:  python -m resjax.data.prepare cifar10
          python -m resjax.train --config=configs/cifar10_preact.py --workdir=runs/preact110
          … --config.model.placement=bn_after_add                        (Table 2: post, relu_pre, …)
          … --config.model.placement=post --config.model.shortcut=scale \\
            --config.model.shortcut_scale=0.5                            (Table 1: gates, dropout, …)
          … --config.model.block=bottleneck --config.model.depth=164     (also 1001)
Hardware: one GPU.
Time:     not yet run.
Result:   not yet run. Test error of full pre-activation in the paper's Table 2, median of 5 runs: depth 110,
          164: 6.37, 5.46 %.
"""

from pathlib import Path

from ml_collections import ConfigDict

from resjax import config as configs


def get_config(arg: str = "") -> ConfigDict:
    c = configs.load_file(Path(__file__).with_name("cifar10_resnet.py"), arg)
    c.model.placement = "pre"
    c.optimizer.warmup = "400 steps"  # needed by the original units, and harmless for these
    if arg != "smoke":
        c.model.depth = 110
    return c
