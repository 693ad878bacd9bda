"""A trained network beside the same network at initialization.

*Why.* A property that a network has before its first training step was not learned. So a study of a trained
network's property declares ``control=True``: ``Study.run`` then measures the same images a second time, on
the network at initialization, and keeps that result as ``initial`` of the first.

*Which network.* That of step 0 of the run, which follows from its seed. The initialization of an imported
network is unknown; its control is a network of the same kind, drawn from the run's seed by this project's
initializer. A given network (``resjax.studies.given``) has a control where its initial variables are given.

*BatchNorm.* At step 0 the running statistics are 0 and 1, which are not the statistics of any data: with
them an untrained network normalizes nothing, and comparing it with a trained one would mostly compare that.
So the statistics are re-estimated on training images (``batch_statistics``), as if the network had been
trained with a learning rate of 0. No parameter changes.

*Cost.* That of the study again, and one pass over the reference images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

from resjax.network.refusal import Refusal
from resjax.studies.batches import BATCH_SIZE
from resjax.studies.lesions.batch_statistics import reestimate
from resjax.studies.result import Result
from resjax.studies.subject import Subject

R = TypeVar("R", bound=Result)
REFERENCE = 1024  # training images from which BatchNorm's statistics are estimated


def at_initialization(run: Subject, batch_size: int = BATCH_SIZE) -> Subject:
    """``run`` as if its newest variables were those before training, with BatchNorm's statistics estimated on
    the first 1,024 training examples, augmented as in training, in batches of ``batch_size``.

    Raises:
      Refusal: initial variables that are not known, or batch statistics that can't be estimated.
    """
    variables = run.initial_variables
    if variables is None:
        raise Refusal("no initial variables were given")
    if jax.tree.leaves(variables["batch_stats"]):
        images, _ = run.examples("train", REFERENCE, augmented=True)
        variables = reestimate(run.network, variables, images, batch_size=batch_size, seed=run.seed)
    return run.at_start(variables)


def described(run: Subject) -> str:
    """The network of ``at_initialization``, for the choices of a result."""
    variables = run.initial_variables
    if variables is None or not jax.tree.leaves(variables["batch_stats"]):
        return run.told_initial
    return f"{run.told_initial}; statistics of BatchNorm estimated on up to {REFERENCE:,} training images"


# --- what the report shows ---


def less(a: np.ndarray | float, ends_a: np.ndarray, b: np.ndarray | float, ends_b: np.ndarray) -> np.ndarray:
    """Interval [..., end] of a − b, from estimates and their own intervals [..., end].

    The two are taken as independent (Zou & Donner 2008). The same images are measured on both networks, which
    can only make the difference more precise where their errors rise and fall together.
    """
    down = np.hypot(a - ends_a[..., 0], ends_b[..., 1] - b)
    up = np.hypot(ends_a[..., 1] - a, b - ends_b[..., 0])
    return np.stack([a - b - down, a - b + up], -1)


def drawn(results: Mapping[str, R]) -> Iterator[tuple[int, str, R, dict[str, Any]]]:
    """What a figure draws of {label: result}: number of the run, label, result, and how lines look.

    The network at initialization comes before the trained one: thin, pale, with hollow markers.
    """
    for i, (label, result) in enumerate(results.items()):
        if result.initial is not None:
            pale = {"lw": 0.7, "alpha": 0.6, "markerfacecolor": "none"}
            yield i, f"{label}, at init".removeprefix(", "), result.initial, pale
        yield i, label, result, {"lw": 1.2}
