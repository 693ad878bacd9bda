"""Test errors of several networks from n examples, each network with a learning rate chosen for it.

Claims compare networks in ``SETTINGS`` (``sample_size`` explains them). One recipe for all would favour the
network that it suits. So ``by_examples`` chooses a rate for each network, number of examples, and kind of
training, on training images that no network is trained on (``few_examples.choose``).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np

from resjax.network import Network
from resjax.studies.batches import Progress, following
from resjax.studies.convolution.few_examples import (
    Examples,
    Training,
    choose,
    field,
    fit,
    num_classes,
    num_parameters,
)
from resjax.studies.convolution.sample_size import SETTINGS, SampleSize, errors_by_setting
from resjax.studies.intervals import bootstrap
from resjax.studies.small_training import best_rate

RATES = (0.001, 0.003, 0.01, 0.03)


@dataclasses.dataclass(frozen=True)
class Tuned(SampleSize):
    """Errors of one network, with the rates that were chosen for it."""

    rate: Annotated[np.ndarray, "rate"]  # that were tried
    held_out_error: Annotated[
        np.ndarray, "trained on", "size", "rate"
    ]  # 0 … 1, mean over seeds of the choice
    chosen: Annotated[np.ndarray, "trained on", "size"]  # the rate with the lowest one

    @property
    def at_the_ends(self) -> int:
        """How many choices are the smallest or the largest rate that was tried."""
        return int(np.isin(self.chosen, (self.rate.min(), self.rate.max())).sum())


def by_examples(
    networks: Mapping[str, Network],
    train: Examples,
    test: Examples,
    *,
    sizes: Sequence[int],
    seeds: int = 5,
    seed: int = 0,
    steps: int = 600,
    batch_size: int = 16,
    rates: Sequence[float] = RATES,
    choice_seeds: int = 1,
    margin: int = 1,
    progress: Progress | None = None,
) -> dict[str, Tuned]:
    """Trains each network on n examples, with the rate that is best on held-out training images.

    Args:
      networks: by label, for images of ``few_examples.field(train, margin)``.
      train, test: see ``few_examples.fit``. The last images of ``train``, as many as there are in ``test``,
        are held out for the choice and never trained on.
      sizes: numbers of training examples, at most the number of images that are not held out.
      seeds, seed: number of seeds, 2 or more, and the first of them; those of the choice follow.
      steps, batch_size: of Adam, the same for all.
      rates: initial learning rates that are tried.
      choice_seeds: number of seeds of the choice.
      margin: pixels by which images are moved.
      progress: counts trainings.

    Raises:
      ValueError: see ``few_examples.fit``; fewer than two seeds; no images left to train on.
    """
    if seeds < 2 or choice_seeds < 1:
        raise ValueError(f"seeds={seeds}, choice_seeds={choice_seeds}; allowed: from 2 and from 1")
    rest = len(train[1]) - len(test[1])
    if rest < 1:
        raise ValueError(
            f"{len(train[1])} training images; allowed: more than the {len(test[1])} test images"
        )
    own = train[0][:rest], train[1][:rest]
    held_out = train[0][rest:], train[1][rest:]
    # Networks take turns, so that two compile in parallel.
    trainings = [
        Training(label, moved, n, rates[0])
        for moved, n, label in itertools.product((False, True), sizes, networks)
    ]
    how = {"steps": steps, "batch_size": batch_size, "margin": margin}
    before = range(seed + seeds, seed + seeds + choice_seeds)
    count = len(rates) * len(trainings)
    first, last = (following(progress, done, count + len(trainings)) for done in (0, count))
    error = choose(networks, trainings, rates, own, held_out, seeds=before, progress=first, **how)
    chosen = np.array(rates)[best_rate(rates, error)]
    asked = [t._replace(rate=float(rate)) for t, rate in zip(trainings, chosen, strict=True)]
    done = fit(networks, asked, own, test, seeds=range(seed, seed + seeds), progress=last, **how)
    grid = (2, len(sizes), len(networks))  # trained on moved images?, size, network
    fitted, tested = done.train.reshape(*grid, seeds), done.test.reshape(*grid, seeds, -1)
    error, chosen = error.reshape(*grid, len(rates)), chosen.reshape(grid)
    return {
        label: Tuned(
            size=np.array(sizes),
            setting=SETTINGS,
            **errors_by_setting(fitted[:, :, i], tested[:, :, i]),
            parameters=num_parameters(network, field(train, margin)),
            num_test=len(test[1]),
            num_classes=num_classes(train, test),
            rate=np.array(rates, float),
            held_out_error=error[:, :, i],
            chosen=chosen[:, :, i],
            choices={
                "training": f"Adam, rate to 0 by a cosine, {steps} steps of {batch_size} examples drawn with "
                "replacement, no augmentation, no weight decay",
                "rate": f"of {', '.join(f'{rate:g}' for rate in rates)}, the one with the lowest error on "
                f"{len(test[1])} held-out training images, for each network, size and kind of training; "
                f"{choice_seeds} other seed{'' if choice_seeds == 1 else 's'}",
                "margin": f"of {margin} pixels on each side; images are moved by as much",
                "seeds": f"{seed} … {seed + seeds - 1}; each draws examples, places, weights, batches",
            },
        )
        for i, (label, network) in enumerate(networks.items())
    }


def over_sizes(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over sizes and paired seeds of a − b, each [setting, size, seed], and its 95 % interval over
    seeds; [setting] each."""
    off = (a - b).mean(1)
    return off.mean(-1), *bootstrap(off)
