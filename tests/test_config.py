"""Configurations: durations, checks, differences, and every file under configs/."""

import json
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from resjax import config as configs
from resjax import data, models
from resjax.network.initial import variable_shapes

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))


@pytest.mark.parametrize(
    ("duration", "steps"),
    [("64000 steps", 64000), ("2 epochs", 25), ("0.5 epochs", 6), ("1 step", 1), ("0 steps", 0)],
)
def test_durations_become_steps(duration, steps):
    assert configs.steps_of(duration, 12.5, "train.duration") == steps


@pytest.mark.parametrize("duration", ["64000", "many epochs", "-1 steps", "3 hours", "", "inf epochs"])
def test_a_duration_without_meaning_is_refused(duration):
    with pytest.raises(ValueError, match=r"train\.duration.*'20 epochs'"):
        configs.steps_of(duration, 12.5, "train.duration")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("train.loss", "hinge"),
        ("optimizer.schedule", "triangle"),
        ("optimizer.decay", "some"),
        ("optimizer.name", "lion"),
        ("optimizer.beta2", 1.0),
        ("optimizer.warmup_shape", "bent"),
        ("parallel.mode", "threads"),
        ("train.batch_size", 0),
        ("checkpoint.keep", 0),
        ("train.label_smoothing", 1.0),
        ("train.ema", 1.0),
        ("train.mixup", -0.1),
        ("train.cutmix", float("inf")),
        ("train.shuffle", "stages"),
        ("train.temperature", 0.0),
        ("train.temperature", float("inf")),
        ("train.teacher_weight", 1.1),
        ("train.teacher_weight", float("nan")),
        ("seed", -1),
        ("log.every", "0 steps"),
    ],
)
def test_values_that_no_run_can_have_are_refused_by_name(field, value):
    c = configs.default()
    section, _, name = field.rpartition(".")
    (c[section] if section else c)[name] = value
    with pytest.raises(ValueError, match=field.replace(".", r"\.")):
        configs.check(c)


def test_differences_name_fields_that_change_results_only():
    old, new = configs.default(), configs.default()
    new.log.every = "7 steps"
    new.model.unroll = 2
    new.train.steps_per_dispatch = 3
    assert configs.differences(old, new) == []
    new.train.batch_size = 7
    new.model.widths = (1, 2, 3)
    assert configs.differences(old, new) == [
        "model.widths: [16, 32, 64] → [1, 2, 3]",
        "train.batch_size: 128 → 7",
    ]


def test_a_configuration_survives_its_file(tmp_path):
    c = configs.default("resnet", depth=20)
    (tmp_path / "config.json").write_text(configs.to_json(c))
    loaded = configs.load(tmp_path)
    assert configs.differences(c, loaded) == []
    configs.check(loaded)
    models.build(loaded.model, image_shape=(32, 32, 3), num_classes=10)


YOUNGER = (
    "train.teacher",
    "model.transition",
    "model.unroll",
    "data.pad_with",
    "optimizer.clip_norm",
    "optimizer.name",
    "train.ema",
    "data.randaugment",
    "parallel.cpu_devices",
    "eval",
)


@pytest.mark.parametrize("field", YOUNGER)
def test_fields_that_are_younger_than_a_workdir_have_their_defaults(tmp_path, field):
    c = configs.default("resnet", depth=20)
    stored = c.to_dict()
    section, _, name = field.rpartition(".")
    del (stored[section] if section else stored)[name]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    loaded = configs.load(tmp_path)
    assert configs.differences(c, loaded) == []
    configs.check(loaded)
    models.build(loaded.model, image_shape=(32, 32, 3), num_classes=10)


def own_builder(*, image_shape, num_classes, depth, features: int = 4, names: "Unknown" = ()):  # noqa: F821
    """Not a network: only its fields matter here."""


@pytest.mark.parametrize("module", [__name__, "no_such_module"])
def test_the_workdir_of_an_own_builder(tmp_path, module):
    """Its younger fields have their defaults; what can't be imported is refused when it is needed."""
    c = configs.default()
    c.model = {"name": f"{module}:own_builder", "depth": 3}
    (tmp_path / "config.json").write_text(configs.to_json(c))
    loaded = configs.load(tmp_path, allow_code=c.model.name)
    assert loaded.model.depth == 3
    configs.check(loaded)
    if module == __name__:
        assert loaded.model.features == 4
    else:
        assert set(loaded.model) == {"name", "depth"}
        with pytest.raises(ValueError, match=r"no_such_module:own_builder.*importable from here"):
            models.build(loaded.model, image_shape=(8, 8, 1), num_classes=2)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("train.batch_size", 64.0, "a whole number"),
        ("train.batch_size", True, "a whole number"),
        ("optimizer.learning_rate", "0.1", "a number"),
        ("optimizer.nesterov", 1, "True or False"),
        ("train.duration", 20, "text"),
        ("optimizer.boundaries", "30 epochs", "a tuple of texts"),
        ("optimizer.boundaries", (30, 60), "a tuple of texts"),
        ("model.depth", "20", "a whole number"),
        ("model.widths", 16, "a tuple of whole numbers"),
        ("model.norm", "False", "True or False"),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(field, value, said):
    c = configs.default().to_dict()
    section, _, name = field.rpartition(".")
    c[section][name] = value
    with pytest.raises(ValueError) as raised:
        configs.check(ConfigDict(c))
    assert str(raised.value) == f"{field}={value!r}; it must be {said}"


def test_every_field_has_a_type_that_its_default_has():
    for model in models.MODELS:
        c = configs.default(model)
        configs.check_types(c)
        assert configs.types_of(c).keys() >= configs.flat(c.to_dict()).keys() - {"model.name"}
    c.optimizer.learning_rate = 1  # where a number is wanted, a whole one will do
    configs.check(c)


def test_a_configuration_that_lacks_fields_is_refused():
    c = configs.default()
    del c.eval
    del c.train.loss
    with pytest.raises(
        ValueError, match=r"lacks eval\.batch_size, eval\.every, train\.loss; start from resjax"
    ):
        configs.check(c)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no run\. Make one with"):
        configs.load(tmp_path)
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file/below"):  # where none can be made
        with pytest.raises(FileNotFoundError, match=r"holds no run: .*/file is a file; name a folder"):
            configs.load(path)


def test_a_configuration_is_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert list(configs.files().values()) == CONFIGS
    named, given = configs.load_file("digits", "smoke"), configs.load_file(CONFIGS[0].parent / "digits.py")
    assert (named.model.depth, given.model.depth) == (20, 56)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/digits.py").write_text("def get_config(arg):\n    return f'own {arg}'\n")
    assert configs.load_file("configs/digits.py", "form") == "own form"
    (tmp_path / "digits").touch()  # an existing file comes first
    with pytest.raises(ValueError, match="'digits' is no Python file"):
        configs.load_file("digits")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("digit", "'digit'.*Did you mean --config=digits?"),
        ("configs/cifar10_preakt.py", "Did you mean --config=cifar10_preact?"),
        ("nothing_such", "none of this name. Allowed: .* one of cifar10_convmixer, .*digits, "),
        ("", "configuration ''"),
    ],
)
def test_an_unknown_configuration_is_refused_with_the_known_ones(name, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=said):
        configs.load_file(name)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
@pytest.mark.parametrize("arg", ["", "smoke"])
def test_every_configuration_builds(path, arg):
    c = configs.load_file(path, arg)
    configs.check(c)
    json.loads(configs.to_json(c))
    info = data.info(c.data)
    network = models.build(c.model, image_shape=info.image_shape, num_classes=info.num_classes)
    variable_shapes(network, info.image_shape)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_configuration_says_how_it_is_run_and_what_came(path):
    doc = path.read_text().split('"""')[1]
    assert f"python -m resjax.train --config=configs/{path.name}" in doc
    for word in ("Hardware:", "Time:", "Result:"):
        assert word in doc, f"{path.name} does not say {word}"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_an_unknown_argument_is_refused(path):
    with pytest.raises(ValueError, match="smoke"):
        configs.load_file(path, "smok")


def test_the_digits_twins_differ_in_the_shortcut_only():
    folder = CONFIGS[0].parent
    residual, plain = (configs.load_file(folder / f"{n}.py") for n in ("digits", "digits_plain"))
    assert configs.differences(residual, plain) == ["model.shortcut: 'identity' → 'none'"]
