"""How many passes the gradients by path length take, and the draws of the study ``paths``."""

from __future__ import annotations

from resjax.network import Network
from resjax.studies.costs import Cost, data
from resjax.studies.options import Options
from resjax.studies.paths.path_walk import STUDY_BATCH, study_batches
from resjax.studies.subject import Subject

# The share of the draws that the network at initialization gets, and their least number.
_CONTROL, _LEAST = 5, 2
# Time of a draw ÷ that of an exact walk of one batch: ResNet-56, two draws in a walk (docs/notes).
_DRAW = 0.62


def draws_of(run: Subject, options: Options) -> int:
    """Random paths of each length in the study ``paths``."""
    return options.path_draws if run.step else max(_LEAST, options.path_draws // _CONTROL)


def study_examples(run: Subject, options: Options) -> int:
    """How many examples the batches of a study have together."""
    count = data(run, STUDY_BATCH * study_batches(options))
    return count // STUDY_BATCH * STUDY_BATCH or count


def passes_of_a_walk(network: Network) -> float:
    """Passes through all units for one example whose gradient is sorted by length: half of one for each unit,
    because the k-th unit from the end has k lengths, and one for the linearization of all."""
    return (network.num_units + 1) / 2 + 1


def cost(run: Subject, options: Options) -> Cost:
    """That of the study ``paths``: exact sums of all batches, and draws."""
    modes = 1 + run.network.trains
    walks = study_examples(run, options) + _DRAW * STUDY_BATCH * draws_of(run, options)
    return Cost(backward=modes * walks * passes_of_a_walk(run.network), compilations=7 * modes)
