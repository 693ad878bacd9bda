"""Backpropagation of many cotangents at once through one network, for exact and sampled path gradients.

Backpropagation passes one vector, ∂L/∂y, from unit to unit. Here several *rows* of vectors are propagated
backwards, and the analysis defines how each unit changes them. A unit z = s(x) + g·f(x), y = m(z) has three
linear maps, the transposed Jacobians Mᵀ, Sᵀ and Jᵀ of m, s and g·f, at the state of the *intact* network::

    ∂L/∂x = Sᵀ Mᵀ ∂L/∂y + Jᵀ Mᵀ ∂L/∂y

M (the last ReLU of a post-activation unit) applies to both terms. The states come from one forward pass. Each
branch runs forward again in the backward pass, so only one unit's inner activations exist at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from resjax.network import Network, Variables
from resjax.network.losses import Loss
from resjax.network.order import arranged
from resjax.network.periods import Place, by_unit, scan_places
from resjax.network.unit import Unit
from resjax.studies.examples import differentiable
from resjax.studies.options import Options

BATCH_SIZE = 32
# Studies take small batches, and twice as many as ``gradient_batches``: the interval is over batches, and the
# cost grows with the number of examples. One size for both modes, because a norm belongs to a batch.
STUDY_BATCH = 16


def study_batches(options: Options) -> int:
    """How many batches of ``STUDY_BATCH`` examples a study takes; with fewer than two it has no interval."""
    return max(2, 2 * options.gradient_batches)


@dataclasses.dataclass(frozen=True)
class Probe:
    """How the gradient at the input is measured; the paper leaves these choices open.

    Stochastic depth scales branches as at test time, so every unit runs.
    """

    # True: BatchNorm uses (and differentiates) the statistics of the batch, and dropout is active.
    train: bool = False
    reduction: str = "mean"  # of the loss over a batch, or 'sum'
    norm: str = "batch"  # one L2 norm over all examples; 'example': the mean of their norms
    # 'first unit': the gradient at its input, without the stem, as always for inputs that are not floats
    at: str = "image"

    def __post_init__(self) -> None:
        allowed = {
            "reduction": ("mean", "sum"),
            "norm": ("batch", "example"),
            "at": ("image", "first unit"),
        }
        for name, values in allowed.items():
            if (value := getattr(self, name)) not in values:
                raise ValueError(f"{name}={value!r}; allowed: {', '.join(map(repr, values))}")

    @property
    def statistics(self) -> str:
        """The statistics that BatchNorm uses."""
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
        """Norms per example [..., B] → one float64 per batch [...], by ``norm``."""
        norms = norms.astype(np.float64)
        return norms.mean(-1) if self.norm == "example" else np.sqrt((norms**2).sum(-1))

    def fits(self, images: Any) -> Probe:
        """This probe; at the first unit where inputs are no images, because tokens have no gradient."""
        if self.at == "image" and not differentiable(images):
            return dataclasses.replace(self, at="first unit")
        return self


PAPER = Probe()  # where the paper is silent, the simplest choice
TRAINING = Probe(train=True)
Linear = Callable[[jax.Array], Any]


@dataclasses.dataclass(frozen=True)
class Crossing:
    """One unit at the intact network's state ``x`` [B, …], and its transposed Jacobians there.

    Methods run forward and return a linear function of cotangents. Call methods outside loops, and the
    functions inside.
    """

    unit: Unit
    part: Any
    x: jax.Array
    gate: jax.Array | None
    key: jax.Array | None
    train: bool

    def _run(self, method: str, part: Any, *inputs: Any) -> Any:
        rngs = None if self.key is None else {"dropout": self.key}
        return self.unit.apply(part, *inputs, self.train, rngs=rngs, method=method, mutable=["batch_stats"])[
            0
        ]

    def _split(self, x: jax.Array) -> tuple[Any, jax.Array]:
        s, f = self._run("split", self.part, x)
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
        return _transpose(lambda z: self._run("merge", self.part, z), z)

    def parameters(self) -> Linear:
        """c → the gradient of all parameters of the unit (a pytree) for ∂L/∂y = c."""

        def output(params: Any) -> jax.Array:
            return self._run("parts", {**self.part, "params": params}, self.x, self.gate).y

        return _transpose(output, self.part.get("params", {}))


def _transpose(f: Callable[[Any], jax.Array], at: Any) -> Linear:
    transposed = jax.vjp(f, at)[1]
    return lambda c: transposed(c)[0]


class Arrived(NamedTuple):
    """Result of ``walk_back``. Gradients are divided by ``scale``, so that small losses do not underflow."""

    rows: Any  # arrays [B, …] or [rows, B, …], at the input of the first unit
    carry: Any
    units: Any  # outputs of ``cross``, with a leading axis of units
    to_input: Linear  # maps one row to the place where the probe measures
    scale: jax.Array  # largest entry of the gradient behind the last unit


def walk_back(
    network: Network,
    loss: Loss,
    probe: Probe,
    variables: Variables,
    images: Any,
    labels: jax.Array,
    key: jax.Array,
    gates: jax.Array | None = None,
    order: jax.Array | None = None,
    *,
    start: Callable[[jax.Array], Any],
    cross: Callable[[Crossing, Any, Any, Any], tuple[Any, Any, Any]],
    carry: Any,
    xs: Any,
) -> Arrived:
    """Runs the network forward on one batch, then ``cross`` at each unit from the last to the first.

    Args:
      key: for dropout, used with ``probe.train``.
      gates: float [units], factors on branches; None for those outside training.
      order: int [units], as for ``Network.apply``; None for the true order.
      start: the gradient behind the last unit [B, …] → rows [rows, B, …], or a pytree of arrays.
      cross: (unit, rows behind it, carry, xs of the unit) → rows in front of it, carry, output of the unit.
      carry: pytree passed along with the rows.
      xs: pytree of arrays with a leading axis of units, in order.
    """
    train, probe = probe.train, probe.fits(images)
    gates = network.test_gates if gates is None else gates
    variables, gates = arranged(network.bound(variables, images), gates, order, network.units)
    places = network.places(variables, gates)
    keys = network.keys(key if train else None, places)

    def stem(x: Any) -> jax.Array:
        return network.run_stem(variables, x, train=train, key=keys["stem"])[0]

    how: dict[str, Any] = {"train": train, "keys": keys["units"]}
    h, _, inputs = network.run_places(places, stem(images), **how, tap=lambda parts: parts.x)

    def loss_of(h: jax.Array) -> jax.Array:
        logits, _ = network.run_head(variables, h, train=train, key=keys["head"])
        return (jnp.mean if probe.reduction == "mean" else jnp.sum)(loss(logits, labels))

    gradient = jax.grad(loss_of)(h)
    scale = largest(gradient)

    def back(place: Place, state: Any, of_unit: Any) -> tuple[Any, Any]:
        part, gate, x, key, xs = of_unit
        rows, carry = state
        rows, carry, out = cross(Crossing(place.stack.unit, part, x, gate, key, train), rows, carry, xs)
        return (rows, carry), out

    of_units = [
        (place.variables, place.gates, x, own_keys, place.take(xs))
        for place, x, own_keys in zip(places, inputs, keys["units"], strict=True)
    ]
    state = start(gradient / scale), carry
    (rows, carry), outputs = scan_places(places, back, state, of_units, reverse=True)
    units = by_unit(places, outputs)
    to_input = _transpose(stem, images) if probe.at == "image" else lambda c: c
    return Arrived(rows, carry, units, to_input, scale.astype(wide(scale)))


def wide(x: jax.Array) -> Any:
    """The dtype in which norms of ``x`` are taken: float32 at least."""
    return jnp.promote_types(x.dtype, jnp.float32)


def largest(c: jax.Array) -> jax.Array:
    """max |c| as a divisor: 1 if all entries are 0."""
    top = jnp.max(jnp.abs(c))
    return jnp.where(top > 0, top, jnp.ones_like(top))


def norm(g: jax.Array, axes: tuple[int, ...] | None = None) -> jax.Array:
    """‖g‖₂ over ``axes`` (None: all), without underflow of the squares."""
    g = g.astype(wide(g))
    top = jnp.max(jnp.abs(g), axes, keepdims=True)
    top = jnp.where(top > 0, top, jnp.ones_like(top))
    return jnp.squeeze(top, axes) * jnp.sqrt(jnp.sum(jnp.square(g / top), axes))


def norm_of_each(g: jax.Array) -> jax.Array:
    """[B]: ‖g‖₂ of each example."""
    return norm(g, tuple(range(1, g.ndim)))


def rows_before(unit: Crossing, rows: jax.Array) -> tuple[jax.Array, Any]:
    """A buffer for the rows in front of a unit, and (buffer, k) → row k behind it.

    If the unit keeps the shape, the buffer holds the rows behind it, so read each row before overwriting it.
    """
    same = unit.x.shape == rows.shape[1:]
    room = rows if same else jnp.zeros((len(rows), *unit.x.shape), rows.dtype)

    def behind(room: jax.Array, k: jax.Array | int) -> jax.Array:
        return lax.dynamic_index_in_dim(room if same else rows, k, keepdims=False)

    return room, behind
