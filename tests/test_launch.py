"""What stands under launch/, and runs on many processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from resjax import config as configs
from resjax.checkpoint import Checkpoints
from resjax.parallel import start_processes
from resjax.train import load_experiment, train_and_evaluate

REPOSITORY = Path(__file__).parent.parent
SCRIPTS = sorted((REPOSITORY / "launch").glob("*.sh"))

EXPERIMENT = """
from resjax import config as configs

def get_config(arg=""):
    c = configs.default("resnet", depth=8, widths=(4, 4, 8))
    c.data.pad = 1
    c.data.train_examples = 200
    c.train.batch_size = 16
    c.train.duration = "6 steps"
    c.train.steps_per_dispatch = 3
    c.checkpoint.every = "3 steps"
    return c
"""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_scripts_are_sound_and_say_how_they_are_used(script):
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    bare = subprocess.run([script], capture_output=True, text=True)
    assert bare.returncode == 2
    assert "usage:" in bare.stderr
    assert "-m resjax.train" in script.read_text()


def test_a_half_described_cluster_is_refused(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1234")
    with pytest.raises(ValueError, match="JAX_NUM_PROCESSES, JAX_PROCESS_ID"):
        start_processes(wanted=True)


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """Two processes on this machine, joined by their environment, against one."""
    path = tmp_path / "experiment.py"
    path.write_text(EXPERIMENT)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "resjax.train",
        f"--config={path}",
        f"--workdir={tmp_path / 'two'}",
    ]
    env = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(REPOSITORY),
           "JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": "2"}  # fmt: skip
    processes = [
        subprocess.Popen(
            command, env={**env, "JAX_PROCESS_ID": str(i)}, stderr=subprocess.PIPE, text=True
        )
        for i in range(2)
    ]
    messages = [p.communicate(timeout=300)[1] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], messages
    assert "2 × cpu" in messages[0]
    assert "test loss" in messages[0]
    assert "test loss" not in messages[1]  # only the first one speaks

    config = configs.load_file(path)
    one = train_and_evaluate(config, tmp_path / "one")
    with Checkpoints(tmp_path / "two") as checkpoints:
        two = checkpoints.restore(load_experiment(config).create_state())
    assert int(two.step) == 6
    import jax

    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(two.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def notebook_cells():
    cells = json.loads((REPOSITORY / "launch/colab.ipynb").read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_the_notebook_is_committed_without_outputs_and_compiles():
    cells = json.loads((REPOSITORY / "launch/colab.ipynb").read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells)
    for number, source in enumerate(notebook_cells()):
        compile(source, f"cell {number}", "exec")


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    """In a kernel of its own, in its small form."""
    nbclient = pytest.importorskip("nbclient")
    import nbformat

    notebook = nbformat.read(REPOSITORY / "launch/colab.ipynb", as_version=4)
    changes = {"RESJAX_SMOKE": "1", "RESJAX_RUNS": str(tmp_path / "runs"), "XLA_FLAGS": ""}
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        client = nbclient.NotebookClient(
            notebook, timeout=900, resources={"metadata": {"path": str(REPOSITORY / "launch")}}
        )
        client.execute()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    shown = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    assert any("image/png" in o.get("data", {}) for o in shown)
    assert any("srcdoc" in "".join(o.get("data", {}).get("text/html", "")) for o in shown)
