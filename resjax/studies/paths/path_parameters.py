"""Which paths train a unit: the gradient of a unit's own weights by the length of the path behind it.

*Question.* The gradient that reaches unit i has crossed some of the units between it and the loss. Is a unit
taught through long paths or through short ones?

*Method.* The exact cotangents by length c_k (``path_exact``) are known at the output of every unit. The
gradient of its own parameters is linear in them, so it splits in the same way:

    ∂L/∂W_i = Σ_k (∂y_i/∂W_i)ᵀ c_k,      k = branches crossed behind unit i, towards the loss

With all parameters of the unit as one vector, a length has a norm and a contribution ⟨·, whole⟩/‖whole‖²,
which sums to 1 over lengths.

*Reading it.* Early units have more units behind them, so lengths grow towards the input in any network:
compare with the dotted line, half of the units behind, which is the mean length of *all* paths there. What
leads from unit i to the input does not matter for its gradient, but for its activations, which are those of
the intact network.

*Cost.* That of the exact spectrum, and as many backward passes of a unit with respect to its weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.network.losses import Loss, cross_entropy
from resjax.studies import style
from resjax.studies.batches import Progress
from resjax.studies.paths.path_exact import cross, first_row, part_of, residual_behind
from resjax.studies.paths.path_lengths import central_range, shares
from resjax.studies.paths.path_walk import (
    PAPER,
    Crossing,
    Probe,
    norm,
    walk_back,
    whole_batches,
    wide,
)
from resjax.studies.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class PathParameters(Result):
    """Gradients of units' own parameters by the length of the path behind them.

    Attributes:
      unit: names in order.
      length: int [length], branches crossed behind a unit, 0 … units − 1.
      norm: [batch, unit, length], of the gradient through all paths of that length; 0 where there is none.
      contribution: [batch, unit, length], its part of the unit's gradient; sums to 1 over lengths.
      total: [batch, unit], norm of the unit's gradient.
      residual: bool [unit], whether the unit has a shortcut.
      batch_size: examples a batch.
      choices: what the papers leave open.
    """

    AXES: ClassVar = {
        "length": ("length",),
        "norm": ("batch", "unit", "length"),
        "contribution": ("batch", "unit", "length"),
        "total": ("batch", "unit"),
        "residual": ("unit",),
    }

    unit: tuple[str, ...]
    length: np.ndarray
    norm: np.ndarray
    contribution: np.ndarray
    total: np.ndarray
    residual: np.ndarray
    batch_size: int
    choices: dict[str, Any]

    @property
    def share(self) -> np.ndarray:
        """[unit, length]: mean norm over batches, in parts of their sum; NaN where a unit has no gradient."""
        return shares(self.norm.mean(0))

    @property
    def mean_length(self) -> np.ndarray:
        """[unit], weighted by ``share``."""
        return self.share @ self.length

    @property
    def expected_length(self) -> np.ndarray:
        """[unit], mean length of all paths behind: half of the residual units, all of the plain."""
        crossed = np.where(self.residual, 0.5, 1.0)
        return crossed.sum() - crossed.cumsum()

    @property
    def effective(self) -> np.ndarray:
        """[unit, end]: first and last length of the central 95 % of ``share``."""
        return np.array([central_range(self.length, share) for share in self.share])


def parameter_spectra(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    loss: Loss = cross_entropy,
    probe: Probe = PAPER,
    batch_size: int = 32,
    seed: int = 0,
    progress: Progress | None = None,
) -> PathParameters:
    """Splits the gradient of each unit's parameters by the length of the path from the loss to the unit.

    Args:
      network, variables: any.
      images: float [N, H, W, C], standardized as in training. Training images.
      labels: int [N].
      loss: (logits [B, classes], labels [B]) → [B].
      probe: BatchNorm's mode and the reduction of the loss; a gradient of weights belongs to a whole batch,
        so ``norm`` must be 'batch', and ``at`` does not matter.
      batch_size: examples a batch; fewer only if there are fewer in all. Examples beyond the last whole batch
        are not used. Memory grows with it.
      seed: of dropout, where ``probe.train``.
      progress: called as ``progress(batches done, batches in all)``.

    Raises:
      ValueError: a norm of examples, no example, images or labels of a wrong form, a batch size below 1.
    """
    if probe.norm != "batch":
        raise ValueError(f"norm={probe.norm!r}; allowed: 'batch', whose sum a weight's gradient is")
    batches = whole_batches(network, variables, images, labels, batch_size)
    found = []
    for i, (x, y) in enumerate(batches):
        if progress:
            progress(i, len(batches))
        key = jax.random.fold_in(jax.random.key(seed), i)
        found.append(jax.device_get(_by_unit(network, loss, probe, variables, x, y, key)))
    if progress:
        progress(len(batches), len(batches))
    units, size = network.units, len(batches[0][0])
    residual = np.array([unit.stack.unit.residual for unit in units])
    by_length = [
        (_place(norms * np.float64(scale), residual), _place(parts, residual))
        for norms, parts, _, scale in found
    ]
    choices = {**probe.choices(), "norm": "L2 over all parameters of a unit"}
    del choices["gradient at"]
    return PathParameters(
        unit=tuple(unit.name for unit in units),
        length=np.arange(len(units)),
        norm=np.stack([norms for norms, _ in by_length]),
        contribution=np.stack([parts for _, parts in by_length]),
        total=np.stack([np.float64(scale) * total for _, _, total, scale in found]),
        residual=residual,
        batch_size=size,
        choices={**choices, "batches": f"{len(batches)} of {size} examples", "seed": seed},
    )


def _place(values: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """[unit, row] → [unit, length]: a row counts residual branches, a length also the plain units behind."""
    units = len(residual)
    placed = np.zeros((units, units))
    for i, row in enumerate(values):
        plain = int(np.sum(~residual[i + 1 :]))
        count = units - i - plain  # residual units behind, and one
        placed[i, plain : plain + count] = row[:count]
    return placed


@partial(jax.jit, static_argnums=(0, 1, 2))
def _by_unit(
    network: Network,
    loss: Loss,
    probe: Probe,
    variables: Variables,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Norms and contributions [unit, row], the whole norms [unit], and what norms are divided by."""

    def cross_unit(unit: Crossing, rows: jax.Array, _: Any, behind: jax.Array) -> Any:
        parameters = unit.parameters()

        def gradient(c: jax.Array) -> jax.Array:
            flat = ravel_pytree(parameters(c))[0]
            return flat.astype(wide(flat)) if flat.size else jnp.zeros(1, wide(c))

        whole = gradient(jnp.sum(rows, 0))

        def measure(k: jax.Array, found: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
            g = gradient(lax.dynamic_index_in_dim(rows, k, keepdims=False))
            norms, parts = found
            return norms.at[k].set(norm(g, (0,))), parts.at[k].set(part_of(g, whole))

        zeros = jnp.zeros(len(rows), whole.dtype)
        norms, parts = lax.fori_loop(0, behind + 1, measure, (zeros, zeros))
        return cross(unit, rows, behind), None, (norms, parts, norm(whole, (0,)))

    walk = walk_back(
        network,
        loss,
        probe,
        variables,
        images,
        labels,
        key,
        start=first_row(network),
        cross=cross_unit,
        carry=None,
        xs=residual_behind(network),
    )
    return *walk.units, walk.scale


def plot(results: PathParameters | Mapping[str, PathParameters], ax: Axes | None = None) -> Figure:
    """For each unit, how many branches the gradient of its weights has crossed: mean and central 95 %.

    The dotted line is the mean length of all paths behind the unit.
    """
    named = {"": results} if isinstance(results, PathParameters) else dict(results)
    fig, ax = style.axes(ax)
    for i, (label, result) in enumerate(named.items()):
        number, color = 1 + np.arange(len(result.unit)), style.color(i)
        low, high = result.effective.T
        ax.fill_between(number, low, high, color=color, alpha=0.18, lw=0)
        name = f"{label}, gradient".strip(", ")
        ax.plot(number, result.mean_length, style.marker(i) + "-", color=color, label=name)
        name = f"{label}, all paths".strip(", ")
        ax.plot(number, result.expected_length, ":", color=color, label=name)
    ax.set(xlabel="unit, from the input to the loss", ylabel="branches crossed behind it")
    style.integer_ticks(ax)
    style.legend_above(fig, ax)
    return fig
