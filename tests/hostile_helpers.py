"""Fixtures for files that somebody made to do harm."""

import tracemalloc

import numpy as np
import pytest
from torch_pickles import zip_file

from resjax.pretrained.reading.files import read_checkpoint


@pytest.fixture
def nothing_happens(tmp_path):
    """Whatever a file says, no folder is made, and the next file reads the same."""
    yield
    assert not (tmp_path / "made").exists()
    good = zip_file(tmp_path / "good.pth", (0, (6,), (1,)), range(6))
    np.testing.assert_array_equal(read_checkpoint(good).tensors["w"], range(6))


@pytest.fixture
def little_memory():
    """No more than 30 MB are taken."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6
