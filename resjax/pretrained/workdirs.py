"""A pretrained network as a run, for ``resjax.analyze`` and ``resjax.train``.

Step 0 of every run is the randomly initialized network of its seed, to which several studies compare the
trained one. The pretrained network is saved as step 1, as if the first step had loaded it.
"""

import contextlib
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from resjax import config as configs
from resjax.data.info import TABLE
from resjax.pretrained.convert import replaced, some, to_variables, with_new_head
from resjax.pretrained.layouts.layout import Layout
from resjax.pretrained.reading.files import sha256, size
from resjax.pretrained.source import Source
from resjax.training.checkpoint import Checkpoints
from resjax.training.devices import Devices
from resjax.training.experiment import Experiment
from resjax.training.feed import Evaluation
from resjax.training.safety import bytes_of, need_space
from resjax.training.step import TrainState
from resjax.workdir import atomic, workdir
from resjax.workdir.alone import alone
from resjax.workdir.paths import local
from resjax.workdir.records import line_of
from resjax.workdir.stopping import phase, stoppable

# The most likely training data, by number of classes, side and channels of the images.
_DATA = {(10, 32, 3): "cifar10", (100, 32, 3): "cifar100", (1000, 224, 3): "imagenet2012"}
STEP = 1
_CONFIG_FILE = '''"""The configuration of this workdir, for resjax.train."""

from pathlib import Path

from resjax import config as configs


def get_config(arg=""):
    if arg:
        raise ValueError(f"configuration argument {arg!r}; this file takes none")
    return configs.load(Path(__file__).parent)
'''


def default_config(layout: Layout) -> ConfigDict:
    """A configuration for a network of this layout: its model, its authors' constants and augmentation, and
    fine-tuning. ``data.name`` is "" where no known data are likely."""
    c = configs.default()
    c.model = layout.model.copy_and_resolve_references()
    c.data.name = _DATA.get((layout.num_classes, layout.image_size, layout.channels), "")
    c.data.mean, c.data.std = layout.mean, layout.std
    c.data.update(layout.augmentation)
    c.train.duration = "5 epochs"
    c.optimizer.learning_rate = 0.01  # a tenth of the usual rate, since the weights are trained
    c.optimizer.schedule = "cosine"
    return c


def need_data(config: ConfigDict, layout: Layout) -> None:
    """Raises ValueError if ``config`` names no data; the message tells which ones fit ``layout``."""
    if config.data.name:
        return
    fits = [
        name for name, info in TABLE.items()
        if info.num_classes == layout.num_classes and info.image_shape[-1] == layout.channels
    ]  # fmt: skip
    known = f" Known data with so many classes and channels: {', '.join(fits)}." if fits else ""
    classes = f"{layout.num_classes:,} classes" if layout.num_classes else "no classifier"
    side = layout.image_size
    raise ValueError(
        f"a file does not name its data. This network has {classes}, for images with "
        f"{_channels(layout.channels)}, usually of {side}×{side} pixels: give --config.data.name=DATA, a "
        "known set, an .npz file, or a folder with train/CLASS and test/CLASS (for other classes, with "
        f"--new_head).{known}"
    )


def need_free(directory: str | Path) -> None:
    """Raises ValueError if ``directory`` holds a run, or anything else."""
    if (Path(directory).expanduser() / "config.json").exists():
        raise ValueError(f"{directory} holds a run already; use another --workdir")
    workdir.need_empty(local(directory))


def _channels(number: int) -> str:
    return f"{number} channel{'' if number == 1 else 's'}"


def variables_of(source: Source, experiment: Experiment, *, new_head: bool = False) -> dict[str, Any]:
    """The variables of the network in a file, for the data of ``experiment``; without a classifier if
    ``new_head``.

    Raises:
      ValueError: the file does not fit the configuration.
    """
    layout = source.layout
    info, network = experiment.dataset.info, experiment.task.network
    if info.image_shape[-1] != layout.channels:
        raise ValueError(
            f"{source.path} is for images with {_channels(layout.channels)}, and those of {info.name} have "
            f"{info.image_shape[-1]}: name other data with --config.data.name=DATA, or convert these to "
            f"{'grey' if layout.channels == 1 else 'RGB'}"
        )
    names = layout.naming(network)
    if not layout.num_classes and not new_head:
        outside = replaced(source.tensors, network, info.image_shape, names)
        others = [name for name in outside if name.endswith("weight")]
        raise ValueError(
            f"{source.path} has no classifier of a known name"
            + (f" (beside the other layers it has {some(others)})" if others else "")
            + f": initialize a new one for the {info.num_classes} classes of {info.name} with --new_head"
            + (f". {source.classifier}" if source.classifier else "")
        )
    if info.num_classes != layout.num_classes and not new_head:
        raise ValueError(
            f"{source.path} has {layout.num_classes} classes and {info.name} has {info.num_classes}: set "
            "--config.data.name to the data of its training, or use a new classifier: --new_head"
        )
    return to_variables(source.tensors, network, info.image_shape, names, head=not new_head)


def new_head_of(source: Source, experiment: Experiment) -> str:
    """A sentence on the classifier of ``--new_head``, and on the layers of the file that it replaces."""
    info, network = experiment.dataset.info, experiment.task.network
    old = replaced(source.tensors, network, info.image_shape, source.layout.naming(network))
    layers = list(dict.fromkeys(name.rpartition(".")[0] or name for name in old))
    instead = f", instead of {some(layers)}" if layers else ""
    return f"the classifier of {info.num_classes} classes is new and not trained yet{instead}"


def make_workdir(
    source: Source,
    directory: str | Path,
    experiment: Experiment,
    *,
    new_head: bool = False,
    variables: dict[str, Any] | None = None,
) -> TrainState:
    """Saves a network in a workdir as its checkpoint of step 1; returns its state.

    Args:
      source: the network in a file.
      directory: the workdir, created if absent.
      experiment: the run's, with a configuration from ``default_config``.
      new_head: initialize the classifier from the run's seed, for data with other classes.
      variables: what ``variables_of`` gives, so that the tensors are not converted again; None to convert.

    Raises:
      ValueError: the file does not fit the configuration, the workdir holds another run, or another process
        is making one there.
    """
    need_free(directory)
    if variables is None:
        variables = variables_of(source, experiment, new_head=new_head)
    state = experiment.create_state()
    if new_head:
        variables = with_new_head(variables, state.variables)
    placed = jax.tree.map(jnp.asarray, variables)
    state = TrainState(
        step=jnp.full_like(state.step, STEP),
        params=placed["params"],
        batch_stats=placed["batch_stats"],
        # The optimizer has its own counter for the schedule.
        opt_state=optax.tree_utils.tree_set(state.opt_state, count=jnp.int32(STEP)),
        key=state.key,
    )

    imported = {
        "file": source.path.name,
        "sha256": sha256(source.path),
        "bytes": size(source.path),
        "layout": source.layout.name,
        "prefix": source.prefix,
        "names": list(source.names),
        "new_head": new_head,
    }
    home = local(directory)
    checkpoints = Checkpoints(home)
    need_space(checkpoints.directory, bytes_of(state))
    with alone(home), stoppable() as stop, stop.deferred(_saved(home)):
        need_free(home)
        _write(home, checkpoints, state, imported, experiment.config)
    return state


def _write(
    home: Path, checkpoints: Checkpoints, state: TrainState, imported: dict[str, Any], config: ConfigDict
) -> None:
    try:
        # The order matters to an import that is killed: without config.json, every command refuses the rest.
        workdir.add_start(home, imported=imported)
        atomic.write(home / "config.py", _CONFIG_FILE)
        checkpoints.save(state)
        workdir.write_config(home, config)
    except OSError:  # so that the same command can start again
        for file in ("config.json", "runs.json", "config.py"):
            with contextlib.suppress(OSError):
                (home / file).unlink()
        shutil.rmtree(checkpoints.directory, ignore_errors=True)
        raise


def _saved(home: Path) -> str:
    return f"the network is saved in {home}; its error was not measured"


def measured(experiment: Experiment, state: TrainState) -> dict[str, float]:
    """Sums of ``loss`` and ``error`` over the evaluation set, and its size ``count``."""
    config = experiment.config
    devices = Devices(config.parallel.mode)
    measure = Evaluation(experiment.task, experiment.dataset, devices, config.eval.batch_size)
    return {name: float(value) for name, value in measure(devices.copy(state)).items()}


def evaluate(experiment: Experiment, state: TrainState, directory: str | Path) -> dict[str, float]:
    """The sums of ``measured``, whose means become the first line of the workdir's metrics.jsonl.

    Raises:
      ValueError: another process is training there.
    """
    home = local(directory)
    with alone(home):  # a training that starts meanwhile would lose its records
        with phase("the network was evaluated", _saved(home)):
            sums = measured(experiment, state)
        atomic.write(home / "metrics.jsonl", line_of(experiment.record(STEP, sums)))
    return sums
