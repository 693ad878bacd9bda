"""What a study costs, counted in passes of examples through the whole network, and what that is in seconds.

The time of a study is unknown before it runs, but the number of its passes is not: the protocol fixes it. So
each study counts its passes in a function ``cost(run, options)`` beside its ``measure``, from the same
numbers. Four kinds of work are counted, because a pass of each kind takes a different time:

* *forward*: one example forward through the whole network, in one compiled program. A deletion that shares
  its prefix with others counts only the share of the units that it runs.
* *walked*: the same, unit by unit in small programs (``resjax.studies.lesions.prefixes``), where each core of
  a CPU has batches of its own.
* *backward*: one example from the loss to the input through all units, without gradients of parameters. A
  gradient of the parameters is one pass forward and two backward.
* *compilations*: programs as large as a forward pass. One with a backward pass counts as two or three.
* *fixed*: seconds that no machine shortens, such as those in which programs are timed.

The estimate is the sum of each count times its own time, which ``resjax.studies.speed`` measures on the
network and the machine at hand:

    seconds = forward·t_f + walked·t_w + backward·t_b + compilations·t_c + fixed

*What it leaves out.* Reading of data, and work on the host, such as bootstraps and the counting of votes. A
batch that is smaller than that of the measurement takes more time for each example.

*What it counts too often.* Studies of one command share scores of deletions, the greedy order, the network at
initialization and the newest spectrum by path length: the first of them computes these, and the others take
them. Each is estimated as if it were the first, and as if no earlier one had kept scores to which it adds. In
this respect, the estimate of several studies is an upper bound. ``benchmarks/analyze_estimates.py`` compares
estimates with times.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from resjax.network.refusal import Refusal
from resjax.studies.options import Options
from resjax.studies.subject import Subject


@dataclasses.dataclass(frozen=True)
class Cost:
    """Counted work; ``evaluated`` is the number of examples on which errors are measured, 0 for a study that
    measures none."""

    forward: float = 0.0  # examples through the whole network
    walked: float = 0.0  # the same, unit by unit
    backward: float = 0.0  # from the loss to the input
    compilations: float = 0.0  # in programs of a forward pass
    fixed: float = 0.0  # seconds
    evaluated: int = 0

    def __add__(self, other: Cost) -> Cost:
        """Both, one after the other. ``evaluated`` is the smaller number that is not 0."""
        counts = [count for count in (self.evaluated, other.evaluated) if count]
        return Cost(
            self.forward + other.forward,
            self.walked + other.walked,
            self.backward + other.backward,
            self.compilations + other.compilations,
            self.fixed + other.fixed,
            min(counts, default=0),
        )

    def seconds(self, speed: Speed) -> float:
        """The estimated time on a machine of that speed."""
        passes = self.forward * speed.forward + self.walked * speed.walked + self.backward * speed.backward
        return passes + self.compilations * speed.compilation + self.fixed


class Speed(NamedTuple):
    """Seconds of one pass of one example of each kind, and of one compilation; fields as in ``Cost``."""

    forward: float
    walked: float
    backward: float
    compilation: float


NOTHING = Cost()


def again(cost: Cost) -> Cost:
    """The same work once more, with the programs that are compiled already."""
    return dataclasses.replace(cost, compilations=0)


def scaled(cost: Cost, share: float) -> Cost:
    """The same work of a network with this share of the units."""
    passes = {kind: share * getattr(cost, kind) for kind in ("forward", "walked", "backward", "compilations")}
    return dataclasses.replace(cost, **passes)


def nothing(run: Subject, options: Options) -> Cost:
    """The cost of a study that runs no network."""
    del run, options
    return NOTHING


def evaluated(run: Subject, options: Options, most: int | None = None) -> int:
    """How many examples ``Bench.evaluation(most)`` has."""
    limits = [options.max_examples, run.count(run.split)]
    return min(limits if most is None else [*limits, most])


def training(run: Subject, most: int) -> int:
    """How many examples ``Bench.training(most)`` has.

    Raises:
      Refusal: there are none.
    """
    if not run.has_training_examples:
        raise Refusal("it needs training examples, and none were given")
    return min(most, run.count("train"))


def data(run: Subject, most: int) -> int:
    """How many examples ``Bench.data(most)`` has."""
    return min(most, run.count("train" if run.has_training_examples else run.split))


def of_first_batches(run: Subject, options: Options) -> int:
    """How many examples all batches of ``on_training_batches`` have together."""
    size = run.train_batch_size
    count = data(run, size * options.gradient_batches)
    return count // size * size or count
