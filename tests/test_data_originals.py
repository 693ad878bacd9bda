"""The real original files, where a folder of them is given.

    RESJAX_ORIGINALS=FOLDER pytest -m slow tests/test_data_originals.py

FOLDER holds mnist/, fashion_mnist/ and cifar10/ with the files that `resjax.data.prepare` takes by
--source (for cifar10 the unpacked .bin files); sets that are not there are skipped.
"""

import os
import pathlib

import numpy as np
import pytest
from data_helpers import sorted_rows

from resjax import data
from resjax.data import originals, prepare


def read(name, source):
    """The original files by numpy alone."""
    if name == "cifar10":
        parts = {"train": originals.CIFAR10_BATCHES, "test": ("test_batch.bin",)}
        for part, files in parts.items():
            content = b"".join((source / file).read_bytes() for file in files)
            rows = np.frombuffer(content, np.uint8).reshape(-1, 3073)
            yield part, rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), rows[:, 0]
    else:
        for part, prefix in (("train", "train"), ("test", "t10k")):
            pictures = originals.idx(source / f"{prefix}-images-idx3-ubyte.gz")[..., None]
            yield part, pictures, originals.idx(source / f"{prefix}-labels-idx1-ubyte.gz")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_real_originals_read_back_byte_for_byte(name, tmp_path):
    folder = os.environ.get("RESJAX_ORIGINALS", "")
    if not folder or not (pathlib.Path(folder) / name).is_dir():
        pytest.skip(f"needs the original files in $RESJAX_ORIGINALS/{name}")
    source = pathlib.Path(folder) / name
    prepare.prepare(name, str(tmp_path), str(source))
    config = data.defaults()
    config.name, config.data_dir = name, str(tmp_path)
    set_ = data.load(config)
    known = data.info(config)
    assert (set_.info.num_train, set_.info.num_test) == (known.num_train, known.num_test)
    for part, pictures, labels in read(name, source):
        got = sorted_rows(getattr(set_, f"{part}_images"), getattr(set_, f"{part}_labels"))
        assert got == sorted_rows(pictures, labels)
