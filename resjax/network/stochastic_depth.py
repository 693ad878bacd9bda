"""Units that are dropped in a training step: stochastic depth, and training on effective paths only.

A dropped unit is a gate of 0 for one mini-batch, as in a lesion. Three ways to draw the gates:

* ``linear`` (Huang et al. 2016, Eq. 4): unit l of L survives with p_l = 1 − (l/L)(1 − p_L).
* ``uniform`` (ibid.): every unit survives with p_L.
* ``subset``: exactly m of the n units, uniformly (Veit et al. 2016, §5: 23 of 54; their path lengths are
  Binomial(23, ½), 11.5 modules on average).

At test time every unit runs; with ``scale_at_test`` its branch is multiplied by its survival probability
(Huang et al., Eq. 6). Veit et al. do not say whether they scale.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

KINDS = ("linear", "uniform", "subset")


@dataclasses.dataclass(frozen=True)
class UnitDropout:
    """How units are dropped in training.

    Attributes:
      kind: 'linear', 'uniform' or 'subset'.
      num_units: n, the number of units of the network.
      survival: p_L in (0, 1] ('linear', 'uniform').
      active: m in 1 … n ('subset').
      scale_at_test: multiply branches by their survival probability outside training.
      whole: where units were cut (``only``), the number of units before that, to which ``kind`` and
        ``active`` refer; 0 where none was cut.
      kept: the indices, among these, of the units that were left.
    """

    kind: str
    num_units: int
    survival: float = 0.5
    active: int = 0
    scale_at_test: bool = True
    whole: int = 0
    kept: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unit dropout {self.kind!r}; allowed: {', '.join(KINDS)}")
        if self.kind == "subset" and not 1 <= self.active <= self._drawn:
            raise ValueError(f"active={self.active}; allowed: 1 … {self._drawn} (the units)")
        if self.kind != "subset" and not 0 < self.survival <= 1:
            raise ValueError(f"survival={self.survival}; allowed: 0 < survival ≤ 1")

    @property
    def _drawn(self) -> int:
        return self.whole or self.num_units

    def only(self, kept: Sequence[int]) -> UnitDropout:
        """The same for a network of which only the units with the indices ``kept`` are left."""
        of = self.kept or range(self.num_units)
        own = tuple(of[i] for i in kept)
        return dataclasses.replace(self, num_units=len(own), whole=self._drawn, kept=own)

    def probabilities(self) -> jax.Array:
        """float32 [n]: the survival probability of each unit."""
        n = self._drawn
        if self.kind == "linear":
            return self._of_kept(1 - jnp.arange(1, n + 1, dtype=jnp.float32) / n * (1 - self.survival))
        p = self.survival if self.kind == "uniform" else self.active / n
        return self._of_kept(jnp.full((n,), p, jnp.float32))

    def draw(self, key: jax.Array) -> jax.Array:
        """float32 [n] of 0 and 1: the gates of one training step."""
        if self.kind == "subset":
            places = self._of_kept(jax.random.permutation(key, self._drawn))
            return (places < self.active).astype(jnp.float32)
        return jax.random.bernoulli(key, self.probabilities()).astype(jnp.float32)

    def at_test(self) -> jax.Array:
        """float32 [n]: the gates outside training."""
        p = self.probabilities()
        return p if self.scale_at_test else jnp.ones_like(p)

    def _of_kept(self, of_drawn: jax.Array) -> jax.Array:
        return of_drawn[np.array(self.kept)] if self.kept else of_drawn
