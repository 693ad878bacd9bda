"""What stands under launch/, and runs on many processes."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from run_helpers import experiment_file
from script_helpers import REPOSITORY, load_script
from test_smoke import make_npz

from resjax import config as configs
from resjax import models
from resjax.studies.catalogue import STUDIES
from resjax.train import load_experiment, train_and_evaluate
from resjax.training import manifest
from resjax.training.checkpoint import Checkpoints
from resjax.training.processes import joined
from resjax.workdir.stopping import Stopped

SCRIPTS = sorted((REPOSITORY / "launch").glob("*.sh"))


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
        joined(configs.default("resnet"), "runs/none").__enter__()


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """Two processes on this machine, joined by their environment, against one."""
    path = experiment_file(
        tmp_path, train__duration="6 steps", train__steps_per_dispatch=3, checkpoint__every="3 steps"
    )
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
        subprocess.Popen(command, env={**env, "JAX_PROCESS_ID": str(i)}, stderr=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    messages = [p.communicate(timeout=300)[1] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], messages
    assert "2 × cpu" in messages[0]
    assert "test loss" in messages[0]
    assert "test loss" not in messages[1]  # only the first one speaks

    config = configs.load_file(path)
    one = train_and_evaluate(config, tmp_path / "one")
    checkpoints = Checkpoints(tmp_path / "two")
    two = checkpoints.restore(load_experiment(config).create_state())
    assert int(two.step) == 6
    assert manifest.damage(tmp_path / "two/checkpoints/6") is None
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


def reproduction():
    module = load_script("launch/reproduce.py")
    return module


def test_every_network_of_the_papers_has_a_configuration_that_builds():
    module = reproduction()
    shape = {"image_shape": (32, 32, 3), "num_classes": 10}
    for nets in module.RUNS.values():
        for net in nets.values():
            config = module.make_config(net, "", smoke=False)
            configs.check(config)
            models.build(config.model, **shape)
            assert set(net.studies) <= set(STUDIES)
    shortcuts = module.RUNS["shortcuts"]
    fields = module.make_config(shortcuts["scale_half_half"], "", smoke=False).model
    assert (fields.depth, fields.placement, fields.shortcut_branch_scale) == (110, "post", 0.5)


def test_unknown_runs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing_such; allowed: veit, "):
        reproduction().reproduce(["nothing_such"], tmp_path)
    with pytest.raises(ValueError, match=r"resnet21; allowed: .*resnet20"):
        reproduction().reproduce(["degradation"], tmp_path, only=("resnet21",))


def test_the_papers_runs_follow_the_claims():
    """What docs/results/claims.md asks for."""
    module = reproduction()
    assert module.OPTIONS.delete_up_to == 20 and module.OPTIONS.path_draws == 1000
    assert module.MANY.delete_up_to == 20 and module.MANY.draws == 1000
    assert module.SEEDS == 3
    veit = module.RUNS["veit"]["veit110"]
    assert module.make_config(veit, "", smoke=False, seed=2).seed == 2
    assert set(module.studies_of(veit, 2)) == {"lesion", "paths", "deletions", "reorder"}
    assert "resnet110" in module.RUNS["degradation"]
    labels = [label for nets in module.RUNS.values() for label in nets]
    assert len(labels) == len(set(labels)) and not set(labels) & set(module.RUNS)


@pytest.mark.slow
def test_a_papers_run_leaves_results_and_is_not_repeated(tmp_path, monkeypatch):
    module = reproduction()
    tiny = {
        "one": module.Net("cifar10_veit", {}, ("lesion", "responses", "deletions")),
        "two": module.Net("cifar10_plain", {}, ("lesion", "responses")),
    }
    monkeypatch.setitem(module.RUNS, "tiny", tiny)
    monkeypatch.setattr(module, "SEEDS", 2)
    data, out = make_npz(tmp_path / "data.npz", 32, 3), tmp_path / "out"
    module.reproduce(["tiny"], out, data, smoke=True, only=["one"])
    result = json.loads((out / "one_seed1.json").read_text())
    assert result["config"]["seed"] == 1 and result["evaluations"][-1]["step"] == 4
    result = json.loads((out / "one.json").read_text())
    assert result["config"]["seed"] == 0
    minutes = json.loads((out / "one" / "minutes.json").read_text())
    assert set(minutes) == {"training", "lesion", "responses", "deletions"}
    assert result[module.TOTAL] == pytest.approx(sum(minutes.values()), abs=0.01)
    assert result[module.TOTAL] > 0
    assert (out / "one" / "lesion.png").is_file()
    rows = json.loads((out / "one" / "tolerances.json").read_text())
    assert set(rows) == {"one", "all"} and set(rows["one"]) == {"2", "5"}
    share = rows["one"]["2"]["share of those that cost at most 5 points"]
    assert share["verdict"] in ("met", "missed", "undecided")
    assert json.loads((out / "tiny" / "networks.json").read_text()) == ["one", "one_seed1"]

    module.reproduce(["tiny"], out, data, smoke=True)
    everything = ["one", "one_seed1", "two", "two_seed1"]
    assert json.loads((out / "tiny" / "networks.json").read_text()) == everything
    together = json.loads((out / "tiny" / "responses.json").read_text())
    assert list(together["runs"]) == everything
    (pair,) = (
        c
        for name, c in json.loads((out / "tiny" / "tolerances.json").read_text())["all"]["15"].items()
        if "plain" in name
    )
    assert pair["over"] == "2 and 2 seeds" and None not in pair["interval"]
    assert (out / "tiny" / "lesion.png").is_file() and (out / "reports/tiny/report.html").is_file()
    outside = [path for path in out.glob("**/*.json") if not {"runs", "reports"} & set(path.parts)]
    assert not any(str(tmp_path) in path.read_text() for path in outside)

    def twice(*_):
        raise AssertionError("done again")

    monkeypatch.setattr(module, "train_and_evaluate", twice)
    monkeypatch.setattr(module, "analyze", twice)
    module.reproduce(["tiny"], out, data, smoke=True)


def test_minutes_add_up_also_where_a_run_is_stopped(tmp_path, monkeypatch):
    module = reproduction()
    clock = iter([0.0, 60.0, 100.0, 190.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    # A script has no public names; this and ``_noted`` are what all of its runs go through.
    with pytest.raises(KeyboardInterrupt), module._minutes(tmp_path, "training"):
        raise KeyboardInterrupt
    with module._minutes(tmp_path, "training"):
        pass
    assert json.loads((tmp_path / "minutes.json").read_text()) == {"training": 2.5}


@pytest.mark.slow
def test_the_accelerator_check_compares_and_sees_a_difference(monkeypatch, capsys, tmp_path):
    script = load_script("launch/accelerator.py")
    monkeypatch.setattr(script, "NETWORKS", {"LeNet-5": script.NETWORKS["LeNet-5"]})
    rows = script.compare()
    assert [row["dtype"] for row in rows] == ["float32", "bfloat16"]
    assert all(row["agree"] and row["loss, gradient norm"][1] > 0 for row in rows)
    answers = iter([(2.3, 1.0), (2.3, 1.2), (2.3, float("nan")), (2.3, 1.0)])
    monkeypatch.setattr(script, "one_step", lambda *_: next(answers))
    out = tmp_path / "found.json"
    assert not any(row["agree"] for row in script.compare(out))
    assert capsys.readouterr().out.count("DIFFER") == 2
    assert len(json.loads(out.read_text())["rows"]) == 2

    def dies(*_):
        if len(json.loads(out.read_text())["rows"]) == 1:
            raise KeyboardInterrupt
        return 2.3, 1.0

    monkeypatch.setattr(script, "one_step", dies)
    with pytest.raises(KeyboardInterrupt):
        script.compare(out)
    assert len(json.loads(out.read_text())["rows"]) == 1  # what was found before is there


def test_a_network_that_fails_leaves_word_and_the_others_their_turn(tmp_path):
    module = load_script("launch/reproduce.py")
    note = tmp_path / "net.failed.txt"
    with module._noted(note):
        raise FloatingPointError("the update is not finite")
    assert "not finite" in note.read_text()
    with pytest.raises(Stopped), module._noted(note):
        raise Stopped("SIGTERM")
    with module._noted(note):
        pass
    assert not note.exists()
