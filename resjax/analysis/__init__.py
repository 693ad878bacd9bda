"""Analyses: pure functions of a network, its variables and data, which return small results.

``delete_each`` and ``gradient_norms`` know a network as stem, units and head only, so they work on every one.
Each module tells its method; ``lesion.plot`` and its siblings draw results; ``load_run`` opens a workdir.
"""

from resjax.analysis.curves import Curves, training_curves
from resjax.analysis.gradients import GradientNorms, gradient_norms
from resjax.analysis.lesion import DeleteEach, delete_each
from resjax.analysis.run import Run, load_run, load_runs

__all__ = [
    "Curves",
    "DeleteEach",
    "GradientNorms",
    "Run",
    "delete_each",
    "gradient_norms",
    "load_run",
    "load_runs",
    "training_curves",
]
