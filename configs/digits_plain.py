"""The plain twin of configs/digits.py: the same branches, parameters and recipe, no shortcuts.

Command:  python -m resjax.train --config=configs/digits_plain.py --workdir=runs/digits_plain
Hardware: 2 CPU cores (AMD EPYC; on an Intel Xeon, Sapphire Rapids: 57 s).
Time:     67 s, compilation included.
Result:   36.3 % test error, 41.4 % training error (of the last 128 images) after 30 epochs, one seed
          (docs/results/README.md).
"""

from pathlib import Path

from ml_collections import ConfigDict

from resjax import config as configs


def get_config(arg: str = "") -> ConfigDict:
    c = configs.load_file(Path(__file__).with_name("digits.py"), arg)
    c.model.shortcut = "none"
    return c
