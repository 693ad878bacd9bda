"""Analyses: pure functions of a network, its variables and data, which return small results.

    run = load_run("runs/demo/residual")
    result = lesion(*run.evaluation(10_000))
    plot(result).savefig("lesion.png")              # or plot({"one": result, "another": other})

The function of a study has the study's name. Analyses know a network as stem, units and head only, so they work
on every one. Each module teaches its method: the question, the formula, the cost, what a result means and what
it does not mean. docs/analyses has a page for each.
"""

import importlib
from typing import Any

from resjax.studies.catalogue import plot
from resjax.studies.run import Run, load_run, load_runs

_STUDIES = {
    "lesion": ("lesions.lesion", "delete_each"),
    "recalibrate": ("lesions.recalibrate", "delete_each_recalibrated"),
    "deletions": ("lesions.deletions", "delete_random"),
    "pairs": ("lesions.pairs", "delete_pairs"),
    "pruning": ("lesions.pruning", "prune_greedily"),
    "reorder": ("lesions.reorder", "reorder_units"),
    "interventions": ("lesions.interventions", "intervene_each"),
    "path_counts": ("paths.path_counts", "count_paths"),
    "paths": ("paths.paths", "measure_paths"),
    "path_growth": ("paths.path_growth", "path_spectra"),
    "path_parameters": ("paths.path_parameters", "parameter_spectra"),
    "committee": ("paths.committee", "vote"),
    "gradients": ("signals.gradients", "gradient_norms"),
    "norms_over_training": ("signals.norms_over_training", "training_norms"),
    "backward_signal": ("signals.backward_signal", "backpropagated_signal"),
    "jacobians": ("signals.jacobians", "jacobian_norms"),
    "branch_variance": ("signals.branch_variance", "branch_variances"),
    "shattering": ("signals.shattering", "shattered_gradients"),
    "responses": ("units.responses", "layer_responses"),
    "identity": ("units.identity", "measure_identity"),
    "surgery": ("units.surgery", "operate"),
    "weight_decay": ("units.weight_decay", "decay_alone"),
    "connections": ("convolution.connections", "connections_of"),
    "equivariance": ("convolution.equivariance", "equivariance_error"),
    "edges": ("convolution.edges", "edge_maps"),
    "sharing": ("convolution.sharing", "layer_jacobian"),
    "sample_size": ("convolution.sample_size", "by_sample_size"),
    "curves": ("curves", "training_curves"),
}
_OTHERS = {
    "delete_subsets": "lesions.deletions",
    "reestimate": "lesions.batch_statistics",
    "path_spectrum": "paths.path_exact",
    "sample_paths": "paths.path_sampled",
    "gradients_along_line": "signals.shattering",
    "insert": "units.insertion",
    "start_from": "units.insertion",
}


def __getattr__(name: str) -> Any:
    for study, (module, old) in _STUDIES.items():
        if name in (study, old):
            own = importlib.import_module(f"resjax.studies.{module}")
            return getattr(own, study, None) or getattr(own, old)
    if name in _OTHERS:
        return getattr(importlib.import_module(f"resjax.studies.{_OTHERS[name]}"), name)
    raise AttributeError(name)


__all__ = ["Run", "load_run", "load_runs", "plot"]
