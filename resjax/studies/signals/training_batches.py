"""The first training batches of a run, on which gradients and variances are measured.

Arguments that the functions of several studies share:

* ``batch_size``: examples in a batch, fewer only if there are fewer in all. Examples beyond the last
  whole batch are not used, because batch statistics need batches of one size.
* ``max_batches``: at most so many batches.
* ``step``: training steps done, noted in the result.
* ``seed``: seed of dropout and stochastic depth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.studies.batches import Progress, WholeBatches, whole_batches
from resjax.studies.moments import at_moments
from resjax.studies.study import Bench

R = TypeVar("R", bound=Any)


def first_batches(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    labels: ArrayLike | None,
    batch_size: int,
    max_batches: int,
) -> WholeBatches:
    """At most ``max_batches`` batches; without labels, all labels are 0.

    Raises:
      ValueError: no example, images or labels of a wrong form, a number below 1.
    """
    if max_batches < 1:
        raise ValueError(f"max_batches={max_batches}; allowed: 1 or more")
    labels = np.zeros(np.shape(images)[:1], int) if labels is None else labels
    batches = whole_batches(network, variables, images, labels, batch_size)
    return WholeBatches(batches.pairs[:max_batches])


def training_batches(bench: Bench) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """Images and labels of a run's first training batches, and their size and number as arguments."""
    size, most = bench.run.config.train.batch_size, bench.options.gradient_batches
    images, labels = bench.training(size * most, note=True)
    return images, labels, {"batch_size": size, "max_batches": most}


def init_and_now(
    bench: Bench, analysis: Callable[..., R], *examples: np.ndarray, **options: Any
) -> R:
    """``analysis(network, variables, *examples, step=…, **options)`` at step 0 and at the newest step."""
    run = bench.run

    def measure(step: int, variables: Variables, tell: Progress) -> R:
        own = {**options, "step": step, "seed": bench.options.seed, "progress": tell}
        return analysis(run.network, variables, *examples, **own)

    return at_moments(sorted({0, run.step}), run.at, measure, bench.progress)
