"""Cores of a CPU as devices: how many, where not, and that a run computes the same on them."""

import os
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from script_helpers import run_each

from resjax import config as configs
from resjax import data
from resjax.cpu import one_thread
from resjax.cpu.conv import conv
from resjax.data.info import Info
from resjax.train import load_experiment
from resjax.training import cores
from resjax.training.checkpoint import Checkpoints
from resjax.training.devices import Devices
from resjax.training.feed import Evaluation


@pytest.fixture
def six_cores(monkeypatch):
    """A machine of six cores whose number of devices is not set; the numbers that JAX is told."""
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    monkeypatch.setattr(cores, "keep_freed", lambda: None)  # it can't be taken back
    told = []
    monkeypatch.setattr(jax.config, "update", lambda name, value: told.append((name, value)))
    return told


def config(name="cifar10", **fields):
    c = configs.default()
    c.data.name = name
    for field, value in fields.items():
        section, _, rest = field.partition("_")
        c[section][rest] = value
    return c


def test_a_run_is_analysed_on_the_cores_that_are_here(six_cores, monkeypatch):
    kept = []
    monkeypatch.setattr(cores, "keep_freed", lambda: kept.append(True))
    older, elsewhere, off = config(), config(), config()
    del older.parallel.cpu_devices
    elsewhere.parallel.cpu_devices = 16
    off.parallel.cpu_devices = 1
    for run in (older, elsewhere, off):
        cores.share_cores_to_analyse(run)
    assert six_cores == 2 * [("jax_num_cpu_devices", 4)]
    assert elsewhere.parallel.cpu_devices == 16
    assert len(kept) == 3


def test_small_images_are_shared_where_no_sums_are(six_cores):
    cores.share_cores_to_analyse(config("digits"))
    assert six_cores == []
    cores.share_cores_to_analyse(config("digits"), sums=False)
    assert six_cores == [("jax_num_cpu_devices", 4)]


@pytest.mark.parametrize(
    "fields, count",
    [
        ({}, 4),  # of 128 images
        ({"train_batch_size": 120}, 6),
        ({"name": "digits", "data_image_size": 32}, 4),
        ({"name": "my_images.npz"}, 4),
        ({"parallel_cpu_devices": 3, "parallel_mode": "pmap"}, 3),
        ({"name": "digits", "parallel_cpu_devices": 2}, 2),
    ],
)
def test_cores_become_devices(six_cores, fields, count):
    cores.share_cores(config(**fields))
    assert six_cores == [("jax_num_cpu_devices", count)]


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "digits"},  # small images
        {"name": "fashion_mnist"},
        {"train_batch_size": 127},  # a prime
        {"parallel_mode": "pmap"},
        {"parallel_distributed": True},
        {"parallel_cpu_devices": 1},
    ],
)
def test_they_stay_one_device(six_cores, fields):
    cores.share_cores(config(**fields))
    assert six_cores == []


@pytest.mark.parametrize(
    "name, value",
    [
        ("XLA_FLAGS", "--xla_force_host_platform_device_count=2"),
        ("JAX_COORDINATOR_ADDRESS", "localhost:1"),
    ],
)
def test_the_environment_decides(six_cores, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    cores.share_cores(config())
    assert six_cores == []


def test_no_more_devices_than_were_tried(six_cores, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    assert cores.number_of_devices(128) == 8


@pytest.mark.slow
def test_the_command_trains_on_cores_as_on_one_device(tmp_path):
    """And goes on with another number of them."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, 16, 16, 3), np.uint8)
    labels = np.arange(64) % 10
    np.savez(tmp_path / "images.npz", train_images=images, train_labels=labels,
             test_images=images[:16], test_labels=labels[:16])  # fmt: skip
    path = tmp_path / "experiment.py"
    path.write_text(
        "from resjax import config as configs\n"
        "def get_config(arg=''):\n"
        "    c = configs.default('resnet', depth=6, widths=(16, 32))\n"
        f"    c.data.name = {str(tmp_path / 'images.npz')!r}\n"
        "    c.train.batch_size = 16\n"
        "    c.train.duration = '3 steps'\n"
        "    c.optimizer.learning_rate = 0.01\n"
        "    return c\n"
    )
    runs = [("cores", 2), ("one", 1), ("cores", 1)]
    commands = [
        ("resjax.train", f"--config={path}", f"--workdir={tmp_path / run}",
         f"--config.parallel.cpu_devices={count}")
        for run, count in runs
    ]  # fmt: skip
    commands.append(("resjax.analyze", f"--workdir={tmp_path / 'cores'}",
                     "--studies=lesion", "--max_examples=40", "--full"))  # fmt: skip
    *trained, analyzed = run_each(commands, tmp_path, RESJAX_CACHE_DIR=str(tmp_path / "cache"))
    for (_, count), done in zip(runs, trained, strict=True):
        assert done.returncode == 0, done.stderr
        assert f", {count} × cpu, " in done.stderr
    assert analyzed.returncode == 0, analyzed.stderr
    like = load_experiment(configs.load(tmp_path / "one")).create_state()
    a, b = Checkpoints(tmp_path / "cores"), Checkpoints(tmp_path / "one")
    shared, alone = (x.restore(like) for x in (a, b))
    for x, y in zip(jax.tree.leaves(shared.params), jax.tree.leaves(alone.params), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pays", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_convolutions_on_shared_cores_are_of_one_thread(count, pays, monkeypatch):
    monkeypatch.setattr(one_thread, "PAYS", pays)
    experiment = load_experiment(configs.default("resnet", depth=6, widths=(16, 16)))
    batches = {
        "image": jax.ShapeDtypeStruct((1, 2, 8, 8, 1), jnp.uint8),
        "label": jax.ShapeDtypeStruct((1, 2), jnp.int32),
        "mask": jax.ShapeDtypeStruct((1, 2), jnp.float32),
    }
    program = Devices(devices=jax.devices()[:count]).eval_program(experiment.task)
    traced = program.trace(experiment.state_shapes.variables, batches).jaxpr
    # The form of 16 channels on one thread.
    products = "dimension_numbers=(([2], [1]), ([0], [0]))"
    assert (products in str(traced)) == (count == 2 and pays)
    x, kernel = jnp.zeros((2, 8, 8, 16)), jnp.zeros((3, 3, 16, 16))
    assert products not in str(jax.make_jaxpr(conv)(x, kernel))  # and not what is traced afterwards


class Streamed(data.Stream):
    """Four batches to evaluate on."""

    def __init__(self):
        object.__setattr__(self, "info", Info("streamed", (8, 8, 3), 10, 0, 32))

    def test_batches(self, size, index=0, count=1):
        for _ in range(4):
            yield {"image": np.zeros((size, 8, 8, 3), np.uint8)}


@pytest.mark.parametrize("count", [1, 2])
def test_a_streamed_evaluation_has_one_program_under_way_on_cores(count, monkeypatch):
    events = []
    devices = Devices(devices=jax.devices()[:count])
    run = lambda variables, batch: events.append("run") or {"count": jnp.ones(())}  # noqa: E731
    program = SimpleNamespace(lower=lambda *_: SimpleNamespace(compile=lambda: run))
    monkeypatch.setattr(devices, "eval_program", lambda task: program)
    monkeypatch.setattr(jax, "block_until_ready", lambda tree: events.append("wait") if tree else None)
    state = SimpleNamespace(variables={})
    sums = Evaluation(None, Streamed(), devices, 8)(state)
    assert float(sums["count"]) == 4
    assert events == (["run"] + 3 * ["wait", "run"] if count == 2 else 4 * ["run"])


def test_a_negative_number_is_refused():
    with pytest.raises(ValueError, match=r"parallel\.cpu_devices=-1; allowed: 1, 2, …"):
        configs.check(config(parallel_cpu_devices=-1))


@pytest.mark.parametrize("available", [1, 2])
def test_a_device_that_has_the_only_core_has_one_thread(available, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(available)), raising=False)
    monkeypatch.setattr(one_thread, "PAYS", True)
    device = Devices(devices=jax.devices()[:1])
    assert (device._traced(one_thread.threads)() is not None) == (available == 1)
