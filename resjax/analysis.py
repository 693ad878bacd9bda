"""Analyses: pure functions of a network, its variables and data, which return small results.

    run = load_run("runs/demo/residual")
    result = lesion(*run.evaluation(10_000))
    plot(result).savefig("lesion.png")              # or plot({"one": result, "another": other})

The function of a study has the study's name. Analyses see a network only as a stem, units and a head, so they
work with every network, and with every input that its stem takes: images, tokens, a pytree of arrays. The
loss is a function, and so is the metric whose mean is "the error" (``resjax.studies.batches.Inference``).

The docstring of each module explains its method: the question, the formula, the cost, what a result means and
what it does not mean. docs/analyses has a page for each.
"""

import sys
import warnings
from typing import Any

from resjax.discovery import discover
from resjax.studies.catalogue import STUDIES, plot
from resjax.studies.convolution.activations import activations
from resjax.studies.convolution.connections import connections
from resjax.studies.convolution.edges import edges
from resjax.studies.convolution.equal_parameters import equal_parameters
from resjax.studies.convolution.equivariance import equivariance
from resjax.studies.convolution.sample_size import sample_size
from resjax.studies.convolution.sharing import sharing
from resjax.studies.convolution.sharing_by_layer import sharing_by_layer
from resjax.studies.curves import curves
from resjax.studies.cutting.cut import cut
from resjax.studies.given import Given, GivenNetwork, load_network
from resjax.studies.initial import at_initialization
from resjax.studies.lesions.batch_statistics import reestimate
from resjax.studies.lesions.deletions import deletions
from resjax.studies.lesions.interventions import interventions
from resjax.studies.lesions.lesion import lesion
from resjax.studies.lesions.looping import looping
from resjax.studies.lesions.pairs import pairs
from resjax.studies.lesions.pruning import pruning
from resjax.studies.lesions.recalibrate import recalibrate
from resjax.studies.lesions.reorder import reorder
from resjax.studies.lesions.sets import delete_subsets
from resjax.studies.lesions.skip_length import skip_length
from resjax.studies.paths.committee import committee
from resjax.studies.paths.forward_depth import forward_depth
from resjax.studies.paths.path_counts import path_counts
from resjax.studies.paths.path_exact import path_spectrum
from resjax.studies.paths.path_growth import path_growth
from resjax.studies.paths.path_parameters import path_parameters
from resjax.studies.paths.path_sampled import sample_paths
from resjax.studies.paths.paths import paths
from resjax.studies.run import Run, load_run, load_runs
from resjax.studies.signals.backward_signal import backward_signal
from resjax.studies.signals.branch_variance import branch_variance
from resjax.studies.signals.gradients import gradients
from resjax.studies.signals.jacobians import jacobians
from resjax.studies.signals.norms_over_training import norms_over_training
from resjax.studies.signals.rank_collapse import rank_collapse
from resjax.studies.signals.shattering import gradients_along_line, shattering
from resjax.studies.signals.vanishing import vanishing
from resjax.studies.small_training import digits_recipe
from resjax.studies.subject import Subject
from resjax.studies.units.added_layers import added_layers
from resjax.studies.units.decay_in_training import decay_in_training
from resjax.studies.units.identity import identity
from resjax.studies.units.influence import influence
from resjax.studies.units.insertion import insert, start_from
from resjax.studies.units.learns_identity import learns_identity
from resjax.studies.units.responses import responses
from resjax.studies.units.surgery import surgery
from resjax.studies.units.weight_decay import weight_decay

__all__ = [
    "Given",
    "GivenNetwork",
    "Run",
    "Subject",
    "activations",
    "added_layers",
    "at_initialization",
    "backward_signal",
    "branch_variance",
    "committee",
    "connections",
    "curves",
    "cut",
    "decay_in_training",
    "delete_subsets",
    "deletions",
    "digits_recipe",
    "discover",
    "edges",
    "equal_parameters",
    "equivariance",
    "forward_depth",
    "gradients",
    "gradients_along_line",
    "identity",
    "influence",
    "insert",
    "interventions",
    "jacobians",
    "learns_identity",
    "lesion",
    "load_network",
    "load_run",
    "load_runs",
    "looping",
    "norms_over_training",
    "pairs",
    "path_counts",
    "path_growth",
    "path_parameters",
    "path_spectrum",
    "paths",
    "plot",
    "pruning",
    "rank_collapse",
    "recalibrate",
    "reestimate",
    "reorder",
    "responses",
    "sample_paths",
    "sample_size",
    "sharing",
    "sharing_by_layer",
    "shattering",
    "skip_length",
    "start_from",
    "surgery",
    "vanishing",
    "weight_decay",
]

# Earlier names, which still work.
_RENAMED = {
    "backpropagated_signal": "backward_signal",
    "branch_variances": "branch_variance",
    "by_sample_size": "sample_size",
    "connections_of": "connections",
    "count_paths": "path_counts",
    "decay_alone": "weight_decay",
    "delete_each": "lesion",
    "delete_each_recalibrated": "recalibrate",
    "delete_pairs": "pairs",
    "delete_random": "deletions",
    "edge_maps": "edges",
    "equivariance_error": "equivariance",
    "gradient_norms": "gradients",
    "intervene_each": "interventions",
    "jacobian_norms": "jacobians",
    "layer_jacobian": "sharing",
    "layer_responses": "responses",
    "measure_identity": "identity",
    "measure_paths": "paths",
    "operate": "surgery",
    "parameter_spectra": "path_parameters",
    "path_spectra": "path_growth",
    "prune_greedily": "pruning",
    "reorder_units": "reorder",
    "shattered_gradients": "shattering",
    "training_curves": "curves",
    "training_norms": "norms_over_training",
    "vote": "committee",
}


def __getattr__(name: str) -> Any:
    if name in STUDIES:  # a study that is not imported above yet
        return getattr(sys.modules[STUDIES[name].measure.__module__], name)
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    new = _RENAMED[name]
    warnings.warn(f"resjax.analysis.{name} is now called {new}", DeprecationWarning, stacklevel=2)
    return globals()[new]
