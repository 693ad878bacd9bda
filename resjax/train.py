"""Train a network: ``python -m resjax.train --config=digits --workdir=DIR``.

The same command continues a training that was stopped. ``--config.FIELD=VALUE`` changes a field of the
configuration, such as ``--config.model.depth=110``.

In Python, ``load_experiment`` builds data, network, loss and optimizer; ``loop.run`` trains from the initial
state or the newest checkpoint of the workdir. Both can be used alone, and so can the step,
``train_step(state, batch, task=…) -> (state, metrics)``.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from resjax import command
from resjax import config as configs
from resjax.training import loop, teacher
from resjax.training.checkpoint import Checkpoints
from resjax.training.cores import share_cores
from resjax.training.devices import Devices, any_process
from resjax.training.experiment import Experiment, load_experiment, make_experiment
from resjax.training.processes import joined
from resjax.training.safety import lack_of_space, telling_what_is_safe
from resjax.training.step import Task, TrainState, create_state, eval_step, train_step
from resjax.workdir import workdir
from resjax.workdir.alone import alone
from resjax.workdir.paths import local, writable
from resjax.workdir.stopping import phase, stoppable
from resjax.workdir.writers import Writer

__all__ = [
    "Experiment", "Task", "TrainState", "create_state", "eval_step", "load_experiment",
    "make_experiment", "train_and_evaluate", "train_step",
]  # fmt: skip

T = TypeVar("T")


def train_and_evaluate(
    config: ConfigDict, directory: str | Path, *, allow_code: str | Iterable[str] = ()
) -> TrainState:
    """Trains ``config`` in a workdir, from its newest checkpoint if there is one.

    Args:
      config: the configuration.
      directory: the workdir.
      allow_code: the names of builders outside of resjax, 'package.module:function', that the workdir of
        ``config.train.teacher`` may name. That of ``config`` is always allowed.

    Returns:
      The state after the last step, on all devices.

    Raises:
      ValueError, FileNotFoundError: an invalid configuration, missing data, no intact checkpoint, another
        process that trains in this workdir, or a teacher that can't be used or has changed, before any long
        work. A run that has ended needs no teacher.
      FloatingPointError: a step was not finite; the state before it is saved.
      Stopped: SIGTERM, SIGUSR1 or Ctrl-C; the state is saved.
    """
    directory = local(directory)
    # Processes are joined first, because JAX's multi-host service installs its own SIGTERM handler.
    with joined(config, directory), stoppable() as stop, contextlib.ExitStack() as until:
        configs.check(config)
        path = _on_all_hosts(lambda: writable(directory))  # before the data are read
        find = functools.partial(teacher.find, config, path, allow_code)
        if not Checkpoints(path).steps:
            _on_all_hosts(find)  # before the data are read; a run with checkpoints may have ended
        devices = Devices(config.parallel.mode)
        mixes = bool(config.train.mixup or config.train.cutmix)
        devices.check_batch_size(config.train.batch_size, in_pairs=mixes)
        with phase("the data were read"):
            experiment = load_experiment(config)
        experiment.check_batch_size()
        total, shapes = experiment.plan.total, devices.abstract(experiment.state_shapes)
        taught = None
        if (Checkpoints(path).newest or 0) < total:
            taught = _taught(find, experiment, devices)
        with phase("the checkpoints were checked"):
            _claim(path, config, until, **({"teacher": taught.facts} if taught else {}))
            checkpoints = Checkpoints(path, config.checkpoint.keep, tidy=True)
            damaged = _set_damaged_aside(checkpoints, shapes, total)
        start = checkpoints.newest or 0
        if taught is None and start < total:  # the last checkpoint was damaged
            taught = _taught(find, experiment, devices)
        tight = _on_all_hosts(lambda: lack_of_space(checkpoints, experiment, start))
        with (
            telling_what_is_safe(checkpoints, experiment),
            Writer(path, start, total, config.log.tensorboard) as writer,
        ):
            for text in damaged:
                writer.say(f"{text}, and the training continues from step {start}")
            if tight:
                writer.say(tight)
            writer.say(_summary(experiment, devices, start))
            for text in taught.said if taught else ():
                writer.say(text)
            own = taught.teacher if taught else None
            return loop.run(experiment, devices, checkpoints, writer, stop, own)


def _taught(
    find: Callable[[], teacher.Source | None], experiment: Experiment, devices: Devices
) -> teacher.Taught | None:
    """The teacher that ``find`` finds, on the devices; None without one."""
    source = _on_all_hosts(find)
    if source is None:
        return None
    with phase("the teacher was read"):
        own = _on_all_hosts(lambda: teacher.experiment_of(source, experiment))
        return teacher.load(source, own, experiment.config, devices)


def _claim(path: Path, config: ConfigDict, until: contextlib.ExitStack, **facts: Any) -> None:
    """Claims the workdir on the first host, which alone writes there until ``until`` ends."""

    def claim() -> None:
        if jax.process_index() == 0:
            until.enter_context(alone(path))
        workdir.claim(path, config, **facts)

    _on_all_hosts(claim)


def _set_damaged_aside(checkpoints: Checkpoints, like: TrainState, last: int) -> list[str]:
    """Makes the newest intact checkpoint the newest; tells what was wrong with each one that was newer."""
    _, damaged = _on_all_hosts(lambda: checkpoints.intact(like, last))

    def set_aside() -> list[str]:
        if jax.process_index() > 0:
            return []
        renamed = {text: checkpoints.set_aside(step).name for step, text in damaged.items()}
        return [f"{text}. It is renamed to {name}" for text, name in renamed.items()]

    return _on_all_hosts(set_aside)


def _on_all_hosts(work: Callable[[], T]) -> T:
    """The result of ``work`` on this host. If it fails on one, all hosts stop instead of waiting for it."""
    refusal: Exception | None = None
    try:
        result = work()
    except (ValueError, OSError) as error:
        refusal = error
    if any_process(refusal is not None):
        raise refusal or ValueError("another host could not start; it says why")
    return result


def _summary(experiment: Experiment, devices: Devices, start: int) -> str:
    config, plan = experiment.config, experiment.plan
    parameters = sum(leaf.size for leaf in jax.tree.leaves(experiment.state_shapes.params))
    return (
        f"{config.model.name} on {config.data.name}: {parameters:,} parameters, {devices.count} × "
        f"{jax.devices()[0].device_kind}, steps {start} to {plan.total} "
        f"({plan.per_epoch:.1f} per epoch)"
    )


def _main(argv: list[str]) -> None:
    command.no_arguments(argv)
    directory = _WORKDIR.value or ""
    share_cores(_CONFIG.value)
    train_and_evaluate(_CONFIG.value, directory, allow_code=_ALLOW_CODE.value or [])
    print(command.done(directory, _CONFIG.value.model.name))


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", help_string=command.CONFIG_HELP)
    _WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run, created if absent")
    _ALLOW_CODE = command.define_allow_code()
    flags.mark_flags_as_required(["config", "workdir"])
    command.run(_main)
