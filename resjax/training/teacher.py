"""The teacher of a run: a trained network, in the workdir ``config.train.teacher``.

Its soft targets are part of the training loss (``resjax.network.losses.distillation``), and of nothing else:
evaluations and analyses use the loss on labels, and need no teacher. A run keeps the checkpoint with which it
began, even if the teacher is trained on: ``runs.json`` has its step, and the SHA-256 of its variables.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from resjax import config as configs
from resjax import data
from resjax.training.checkpoint import Checkpoints
from resjax.training.devices import Devices
from resjax.training.experiment import Experiment, make_experiment
from resjax.training.step import Teacher
from resjax.workdir.paths import local
from resjax.workdir.workdir import read_starts

# Fields of ``config.data`` that decide which images there are, and their means.
_DATA = ("name", "image_size", "fit", "background", "mean", "std", "train_examples", "holdout", "split_seed")


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a teacher is.

    Attributes:
      given: ``config.train.teacher`` as it was written, for messages.
      workdir, config: of the teacher.
      kept: what ``runs.json`` says of it (``Taught.facts``) if this run has a checkpoint, else None.
    """

    given: str
    workdir: Path
    config: ConfigDict
    kept: Mapping[str, Any] | None


@dataclasses.dataclass(frozen=True)
class Taught:
    """A teacher on the devices, ``facts`` of it for ``runs.json``, and what is to be said of it."""

    teacher: Teacher
    facts: dict[str, Any]
    said: tuple[str, ...]


def find(config: ConfigDict, directory: Path) -> Source | None:
    """The teacher that ``config`` names for the run in ``directory``, before data are read; None without one.

    Raises:
      ValueError: the teacher is this run, or it or this run has another loss than cross-entropy.
      FileNotFoundError: there is no run, or one without a checkpoint.
    """
    given = config.train.teacher
    if not given:
        return None
    workdir = local(given, "train.teacher", reads=True)
    if workdir == directory:
        raise ValueError(f"train.teacher={given} is the workdir of this run; name that of a trained network")
    with _named(given):
        own = configs.load(workdir, allow_code=config.model.name)  # which this run imports, too
    for whose, loss in (("this run", config.train.loss), (f"train.teacher={given}", own.train.loss)):
        if loss != "cross_entropy":
            raise ValueError(
                f"{whose} has train.loss={loss!r}, whose logits are negative squared distances; a run with a "
                "teacher, and its teacher, need train.loss='cross_entropy'"
            )
    if not Checkpoints(workdir).steps:
        raise FileNotFoundError(
            f"train.teacher={given} has no checkpoint yet; wait for its first, which is saved after "
            f"{own.checkpoint.every}, or name another workdir"
        )
    kept = [start["teacher"] for start in read_starts(directory) if "teacher" in start]
    begun = bool(kept) and bool(Checkpoints(directory).steps)
    return Source(given, workdir, own, kept[-1] if begun else None)


def experiment_of(source: Source, experiment: Experiment) -> Experiment:
    """The teacher's experiment, for a run that is ``experiment``. Its data are those of the run where these
    are equal, and else are read.

    Raises:
      ValueError: the teacher has other classes, or images of another shape.
      FileNotFoundError: its data are missing.
    """
    dataset = experiment.dataset
    if _other_data(source, experiment.config):
        with _named(source.given, "its data are needed for the constants of its images: "):
            dataset = data.load(source.config.data)
    theirs, ours = dataset.info, experiment.dataset.info
    for what, there, here in (
        ("images of height, width and channels", theirs.image_shape, ours.image_shape),
        ("a number of classes", theirs.num_classes, ours.num_classes),
        ("classes", theirs.class_names, ours.class_names),
    ):
        if there != here and there and here:
            raise ValueError(
                f"train.teacher={source.given} was trained for {what} {_some(there)}, and this run is for "
                f"{_some(here)}; name a teacher of the same images and classes"
            )
    with _named(source.given):
        return make_experiment(source.config, dataset)


def load(source: Source, own: Experiment, config: ConfigDict, devices: Devices) -> Taught:
    """The teacher on the devices: of the checkpoint with which the run began, or the newest intact one.

    Args:
      source, own: the teacher, as ``find`` and ``experiment_of`` give it.
      config: that of the run.
      devices: of the run; all processes must call this at the same point.

    Raises:
      ValueError: the checkpoint with which the run began has changed or is gone, or none is intact.
    """
    checkpoints, like = Checkpoints(source.workdir), devices.abstract(own.state_shapes)
    damaged: dict[int, str] = {}
    step: int | None
    if source.kept is not None and source.kept["step"] not in checkpoints.steps:
        raise ValueError(_changed(source, "is not there"))
    with _named(source.given):
        if source.kept is None:
            step, damaged = checkpoints.intact(like, own.plan.total)
        else:
            step = source.kept["step"]
        state = checkpoints.restore(like, step)
    digest = sha256(state.variables)
    if source.kept is not None and source.kept["sha256"] != digest:
        raise ValueError(_changed(source, "holds other variables"))
    train = config.train
    teacher = Teacher(
        variables=state.variables,
        constants=devices.copy(own.task.constants),
        network=own.task.network,
        temperature=train.temperature,
        weight=train.teacher_weight,
    )
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    summary = (
        f"teacher: {own.config.model.name} of step {step} in {source.workdir}, {parameters:,} parameters; "
        f"weight {train.teacher_weight:g}, temperature {train.temperature:g}"
    )
    other = _other_data(source, config)
    differs = [f"the teacher was trained on other data: {'; '.join(other)}"] if other else []
    facts = {"workdir": str(source.workdir), "step": step, "sha256": digest}
    return Taught(teacher, facts, (*damaged.values(), summary, *differs))


def sha256(variables: Any) -> str:
    """The SHA-256 of all arrays of variables, with their names, dtypes and shapes, in hexadecimal digits."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _named(given: str, why: str = "") -> Iterator[None]:
    """Within it, errors begin with the field and its value: they are about the teacher, not about the run."""
    for_it = f"train.teacher={given}: {why}"
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{for_it}{error}") from error
    except ValueError as error:
        raise ValueError(f"{for_it}{error}") from error


def _other_data(source: Source, config: ConfigDict) -> list[str]:
    """The fields of ``config.data`` in which the images of teacher and run differ, as 'field: old → new'."""

    def fields(section: ConfigDict) -> dict[str, Any]:
        values = data.absolute(section)
        return {f: tuple(v) if isinstance(v := values[f], list) else v for f in _DATA}

    theirs, ours = fields(source.config.data), fields(config.data)
    return [f"data.{f}: {theirs[f]!r} → {ours[f]!r}" for f in _DATA if theirs[f] != ours[f]]


def _changed(source: Source, what: str) -> str:
    assert source.kept is not None
    return (
        f"train.teacher={source.given}: this run began with the checkpoint of step {source.kept['step']} of "
        f"{source.kept['workdir']} as its teacher, and that checkpoint {what}. Copy it there from elsewhere, "
        "or use another --workdir for a run with another teacher"
    )


def _some(value: Any) -> str:
    """``value`` in words, at most a few of many."""
    if not isinstance(value, tuple):
        return str(value)
    return ", ".join(map(str, value[:10])) + (" …" if len(value) > 10 else "")
