"""The first training batches of a run, on which gradients and variances are measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, TypedDict, TypeVar

import jax
import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.studies.batches import Progress, WholeBatches, whole_batches
from resjax.studies.moments import at_moments
from resjax.studies.more_batches import add_batches
from resjax.studies.paths.path_walk import Probe
from resjax.studies.study import Bench

R = TypeVar("R", bound=Any)
NOT_IN_TRAINING = "inference, because the network has no training mode"


class FirstBatches(TypedDict, total=False):
    """Which batches are measured and how: arguments of several analyses, passed on as ``**how``."""

    # True: batch statistics and dropout, as in training. False: running statistics, which at init are not
    # those of any data. None, the default: True; False where the network has no training mode
    # (``Network.trains``), but an analysis of batch statistics refuses a network that would need them.
    train: bool | None
    # Examples in a batch, default 128, fewer only if there are fewer in all. Examples beyond the last whole
    # batch are not used, because batch statistics need batches of one size.
    batch_size: int
    max_batches: int  # the largest number of batches, default 8
    first_batch: int  # number of the first that is measured, default 0; for ``add_batches``
    step: int  # training steps done, noted in the result, default 0
    seed: int  # of dropout and stochastic depth, default 0
    progress: Progress | None


@dataclasses.dataclass(frozen=True)
class Batches(WholeBatches):
    """Batches and the settings of ``FirstBatches``; ``trains``, whether the network has a training mode."""

    train: bool
    trains: bool
    step: int
    seed: int
    progress: Progress | None
    first: int

    @property
    def choices(self) -> dict[str, Any]:
        """For results."""
        statistics = Probe(train=self.train).statistics
        mode = {} if self.trains else {"mode": NOT_IN_TRAINING}
        return {"BatchNorm": statistics, **mode, "batches": str(self), "seed": self.seed}

    def measure(self, run: Callable[..., Any]) -> list[np.ndarray]:
        """Each output of ``run(images, labels, key)`` over the batches from number ``first`` on, as float64
        [1, batch, …]."""
        rows = [jax.device_get(run(*batch)) for batch in self.keyed(self.seed, self.progress, self.first)]
        return [np.array([values], np.float64) for values in zip(*rows, strict=True)]


def first_batches(
    network: Network,
    variables: Variables,
    images: Any,
    labels: ArrayLike | None,
    *,
    train: bool | None = None,
    batch_size: int = 128,
    max_batches: int = 8,
    first_batch: int = 0,
    step: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Batches:
    """The batches that ``FirstBatches`` describes; without labels, all labels are 0.

    Raises:
      ValueError: no example, images or labels of a wrong form, a number below 1.
    """
    if max_batches < 1:
        raise ValueError(f"max_batches={max_batches}; allowed: 1 or more")
    pairs = whole_batches(network, variables, images, labels, batch_size).pairs[:max_batches]
    if train is None:  # without batch statistics, both modes are the same up to dropout
        train = network.trains or bool(jax.tree.leaves(variables.get("batch_stats", {})))
    return Batches(pairs, train, network.trains, step, seed, progress, first_batch)


def init_and_now(bench: Bench, analysis: Callable[..., R], *examples: np.ndarray, **options: Any) -> R:
    """``analysis(network, variables, *examples, step=…, **options)`` at step 0, if its variables are known,
    and at the newest step."""
    run = bench.run

    def measure(step: int, variables: Variables, tell: Progress) -> R:
        own = {**options, "step": step, "seed": bench.options.seed, "progress": tell}
        return analysis(run.network, variables, *examples, **own)

    return at_moments([*run.moments], run.moments.__getitem__, measure, bench.progress)


def on_training_batches(bench: Bench, analysis: Callable[..., R], **options: Any) -> R:
    """``init_and_now`` on images and labels of the first training batches; those of ``bench.earlier`` are not
    measured again."""
    run, most = bench.run, bench.options.gradient_batches
    images, labels = bench.data(run.train_batch_size * most)
    batches = {"batch_size": run.train_batch_size, "max_batches": most}
    measure = partial(init_and_now, bench, analysis, images, labels, **batches, **options)
    return add_batches(bench.earlier, len(labels), measure)
