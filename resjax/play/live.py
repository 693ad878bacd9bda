"""One network on the page: compiled once, then measured in any state on a fixed sample of examples."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from resjax.cpu import shared_batches as on_cores
from resjax.network import Network, Variables
from resjax.network.refusal import Refusal
from resjax.network.unit import Parts
from resjax.play.pictures import pictures
from resjax.play.state import State, Wrong
from resjax.studies.batches import Inference, padded_batches
from resjax.studies.cutting.greedy import greedy, rounds_of
from resjax.studies.examples import checked_examples
from resjax.studies.intervals import wilson
from resjax.studies.lesions.batch_statistics import reestimate
from resjax.studies.paths.path_exact import path_spectrum
from resjax.studies.scores import Scores, compiled_compare
from resjax.studies.subject import Subject

REFERENCE = 512  # training images for BatchNorm's statistics
CHOICE = 128  # training examples by which the greedy order is chosen
GRADIENT = 64  # examples whose gradient is sorted by path length
SHOWN = 12  # examples whose answer has changed


class Sizes(NamedTuple):
    """``examples``: most evaluation examples; ``batch_size``: most of them at a time."""

    examples: int = 400
    batch_size: int = 200


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
        self._own = self.cores.copy(variables)
        batches = padded_batches(self.images, self.labels, sizes.batch_size, multiple=self.cores.count)
        self._batches = [(batch, self.cores.split(jax.device_put(batch.images))) for batch in batches]
        self._intact: list[jax.Array] | None = None
        self._intact, self.answers, _ = self._run(State.intact(network.num_units))

    @functools.cached_property
    def has_statistics(self) -> bool:
        """Whether the network has statistics of BatchNorm, and training examples to re-estimate them."""
        statistics = jax.tree.leaves(self.variables.get("batch_stats", {}))
        return bool(statistics) and self.subject.has_training_examples

    def stop(self) -> None:
        """Ends a long measurement with ``Stopped``, one that runs and each that begins later."""
        self._stopped.set()

    def _go_on(self, done: int, of: int) -> None:
        """The progress of a long measurement."""
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
        logits, answers, branch = self._run(state)
        scores = self._scores(logits)
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

    def _run(self, state: State) -> tuple[list[jax.Array], np.ndarray, list[float | None] | None]:
        """Logits of each batch; the answers [N, …]; and the branches' shares."""
        variables = self._own if not state.reestimated else self.cores.copy(self._variables(state))
        given = state.gate_array, state.order_array if self.network.chained else None
        logits, answers, shares = [], [], []
        for batch, x in self._batches:
            own, share = self.cores.wait(_forward(self.cores, self.network, variables, x, *given))
            logits.append(own)
            answers.append(np.argmax(jax.device_get(own), -1)[batch.mask])
            if share is not None:
                shares.append(jax.device_get(share)[batch.mask])
        branch = np.concatenate(shares).mean(0, dtype=np.float64) if shares else None
        return logits, np.concatenate(answers), None if branch is None else list(map(_number, branch))

    def _scores(self, logits: Sequence[jax.Array]) -> Scores:
        assert self._intact is not None
        subject, outcomes = self.subject, []
        for (batch, _), own, intact in zip(self._batches, logits, self._intact, strict=True):
            labels = self.cores.split(jax.device_put(batch.labels))
            found = self.cores.wait(compiled_compare(own, intact, labels, subject.loss, subject.metric))
            outcomes.append((jax.tree.map(lambda v: np.asarray(v)[None], jax.device_get(found)), batch.mask))
        return Scores.of(outcomes, self.labels, self.classes)

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


@on_cores.jit(static=2)
def _forward(
    cores: on_cores.Cores,
    network: Network,
    variables: Variables,
    x: Any,
    gates: jax.Array,
    order: jax.Array | None,
) -> tuple[jax.Array, jax.Array | None]:
    """Logits [B, …, classes], and the branch's share of each place [B, units], None without a chain."""

    def tap(parts: Parts) -> tuple[jax.Array, jax.Array]:
        zero = jnp.zeros_like(parts.branch) if parts.shortcut is None else parts.shortcut
        return _norms(zero), _norms(parts.branch)

    def run(given: Any, x: Any) -> tuple[jax.Array, jax.Array | None]:
        variables, gates, order = given
        if not network.chained:
            return network.apply(variables, x, gates=gates).logits, None
        out = network.apply(variables, x, gates=gates, order=order, tap=tap)
        taps = [out.taps[stack.name] for stack in network.stacks]
        shortcut, branch = (jnp.concatenate([tap[i] for tap in taps]).T for i in (0, 1))
        branch = branch * jnp.asarray(network.all_gates(gates))[order][None]
        # A plain unit has no shortcut beside its branch.
        shortcut = jnp.where(jnp.asarray(network.residual)[None], shortcut, 0)
        return out.logits, branch / jnp.maximum(shortcut + branch, jnp.finfo(branch.dtype).tiny)

    return on_cores.few_at_a_time(cores, run, (variables, gates, order), x)


def _norms(x: jax.Array) -> jax.Array:
    """[B]: ‖x‖₂ of each example, in float32 at least."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return jnp.sqrt(jnp.sum(jnp.square(wide), tuple(range(1, x.ndim))))


def _number(value: Any) -> float | None:
    """For JSON, which has neither infinities nor NaN."""
    return float(value) if math.isfinite(value) else None
