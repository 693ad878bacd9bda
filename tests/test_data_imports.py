"""What importing and reading data brings in: never TensorFlow."""

import os
import subprocess
import sys

import pytest
from data_helpers import accept, write_mnist

from resjax.data import prepare

_READ = """
import sys
from resjax import data
slow = {"tensorflow", "grain", "tensorflow_datasets", "sklearn"} & set(sys.modules)
assert not slow, f"import resjax.data imported {slow}"
config = data.defaults()
config.name, config.data_dir = "mnist", sys.argv[1]
assert data.load(config).info.num_train == 12
config.name = "digits"
data.load(config)
import grain, resjax.data.prepare
assert "tensorflow_datasets" in sys.modules
assert "tensorflow" not in sys.modules
"""


@pytest.mark.slow
def test_no_tensorflow_even_when_a_prepared_set_is_read(tmp_path, monkeypatch):
    write_mnist(tmp_path / "source")
    accept(monkeypatch, tmp_path / "source")
    prepare.prepare("mnist", str(tmp_path / "prepared"), str(tmp_path / "source"))
    subprocess.run(
        [sys.executable, "-c", _READ, str(tmp_path / "prepared")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=True,
    )
