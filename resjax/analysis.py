"""Analyses: pure functions of a network, its variables and data, which return small results.

    run = load_run("runs/demo/residual")
    images, labels = run.examples("test", 10_000)
    result = delete_each(run.network, run.variables, images, labels)
    plot(result).savefig("lesion.png")              # or plot({"one": result, "another": other})

They know a network as stem, units and head only, so they work on every one. Each module tells its method: the
question, the formula, the cost, what a result means and what it does not. docs/analyses has a page for each.
"""

from resjax.studies.catalogue import plot
from resjax.studies.convolution.connections import connections_of
from resjax.studies.convolution.edges import edge_maps
from resjax.studies.convolution.equivariance import equivariance_error
from resjax.studies.convolution.sample_size import by_sample_size
from resjax.studies.convolution.sharing import layer_jacobian
from resjax.studies.curves import training_curves
from resjax.studies.lesions.batch_statistics import reestimate
from resjax.studies.lesions.deletions import delete_random, delete_subsets
from resjax.studies.lesions.interventions import intervene_each
from resjax.studies.lesions.lesion import delete_each
from resjax.studies.lesions.pairs import delete_pairs
from resjax.studies.lesions.pruning import prune_greedily
from resjax.studies.lesions.recalibrate import delete_each_recalibrated
from resjax.studies.lesions.reorder import reorder_units
from resjax.studies.paths.committee import vote
from resjax.studies.paths.path_counts import count_paths
from resjax.studies.paths.path_exact import path_spectrum
from resjax.studies.paths.path_growth import path_spectra
from resjax.studies.paths.path_parameters import parameter_spectra
from resjax.studies.paths.path_sampled import sample_paths
from resjax.studies.paths.paths import measure_paths
from resjax.studies.run import Run, load_run, load_runs
from resjax.studies.signals.backward_signal import backpropagated_signal
from resjax.studies.signals.branch_variance import branch_variances
from resjax.studies.signals.gradients import gradient_norms
from resjax.studies.signals.jacobians import jacobian_norms
from resjax.studies.signals.norms_over_training import training_norms
from resjax.studies.signals.shattering import gradients_along_line, shattered_gradients
from resjax.studies.units.identity import measure_identity
from resjax.studies.units.insertion import insert, start_from
from resjax.studies.units.responses import layer_responses
from resjax.studies.units.surgery import operate
from resjax.studies.units.weight_decay import decay_alone

__all__ = [
    "Run",
    "backpropagated_signal",
    "branch_variances",
    "by_sample_size",
    "connections_of",
    "count_paths",
    "decay_alone",
    "delete_each",
    "delete_each_recalibrated",
    "delete_pairs",
    "delete_random",
    "delete_subsets",
    "edge_maps",
    "equivariance_error",
    "gradient_norms",
    "gradients_along_line",
    "insert",
    "intervene_each",
    "jacobian_norms",
    "layer_jacobian",
    "layer_responses",
    "load_run",
    "load_runs",
    "measure_identity",
    "measure_paths",
    "operate",
    "parameter_spectra",
    "path_spectra",
    "path_spectrum",
    "plot",
    "prune_greedily",
    "reestimate",
    "reorder_units",
    "sample_paths",
    "shattered_gradients",
    "start_from",
    "training_curves",
    "training_norms",
    "vote",
]
