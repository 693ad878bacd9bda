"""A pretrained network as a run of ``resjax.train``; see ``resjax.training.loaded``."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from resjax import config as configs
from resjax.data.info import TABLE
from resjax.pretrained.convert import replaced, some, to_variables, with_new_head
from resjax.pretrained.layouts.layout import Layout
from resjax.pretrained.reading.files import sha256, size
from resjax.pretrained.source import Source
from resjax.training.experiment import Experiment
from resjax.training.loaded import begin, need_free, set_fine_tuning
from resjax.training.step import TrainState

# The most likely training data, by number of classes, side and channels of the images.
_DATA = {(10, 32, 3): "cifar10", (100, 32, 3): "cifar100", (1000, 224, 3): "imagenet2012"}


def default_config(layout: Layout) -> ConfigDict:
    """A configuration for a network of this layout: its model, its authors' constants and augmentation, and
    fine-tuning. ``data.name`` is "" where no known data are likely. Images have the size for which positions
    were learned, or MLPs along the tokens."""
    c = configs.default()
    c.model = layout.model.copy_and_resolve_references()
    side = 224 if layout.has_positions and layout.image_size > 32 else layout.image_size
    c.data.name = _DATA.get((layout.num_classes, side, layout.channels), "")
    c.data.mean, c.data.std = layout.mean, layout.std
    c.data.update(layout.augmentation)
    if layout.has_positions or layout.model.name == "mixer":
        c.data.image_size = layout.image_size
    set_fine_tuning(c, c.optimizer.learning_rate / 10)
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
    imported = {
        "file": source.path.name,
        "sha256": sha256(source.path),
        "bytes": size(source.path),
        "layout": source.layout.name,
        "prefix": source.prefix,
        "names": list(source.names),
        "new_head": new_head,
    }
    return begin(directory, experiment, state, variables, imported=imported)
