"""From a checkpoint to a workdir that analyze and train take, with fixed standardization, and back."""

import dataclasses
import json
import shlex
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from absl import flags
from network_helpers import draw as draw_variables
from network_helpers import equal
from pretrained_helpers import activations
from safetensors.numpy import save_file
from script_helpers import run_each

from resjax import config as configs
from resjax import data, models
from resjax.pretrained import read
from resjax.pretrained.__main__ import _early
from resjax.pretrained.convert import to_tensors
from resjax.pretrained.layouts import naming
from resjax.pretrained.workdirs import (
    default_config,
    make_workdir,
    need_data,
    new_head_of,
    variables_of,
)
from resjax.studies.examples import evenly_spread
from resjax.studies.lesions.batch_statistics import reestimate
from resjax.studies.options import Options
from resjax.studies.run import load_run
from resjax.studies.study import Bench
from resjax.train import train_and_evaluate
from resjax.training.experiment import load_experiment
from resjax.training.loaded import evaluate

SHAPE, CLASSES = (8, 8, 3), 10
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

AKAMASTER = naming.TORCHVISION._replace(shortcut="shortcut.0", shortcut_bn="shortcut.1", head=("linear",))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A checkpoint of a small network with akamaster's names, its variables, and images of 8×8."""
    folder = tmp_path_factory.mktemp("pretrained")
    model = models.defaults(
        "resnet", depth=6, widths=(4, 8), placement="post", pad_centre=True, bottleneck_stride="3x3"
    )
    network = models.build(model, image_shape=SHAPE, num_classes=CLASSES)
    variables = draw_variables(network, SHAPE)
    tensors = to_tensors(variables, network, SHAPE, naming.residual(network, AKAMASTER))
    save_file({f"module.{k}": v for k, v in tensors.items()}, folder / "net.safetensors")
    rng = np.random.default_rng(0)
    for classes in (CLASSES, 4):
        arrays = {}
        for part, n in (("train", 40), ("test", 30)):
            arrays[f"{part}_images"] = rng.integers(0, 256, (n, *SHAPE), dtype=np.uint8)
            arrays[f"{part}_labels"] = np.arange(n) % classes
        np.savez(folder / f"images{classes}.npz", **arrays)
    return folder, model, variables


def config_of(folder, classes=CLASSES):
    c = default_config(read(folder / "net.safetensors").layout)
    c.data.name = str(folder / f"images{classes}.npz")
    c.train.batch_size = 24
    c.train.duration = "3 steps"
    c.eval.batch_size = 8
    return c


def test_a_workdir_holds_the_network_and_where_it_comes_from(files, tmp_path):
    folder, model, variables = files
    experiment = load_experiment(config_of(folder))
    state = make_workdir(read(folder / "net.safetensors"), tmp_path / "run", experiment)
    run = load_run(tmp_path / "run")
    assert run.steps == (1,) and run.step == 1
    assert equal(run.variables, variables)
    assert equal(run.at(0), experiment.create_state().variables)  # random, to compare with
    assert run.config.model.to_dict() == json.loads(json.dumps(model.to_dict()))
    assert (tuple(run.config.data.mean), tuple(run.config.data.std)) == (MEAN, STD)
    imported = run.starts[0]["imported"]
    assert imported["file"] == "net.safetensors" and imported["layout"] == "akamaster"
    assert imported["prefix"] == "module." and imported["names"] == []
    assert len(imported["sha256"]) == 64

    images, labels = run.examples("test", 30)
    raw = experiment.dataset.test_images[evenly_spread(30)] / 255
    np.testing.assert_allclose(images, (raw - MEAN) / STD, rtol=1e-4, atol=1e-5)
    logits = activations(run.network, run.variables, images)[-1]
    wrong = np.sum(np.argmax(logits, -1) != labels)
    sums = evaluate(experiment, state, tmp_path / "run")
    assert (sums["error"], sums["count"]) == (wrong, 30)
    (record,) = load_run(tmp_path / "run").records
    assert record["step"] == 1 and record["test_error"] == wrong / 30
    with pytest.raises(ValueError, match="holds a run already"):
        make_workdir(read(folder / "net.safetensors"), tmp_path / "run", experiment)


@pytest.mark.slow
def test_its_training_images_are_augmented_as_its_authors_did(files, tmp_path):
    """Padded with black before standardizing; statistics of such images are found again on such images."""
    folder, _, variables = files
    experiment = load_experiment(config_of(folder))
    make_workdir(read(folder / "net.safetensors"), tmp_path / "run", experiment)
    run = load_run(tmp_path / "run")
    assert run.augmentation == "random crops after padding by 4 pixels of black and random flips"
    plain, labels = run.examples("train", 40)
    images, same = run.examples("train", 40, augmented=True)
    np.testing.assert_array_equal(labels, same)
    again, _ = load_run(tmp_path / "run").examples("train", 40, augmented=True)
    np.testing.assert_array_equal(images, again)
    padded = np.pad(plain, ((0, 0), (4, 4), (4, 4), (0, 0)), constant_values=np.nan)
    black = -np.array(MEAN) / STD
    for image, whole in zip(images, padded, strict=True):
        whole = np.where(np.isnan(whole), black, whole).astype(np.float32)
        windows = [whole[i : i + 8, j : j + 8] for i in range(9) for j in range(9)]
        windows += [window[:, ::-1] for window in windows]
        assert min(np.abs(image - window).max() for window in windows) < 1e-5
    with pytest.raises(ValueError, match="only 'train' is augmented"):
        run.examples("test", 3, augmented=True)

    bench = Bench(run, Options(reference=25))
    np.testing.assert_array_equal(bench.reference(), run.examples("train", 25, augmented=True)[0])
    told = "the first 25 training images, random crops after padding by 4 pixels of black and random flips"
    assert bench.choices["reference images"] == told
    bench = Bench(run, Options(plain_reference=True))
    np.testing.assert_array_equal(bench.reference(), plain)
    assert bench.choices["reference images"] == "the first 40 training images, not augmented"

    draws = jax.random.split(jax.random.key(5), 40 * 20)
    many = data.augment(
        np.tile(plain, (20, 1, 1, 1)), draws, pad=4, flip=True, fill=experiment.task.constants.fill
    )
    means = {}
    for name, own in {"training": many, "augmented": images, "plain": plain}.items():
        new = reestimate(run.network, variables, np.asarray(own))["batch_stats"]
        means[name] = np.concatenate([np.ravel(v) for v in jax.tree.leaves(new)])
    off = {name: np.abs(own - means["training"]).mean() for name, own in means.items()}
    assert off["augmented"] < 0.35 * off["plain"]


def test_an_older_workdir_goes_on_without_the_fields_that_came_later(files, tmp_path):
    folder, _, _ = files
    home = tmp_path / "run"
    config = config_of(folder)
    config.data.pad_with = "mean"
    make_workdir(read(folder / "net.safetensors"), home, load_experiment(config))
    stored = json.loads((home / "config.json").read_text())
    del stored["data"]["pad_with"], stored["sha256"]  # neither was written by earlier versions
    (home / "config.json").write_text(json.dumps(stored))
    assert load_run(home).augmentation.startswith(
        "random crops after padding by 4 pixels of the mean's value"
    )
    assert configs.differences(configs.load(home), config) == []


@pytest.mark.slow
def test_training_goes_on_from_the_pretrained_network(files, tmp_path):
    folder, _, variables = files
    home = tmp_path / "run"
    experiment = load_experiment(config_of(folder))
    make_workdir(read(folder / "net.safetensors"), home, experiment)
    (home / "metrics.jsonl").write_text('{"step": 1, "epoch": 0.6, "test_error": 0.5}\n')
    config = configs.load_file(home / "config.py")
    config.optimizer.momentum = 0.5
    with pytest.raises(ValueError, match=r"another configuration:\n  optimizer.momentum"):
        train_and_evaluate(config, home)
    config = configs.load_file(home / "config.py")
    state = train_and_evaluate(config, home)
    run = load_run(home)
    assert run.steps == (1, 3) and equal(run.at(1), variables)
    assert [r["step"] for r in run.records if "test_error" in r] == [1, 3]
    moved = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b))), run.variables, variables)
    assert 0 < max(jax.tree.leaves(moved["params"])) < 0.5
    assert int(optax.tree_utils.tree_get(state.opt_state, "count")) == int(state.step) == 3


def test_other_classes_need_a_new_head(files, tmp_path):
    folder, _, variables = files
    experiment = load_experiment(config_of(folder, 4))
    file = read(folder / "net.safetensors")
    with pytest.raises(ValueError, match=r"has 10 classes and .* has 4.*--new_head"):
        make_workdir(file, tmp_path / "run", experiment)
    state = make_workdir(file, tmp_path / "run", experiment, new_head=True)
    said = "the classifier of 4 classes is new and not trained yet, instead of linear"
    assert new_head_of(file, experiment) == said
    fresh = experiment.create_state()
    assert equal(state.params["head"], fresh.params["head"])
    assert all(equal(state.params[k], v) for k, v in variables["params"].items() if k != "head")
    assert equal(state.batch_stats, variables["batch_stats"])


def test_a_network_without_classifier_needs_a_new_head(files, tmp_path):
    folder, _, variables = files
    tensors = {k: v for k, v in read(folder / "net.safetensors").tensors.items() if "linear" not in k}
    save_file({**tensors, "projector.0.weight": np.ones((3, 8), np.float32)}, tmp_path / "x.safetensors")
    file = read(tmp_path / "x.safetensors")
    experiment = load_experiment(config_of(folder, 4))
    told = r"no classifier of a known name \(.* projector\.0\.weight\): .* 4 classes of .* --new_head"
    with pytest.raises(ValueError, match=told):
        make_workdir(file, tmp_path / "run", experiment)
    whole = read(folder / "net.safetensors")
    assert new_head_of(whole, experiment).endswith("instead of linear")
    state = make_workdir(file, tmp_path / "run", experiment, new_head=True)
    assert new_head_of(file, experiment).endswith("not trained yet, instead of projector.0")
    assert equal(state.params["head"], experiment.create_state().params["head"])
    assert all(equal(state.params[k], v) for k, v in variables["params"].items() if k != "head")


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        ({}, "cifar10"),
        ({"num_classes": 100}, "cifar100"),
        ({"num_classes": 1000, "image_size": 224}, "imagenet2012"),
        ({"num_classes": 7}, ""),
        ({"channels": 1}, ""),
        ({"image_size": 224}, ""),
        ({"num_classes": 0}, ""),
    ],
)
def test_data_are_asked_for_where_none_are_likely(files, facts, name):
    layout = read(files[0] / "net.safetensors").layout._replace(**facts)
    config = default_config(layout)
    assert config.data.name == name
    if name:
        need_data(config, layout)
        return
    with pytest.raises(ValueError, match=r"give --config\.data\.name=DATA") as refused:
        need_data(config, layout)
    known = {"image_size": "cifar10, svhn_cropped, imagenette", "channels": "digits, mnist, fashion_mnist"}
    listed = [text for fact, text in known.items() if fact in facts]
    assert all(f"so many classes and channels: {text}" in str(refused.value) for text in listed)
    assert listed or "Known" not in str(refused.value)
    with pytest.raises(ValueError, match=r"data\.name='': choose one of"):
        load_experiment(config)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"channels": 1}, "is for images with 1 channel, and those of .* have 3: .* to grey"),
    ],
)
def test_data_that_do_not_fit_are_refused_before_anything_is_written(files, tmp_path, facts, message):
    folder = files[0]
    source = read(folder / "net.safetensors")
    other = dataclasses.replace(source, layout=source.layout._replace(**facts))
    with pytest.raises(ValueError, match=message):
        make_workdir(other, tmp_path / "run", load_experiment(config_of(folder)))
    assert not (tmp_path / "run").exists()


def command(module, *arguments):
    """Runs ``python -m module`` with arguments."""
    made = [sys.executable, "-m", module, *arguments]
    return subprocess.run(made, capture_output=True, text=True)


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_command_refuses_in_one_line(files, tmp_path, every):
    file, home = str(files[0] / "net.safetensors"), f"--workdir={tmp_path}/x"
    cases = {
        (f"{tmp_path}/nothing.pth", home): (1, f"error: {tmp_path}/nothing.pth: there is no such file\n"),
        (file, home, "--config.optimizer.lr=1"): (2, "Did you mean --config.optimizer.learning_rate=1?"),
        (file, home, "--config.train.batch_size=x"): (2, "it must be a whole number"),
        (file, home, "--newhead"): (2, "Did you mean --new_head?"),
        (file, file, home): (2, "one FILE is needed, got 2"),
        (file,): (2, "--workdir is missing"),
    }
    cases = cases if every else dict(list(cases.items())[:2])
    ended = run_each([("resjax.pretrained", *given) for given in cases], tmp_path)
    for (code, said), done in zip(cases.values(), ended, strict=True):
        assert done.returncode == code and said in done.stderr, done
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "given",
    [
        "FILE --workdir=W --prefix=P --names=NAMES",
        "--workdir W --prefix P --names NAMES FILE",
        "--names NAMES --config.data.name DATA --nonew_head FILE --prefix=P --workdir=W",
        "--names=NAMES --prefix P --config.data.flip FILE --workdir=W",
    ],
)
def test_the_file_and_how_to_read_it_are_found_before_other_flags_exist(given, tmp_path):
    """Values in arguments of their own are no FILE, though NAMES and DATA are files as well."""
    for name in ("FILE", "NAMES", "DATA"):
        (tmp_path / name).touch()
        given = given.replace(name, str(tmp_path / name))
    known = flags.FlagValues()
    for name in ("workdir", "prefix", "names"):
        flags.DEFINE_string(name, None, "", flag_values=known)
    flags.DEFINE_bool("new_head", False, "", flag_values=known)
    assert _early(["command", *given.split()], known) == str(tmp_path / "FILE")
    assert (known.prefix, known.names, known.workdir) == ("P", str(tmp_path / "NAMES"), "W")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--config.dat.mean=0.5", "there is no such field. Did you mean --config.data.mean=0.5?"),
        ("--config.model.dept=20", "model has no field 'dept'. Did you mean --config.model.depth=20?"),
        ("--config.data.mean=None", "data.mean=(None,); needed: one number for each channel"),
    ],
)
def test_a_field_that_the_network_lacks_is_one_line(files, tmp_path, given, said):
    refused = command("resjax.pretrained", f"{files[0]}/net.safetensors", f"--workdir={tmp_path}/x", given)
    assert refused.returncode == 2 and said in refused.stderr
    assert refused.stderr.startswith("error: ") and refused.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_commands_end_to_end(files, tmp_path):
    folder, _, variables = files
    home, out = tmp_path / "my run, 1", tmp_path / "out.safetensors"
    name = (f"--config.data.name={folder}/images10.npz", "--config.train.batch_size=24")
    made = command(
        "resjax.pretrained", str(folder / "net.safetensors"), f"--workdir={home}", *name,
        "--config.data.mean=0.5,0.5,0.5",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert "of 30)" in made.stdout and "layout akamaster, model resnet" in made.stdout
    assert "not clearly better than guessing among 10 classes" in made.stdout  # random weights and labels
    assert list(configs.load(home).data.mean) == [0.5, 0.5, 0.5]
    assert "std (of ImageNet)" in made.stdout and "mean (of" not in made.stdout
    assert "--config.model.stem=small_pool" in made.stdout
    assert "running statistics" not in made.stdout  # 40 training images are too few
    printed = made.stdout.splitlines()[-1].partition("python -m ")[2]
    assert shlex.split(printed) == [
        "resjax.train", f"--config={home}/config.py", f"--workdir={home}"
    ]  # fmt: skip
    exported = command("resjax.pretrained.export", f"--workdir={home}", f"--out={out}")
    assert exported.returncode == 0, exported.stderr
    kernel = variables["params"]["stem"]["conv"]["kernel"]
    np.testing.assert_array_equal(read(out).tensors["conv1.weight"], kernel.transpose(3, 2, 0, 1))


@pytest.mark.slow
@pytest.mark.parametrize("given", [(), ("--config.data.mean=0.25,0.25,0.25",)])
def test_the_command_says_what_of_the_file_it_used(files, tmp_path, given):
    folder = files[0]
    tensors = {f"model.{k}": np.array(v) for k, v in read(folder / "net.safetensors").tensors.items()}
    pair = {"normalizer.mean": np.float32([0.5] * 3), "normalizer.std": np.float32([0.25] * 3)}
    save_file({**tensors, **pair}, tmp_path / "x.safetensors")
    made = command(
        "resjax.pretrained", str(tmp_path / "x.safetensors"), f"--workdir={tmp_path}/run", "--new_head",
        f"--config.data.name={folder}/images10.npz", *given,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert "the file also has normalizer.* (constants of standardization)" in made.stdout
    assert "the classifier of 10 classes is new and not trained yet, instead of linear" in made.stdout
    said = "the file's own constants: --config.data.mean=0.5,0.5,0.5 --config.data.std=0.25,0.25,0.25"
    assert (said in made.stdout) == (not given)


def shows_half(folder, tmp_path, **more):
    """The flags that name a file whose first BatchNorm shows ½ as mean and std, and its data."""
    tensors = {name: np.array(tensor) for name, tensor in read(folder / "net.safetensors").tensors.items()}
    raw = np.random.default_rng(0).integers(0, 256, (256, *SHAPE), dtype=np.uint8)
    labels = np.arange(256) % CLASSES
    data_file = tmp_path / "noise.npz"
    np.savez(data_file, train_images=raw, train_labels=labels, test_images=raw, test_labels=labels)
    images = (raw / 255 - 0.5) / 0.5
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    outputs = np.einsum("bhwcij,fcij->bhwf", windows, tensors["conv1.weight"])
    tensors["bn1.running_mean"] = outputs.mean((0, 1, 2)).astype(np.float32)
    tensors["bn1.running_var"] = outputs.var((0, 1, 2)).astype(np.float32)
    save_file(tensors | more, tmp_path / "half.safetensors")
    fields = (f"name={data_file}", "pad=0", "flip=false")
    return (str(tmp_path / "half.safetensors"), *(f"--config.data.{field}" for field in fields))


@pytest.mark.slow
@pytest.mark.parametrize("given", [(), ("--config.data.mean=0.485,0.456,0.406",)])
def test_the_command_takes_the_constants_that_the_file_shows_unless_others_are_given(files, tmp_path, given):
    flags = shows_half(files[0], tmp_path)
    made = command("resjax.pretrained", *flags, f"--workdir={tmp_path}/run", "--noevaluate", *given)
    assert made.returncode == 0, made.stderr
    found = "--config.data.mean=0.5,0.5,0.5 --config.data.std=0.5,0.5,0.5"
    said = "make another workdir with" if given else "other constants better, which are used:"
    assert f"{said} {found}" in made.stdout
    assert given or "mean (of" not in made.stdout  # what is found is no assumption
    config = configs.load(tmp_path / "run").data
    assert (list(config.mean), list(config.std)) == ([*MEAN], [*STD]) if given else ([0.5] * 3, [0.5] * 3)


@pytest.mark.slow
def test_an_error_that_was_measured_with_other_constants_is_recognized(files, tmp_path):
    """Some training scripts test with other constants than they train with."""
    folder, flags = files[0], shows_half(files[0], tmp_path)
    experiment = load_experiment(config_of(folder))
    images = (np.load(tmp_path / "noise.npz")["test_images"] / 255 - MEAN) / STD
    logits = activations(experiment.task.network, variables_of(read(flags[0]), experiment), images)[-1]
    bias = np.array(read(flags[0]).tensors["linear.bias"]) - logits.mean(0)  # so that no class always wins
    right = (logits - logits.mean(0)).argmax(-1) == np.arange(256) % CLASSES
    mean, std = (",".join(map(str, values)) for values in (MEAN, STD))
    said = f"{100 - 100 * right.mean():.2f} % with --config.data.mean={mean} --config.data.std={std}."
    for name, accuracy in (("a", 100 * right.mean()), ("b", 50.0)):
        more = {"linear.bias": bias, "best_acc": np.array(accuracy)}
        made = command(
            "resjax.pretrained", *shows_half(folder, tmp_path, **more), f"--workdir={tmp_path / name}"
        )
        assert made.returncode == 0, made.stderr
        assert (said in made.stdout) == (name == "a"), made.stdout


# --- data.mean, data.std ---


def test_fixed_constants_replace_the_measured_ones(files):
    config = data.defaults()
    config.name = str(files[0] / "images10.npz")
    measured = data.statistics(data.load(config), "channel")
    config.mean, config.std = MEAN, STD
    fixed = data.statistics(data.load(config), "channel")
    np.testing.assert_allclose(fixed.mean.reshape(-1), 255 * np.array(MEAN), rtol=1e-6)
    np.testing.assert_allclose(fixed.std.reshape(-1), 255 * np.array(STD), rtol=1e-6)
    assert not np.allclose(fixed.mean, measured.mean)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": MEAN}, "one number per channel in both"),
        ({"mean": MEAN, "std": (0.2, 0.0, 0.2)}, "deviations above 0"),
        (
            {"mean": MEAN, "std": STD, "standardize": "pixel"},
            "requires data.standardize='channel'",
        ),
        ({"mean": (0.5,), "std": (0.5,)}, "is for images of 1 channels, and these have 3"),
    ],
)
def test_constants_that_can_not_be_are_refused(files, changes, message):
    config = data.defaults()
    config.name = str(files[0] / "images10.npz")
    config.update(changes)
    with pytest.raises(ValueError, match=message):
        data.load(config)
