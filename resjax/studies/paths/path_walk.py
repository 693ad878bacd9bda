"""Backpropagation of many cotangents at once through one network, for exact and sampled path gradients.

Backpropagation carries one vector, ∂L/∂y, from unit to unit. Here several *rows* of vectors are carried back,
and an analysis says how each unit changes them. A unit z = s(x) + g·f(x), y = m(z) has three linear maps, the
transposed Jacobians Mᵀ, Sᵀ and Jᵀ of m, s and g·f, at the state of the *intact* network::

    ∂L/∂x = Sᵀ Mᵀ ∂L/∂y + Jᵀ Mᵀ ∂L/∂y

What follows the sum (the last ReLU of a post-activation unit) applies to both terms. The states come from one
forward pass; each unit's branch runs forward once more in the backward walk, so that the inner activations of
only one unit exist at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from resjax.network import Network, Variables
from resjax.network.losses import Loss
from resjax.network.parts import scan_units
from resjax.network.unit import Unit
from resjax.studies.batches import checked_examples

INPUTS = ("image", "first unit")
REDUCTIONS = ("mean", "sum")
NORMS = ("batch", "example")
BATCH_SIZE = 32


@dataclasses.dataclass(frozen=True)
class Probe:
    """How the gradient at the input is measured; the paper leaves these choices open.

    ``train=True``: BatchNorm uses the statistics of the batch, which are differentiated as well, and layers
    have dropout. False: running statistics. Every unit runs in either case: stochastic depth only scales
    branches, as at test time.
    """

    train: bool = False
    reduction: str = "mean"  # of the loss over a batch, or 'sum'
    norm: str = (
        "batch"  # one L2 norm over all examples of a batch; 'example': the mean of their norms
    )
    at: str = (
        "image"  # where the gradient is measured; 'first unit': at its input, without the stem
    )

    def __post_init__(self) -> None:
        allowed = {"reduction": REDUCTIONS, "norm": NORMS, "at": INPUTS}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(
                    f"{name}={getattr(self, name)!r}; allowed: {', '.join(map(repr, values))}"
                )

    @property
    def statistics(self) -> str:
        """What BatchNorm uses."""
        return "statistics of the batch" if self.train else "running statistics"

    def choices(self) -> dict[str, Any]:
        """These choices in words, for results."""
        norms = {"batch": "L2 over the whole batch", "example": "mean of each example's L2 norm"}
        return {
            "BatchNorm": self.statistics,
            "loss": f"{self.reduction} over the batch, without weight decay",
            "norm": norms[self.norm],
            "gradient at": f"the {self.at}" + (", behind the stem" * (self.at == "image")),
            "length of a path": "branches crossed; units that change the shape count as any other",
        }

    def of_examples(self, norms: np.ndarray) -> np.ndarray:
        """Norms of the examples [..., B] → one number for each batch [...], by ``norm``."""
        norms = norms.astype(np.float64)
        return norms.mean(-1) if self.norm == "example" else np.sqrt((norms**2).sum(-1))


PAPER = Probe()  # where the paper is silent, the simplest choice
TRAINING = Probe(train=True)
Linear = Callable[[jax.Array], Any]


@dataclasses.dataclass(frozen=True)
class Crossing:
    """One unit at the intact network's state ``x`` [B, …], and its transposed Jacobians there.

    Each method runs its part forward and returns a linear function of cotangents: call the method outside of
    loops and the function inside.
    """

    unit: Unit
    part: Any
    x: jax.Array
    gate: jax.Array | None
    key: jax.Array | None
    train: bool

    def _run(self, method: str, x: jax.Array, part: Any = None) -> Any:
        out = self.unit.apply(
            self.part if part is None else part,
            x,
            *((self.gate,) if method == "parts" else ()),
            self.train,
            rngs=None if self.key is None else {"dropout": self.key},
            method=method,
            mutable=["batch_stats"] if self.train else False,
        )
        return out[0] if self.train else out

    def _split(self, x: jax.Array) -> tuple[Any, jax.Array]:
        s, f = self._run("split", x)
        return s, (f if self.gate is None else jnp.asarray(self.gate, f.dtype) * f)

    def both(self) -> Callable[[jax.Array, jax.Array], jax.Array]:
        """(a, b) → Sᵀa + Jᵀb."""
        transposed = jax.vjp(self._split, self.x)[1]
        return lambda a, b: transposed((a, b))[0]

    def shortcut(self) -> Linear:
        """a → Sᵀa."""
        return _transpose(lambda x: self._split(x)[0], self.x)

    def branch(self) -> Linear:
        """b → Jᵀb."""
        return _transpose(lambda x: self._split(x)[1], self.x)

    def merge(self) -> Linear:
        """c → Mᵀc, at the intact sum."""
        s, f = self._split(self.x)
        z = s + f if self.unit.residual else f
        return _transpose(lambda z: self._run("merge", z), z)

    def parameters(self) -> Linear:
        """c → the gradient of all parameters of the unit, a pytree, where ∂L/∂y is c."""

        def output(params: Any) -> jax.Array:
            return self._run("parts", self.x, {**self.part, "params": params}).y

        return _transpose(output, self.part.get("params", {}))


def _transpose(f: Callable[[Any], jax.Array], at: Any) -> Linear:
    transposed = jax.vjp(f, at)[1]
    return lambda c: transposed(c)[0]


class Arrived(NamedTuple):
    """What ``walk_back`` returns, divided by ``scale`` so that small losses do not underflow."""

    rows: jax.Array  # [rows, B, …], at the input of the first unit
    carry: Any  # the analysis's own
    units: Any  # the analysis's own output of each unit, with a leading axis of units
    to_input: Linear  # carries one row to where the probe measures
    scale: jax.Array  # largest entry of the gradient behind the last unit


Cross = Callable[[Crossing, jax.Array, Any, Any], tuple[jax.Array, Any, Any]]
"""(unit, rows behind it, carry, xs of the unit) → rows in front of it, carry, output of the unit."""


def walk_back(
    network: Network,
    loss: Loss,
    probe: Probe,
    variables: Variables,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    *,
    start: Callable[[jax.Array], jax.Array],
    cross: Cross,
    carry: Any,
    xs: Any,
) -> Arrived:
    """Runs the network forward, then ``cross`` at each unit from the last to the first.

    Args:
      network, variables, images, labels: any network, and one batch.
      loss: (logits [B, classes], labels [B]) → [B].
      probe: how the gradient is measured.
      key: for dropout, used with ``probe.train``.
      start: the gradient behind the last unit [B, …] → rows [rows, B, …].
      cross: what a unit does with the rows.
      carry: pytree carried along with the rows.
      xs: pytree of arrays with a leading axis of units, in order.
    """
    train = probe.train
    keys = _keys(network, key) if train else {}

    def stem(x: jax.Array) -> jax.Array:
        return network.run_stem(variables, x, train=train, key=keys.get("stem"))[0]

    h, stacks = stem(images), []
    for place in network.places(variables):
        own_xs = jax.tree.map(lambda v, own=place.units: v[own], xs)
        own_keys = keys.get(place.stack.name)
        h, _, inputs = network.run_stack(
            place.stack,
            variables,
            h,
            gates=place.gates,
            train=train,
            keys=own_keys,
            tap=lambda parts: parts.x,
        )
        stacks.append((place.stack, (place.variables, inputs, place.gates, own_keys, own_xs)))

    def loss_of(h: jax.Array) -> jax.Array:
        logits, _ = network.run_head(variables, h, train=train, key=keys.get("head"))
        return (jnp.mean if probe.reduction == "mean" else jnp.sum)(loss(logits, labels))

    gradient = jax.grad(loss_of)(h)
    scale = largest(gradient)
    rows, outputs = start(gradient / scale), []
    for stack, of_units in reversed(stacks):

        def back(state: Any, of_unit: Any, unit: Unit = stack.unit) -> tuple[Any, Any]:
            part, x, gate, key, xs = of_unit
            rows, carry = state
            rows, carry, out = cross(Crossing(unit, part, x, gate, key, train), rows, carry, xs)
            return (rows, carry), out

        (rows, carry), out = scan_units(stack.n, back, (rows, carry), of_units, reverse=True)
        outputs.append(out)
    units = jax.tree.map(lambda *v: jnp.concatenate(v), *reversed(outputs))
    to_input = _transpose(stem, images) if probe.at == "image" else lambda c: c
    return Arrived(rows, carry, units, to_input, scale.astype(wide(scale)))


def _keys(network: Network, key: jax.Array) -> dict[str, jax.Array]:
    """The keys that ``Network.apply`` derives: for the stem, for each unit, and for the head."""
    names = ("stem", *(stack.name for stack in network.stacks), "head")
    keys = {name: jax.random.fold_in(key, i) for i, name in enumerate(names)}
    return keys | {s.name: jax.random.split(keys[s.name], s.n) for s in network.stacks}


def wide(x: jax.Array) -> Any:
    """The dtype in which norms of ``x`` are taken: float32 at least."""
    return jnp.promote_types(x.dtype, jnp.float32)


def largest(c: jax.Array) -> jax.Array:
    """max |c| as a divisor: 1 where all entries are 0."""
    top = jnp.max(jnp.abs(c))
    return jnp.where(top > 0, top, jnp.ones_like(top))


def norm(g: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """‖g‖₂ over ``axes``, without underflow of the squares."""
    g = g.astype(wide(g))
    top = jnp.max(jnp.abs(g), axes, keepdims=True)
    top = jnp.where(top > 0, top, jnp.ones_like(top))
    return jnp.squeeze(top, axes) * jnp.sqrt(jnp.sum(jnp.square(g / top), axes))


def whole_batches(
    network: Network, variables: Variables, images: Any, labels: Any, batch_size: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The examples in batches of one size, because a gradient belongs to a batch.

    Examples beyond the last whole batch are dropped; fewer than ``batch_size`` examples make one batch.

    Raises:
      ValueError: no example, a wrong form, or a batch size below 1.
    """
    images, labels, _ = checked_examples(network, variables, images, labels)
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; allowed: 1 or more")
    size = min(batch_size, len(images))
    return [
        (images[i : i + size], labels[i : i + size].astype(np.int32))
        for i in range(0, len(images) - size + 1, size)
    ]
