"""The first training batches of a run, on which gradients and variances are measured.

Arguments that the functions of several studies share:

* ``batch_size``: examples in a batch, fewer only if there are fewer in all. Examples beyond the last
  whole batch are not used, because batch statistics need batches of one size.
* ``max_batches``: at most so many batches.
* ``step``: training steps done, noted in the result.
* ``seed``: seed of dropout and stochastic depth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.studies.batches import Progress
from resjax.studies.moments import at_moments
from resjax.studies.paths.path_walk import whole_batches
from resjax.studies.study import Bench

R = TypeVar("R", bound=Any)


@dataclasses.dataclass(frozen=True)
class Batches:
    """Images and labels of batches of one size."""

    pairs: list[tuple[np.ndarray, np.ndarray]]

    @property
    def size(self) -> int:
        return len(self.pairs[0][0])

    def __str__(self) -> str:
        return f"{len(self.pairs)} of {self.size} examples"

    def keyed(
        self, seed: int, progress: Progress | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, jax.Array]]:
        """Images, labels and a random key of each batch; reports progress."""
        for i, pair in enumerate(self.pairs):
            if progress:
                progress(i, len(self.pairs))
            yield *pair, jax.random.fold_in(jax.random.key(seed), i)
        if progress:
            progress(len(self.pairs), len(self.pairs))


def first_batches(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    labels: ArrayLike | None,
    batch_size: int,
    max_batches: int,
) -> Batches:
    """At most ``max_batches`` batches; without labels, all labels are 0.

    Raises:
      ValueError: no example, images or labels of a wrong form, a number below 1.
    """
    if max_batches < 1:
        raise ValueError(f"max_batches={max_batches}; allowed: 1 or more")
    labels = np.zeros(np.shape(images)[:1], int) if labels is None else labels
    return Batches(whole_batches(network, variables, images, labels, batch_size)[:max_batches])


def training_batches(bench: Bench) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """Images and labels of a run's first training batches, and their size and number as arguments."""
    size, most = bench.run.config.train.batch_size, bench.options.gradient_batches
    images, labels = bench.training(size * most)
    bench.choices["data"] = f"the first {len(images):,} training examples, not augmented"
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
