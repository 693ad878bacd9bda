"""A workdir that begins with given weights: those of an import, or of a network that was cut.

Step 0 of every run is the randomly initialized network of its seed, to which several studies compare the
trained one. The given weights are saved as step 1, as if the first step had loaded them.
"""

import contextlib
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from resjax.models import runs_code
from resjax.training.checkpoint import Checkpoints
from resjax.training.devices import Devices
from resjax.training.experiment import Experiment
from resjax.training.feed import Evaluation
from resjax.training.optimizer import at_step
from resjax.training.safety import bytes_of, need_space
from resjax.training.step import TrainState, state_of
from resjax.workdir import atomic, workdir
from resjax.workdir.alone import alone
from resjax.workdir.paths import local
from resjax.workdir.records import line_of
from resjax.workdir.stopping import phase, stoppable

STEP = 1
_CONFIG_FILE = '''"""The configuration of this workdir, for resjax.train."""

from pathlib import Path

from resjax import config as configs


def get_config(arg=""):
    if arg:
        raise ValueError(f"configuration argument {arg!r}; this file takes none")
    return configs.load(Path(__file__).parent{allowed})
'''


def config_file(name: str) -> str:
    """The file ``config.py`` of a workdir whose network is called ``name``; it allows a builder of one's own,
    which its user trusts."""
    allowed = f", allow_code={name!r}" if runs_code(name) else ""
    return _CONFIG_FILE.replace("{allowed}", allowed)


def set_fine_tuning(config: ConfigDict, learning_rate: float) -> None:
    """Sets a short schedule for weights that are trained already, without a teacher, and without an average,
    which may be longer than this training."""
    config.train.duration = "5 epochs"
    config.train.teacher = ""
    config.train.ema = 0.0
    config.optimizer.learning_rate = learning_rate
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = "0 steps"


def need_free(directory: str | Path, flag: str = "--workdir") -> None:
    """Raises ValueError if ``directory``, which ``flag`` named, holds a run, or anything else."""
    if (Path(directory).expanduser() / "config.json").exists():
        raise ValueError(f"{directory} holds a run already; use another {flag}")
    workdir.need_empty(local(directory, flag), flag)


def begin(
    directory: str | Path,
    experiment: Experiment,
    state: TrainState,
    variables: dict[str, Any],
    flag: str = "--workdir",
    **facts: Any,
) -> TrainState:
    """Saves ``variables`` in a workdir as its checkpoint of step 1; returns that state.

    Args:
      directory: the workdir, created if absent.
      experiment: the run's.
      state: at step 0.
      variables: of the experiment's network.
      flag: of the command, which named ``directory``, for messages.
      facts: where they come from, for ``runs.json``: ``imported={…}`` or ``cut={…}``.

    Raises:
      ValueError: the workdir holds another run, another process is writing there, or the disk lacks space.
      OSError: a file can't be written; the others are removed.
    """
    placed = jax.tree.map(jnp.asarray, jax.device_get(variables))
    fresh = state_of(experiment.task, placed, state.key)
    state = fresh.replace(step=jnp.full_like(state.step, STEP), opt_state=at_step(fresh.opt_state, STEP))
    home = local(directory)
    checkpoints = Checkpoints(home)
    need_space(checkpoints.directory, bytes_of(state))
    with alone(home, flag), stoppable() as stop, stop.deferred(saved_in(home)):
        need_free(home, flag)
        _write(home, checkpoints, state, experiment.config, facts)
    return state


def _write(
    home: Path, checkpoints: Checkpoints, state: TrainState, config: ConfigDict, facts: dict[str, Any]
) -> None:
    try:
        # The order matters to a process that is killed: without config.json, every command refuses the rest.
        workdir.add_start(home, **facts)
        atomic.write(home / "config.py", config_file(config.model.name))
        checkpoints.save(state)
        workdir.write_config(home, config)
    except OSError:  # so that the same command can start again
        for file in ("config.json", "runs.json", "config.py"):
            with contextlib.suppress(OSError):
                (home / file).unlink()
        shutil.rmtree(checkpoints.directory, ignore_errors=True)
        raise


def saved_in(home: Path) -> str:
    """What a stop behind ``begin`` says."""
    return f"the network is saved in {home}; its error was not measured"


def measured(experiment: Experiment, state: TrainState) -> dict[str, float]:
    """Sums of ``loss`` and ``error`` over the evaluation set, and its size ``count``."""
    config = experiment.config
    devices = Devices(config.parallel.mode)
    measure = Evaluation(experiment.task, experiment.dataset, devices, config.eval.batch_size)
    # From the host, since a state that was read from a checkpoint stays on its device.
    own = devices.copy(jax.device_get(state.replace(key=None, opt_state=None)))
    return {name: float(value) for name, value in measure(own).items()}


def evaluate(experiment: Experiment, state: TrainState, directory: str | Path) -> dict[str, float]:
    """The sums of ``measured``, whose means become the first line of the workdir's metrics.jsonl.

    Raises:
      ValueError: another process is training there.
    """
    home = local(directory)
    with alone(home):  # a training that starts meanwhile would lose its records
        with phase("the network was evaluated", saved_in(home)):
            sums = measured(experiment, state)
        atomic.write(home / "metrics.jsonl", line_of(experiment.record(STEP, sums)))
    return sums
