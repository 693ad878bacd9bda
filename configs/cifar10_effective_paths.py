"""Training on effective paths only (Veit et al. 2016, §5): 23 of the 54 modules in each mini-batch.

Command:  python -m resjax.data.prepare cifar10
          python -m resjax.train --config=configs/cifar10_effective_paths.py --workdir=runs/effective110
Hardware: one GPU.
Time:     not yet run.
Result:   not yet run. The paper: 5.96 %, against 6.10 % with all modules.

The paper does not say whether branches are scaled at test; here they are multiplied by 23/54, their
survival probability (``--config.model.unit_scale_at_test=False`` for the other choice).
"""

from pathlib import Path

from ml_collections import ConfigDict

from resjax import config as configs


def get_config(arg: str = "") -> ConfigDict:
    c = configs.load_file(Path(__file__).with_name("cifar10_preact.py"), arg)
    c.model.unit_dropout = "subset"
    c.model.units_active = 1 if arg == "smoke" else 23
    return c
