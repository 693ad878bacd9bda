"""Configurations: every field of a run with its default, and checks before any work.

A file in ``configs/`` defines ``get_config(arg="")``: it starts from ``default()``, sets model, data and
recipe, and returns the configuration. Any field can be changed on the command line, e.g.
``--config.train.batch_size=64``. Durations are strings with a unit: ``"64000 steps"`` or ``"20 epochs"``.
An installed package carries the files of ``configs/``, and every command finds them by name: ``find_file``.
"""

import importlib.resources
import importlib.util
import json
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args, get_origin

from ml_collections import ConfigDict

from resjax import data, models
from resjax.data import digest as digests
from resjax.data.config import check as check_data
from resjax.data.files import check_regular, read_json
from resjax.spelling import nearest

# Sections and fields that affect at most the order of sums, so a run may continue with new values.
FREE = ("log", "checkpoint", "parallel.distributed", "parallel.cpu_devices", "eval.batch_size",
        "model.unroll", "data.data_dir", "data.workers", "train.steps_per_dispatch")  # fmt: skip
CHOICES = {
    "train.loss": ("cross_entropy", "rbf_map"),
    "optimizer.decay": ("all", "kernels"),
    "optimizer.schedule": ("step", "cosine", "constant"),
    "optimizer.warmup_shape": ("linear", "constant"),
    "parallel.mode": ("jit", "pmap"),
}
LEAST = {
    "train.batch_size": 1, "train.steps_per_dispatch": 1, "eval.batch_size": 1, "checkpoint.keep": 1,
    "optimizer.learning_rate": 0, "optimizer.momentum": 0, "optimizer.weight_decay": 0,
    "optimizer.clip_norm": 0, "optimizer.factor": 0, "optimizer.scalar_factor": 0,
    "optimizer.warmup_from": 0, "seed": 0,
}  # fmt: skip

KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}
PLURALS = {bool: "True and False", int: "whole numbers", float: "numbers", str: "texts"}
# Tuples that are empty by default, so that their defaults do not show what they hold.
TUPLES = {"data.mean": tuple[float, ...], "data.std": tuple[float, ...]}


def default(model: str = "resnet", **model_fields: Any) -> ConfigDict:
    """A complete configuration of ``model``, with changes to that model's defaults."""
    c = ConfigDict()
    c.seed = 0  # of initial weights, order of examples, augmentation and dropout
    c.model = models.defaults(model, **model_fields)
    c.data = data.defaults()

    c.train = ConfigDict()
    c.train.duration = "20 epochs"
    c.train.batch_size = 128  # examples per step, over all devices of all hosts
    c.train.loss = "cross_entropy"  # or 'rbf_map', for LeNet-5's original output
    c.train.rbf_rubbish = 10.0  # j of Eq. 9 of LeCun et al. 1998, for 'rbf_map'
    c.train.label_smoothing = 0.0  # probability that is spread evenly over the classes
    c.train.teacher = ""  # workdir of a trained network, whose soft targets are then part of the loss
    c.train.temperature = 4.0  # of the soft targets (``losses.distillation``); as in Tian et al. 2020
    c.train.teacher_weight = 0.9  # of the soft targets, 1 minus that of `loss`; as in Tian et al. 2020
    c.train.steps_per_dispatch = 50  # maximum number of steps in one program

    c.optimizer = ConfigDict()
    c.optimizer.learning_rate = 0.1  # the peak of the schedule, for the whole batch
    c.optimizer.momentum = 0.9
    c.optimizer.nesterov = False
    c.optimizer.weight_decay = 1e-4  # × parameter, added to the gradient (L2 regularization)
    c.optimizer.decay = "all"  # or 'kernels': not BatchNorm, biases or scalars
    c.optimizer.clip_norm = 0.0  # largest global gradient norm, 0 for no clipping
    c.optimizer.scalar_factor = 1.0  # on the updates of Fixup's and SkipInit's biases and scales
    c.optimizer.schedule = "step"  # or 'cosine', 'constant'
    c.optimizer.boundaries = ("50 epochs",)  # 'step': where the rate is multiplied by `factor`
    c.optimizer.factor = 0.1
    c.optimizer.warmup = "0 steps"
    c.optimizer.warmup_from = 0.1  # × learning_rate at the start of the warm-up
    c.optimizer.warmup_shape = "linear"  # or 'constant' (He et al. 2015, §4.2)

    c.eval = ConfigDict()
    c.eval.every = "5 epochs"
    c.eval.batch_size = 500

    c.log = ConfigDict()
    c.log.every = "50 steps"
    c.log.activations = False  # also the norm of every unit's output; costs a forward pass
    c.log.tensorboard = False  # also event files, with tensorboardX

    c.checkpoint = ConfigDict()
    c.checkpoint.every = "5 epochs"
    c.checkpoint.keep = 2  # number of newest checkpoints on disk

    c.parallel = ConfigDict()
    c.parallel.mode = "jit"  # BatchNorm over the whole batch; 'pmap': over each device's share
    c.parallel.distributed = False  # many hosts: jax.distributed.initialize()
    c.parallel.cpu_devices = 0  # number of devices of a CPU; 0: see resjax.training.cores
    return c


def steps_of(duration: str, steps_per_epoch: float, field: str) -> int:
    """``"64000 steps"`` or ``"20 epochs"`` → whole steps (epochs are rounded to the nearest step).

    ``steps_per_epoch`` is training examples / batch size; ``field`` is named in the error if ``duration`` is
    not a number ≥ 0 with a unit.
    """
    number, _, unit = duration.strip().partition(" ")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    factors = {"steps": 1.0, "step": 1.0, "epochs": steps_per_epoch, "epoch": steps_per_epoch}
    if not 0 <= value < float("inf") or unit.strip() not in factors:
        raise ValueError(f"{field}={duration!r}; a duration is a number and a unit: '500 steps', '20 epochs'")
    return round(value * factors[unit.strip()])


def types_of(config: ConfigDict) -> dict[str, Any]:
    """The known types of fields: ``{"train.batch_size": int, "data.mean": tuple[float, …]}``.

    Those of ``config.model`` are the annotations of its builder.
    """
    found = {}
    for field, value in flat(default().to_dict()).items():
        if not field.startswith("model."):
            several = isinstance(value, tuple) and value
            found[field] = tuple.__class_getitem__((type(value[0]), ...)) if several else type(value)
    model = models.types_of(config.model.name) if "model" in config else {}
    return found | TUPLES | {f"model.{field}": kind for field, kind in model.items()}


def check_types(config: ConfigDict) -> None:
    """Raises ValueError for a value of another type than its field's; absent sections are not missed.

    ``resjax.data`` checks its section itself.
    """
    kinds = {field: kind for field, kind in types_of(config).items() if not field.startswith("data.")}
    for field, value in flat(config.to_dict()).items():
        if field in kinds and not _fits(value, kinds[field]):
            raise ValueError(f"{field}={value!r}; {_needs(kinds[field])}")


def wanted(config: ConfigDict, field: str) -> str:
    """What a value of ``field`` must be, and a flag with one that is allowed: for a value that is not."""
    value = value_of(config, field)
    kind = types_of(config).get(field, type(value))
    return f"{_needs(kind)}, as in {as_flag(field, value)}"


def as_flag(field: str, value: Any) -> str:
    """``--config.FIELD=VALUE``, quoted for a shell."""
    text = str(value).replace("'", '"') if isinstance(value, tuple) else str(value)
    return shlex.quote(f"--config.{field}={text}")


def _needs(kind: Any) -> str:
    if get_origin(kind) is tuple:
        each = get_args(kind)[0]
        return f"it must be a tuple of {PLURALS.get(each, each)}"
    return f"it must be {KINDS.get(kind, kind)}"


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type; True for types that are neither of ``KINDS`` nor tuples of them."""
    if get_origin(kind) is tuple:
        each = get_args(kind)[0]
        return isinstance(value, list | tuple) and all(_fits(one, each) for one in value)
    if kind not in KINDS:
        return True
    return isinstance(value, (int, float) if kind is float else kind) and (
        kind is bool or not isinstance(value, bool)
    )


def check(config: ConfigDict) -> None:
    """Raises ValueError for invalid values; those that depend on data are checked later."""
    absent = sorted(set(flat(default().to_dict())) - set(flat(config.to_dict())))
    absent = [field for field in absent if not field.startswith("model.")]
    if absent or "model" not in config:
        raise ValueError(
            f"the configuration lacks {', '.join(absent) or 'model'}; start from resjax.config.default()"
        )
    check_types(config)
    for field, allowed in CHOICES.items():
        if value_of(config, field) not in allowed:
            raise ValueError(f"{field}={value_of(config, field)!r}; allowed: {', '.join(map(repr, allowed))}")
    for field, least in LEAST.items():
        if not least <= value_of(config, field) < float("inf"):
            raise ValueError(f"{field}={value_of(config, field)}; allowed: {least} or more")
    if (cpu_devices := config.parallel.cpu_devices) < 0:
        raise ValueError(f"parallel.cpu_devices={cpu_devices}; allowed: 1, 2, … devices, or 0 for automatic")
    smoothing = config.train.label_smoothing
    if not 0 <= smoothing < 1:
        raise ValueError(f"train.label_smoothing={smoothing}; allowed: 0 ≤ value < 1")
    if not 0 < (temperature := config.train.temperature) < float("inf"):
        raise ValueError(f"train.temperature={temperature}; allowed: more than 0, such as 4.0")
    if not 0 <= (weight := config.train.teacher_weight) <= 1:
        raise ValueError(f"train.teacher_weight={weight}; allowed: 0 ≤ value ≤ 1")
    if config.train.loss == "rbf_map" and smoothing:
        raise ValueError("train.label_smoothing requires train.loss='cross_entropy'; set it to 0")
    fields = ("train.duration", "eval.every", "log.every", "checkpoint.every", "optimizer.warmup")
    durations = [(field, value_of(config, field)) for field in fields]
    durations += [("optimizer.boundaries", boundary) for boundary in config.optimizer.boundaries]
    for field, duration in durations:
        if not steps_of(duration, 1e6, field) and field != "optimizer.warmup":
            raise ValueError(f"{field}={duration!r}; it must be longer than 0")


def value_of(config: ConfigDict, field: str) -> Any:
    """The value of a field such as "train.batch_size"."""
    section, _, name = field.rpartition(".")
    return config[section][name] if section else config[name]


def to_json(config: ConfigDict) -> str:
    """The resolved configuration as JSON, for the workdir."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


class NotAllowed(ValueError):
    """A ``config.json`` names a builder outside of resjax that is not allowed by name."""


def load(workdir: str | Path, allow_code: str | Iterable[str] = ()) -> ConfigDict:
    """The configuration of a workdir.

    Args:
      workdir: its folder.
      allow_code: the names of builders, 'package.module:function', that the configuration may name. Using
        it imports and runs such a module. The networks of resjax are always allowed.

    Raises:
      FileNotFoundError: there is no run in ``workdir``, or one without a configuration.
      ValueError: the file is damaged.
      NotAllowed (a ValueError): it names a builder that is not allowed.
    """
    path = Path(workdir) / "config.json"
    remedy = _restore(path)
    try:
        stored = read_json(path, dict, remedy)
    except FileNotFoundError:
        if (path.parent / "runs.json").is_file():
            raise FileNotFoundError(f"{path} does not exist. {remedy_of_no_config(path.parent)}") from None
        above = next(folder for folder in path.absolute().parents if folder.exists())
        if not above.is_dir():
            raise FileNotFoundError(f"{workdir} holds no run: {above} is a file; name a folder") from None
        raise FileNotFoundError(
            f"{path} does not exist: {workdir} holds no run. Make one with "
            f"python -m resjax.train --config=digits --workdir={shlex.quote(str(workdir))}"
        ) from None
    digest = stored.pop("sha256", None) or digests.under_another_name(stored)
    model = stored.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("name"), str):
        raise ValueError(f"{path} has no model with a name, so it is no configuration. {remedy}")
    _refuse_code(path, model["name"], {allow_code} if isinstance(allow_code, str) else set(allow_code))
    # Fields that are younger than the workdir have their defaults, which change nothing.
    known = default().to_dict() | {"model": models.fields_of(model["name"])}
    for name, value in known.items():
        if isinstance(stored.get(name, value), dict) != isinstance(value, dict):
            raise ValueError(f"{path} has {name}={stored[name]!r}, a value of a wrong kind. {remedy}")
    filled = {
        name: value | stored.get(name, {}) if isinstance(value, dict) else stored.get(name, value)
        for name, value in known.items()
    }
    config = ConfigDict(stored | filled, convert_dict=True)
    try:
        check_types(config)
        check_data(config.data)
    except ValueError as error:
        raise ValueError(f"{path} has {error}. {remedy}") from error
    if digest not in (None, digests.sha256(stored)):
        raise ValueError(
            f'{path} has changed since it was written. If you changed it, remove its line "sha256"; else '
            f"{_restore(path, 'restore')}"
        )
    return config


def _refuse_code(path: Path, name: str, allowed: set[str]) -> None:
    """Raises NotAllowed if a configuration names a builder outside of resjax that is not ``allowed``."""
    if models.runs_code(name) and name not in allowed:
        shown = ascii(name)[1:-1]
        raise NotAllowed(
            f"{path} names the builder {shown}, which is none of resjax: using this workdir imports and runs "
            f"the module {shown.partition(':')[0]}. If you trust it, add to the command that reads the "
            f"workdir --allow_code={shlex.quote(shown)}; in Python, allow_code={shown!r}"
        )


def remedy_of_no_config(workdir: Path, flag: str = "--workdir") -> str:
    """What to do about a folder with ``runs.json`` and without ``config.json``, which imports and cuts write
    last; ``flag`` named the folder."""
    return (
        f"If an import or a cut was interrupted: rm -r {shlex.quote(str(workdir))}, and repeat it; or use "
        f"another {flag}. If the file was lost, {_restore(workdir / 'config.json', 'restore')}"
    )


def _restore(path: Path, verb: str = "Restore") -> str:
    return (
        f"{verb} it: begin the training once more with its --config and another --workdir, and copy "
        f"config.json from there to {shlex.quote(str(path))}"
    )


def files() -> dict[str, Path]:
    """The configurations of resjax, ``{"digits": …/digits.py, …}``.

    They are in ``resjax/configs/`` of an installed package, and in ``configs/`` of a checkout.
    """
    package = Path(str(importlib.resources.files("resjax")))
    installed = package / "configs"
    folder = installed if installed.is_dir() else package.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def find_file(name: str | Path) -> Path:
    """The file of a configuration, which is given by its path or, if it is one of resjax, by its name.

    An existing file comes before a name.

    Raises:
      FileNotFoundError: there is neither.
      ValueError: the file is of another kind than Python, or a pipe or device.
    """
    path, known = Path(name).expanduser(), files()
    if path.is_file():
        if path.suffix != ".py":
            raise ValueError(
                f"configuration {str(name)!r} is no Python file (*.py). Write one with a get_config(arg) "
                "that starts from resjax.config.default() and returns it with other values. Or change fields "
                "of another: --config=digits --config.optimizer.learning_rate=0.1"
            )
        return path
    if not path.is_dir():
        check_regular(path)
    if str(name) in known:
        return known[str(name)]
    near = nearest(path.stem, known)
    raise FileNotFoundError(
        f"configuration {str(name)!r}: there is no such file, and resjax has none of this name. "
        + (f"Did you mean --config={near}? " if near else "")
        + f"Allowed: the path of a Python file with a get_config(arg), or one of {', '.join(known)}"
    )


def load_file(name: str | Path, arg: str = "") -> ConfigDict:
    """``get_config(arg)`` of a file such as configs/digits.py, or of resjax's configuration ``"digits"``.

    Raises:
      FileNotFoundError: there is no such configuration.
    """
    path = find_file(name)
    spec = importlib.util.spec_from_file_location("resjax_experiment", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"{path} is not a Python file with a get_config(arg)")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(arg)


def smoke(arg: str) -> bool:
    """Whether a configuration's argument is 'smoke', the small form. Other arguments are errors."""
    if arg not in ("", "smoke"):
        raise ValueError(f"configuration argument {arg!r}; allowed: none, or 'smoke' as in digits:smoke")
    return arg == "smoke"


def affecting(config: ConfigDict) -> dict[str, Any]:
    """The fields that affect results, ``{"model.depth": 56, …}``: all but those of ``FREE``."""
    return {
        field: value
        for field, value in flat(json.loads(to_json(config))).items()
        if not any(field == free or field.startswith(f"{free}.") for free in FREE)
    }


def differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """Differing fields that affect results, as ``field: old → new``."""
    old_flat, new_flat = affecting(old), affecting(new)
    return [
        f"{field}: {old_flat.get(field, 'absent')!r} → {new_flat.get(field, 'absent')!r}"
        for field in sorted({*old_flat, *new_flat})
        if old_flat.get(field, "absent") != new_flat.get(field, "absent")
    ]


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"train": {"batch_size": 64}}`` → ``{"train.batch_size": 64}``."""
    fields: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}.{name}" if prefix else name
        fields.update(flat(value, path) if isinstance(value, dict) else {path: value})
    return fields
