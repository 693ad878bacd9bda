"""Training: the pure step, devices around it, resuming, stopping."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network_helpers import programs
from orbax.checkpoint._src.path.atomicity_types import TMP_DIR_SUFFIX

from resjax import config as configs
from resjax import data
from resjax.train import load_experiment, make_experiment, train_and_evaluate, train_step
from resjax.training import loop
from resjax.training.checkpoint import Checkpoints
from resjax.training.devices import Devices
from resjax.training.feed import Evaluation, Feed
from resjax.training.step import all_finite, no_norms, train_steps
from resjax.workdir import workdir
from resjax.workdir.stopping import Stopped, StopRequest
from resjax.workdir.writers import read_records

REPOSITORY = Path(__file__).parent.parent


def small_config(**model):
    fields = {"depth": 6, "widths": (4, 8)} | model
    c = configs.default("resnet", **fields)
    c.data.pad = 1
    c.data.train_examples = 200
    c.train.batch_size = 16
    c.train.duration = "8 steps"
    c.train.steps_per_dispatch = 4
    c.log.every = "2 steps"
    c.eval.every = "4 steps"
    c.checkpoint.every = "4 steps"
    return c


def run_steps(config, devices, count=4):
    """``count`` steps of ``config`` from its first state, and the metrics."""
    experiment = load_experiment(config)
    feed = Feed(config, experiment.dataset, devices, 0)
    state = devices.copy(experiment.create_state())
    batches = feed.batches(0, count)
    run = devices.train_program(experiment.task)
    return run(state, feed.images, batches, jnp.int32(0), jnp.int32(count), None)


def leaves(tree):
    return [np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
            for x in jax.tree.leaves(tree)]  # fmt: skip


def assert_equal(a, b):
    for x, y in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def assert_close(a, b, rtol=2e-4, atol=2e-5):
    for x, y in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


@pytest.fixture(scope="module")
def experiment():
    return load_experiment(small_config())


@pytest.fixture(scope="module")
def step(experiment):
    """One step, compiled once for all tests."""
    return jax.jit(lambda state, batch: train_step(state, batch, task=experiment.task))


@pytest.fixture(scope="module")
def one_device():
    """Four steps on one device: what other layouts are compared with."""
    return run_steps(small_config(), Devices(devices=jax.devices()[:1]))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(workdir, last state) of a whole run; tests leave it as it is."""
    path = tmp_path_factory.mktemp("finished") / "run"
    return path, train_and_evaluate(small_config(), path)


def test_the_step_is_pure_and_needs_no_devices(experiment, step):
    c = experiment.config
    feed = Feed(c, experiment.dataset, Devices(devices=jax.devices()[:1]), 0)
    state = experiment.create_state()
    before = jax.tree.map(np.array, leaves(state))
    new, metrics = step(state, feed.whole_batch(0))
    assert_equal(before, leaves(state))
    assert int(new.step) == 1
    assert np.isfinite(metrics["loss"])
    assert 0 <= metrics["error"] <= 1
    moved = [not np.array_equal(a, b) for a, b in
             zip(leaves(state.batch_stats), leaves(new.batch_stats), strict=True)]  # fmt: skip
    assert all(moved)


@pytest.mark.slow
def test_the_loop_of_one_dispatch_is_the_step_repeated(experiment, step):
    c = experiment.config
    feed = Feed(c, experiment.dataset, Devices(devices=jax.devices()[:1]), 0)
    state = experiment.create_state()
    losses = []
    for i in range(3):
        state, metrics = step(state, feed.whole_batch(i))
        losses.append(metrics["loss"])
    looped, found = run_steps(c, Devices(devices=jax.devices()[:1]), 3)
    np.testing.assert_allclose(found["loss"][:3], losses, rtol=1e-4)
    assert float(found["loss"][3]) == 0  # padding of the dispatch, not run
    assert_close(looped, state)


def test_eight_devices_under_jit_agree_with_one(one_device):
    state, metrics = run_steps(small_config(), Devices("jit"))
    assert len(jax.devices()) == 8
    assert_close(state, one_device[0])
    assert_close(metrics, one_device[1], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnet", "vit"])
def test_pmap_agrees_with_one_device_where_there_is_no_batchnorm(model):
    c = small_config(norm=False, branch_scale="skipinit")
    if model == "vit":
        c.model = configs.default("vit", size="digits", depth=2, width=8).model
    c.optimizer.learning_rate = 0.01
    a, _ = run_steps(c, Devices(devices=jax.devices()[:1]), 2)
    b, _ = run_steps(c, Devices("pmap"), 2)
    assert_close(a, b)


@pytest.mark.slow
def test_pmap_on_one_device_is_jit_on_one_device(one_device):
    state, _ = run_steps(small_config(), Devices("pmap", jax.devices()[:1]))
    assert_close(state, one_device[0])


@pytest.mark.slow
def test_pmap_normalizes_by_the_statistics_of_each_share(experiment, step):
    """Batch statistics of two shares, computed by hand, are what pmap's running averages hold."""
    devices = Devices("pmap", jax.devices()[:2])
    c = experiment.config
    state, _ = run_steps(c, devices, 1)
    feed = Feed(c, experiment.dataset, devices, 0)
    batch = jax.device_get(feed.whole_batch(0))
    means = []
    for half in (slice(0, 8), slice(8, 16)):
        one, _ = step(experiment.create_state(), {k: v[half] for k, v in batch.items()})
        means.append(one.batch_stats)
    expected = jax.tree.map(lambda a, b: (a + b) / 2, *means)
    assert_close(state.batch_stats, expected)
    whole, _ = run_steps(c, Devices(devices=jax.devices()[:1]), 1)
    different = [not np.allclose(a, b, rtol=1e-4) for a, b in
                 zip(leaves(state.batch_stats), leaves(whole.batch_stats), strict=True)]  # fmt: skip
    assert any(different)


def test_a_batch_that_devices_cannot_share_is_refused():
    with pytest.raises(ValueError, match=r"train\.batch_size=12 .* 8 devices.*16"):
        Devices().check_batch_size(12)
    Devices().check_batch_size(8)
    with pytest.raises(ValueError, match=r"train\.batch_size=8 .* in the pairs of train\.mixup .*16"):
        Devices().check_batch_size(8, in_pairs=True)


@pytest.mark.parametrize("batch_size", [7, 64, 1000])
def test_evaluation_counts_every_example_once(experiment, batch_size):
    state = experiment.create_state()
    sums = Evaluation(experiment.task, experiment.dataset, Devices(), batch_size)(state)
    dataset = experiment.dataset
    x = data.standardize(jnp.asarray(dataset.test_images), experiment.task.constants)
    logits = jax.jit(experiment.task.network.apply)(state.variables, x).logits
    assert float(sums["count"]) == len(dataset.test_labels)
    wrong = np.argmax(logits, -1) != dataset.test_labels
    assert float(sums["error"]) == wrong.sum()
    loss = experiment.task.loss(logits, dataset.test_labels).sum()
    np.testing.assert_allclose(sums["loss"], loss, rtol=1e-5)


def test_a_run_leaves_its_files_and_says_what_it_found(tmp_path, capfd):
    c = small_config()
    c.log.activations = True
    c.log.tensorboard = True
    state = train_and_evaluate(c, tmp_path / "run")
    assert int(state.step) == 8
    records = read_records(tmp_path / "run")
    trained = [r for r in records if "loss" in r]
    tested = [r for r in records if "test_error" in r]
    assert [r["step"] for r in trained] == [2, 4, 6, 8]
    assert [r["step"] for r in tested] == [0, 4, 8]
    norms = trained[-1]["norms"]
    assert set(norms) == {"gradient", "parameter", "update", "activation"}
    assert norms["gradient"]["stem/conv/kernel"] > 0
    assert json.loads((tmp_path / "run/config.json").read_text())["train"]["batch_size"] == 16
    start = json.loads((tmp_path / "run/runs.json").read_text())[0]
    assert {"commit", "packages", "device", "date", "command"} <= set(start)
    assert list((tmp_path / "run/tensorboard").glob("events*"))
    checkpoints = Checkpoints(tmp_path / "run")
    assert checkpoints.steps == [4, 8]
    assert "step      8" in capfd.readouterr().err


@pytest.mark.slow
def test_update_norms_are_those_of_sgd(experiment):
    """Without momentum and decay, update = learning rate × gradient, layer by layer."""
    c = small_config()
    c.optimizer.momentum = 0.0
    c.optimizer.weight_decay = 0.0
    c.log.every = "1 steps"
    _, metrics = run_steps(c, Devices(devices=jax.devices()[:1]), 1)
    norms = metrics["norms"]
    for name, gradient in norms["gradient"].items():
        np.testing.assert_allclose(norms["update"][name], 0.1 * gradient, rtol=1e-5)


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """(workdir, last state) of a run that was never stopped, and of one that goes on from what a run leaves
    that was killed after its first checkpoint: that, and lines beyond it."""
    c = small_config(unit_dropout="linear")
    c.log.every = "3 steps"  # a checkpoint in the middle of a record's steps closes the record
    folder = tmp_path_factory.mktemp("resumed")
    whole, half = folder / "whole", folder / "half"
    never_stopped = train_and_evaluate(c, whole)
    shutil.copytree(whole, half)
    shutil.rmtree(half / "checkpoints/8")
    return (whole, never_stopped), (half, train_and_evaluate(c, half))


def test_resuming_is_bit_identical(resumed):
    """Stopped after four steps and continued, or never stopped: the same state to the last bit."""
    (whole, never_stopped), (half, continued) = resumed
    assert_equal(never_stopped, continued)
    a, b = ([r for r in read_records(p) if "test_loss" in r] for p in (whole, half))
    assert a == b


def test_records_of_a_resumed_run_are_those_of_one_that_was_never_stopped(resumed):
    whole, continued = (
        [(r["step"], r["loss"], r["error"], r.get("norms")) for r in read_records(p) if "loss" in r]
        for p, _ in resumed
    )
    assert [r[0] for r in whole] == [3, 4, 6, 8]
    assert whole == continued


def _damage(run, step):
    """Changes one byte of the largest file of a checkpoint, which holds arrays; returns the file."""
    files = [path for path in (run / f"checkpoints/{step}").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    return largest


def test_a_training_goes_on_from_the_newest_intact_checkpoint(finished, tmp_path, capfd):
    whole, state = finished
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    damaged = _damage(run, 8)
    assert_equal(train_and_evaluate(small_config(), run), state)
    said = (
        f"the checkpoint of step 8 is damaged: {damaged} has changed since it was saved. It is renamed to "
        "8.damaged, and the training continues from step 4\n"
    )
    assert said in capfd.readouterr().err
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["4", "8", "8.damaged"]
    a, b = ([r for r in read_records(p) if "test_loss" in r] for p in (whole, run))
    assert a == b


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: [_damage(run, step) for step in (4, 8)], r"no intact checkpoint: .*step 8.*step 4"),
        (lambda run: Checkpoints(run).save(_state_of(999)), r"999 is after the last step of this run, 8"),
    ],
    ids=["all damaged", "after the end"],
)
def test_a_run_that_cannot_go_on_stays_as_it_is(finished, tmp_path, change, said):
    run = Path(shutil.copytree(finished[0], tmp_path / "run"))
    change(run)
    before = sorted(run.rglob("*")), (run / "metrics.jsonl").read_text()
    with pytest.raises(ValueError, match=said):
        train_and_evaluate(small_config(), run)
    assert (sorted(run.rglob("*")), (run / "metrics.jsonl").read_text()) == before


def _state_of(step):
    return load_experiment(small_config()).create_state().replace(step=jnp.int32(step))


def test_a_state_is_known_by_its_shapes_before_it_is_made(experiment):
    shapes, state = experiment.state_shapes, experiment.create_state()
    assert jax.tree.structure(shapes) == jax.tree.structure(state)
    for like, leaf in zip(jax.tree.leaves(shapes), jax.tree.leaves(state), strict=True):
        assert (like.shape, like.dtype) == (leaf.shape, leaf.dtype)


@pytest.mark.parametrize("activations", [False, True])
def test_no_norms_have_the_shapes_of_norms(experiment, activations):
    task = dataclasses.replace(experiment.task, activations=activations)
    state = experiment.create_state()
    batch = Feed(experiment.config, experiment.dataset, Devices(), 0).whole_batch(0)
    norms = jax.eval_shape(lambda s, b: train_step(s, b, task=task)[1]["norms"], state, batch)
    zeros = no_norms(state.params, task=task)
    assert set(zeros) == {"gradient", "parameter", "update"} | ({"activation"} if activations else set())
    assert jax.tree.map(lambda a: (a.shape, a.dtype), zeros) == jax.tree.map(
        lambda a: (a.shape, a.dtype), norms
    )


def test_norms_in_float64_mode(x64):
    c = small_config()
    c.log.activations = True
    experiment = load_experiment(c)
    batch = Feed(c, experiment.dataset, Devices(), 0).whole_batch(0)
    jax.eval_shape(lambda s, b: train_step(s, b, task=experiment.task), experiment.state_shapes, batch)


@pytest.mark.parametrize(
    "values, finite",
    [
        ([1.0, -2.0], True),
        ([1.0, np.nan], False),
        ([np.inf, 1.0], False),
        ([np.inf, -np.inf], False),
        ([3e38, 3e38], False),  # its sum is not
    ],
)
def test_all_finite(values, finite):
    tree = {"a": jnp.ones((2, 3)), "b": (jnp.array(values, jnp.float32), jnp.zeros(()))}
    assert bool(all_finite(tree)) is finite
    assert bool(all_finite({}))


def test_dispatches_of_any_length_give_the_same_bits(one_device):
    c = small_config()
    c.train.steps_per_dispatch = 3
    experiment = load_experiment(c)
    devices = Devices(devices=jax.devices()[:1])
    feed = Feed(c, experiment.dataset, devices, 0)
    run = devices.train_program(experiment.task)
    state = devices.copy(experiment.create_state())
    for start, count in ((0, 3), (3, 1)):
        batches = feed.batches(start, count)
        state, _ = run(state, feed.images, batches, jnp.int32(start), jnp.int32(count), None)
    assert_equal(state, one_device[0])
    assert programs(run) == 1


def test_what_is_not_finite_stops_the_run_before_the_update(tmp_path):
    c = small_config(norm=False)
    c.optimizer.learning_rate = 1e30
    c.optimizer.schedule = "constant"
    with pytest.raises(
        FloatingPointError, match=r"step \d+ to \d+ is not finite.*first non-finite value is.*saved"
    ):
        train_and_evaluate(c, tmp_path / "run")
    checkpoints = Checkpoints(tmp_path / "run")
    saved = checkpoints.restore(load_experiment(c).create_state())
    assert int(saved.step) == checkpoints.steps[-1]
    assert all(np.isfinite(leaf).all() for leaf in leaves(saved.params))
    *_, last = [r for r in read_records(tmp_path / "run") if "loss" in r]
    assert last["step"] == saved.step and np.isfinite(last["loss"])


def test_a_nan_is_traced_to_its_layer(tmp_path, experiment):
    """A weight that is not a number makes the unit that owns it the first place."""
    from resjax.training.diagnosis import first_nonfinite

    feed = Feed(experiment.config, experiment.dataset, Devices(), 0)
    state = experiment.create_state()
    name = experiment.task.network.stacks[1].name
    params = jax.tree.map(lambda a: a, state.params)
    params[name]["conv1"]["kernel"] = params[name]["conv1"]["kernel"].at[-1].set(jnp.nan)
    unit = [u for u in experiment.task.network.units if u.stack.name == name][-1]
    where = first_nonfinite(state.replace(params=params), feed.whole_batch(0), task=experiment.task)
    assert where == f"the output of {unit.name}"


def test_an_infinite_gradient_is_traced_to_its_layer(experiment):
    from resjax.training.diagnosis import first_nonfinite

    def loss(logits, labels):  # finite, with an infinite slope
        return jnp.sqrt(jnp.sum(logits * 0, -1)) + 1

    task = dataclasses.replace(experiment.task, loss=loss)
    feed = Feed(experiment.config, experiment.dataset, Devices(), 0)
    where = first_nonfinite(experiment.create_state(), feed.whole_batch(0), task=task)
    assert where.startswith("the gradient of head/")


@pytest.mark.slow
def test_a_dispatch_after_a_stopped_one_does_nothing(experiment):
    c = experiment.config
    feed = Feed(c, experiment.dataset, Devices(devices=jax.devices()[:1]), 0)
    state = experiment.create_state()
    later, metrics = jax.jit(lambda s, b: train_steps(s, feed.images, b, 4, 4, task=experiment.task))(
        state, feed.batches(4, 4)
    )
    assert_equal(state, later)
    assert bool(jnp.all(metrics["finite"]))


def test_a_workdir_of_another_configuration_is_refused(finished):
    c, (run, _) = small_config(), finished
    before = (run / "config.json").read_text()
    c.optimizer.learning_rate = 0.2
    with pytest.raises(ValueError, match=r"optimizer\.learning_rate: 0\.1 → 0\.2"):
        train_and_evaluate(c, run)
    assert (run / "config.json").read_text() == before


def test_pmap_does_not_continue_on_another_number_of_devices(tmp_path):
    """There, BatchNorm's shares would be of another size."""
    c = small_config()
    c.parallel.mode = "pmap"
    home = workdir.claim(tmp_path / "run", c)
    workdir.claim(home, c)

    start = json.loads((home / "runs.json").read_text())[0]

    def start_was(**facts):
        (home / "runs.json").write_text(json.dumps([{**start, **facts}]))

    start_was(device_count=2)
    (home / f"checkpoints/4{TMP_DIR_SUFFIX}").mkdir(parents=True)
    workdir.claim(home, c)  # there is nothing yet that it has trained
    (home / "checkpoints/4").mkdir()
    start_was(device_count=2, imported={"file": "a.pth", "sha256": "0", "layout": "akamaster"})
    workdir.claim(home, c)
    start_was(device_count=2)
    with pytest.raises(ValueError, match=r"on 2 devices with parallel\.mode=pmap.*has 8\. Continue on 2"):
        workdir.claim(home, c)
    c.parallel.mode = "jit"
    workdir.claim(workdir.claim(tmp_path / "other", c), c)


def test_what_a_killed_save_left_goes_at_the_next_start(tmp_path):
    left = tmp_path / f"run/checkpoints/6{TMP_DIR_SUFFIX}/array"
    workdir.claim(tmp_path / "run", small_config())
    left.mkdir(parents=True)
    train_and_evaluate(small_config(), tmp_path / "run")
    checkpoints = Checkpoints(tmp_path / "run")
    assert checkpoints.steps == [4, 8]
    assert not left.parent.exists()


def test_a_folder_of_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="holds no run"):
        train_and_evaluate(small_config(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_stop_request_saves_and_the_run_goes_on_later(finished, tmp_path):
    c, (_, whole) = small_config(), finished
    experiment = load_experiment(c)
    devices = Devices()
    from resjax.workdir import workdir
    from resjax.workdir.writers import Writer

    path = workdir.claim(tmp_path / "run", c)
    stop = StopRequest()
    checkpoints = Checkpoints(path)
    with Writer(path, 0, 8) as writer:
        stop.name = "SIGTERM"
        with pytest.raises(Stopped, match="SIGTERM: saved at step 0 of 8"):
            loop.run(experiment, devices, checkpoints, writer, stop)
    resumed = train_and_evaluate(c, path)
    assert_equal(whole, resumed)


@pytest.mark.slow
def test_a_signal_in_the_last_steps_is_told_and_the_training_is_whole(finished, tmp_path, monkeypatch):
    """Then a loop of a shell, or the demo, does not go on with the next training."""
    write = loop._Reports.write

    def interrupted(self, found, state, saves=False):
        if found.end == 8:
            signal.raise_signal(signal.SIGTERM)
        write(self, found, state, saves)

    monkeypatch.setattr(loop._Reports, "write", interrupted)
    with pytest.raises(Stopped, match="SIGTERM: the work was just finished and is saved"):
        train_and_evaluate(small_config(), tmp_path / "run")
    monkeypatch.undo()
    assert_equal(train_and_evaluate(small_config(), tmp_path / "run"), finished[1])


def test_a_batch_of_more_examples_than_there_are_stops_a_training_only(tmp_path):
    c = small_config()
    c.data.train_examples = 15
    said = (
        r"batch_size=16 is more than the 15 examples of training; use --config\.train\.batch_size=15 or less"
    )
    with pytest.raises(ValueError, match=said):
        train_and_evaluate(c, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert load_experiment(c).plan.total == 8


@pytest.mark.parametrize("url", ["gs://bucket/run", "file:///tmp/run"])
def test_a_url_is_refused_before_anything_starts(tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("resjax.train.load_experiment", lambda config: pytest.fail("the data were read"))
    with pytest.raises(ValueError, match=f"--workdir={url} is a URL"):
        train_and_evaluate(small_config(), url)
    assert not list(tmp_path.iterdir())


def _command(config_path, run):
    return [
        sys.executable, "-m", "resjax.train", f"--config={config_path}", f"--workdir={run}",
        "--config.train.duration=60 steps", "--config.checkpoint.every=7 steps",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL], ids=lambda s: s.name)
def test_a_killed_process_resumes_to_the_same_bits(tmp_path, kill):
    """The real process, killed at moments of its life, then started again until it ends."""
    config_path = tmp_path / "experiment.py"
    config_path.write_text(
        "from resjax import config as configs\n"
        "def get_config(arg=''):\n"
        "    c = configs.default('resnet', depth=8, widths=(4, 4, 8))\n"
        "    c.train.batch_size = 16\n"
        "    c.train.steps_per_dispatch = 3\n"
        "    c.log.every = '5 steps'\n"
        "    c.eval.every = '10 steps'\n"
        "    return c\n"
    )
    env = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(REPOSITORY)}
    whole = tmp_path / "whole"
    subprocess.run(_command(config_path, whole), env=env, check=True, capture_output=True)
    run = tmp_path / "run"
    codes = []
    for delay in (0.5, 4, 7, 9, 10, 11):
        process = subprocess.Popen(_command(config_path, run), env=env, stderr=subprocess.PIPE)
        time.sleep(delay)
        process.send_signal(kill)
        message = process.communicate()[1].decode()
        codes.append(process.returncode)
        if process.returncode == 143:
            assert f"\n{kill.name}: " in message or f"{kill.name} while the" in message
    last = subprocess.run(_command(config_path, run), env=env, check=True, capture_output=True)
    assert last.returncode == 0
    assert (-9 if kill == signal.SIGKILL else 143) in codes
    experiment = load_experiment(configs.load(run))
    like = experiment.create_state()
    a, b = Checkpoints(whole), Checkpoints(run)
    assert a.steps[-1] == b.steps[-1] == 60
    assert_equal(a.restore(like), b.restore(like))
    a, b = ([r for r in read_records(p) if "test_loss" in r] for p in (whole, run))
    assert a == b


def _streaming(tmp_path):
    """A training that has done two steps with pictures that other processes decode."""
    from PIL import Image

    for folder in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / "set" / folder).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (96, 96), (40 * i, 0, 0)).save(tmp_path / "set" / folder / f"{i}.png")
    (tmp_path / "experiment.py").write_text(
        "from resjax import config as configs\n"
        "def get_config(arg=''):\n"
        "    c = configs.default('resnet', depth=8, widths=(2, 2, 2))\n"
        "    c.data.image_size = 96\n"
        "    c.train.batch_size = 4\n"
        "    c.train.steps_per_dispatch = 2\n"
        "    c.log.every = '2 steps'\n"
        "    return c\n"
    )
    command = [*_command(tmp_path / "experiment.py", tmp_path / "run"), f"--config.data.name={tmp_path}/set"]
    command.append("--config.train.duration=100000 steps")
    env = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not process.stderr.readline().startswith("step      2"):
        assert process.poll() is None
    return process


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGUSR1, signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_a_signal_to_all_processes_of_a_job_leaves_those_that_decode(tmp_path, sent):
    """Slurm and a terminal send it to the whole group; a training without batches could not save."""
    process = _streaming(tmp_path)
    os.killpg(process.pid, sent)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 143 and f"{sent.name}: saved at step" in said
    assert "Traceback" not in said and "resource_tracker" not in said


@pytest.mark.slow
def test_processes_that_decode_end_with_a_training_that_is_killed(tmp_path):
    """They have its stderr, which is at its end when the last one has closed it."""
    process = _streaming(tmp_path)
    process.kill()
    said = process.communicate(timeout=60)[1]
    assert process.returncode == -signal.SIGKILL and "resource_tracker" not in said


@pytest.mark.slow
def test_training_imports_no_tensorflow():
    code = "import sys, resjax.train, resjax.analyze, resjax.demo; sys.exit('tensorflow' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    assert subprocess.run([sys.executable, "-c", code], env=env).returncode == 0


def test_small_training_sets_and_a_holdout():
    c = small_config()
    c.data.holdout = 50
    experiment = make_experiment(c, data.load(c.data))
    assert experiment.dataset.info.num_train == 200
    assert len(experiment.dataset.test_labels) == 50
