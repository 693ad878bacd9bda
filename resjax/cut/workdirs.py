"""The workdir of a cut network, which trains, resumes, is analyzed and exported like any other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from resjax import models
from resjax.network import Network
from resjax.network.cut import cut, recut_variables
from resjax.studies.cutting.training_on import short_schedule
from resjax.studies.run import Run
from resjax.training.experiment import Experiment, make_experiment
from resjax.training.loaded import begin
from resjax.training.step import TrainState
from resjax.training.teacher import sha256


def cut_experiment(run: Run, units: Sequence[str], maps: tuple[str, int] | None = None) -> Experiment:
    """The experiment of ``run`` without ``units``, named as in its network, and with a short schedule.

    ``config.model.cut`` refers to the network of the builder. So it names what ``run`` lacks already, too.

    Args:
      run: that of the intact network.
      units: names.
      maps: kind and rank of the maps in the place of units (``resjax.network.maps``), or None.

    Raises:
      ValueError: a unit does not exist or can't be cut, or none would be left; or ``run`` was cut before, and
        it has maps or is to have some.
    """
    cut(run.network, units, run.image_shape, maps)  # its message has the names of this network
    if run.config.model.cut and (maps or run.config.model.map != "none"):
        raise ValueError(
            f"{run.workdir} was cut before, and a map stands in the place of all neighbours that are gone: "
            "cut the run that it was made from, with the units of both cuts"
        )
    config = short_schedule(run)
    config.model.cut = (*config.model.cut, *_names_in(_uncut(run), config.model.cut, run.network, units))
    if maps:
        config.model.map, config.model.map_rank = maps
    return make_experiment(config, run.experiment.dataset)


def cut_variables_of(run: Run, experiment: Experiment) -> dict[str, Any]:
    """The variables of the network of ``cut_experiment`` without maps, from the newest ones of ``run``."""
    before = tuple(run.config.model.cut)
    gone = tuple(experiment.config.model.cut)[len(before) :]
    return dict(recut_variables(_uncut(run), run.variables, before, gone, run.image_shape))


def make_workdir(
    run: Run,
    experiment: Experiment,
    variables: dict[str, Any],
    directory: str | Path,
    *,
    units: Sequence[str],
    by: str,
    recalibrated: bool,
    maps: tuple[str, int] | None = None,
) -> TrainState:
    """Saves a cut network in a workdir as its checkpoint of step 1; returns its state.

    Args:
      run: that of the intact network.
      experiment, variables: of the cut network.
      directory: the workdir, created if absent.
      units: what was cut, named as in the network of ``run``, in the order in which it was chosen.
      by: how it was chosen.
      recalibrated: whether BatchNorm's statistics were re-estimated.
      maps: kind and rank of the maps, or None.
    """
    facts = {
        "from": str(run.workdir),
        "step": run.step,
        "sha256": sha256(run.variables),
        "units": list(units),
        "by": by,
        "recalibrated": recalibrated,
        "map": maps and {"kind": maps[0], "rank": maps[1]},
    }
    return begin(directory, experiment, experiment.create_state(), variables, "--out", cut=facts)


def _uncut(run: Run) -> Network:
    """The network of the builder, of which ``run`` may lack units already."""
    config = run.config.model.to_dict() | {"cut": ()}
    classes = run.experiment.dataset.info.num_classes
    return models.build(config, image_shape=run.image_shape, num_classes=classes)


def _names_in(uncut: Network, before: Sequence[str], network: Network, units: Sequence[str]) -> list[str]:
    """The names in ``uncut`` of the ``units`` of ``network``, which is ``uncut`` without ``before``."""
    left = [unit.name for unit in uncut.units if unit.name not in before]
    name_of = dict(zip((unit.name for unit in network.units), left, strict=True))
    return [name_of[unit] for unit in units]


def told(config: ConfigDict) -> str:
    """How a cut network would be trained on."""
    return f"{config.train.duration}, learning rate {config.optimizer.learning_rate:g}, cosine"
