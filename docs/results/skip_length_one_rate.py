"""Shortcuts over 1, 2, 3 and 6 layers at one learning rate: ``python docs/results/skip_length_one_rate.py``.

The control of skip_length.json, where longer shortcuts were given a higher rate. Writes
skip_length_one_rate.json and .png beside this file.
"""

from claim import progress, record

from resjax.studies.lesions.skip_length import LENGTHS, STUDY, skip_length
from resjax.studies.small_training import digits_recipe

RATE, SEEDS = 0.1, 3

if __name__ == "__main__":
    recipe = digits_recipe(400, depth=38)
    record(
        "skip_length_one_rate",
        STUDY,
        lambda: skip_length(recipe, LENGTHS, rates=(RATE,), seeds=SEEDS, progress=progress),
        "python docs/results/skip_length_one_rate.py",
    )
