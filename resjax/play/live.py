"""One network on the page: compiled once, then measured in any state on a fixed sample of examples."""

from __future__ import annotations

import functools
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from resjax.cpu import shared_batches as on_cores
from resjax.network import Variables
from resjax.network.losses import Loss, Metric
from resjax.network.refusal import Refusal
from resjax.play.pictures import pictures
from resjax.play.state import State, Wrong
from resjax.play.walk import Walk
from resjax.studies.batches import Inference, padded_batches
from resjax.studies.cutting.greedy import greedy, rounds_of
from resjax.studies.examples import checked_examples
from resjax.studies.intervals import wilson
from resjax.studies.lesions.batch_statistics import check_statistics, reestimate
from resjax.studies.paths.path_exact import path_spectrum
from resjax.studies.scores import Outcomes, Scores, compare
from resjax.studies.subject import Subject

REFERENCE = 512  # training images for BatchNorm's statistics
CHOICE = 128  # training examples by which the greedy order is chosen
GRADIENT = 64  # examples whose gradient is sorted by path length
SHOWN = 12  # examples whose answer has changed


class Sizes(NamedTuple):
    """``examples``: most evaluation examples; ``batch_size``: most of them at a time."""

    examples: int = 400
    batch_size: int = 200


class _Ran(NamedTuple):
    """Of all examples: how they compare with the intact network, their answers [N, …], and the share of each
    place's branch, None where no states stand between the units."""

    scores: Scores
    answers: np.ndarray
    branch: list[float | None] | None


class Stopped(Exception):
    """The command ends."""


class Live:
    """A network, its sample, and what the intact network answers."""

    def __init__(self, subject: Subject, sizes: Sizes = Sizes()) -> None:  # noqa: B008 (a constant)
        self.subject, self.sizes, self._stopped = subject, sizes, threading.Event()
        network, variables, images, labels = subject.evaluation(sizes.examples)
        self.images, self.labels, self.classes = checked_examples(network, variables, images, labels)
        self.network, self.variables = network, variables
        self.cores = on_cores.shared_cores()
        self._cores = self.cores.each()  # each has batches of its own
        self._given: Variables | None = None
        size = self.cores.own_size(len(self.labels), sizes.batch_size)
        self._batches = list(padded_batches(self.images, self.labels, size))
        own = [self._cores[i % len(self._cores)] for i in range(len(self._batches))]
        self._labels = [
            core.split(jax.device_put(batch.labels)) for core, batch in zip(own, self._batches, strict=True)
        ]
        self._walks = [
            Walk(core, network, batch.images, len(own), self._go_on)
            for core, batch in zip(own, self._batches, strict=True)
        ]
        self._intact: dict[int, jax.Array] = {}  # logits of each batch
        self.answers = self._run(State.intact(network.num_units)).answers

    @functools.cached_property
    def has_statistics(self) -> bool:
        """Whether statistics of BatchNorm can be re-estimated: there are some, and training examples."""
        try:
            check_statistics(self.variables)
        except Refusal:
            return False
        return self.subject.has_training_examples

    def stop(self) -> None:
        """Ends a long measurement with ``Stopped``, one that runs and each that begins later."""
        self._stopped.set()

    def _go_on(self, done: int = 0, of: int = 0) -> None:
        """The progress of a measurement, which it ends if the command ends."""
        if self._stopped.is_set():
            raise Stopped

    def described(self) -> dict[str, Any]:
        """What the page needs to draw the network; JSON-ready."""
        network, own = (
            self.network,
            {unit: i for i, units in enumerate(self.network.classes) for unit in units},
        )
        units = [
            {
                "name": unit.name,
                "stage": unit.stack.stage,
                "class": own[unit.index],
                "residual": unit.stack.unit.residual,
                "deletable": bool(self.subject.deletable[unit.index]),
            }
            for unit in network.units
        ]
        return {
            "label": self.subject.label,
            "units": units,
            "chained": network.chained,
            "statistics": self.has_statistics,
            "examples": len(self.labels),
            "of": self.subject.count(self.subject.split),
            "split": self.subject.split,
            "intact": self.measure(State.intact(network.num_units)),
        }

    def measure(self, state: State) -> dict[str, Any]:
        """How the network does in this state, beside the intact one; JSON-ready.

        Returns:
          ``error`` with its 95 % interval ``between``, ``loss``, ``kl``, ``agreement``: as
          ``resjax.studies.scores`` defines them; ``class_error``: a list, None where a class has no example;
          ``branch``: the share of each place's output that its branch carries, ‖f‖ / (‖s‖ + ‖f‖), None where
          no states stand between the units; ``changed``: of how many examples the answer has changed, at any
          position that counts, and ``some`` of them;
          ``paths``: numbers of paths by length, as log10.
        """
        scores, answers, branch = self._run(state)
        error = float(scores.error[0])
        low, high = wilson(error, scores.num_examples)
        differs = (answers != self.answers) & (self.labels >= 0)  # elsewhere no answer is asked for
        changed = np.flatnonzero(differs.reshape(len(answers), -1).any(1))
        return {
            "error": error,
            "between": [float(low), float(high)],
            "loss": _number(scores.loss[0]),
            "kl": _number(scores.kl[0]),
            "agreement": float(scores.agreement[0]),
            "class_error": None if scores.class_error is None else list(map(_number, scores.class_error[0])),
            "branch": branch,
            "changed": len(changed),
            "some": self._shown(changed[:SHOWN], answers),
            "paths": self._paths(state),
        }

    def gradient(self, state: State) -> dict[str, Any]:
        """The gradient by path length of this state, of one batch; JSON-ready.

        Raises:
          Wrong: the network has no such sum.
        """
        if not self.network.chained:
            raise Wrong("other connections bypass the units of this network, so its paths are not known")
        count = min(GRADIENT, len(self.labels)) // self.cores.count * self.cores.count or len(self.labels)
        images = jax.tree.map(lambda v: v[:count], self.images)
        try:
            found = path_spectrum(
                self.network,
                self._variables(state),
                images,
                self.labels[:count],
                gates=state.gate_array,
                order=state.order_array,
                loss=self.subject.loss,
                batch_size=count,
                progress=self._go_on,
            )
        except Refusal as error:
            raise Wrong(str(error)) from error
        return {
            "length": found.length.tolist(),
            "share": list(map(_number, found.share[0])),
            "mean": _number(found.mean_length[0]),
            "examples": count,
        }

    @functools.cached_property
    def greedy_order(self) -> list[int]:
        """Units in the order in which each deletion raises the loss least, on training examples."""
        allowed = self.subject.deletable
        if not allowed.any():
            raise Wrong("no unit of this network can be deleted")
        if not self.subject.has_training_examples:
            raise Wrong("the order is chosen on training examples, and none were given")
        given = self.network, self.variables, *self.subject.examples("train", CHOICE)
        rounds, subject = rounds_of(int(allowed.sum())), self.subject
        how = Inference(loss=subject.loss, metric=subject.metric, batch_size=CHOICE, progress=self._go_on)
        found = greedy(*given, allowed, rounds, **how)
        return [int(unit) for unit in found.order]

    def _run(self, state: State) -> _Ran:
        """All examples, those of each core one batch after another."""
        variables = self._variables(state)
        if variables is not self._given:
            self._own = [core.copy(variables) for core in self._cores]
            self._given = variables

        def run(number: int) -> list[Any]:
            # The next batch is not dispatched before this one has its results, so its memory is free again.
            return [jax.device_get(self._batch(i, state)) for i in range(number, len(self._batches), count)]

        count = len(self._cores)
        if count == 1:
            found = [run(0)]
        else:
            with ThreadPoolExecutor(count) as pool:
                found = list(pool.map(run, range(count)))
        in_order = [found[i % count][i // count] for i in range(len(self._batches))]
        masks = [batch.mask for batch in self._batches]
        outcomes = [
            (jax.tree.map(lambda v: v[None], own), m) for (own, *_), m in zip(in_order, masks, strict=True)
        ]
        answers = np.concatenate([own[m] for (_, own, _), m in zip(in_order, masks, strict=True)])
        branch = None
        if self.network.chained:
            shares = [own[:, m] for (_, _, own), m in zip(in_order, masks, strict=True)]
            branch = list(map(_number, np.concatenate(shares, 1).mean(1, dtype=np.float64)))
        return _Ran(Scores.of(outcomes, self.labels, self.classes), answers, branch)

    def _batch(self, i: int, state: State) -> tuple[Outcomes, jax.Array, jax.Array | None]:
        """One batch: the comparison, the answers [B, …], and the branches' shares [places, B]."""
        self._go_on()
        number = i % len(self._cores)
        passed = self._walks[i](self._own[number], state)
        if i not in self._intact:  # the first state is the intact one
            self._intact[i] = passed.logits
        judged = _judged(
            passed.logits, self._intact[i], self._labels[i], self.subject.loss, self.subject.metric
        )
        if passed.shortcut is None or passed.branch is None:
            return *judged, None
        return *judged, _share(passed.shortcut, passed.branch)

    def _variables(self, state: State) -> Variables:
        return self._reestimated(state) if state.reestimated else self.variables

    @functools.lru_cache(maxsize=16)  # noqa: B019 (as long as the server)
    def _reestimated(self, state: State) -> Variables:
        images = self.subject.examples("train", REFERENCE, augmented=True)[0]
        order = state.order_array if state.moved else None
        return reestimate(
            self.network,
            self.variables,
            images,
            gates=state.gate_array,
            order=order,
            progress=self._go_on,
        )

    def _paths(self, state: State) -> dict[str, list[float | None]]:
        """log10 of the number of paths of each length that are left.

        A plain unit whose branch has a factor other than 0 and 1 is crossed in two ways, like a residual one.
        """
        gates = np.array(state.gates)
        both = (gates > 0) & (self.network.residual | (gates != 1))
        residual, plain = int(both.sum()), int(((gates > 0) & ~both).sum())
        whole = [math.log10(math.comb(residual, j)) for j in range(residual + 1)]
        of_length = {plain + j: count for j, count in enumerate(whole)}
        every = range(len(gates) + 1)
        return {"length": list(every), "log10": [of_length.get(k) for k in every]}

    def _shown(self, examples: np.ndarray, answers: np.ndarray) -> list[dict[str, Any]]:
        """The examples with one answer each, with a picture where they are images."""
        if self.labels.ndim != 1:
            return []
        drawn = pictures(self.images, examples)
        return [
            {
                "example": int(i),
                "label": int(self.labels[i]),
                "before": int(self.answers[i]),
                "now": int(answers[i]),
                "picture": picture,
            }
            for i, picture in zip(examples, drawn, strict=True)
        ]


@functools.partial(jax.jit, static_argnums=(3, 4))
def _judged(
    logits: jax.Array, intact: jax.Array, labels: jax.Array, loss: Loss, metric: Metric
) -> tuple[Outcomes, jax.Array]:
    """The comparison with the intact network, and the answers [B, …]."""
    return compare(logits, intact, labels, loss, metric), jnp.argmax(logits, -1)


@jax.jit
def _share(shortcut: jax.Array, branch: jax.Array) -> jax.Array:
    """‖f‖ / (‖s‖ + ‖f‖), 0 where both are."""
    return branch / jnp.maximum(shortcut + branch, jnp.finfo(branch.dtype).tiny)


def _number(value: Any) -> float | None:
    """For JSON, which has neither infinities nor NaN."""
    return float(value) if math.isfinite(value) else None
