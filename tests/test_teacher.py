"""The teacher of a run, ``config.train.teacher``: what is refused and recorded, and that a run goes on."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network_helpers import logits_of
from PIL import Image
from run_helpers import tiny_run

from resjax import config as configs
from resjax import data
from resjax.analysis import load_run
from resjax.network.losses import cross_entropy
from resjax.report.facts import facts_of
from resjax.train import train_and_evaluate
from resjax.training import loop, teacher
from resjax.training.checkpoint import Checkpoints
from resjax.training.devices import Devices
from resjax.training.experiment import load_experiment, make_experiment
from resjax.workdir.stopping import Stopped, StopRequest
from resjax.workdir.workdir import claim, read_starts
from resjax.workdir.writers import Writer, read_records


def config_with(taught_by, steps=4):
    c = configs.default("resnet", stage_sizes=(1,), widths=(3,))
    c.data.train_examples = 64
    c.train.batch_size = 16
    c.train.duration = f"{steps} steps"
    c.train.steps_per_dispatch = 2
    c.train.teacher = str(taught_by)
    c.log.every = c.checkpoint.every = "2 steps"
    c.eval.every = "4 steps"
    return c


def leaves(state):
    return [np.asarray(leaf) for leaf in jax.tree.leaves((state.params, state.batch_stats, state.opt_state))]


def further(run, step=2):
    """Trains a tiny run on, as it were: a newer checkpoint with other variables."""
    state = run.newest.replace(step=jnp.int32(step), params=jax.tree.map(lambda p: 2 * p, run.newest.params))
    Checkpoints(run.workdir).save(state)


@pytest.fixture(scope="module")
def teaching(tmp_path_factory):
    """A teacher with a checkpoint of step 1 of 2; tests leave it as it is."""
    return tiny_run(tmp_path_factory.mktemp("teaching") / "A", step=1, stage_sizes=(1,), widths=(5,))


@pytest.fixture(scope="module")
def taught(teaching, tmp_path_factory):
    """(teacher's folder, student's folder, last state of the student); tests leave them as they are."""
    folder = tmp_path_factory.mktemp("taught")
    shutil.copytree(teaching.workdir, folder / "A")
    return folder / "A", folder / "B", train_and_evaluate(config_with(folder / "A"), folder / "B")


@pytest.fixture
def half(taught, tmp_path):
    """Copies of teacher and student where the student was killed after its first checkpoint."""
    a, b = (Path(shutil.copytree(path, tmp_path / path.name)) for path in taught[:2])
    shutil.rmtree(b / "checkpoints/4")
    stored = configs.load(b)
    stored.train.teacher = str(a)
    (b / "config.json").write_text(configs.to_json(stored))
    return a, b


def test_a_run_says_and_records_its_teacher(taught, teaching):
    a, b, _ = taught
    assert json.loads((b / "config.json").read_text())["train"]["teacher"] == str(a)
    (start,) = read_starts(b)
    digest = teacher.sha256(teaching.newest.variables)
    assert start["teacher"] == {"workdir": str(a), "step": 1, "sha256": digest} and len(digest) == 64
    state = Checkpoints(b).restore(load_experiment(configs.load(b)).create_state())
    assert not [path for path, _ in jax.tree_util.tree_leaves_with_path(state) if "teacher" in str(path)]


def test_the_loss_of_evaluations_is_that_on_labels(taught):
    _, b, _ = taught
    evaluated = [r["test_loss"] for r in read_records(b) if "test_loss" in r]
    assert len(evaluated) == 2
    experiment = load_experiment(config_with(""))
    task, first = experiment.task, experiment.create_state()
    x = data.standardize(jnp.asarray(experiment.dataset.test_images), task.constants)
    logits = logits_of(task.network, first.variables, x)
    on_labels = np.mean(cross_entropy(logits, experiment.dataset.test_labels))
    np.testing.assert_allclose(evaluated[0], on_labels, rtol=1e-4)


@pytest.mark.slow
def test_resuming_is_bit_identical_even_if_the_teacher_was_trained_on(half, teaching, taught):
    a, b = half
    further(load_run(a))
    assert Checkpoints(a).steps == [1, 2]
    continued = train_and_evaluate(config_with(a), b)
    for one, other in zip(leaves(taught[2]), leaves(continued), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [start["teacher"]["step"] for start in read_starts(b)] == [1, 1]


@pytest.mark.parametrize(("how", "said"), [("gone", "is not there"), ("other", "holds other variables")])
def test_a_teacher_that_has_changed_is_refused(half, how, said):
    a, b = half
    own = load_run(a)
    shutil.rmtree(a / "checkpoints/1")
    further(own, 2 if how == "gone" else 1)
    before = sorted(b.rglob("*")), (b / "runs.json").read_text()
    with pytest.raises(ValueError, match=f"began with the checkpoint of step 1 of .*/A as its.*{said}"):
        train_and_evaluate(config_with(a), b)
    assert (sorted(b.rglob("*")), (b / "runs.json").read_text()) == before


def test_a_run_without_a_checkpoint_begins_anew_with_the_newest(teaching, tmp_path):
    fact = {"workdir": str(teaching.workdir), "step": 7, "sha256": "0"}
    config = config_with(teaching.workdir)
    home = claim(tmp_path / "B", config, teacher=fact)
    assert teacher.find(config, home).kept is None
    Checkpoints(home).save(teaching.newest)
    assert teacher.find(config, home).kept == fact


def test_a_run_that_has_ended_needs_no_teacher(taught, tmp_path, capsys):
    b = Path(shutil.copytree(taught[1], tmp_path / "B"))
    stored = configs.load(b)
    stored.train.teacher = str(tmp_path / "gone")
    (b / "config.json").write_text(configs.to_json(stored))
    ended = train_and_evaluate(config_with(tmp_path / "gone"), b)
    assert "nothing to do" in capsys.readouterr().err
    for one, other in zip(leaves(taught[2]), leaves(ended), strict=True):
        np.testing.assert_array_equal(one, other)
    assert ["teacher" in start for start in read_starts(b)] == [True, False]
    shutil.rmtree(b / "checkpoints/4")  # now it has not ended
    with pytest.raises(FileNotFoundError, match=r"train\.teacher=.*/gone: .*config\.json does not exist"):
        train_and_evaluate(config_with(tmp_path / "gone"), b)


def test_a_run_whose_last_checkpoint_is_damaged_needs_its_teacher(taught, tmp_path):
    a, b = (Path(shutil.copytree(path, tmp_path / path.name)) for path in taught[:2])
    stored = configs.load(b)
    stored.train.teacher = str(a)
    (b / "config.json").write_text(configs.to_json(stored))
    (b / "checkpoints/4/_METADATA").write_bytes(b"")
    continued = train_and_evaluate(config_with(a), b)
    for one, other in zip(leaves(taught[2]), leaves(continued), strict=True):
        np.testing.assert_array_equal(one, other)


BUILDER = """
from resjax.models import resnet


def net(*, image_shape, num_classes):
    return resnet(image_shape=image_shape, num_classes=num_classes, stage_sizes=(1,), widths=(3,))
"""


@pytest.mark.slow
def test_a_teacher_with_a_builder_of_somebody_else_is_allowed_by_name(teaching, tmp_path, monkeypatch):
    (tmp_path / "builder_of_a_teacher.py").write_text(BUILDER)
    monkeypatch.syspath_prepend(str(tmp_path))
    name = "builder_of_a_teacher:net"
    tiny_run(tmp_path / "A", step=1, model=name)
    config = config_with(tmp_path / "A")
    with pytest.raises(ValueError, match=rf"^train\.teacher=.*add to the command .*--allow_code={name}"):
        train_and_evaluate(config, tmp_path / "B")
    assert not (tmp_path / "B").exists()
    assert int(train_and_evaluate(config, tmp_path / "B", allow_code=name).step) == 4
    config.model.name = name  # a network of the same builder as its teacher
    assert teacher.find(config, tmp_path / "C").config.model.name == name


def test_a_run_without_the_list_of_its_starts_says_that_its_teacher_may_be_another(half, capsys):
    a, b = half
    (b / "runs.json").rename(b / "runs.json.damaged")
    train_and_evaluate(config_with(a), b)
    assert "may have begun with another checkpoint of its teacher" in capsys.readouterr().err
    assert read_starts(b)[-1]["teacher"]["step"] == 1


def test_an_analysis_needs_no_teacher(half):
    a, b = half
    shutil.rmtree(a)
    run = load_run(b)
    assert run.config.train.teacher == str(a)
    said = facts_of(run, run)["teacher"]
    assert said.startswith("step 1 of /") and "weight 0.9 in the training loss, at temperature 4" in said
    z, labels = jnp.array([[1.0, 2.0, 3.0]]), jnp.array([0])
    np.testing.assert_array_equal(run.loss(z, labels), cross_entropy(z, labels))


def test_a_relative_path_is_stored_as_an_absolute_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    run = claim("deep/B", config_with("deep/../A"))
    assert configs.load(run).train.teacher == str(tmp_path / "A")
    monkeypatch.chdir(tmp_path / "deep")
    claim(run, config_with("../A"))
    monkeypatch.setenv("HOME", str(tmp_path))
    claim(run, config_with("~/A"))
    with pytest.raises(ValueError, match=r"train\.teacher: '.*/A' → ''"):
        claim(run, config_with(""))


def empty(teaching, tmp_path):
    (tmp_path / "none").mkdir()
    return config_with(tmp_path / "none"), tmp_path / "B"


def without_checkpoint(teaching, tmp_path):
    claim(tmp_path / "C", configs.default())
    return config_with(tmp_path / "C"), tmp_path / "B"


def itself(teaching, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "B")
    return config_with(tmp_path / "link"), tmp_path / "B"


def distances(teaching, tmp_path):
    config = config_with(teaching.workdir)
    config.train.loss = "rbf_map"
    return config, tmp_path / "B"


def taught_by_distances(teaching, tmp_path):
    shutil.copytree(teaching.workdir, tmp_path / "C")
    own = configs.load(tmp_path / "C")
    own.train.loss = "rbf_map"
    (tmp_path / "C/config.json").write_text(configs.to_json(own))
    return config_with(tmp_path / "C"), tmp_path / "B"


def elsewhere(teaching, tmp_path):
    return config_with("gs://bucket/run"), tmp_path / "B"


REFUSED = {
    empty: (FileNotFoundError, r"train\.teacher=.*/none: .*config\.json does not exist.*holds no run"),
    without_checkpoint: (FileNotFoundError, r"train\.teacher=.*/C has no checkpoint yet"),
    itself: (ValueError, r"train\.teacher=.*/link is the workdir of this run"),
    distances: (ValueError, r"this run has train\.loss='rbf_map'"),
    taught_by_distances: (ValueError, r"train\.teacher=.*/C has train\.loss='rbf_map'"),
    elsewhere: (ValueError, r"train\.teacher=gs://bucket/run is a URL"),
}


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_a_teacher_that_cannot_teach_is_refused_before_anything_is_read_or_written(
    teaching, tmp_path, monkeypatch, make
):
    config, home = make(teaching, tmp_path)
    kind, said = REFUSED[make]
    monkeypatch.setattr(data, "load", None)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(kind, match=said) as raised:
        train_and_evaluate(config, home)
    assert type(raised.value) is kind and "\n" not in str(raised.value)
    assert sorted(tmp_path.rglob("*")) == before


def of(tmp_path, images, labels, **more):
    """The experiment of these images, and its configuration."""
    half = len(images) // 2
    parts = {"train": slice(half), "test": slice(half, None)}
    arrays = {f"{p}_{k}": a[s] for p, s in parts.items() for k, a in (("images", images), ("labels", labels))}
    np.savez(tmp_path / "set.npz", **arrays, **more)
    config = config_with("")
    config.data.name, config.data.train_examples = str(tmp_path / "set.npz"), 0
    return make_experiment(config, data.load(config.data))


OTHERS = {
    "images": ({"side": 7}, r"images of height.* 8, 8, 1, and this run is for 7, 7, 1;"),
    "number": ({"classes": 9}, "a number of classes 10, and this run is for 9;"),
    "names": ({"class_names": list("abcdefghij")}, "classes 0, 1, .*, 9, and this run is for a, b, .*, j;"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_teacher_of_other_images_or_classes_is_refused(teaching, tmp_path, what):
    changes, said = OTHERS[what]
    changes = {"side": 8, "classes": 10} | changes
    side, classes = changes.pop("side"), changes.pop("classes")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, side, side, 1), np.uint8)
    here = of(tmp_path, images, np.arange(40) % classes, **changes)
    source = teacher.find(config_with(teaching.workdir), tmp_path)
    with pytest.raises(ValueError, match=f"train.teacher=.* was trained for {said}"):
        teacher.experiment_of(source, here)


def test_a_teacher_sees_images_with_its_own_constants(teaching, tmp_path):
    """Those of its training set, not of this run's, and not of what this run was given."""
    config = config_with(teaching.workdir)
    config.data.train_examples, config.data.mean, config.data.std = 200, (0.1,), (0.9,)
    experiment = load_experiment(config)
    source = teacher.find(config, tmp_path)
    own = teacher.experiment_of(source, experiment)
    for ours, theirs in zip(own.task.constants, teaching.experiment.task.constants, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert own.task.constants.mean != experiment.task.constants.mean
    loaded = teacher.load(source, own, config, Devices())
    *_, said = loaded.said
    assert said.startswith("the teacher was trained on other data: data.mean: () → (0.1,); ")
    assert "data.train_examples: 64 → 200" in said
    assert (loaded.teacher.temperature, loaded.teacher.weight) == (4.0, 0.9)
    assert len(loaded.teacher.variables["params"]["stem"]["conv"]["kernel"].sharding.device_set) == 8


def test_data_are_read_once_where_teacher_and_run_have_the_same(teaching, tmp_path, monkeypatch):
    config = config_with(teaching.workdir)
    config.data.pad, config.data.flip, config.data.workers = 2, True, 0  # they change no constants
    experiment = load_experiment(config)
    monkeypatch.setattr(data, "load", None)
    source = teacher.find(config, tmp_path)
    assert teacher.experiment_of(source, experiment).dataset is experiment.dataset


@pytest.mark.slow
def test_a_stopped_run_of_streamed_images_in_half_precision_goes_on(tmp_path):
    rng = np.random.default_rng(0)
    for i, folder in enumerate(("train/a", "train/b", "test/a", "test/b") * 4):
        (tmp_path / "set" / folder).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (80, 80, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "set" / folder / f"{i}.png")
    config = config_with("")
    config.data.name, config.data.image_size, config.data.train_examples = str(tmp_path / "set"), 72, 0
    config.data.workers, config.train.batch_size = 0, 8
    first = load_experiment(config)
    a = claim(tmp_path / "A", config)
    Checkpoints(a).save(first.create_state())
    config.seed, config.train.teacher, config.model.dtype = 1, str(a), "bfloat16"
    whole = train_and_evaluate(config, tmp_path / "B")
    source = teacher.find(config, tmp_path / "C")
    experiment, devices = load_experiment(config), Devices()
    taught = teacher.load(source, teacher.experiment_of(source, experiment), config, devices)
    home, stop = claim(tmp_path / "C", config, teacher=taught.facts), StopRequest()
    stop.name = "SIGTERM"
    with Writer(home, 0, 4) as writer, pytest.raises(Stopped, match="saved at step 0 of 4"):
        loop.run(experiment, devices, Checkpoints(home), writer, stop, taught.teacher)
    for one, other in zip(leaves(whole), leaves(train_and_evaluate(config, home)), strict=True):
        np.testing.assert_array_equal(one, other)
    alone = config.copy_and_resolve_references()
    alone.train.teacher = ""
    without = train_and_evaluate(alone, tmp_path / "D")
    assert not np.array_equal(leaves(without)[0], leaves(whole)[0])


def test_an_intact_checkpoint_teaches_where_the_newest_is_damaged(half):
    a, b = half
    shutil.rmtree(b)
    further(load_run(a))
    next((a / "checkpoints/2").rglob("manifest.ocdbt")).write_bytes(b"x")
    config = config_with(a)
    source, experiment = teacher.find(config, b), load_experiment(config)
    loaded = teacher.load(source, teacher.experiment_of(source, experiment), config, Devices())
    assert loaded.facts["step"] == 1
    assert "checkpoint of step 2 is damaged" in loaded.said[0] and "step 1 in" in loaded.said[1]


def test_the_sum_of_variables_depends_on_names_shapes_and_values():
    sums = {
        teacher.sha256({"params": {name: np.asarray(values, dtype)}})
        for name in ("a", "b")
        for values in ([1, 2], [[1, 2]], [1, 3])
        for dtype in (np.float32, np.int32)
    }
    assert len(sums) == 12
