"""One unit of a network: a branch beside a shortcut, and what follows their sum.

To write your own network, subclass ``Unit``::

    class Block(Unit):
        def setup(self):
            self.conv = Conv(16)

        def split(self, x, train):
            return x, nn.relu(self.conv(x))      # shortcut, branch

and put it into a ``resjax.network.Network``: gates, orders and every analysis then work.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

# Names of the arrays that a unit in a loop stores for its backward pass; see ``resjax.network.run``.
CONVOLUTION, STATISTIC = "convolution", "statistic"


class Parts(NamedTuple):
    """Input ``x``, shortcut, branch and output ``y`` of one unit, [B, …].

    ``shortcut`` is None in a plain unit whose input and output shapes differ. In a unit dropped by stochastic
    depth, the shortcut and the branch are zeros.
    """

    x: jax.Array
    shortcut: jax.Array | None
    branch: jax.Array
    y: jax.Array


class Unit(nn.Module):
    """Base class of units. A unit defines ``split`` and, if something follows the sum, ``merge``.

    Define submodules in ``setup`` (not ``nn.compact``), because both methods may use some.
    """

    @property
    def residual(self) -> bool:
        """Whether the intact unit adds its shortcut."""
        return True

    @property
    def vanishes(self) -> bool | None:
        """Whether the unit, when it is deleted, returns its input, so that nothing of it is left in a smaller
        network (``resjax.network.cut``). None: as tracing ``skip`` shows."""
        return None

    @property
    def rectified(self) -> bool:
        """Whether the output is never negative, because a ReLU ends the unit. Then one also ends the map that
        stands in the place of units that were cut (``resjax.network.maps``)."""
        return False

    def split(self, x: jax.Array, train: bool) -> tuple[Any, jax.Array]:
        """[B, …] → (shortcut, branch), of equal shapes.

        In a plain unit, the shortcut replaces the branch when the unit is deleted: it is the input, or None
        if the shapes differ.
        """
        raise NotImplementedError(f"{type(self).__name__} must define split(x, train)")

    def merge(self, z: jax.Array, train: bool) -> jax.Array:
        """The operations after the sum: [B, …] → [B, …]; the identity, unless overridden."""
        del train
        return z

    def parts(self, x: jax.Array, gate: jax.Array | None = None, train: bool = False) -> Parts:
        """Runs the unit; ``gate`` is a scalar factor on the branch, None for an intact unit."""
        s, f = self.split(x, train)
        g = None if gate is None else jnp.asarray(gate, f.dtype)
        z = f if g is None else g * f
        if self.residual:
            z = s + z
        elif g is not None and s is not None:
            z = z + (1 - g) * s
        return Parts(x, s, f, self.merge(z, train))

    def skip(self, x: jax.Array, train: bool = False) -> jax.Array:
        """The unit without its branch, which is not computed.

        Override it where the shortcut has variables, so that those of the branch are not read.
        """
        return self.merge(self.split(x, train)[0], train)

    def __call__(self, x: jax.Array, gate: jax.Array | None = None, train: bool = False) -> jax.Array:
        return self.parts(x, gate, train).y


@dataclasses.dataclass(frozen=True)
class Stack:
    """``n`` consecutive equal units, which share one module and whose variables are stacked.

    ``stage`` counts the resolutions or widths of the network from 1. A unit that changes the shape needs a
    stack of its own (n = 1).

    Equal units that do not follow one another, such as the attention units of a transformer, between which
    others run, form a *group*: stacks with the same ``group`` have equal modules, and inputs and outputs of
    the same shapes. Their variables are rows of one part, ``variables[collection][group]``, of which this
    stack has those from ``start`` on. Without a group, the part has the stack's own name.
    """

    name: str
    unit: Unit
    n: int
    stage: int
    group: str = ""
    start: int = 0

    @property
    def part(self) -> str:
        """The name of the part of the variables that holds those of this stack."""
        return self.group or self.name


@dataclasses.dataclass(frozen=True)
class UnitInfo:
    """Unit ``index`` of a network, at ``position`` of its stack; ``name`` is for display."""

    index: int
    stack: Stack
    position: int
    name: str

    @property
    def part(self) -> str:
        """The name of the part of the variables that holds those of this unit. Only units of the same part
        can take each other's place."""
        return self.stack.part

    @property
    def row(self) -> int:
        """The index of this unit in the leading axis of its part."""
        return self.stack.start + self.position
