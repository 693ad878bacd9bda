"""The workdir of a cut network, which trains, resumes, is analyzed and exported like any other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from resjax.models import cuts
from resjax.network.cut import cut
from resjax.studies.cutting.training_on import short_schedule
from resjax.studies.run import Run
from resjax.training.experiment import Experiment, make_experiment
from resjax.training.loaded import begin
from resjax.training.step import TrainState
from resjax.training.teacher import sha256


def cut_experiment(run: Run, units: Sequence[str], maps: tuple[str, int] | None = None) -> Experiment:
    """The experiment of ``run`` without ``units``, named as in its network, and with a short schedule.

    Args:
      run: any, one that was cut before, too.
      units: names.
      maps: kind and rank of the maps in the place of units (``resjax.network.maps``), or None.

    Raises:
      ValueError: a unit does not exist or can't be cut, or none would be left.
    """
    cut(run.network, units, run.image_shape, maps)  # its message does not name a field of the configuration
    config = short_schedule(run)
    cuts.add(config.model, units, maps)
    return make_experiment(config, run.experiment.dataset)


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
      run: that of the network that was cut.
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


def told(config: ConfigDict) -> str:
    """How a cut network would be trained on."""
    return f"{config.train.duration}, learning rate {config.optimizer.learning_rate:g}, cosine"
