"""Maps in the place of units that were cut: how much of a branch is a simple function of the state?

*Question.* Deleted, a unit leaves its input. How much of what it did can a map do that sees one position at a
time: a factor and an offset for each channel, or a matrix of low rank (``resjax.network.maps``)? And what
does that cost?

*Definition.* Units that are gone and follow one another are a run. x is the state where the run was in the
network that is cut, behind what is left of the shortcuts; y is the state behind the run in the intact
network. (Intact means before this cut: it may lack units already, and have maps in their place.) The map is
the one with the least mean of ‖map(x) − y‖² over all examples and positions. With the means x̄ and ȳ:

* ``affine``, for each channel: a = cov(x, y) / var(x), b = ȳ − a·x̄. Where x is constant, a = 1.
* ``linear``: the reduced-rank regression of d = y − x on x (Izenman 1975; Reinsel & Velu 1998, ch. 2, with
  the identity as weights). With S = cov(x, x), R = cov(x, d) and a singular value decomposition,

      S^(−1/2)·R = A·Σ·Wᵀ,   V = S^(−1/2)·A_r,   Uᵀ = Σ_r·W_rᵀ,   b = d̄ − U·Vᵀ·x̄,

  where r marks the first r columns. The r numbers Vᵀx are uncorrelated and have variance 1, and the map
  explains trace Σ_r² of the variance of d. Directions in which x does not vary are left out (S^(−1/2) is that
  of the pseudo-inverse), so no ridge is needed.

Where a ReLU ends the units, one follows the map. The least squares are those in front of it. It can only
lessen the error, since y is never negative and the ReLU takes map(x) nearer to every such y.

*Order.* Runs are mapped from the first to the last, each on the states of the network that has the maps in
front of it. So a map also mends what those before it left wrong. Fitted on intact states, it would be applied
to states that it never saw. (Zhang et al. 2016, arXiv:1505.06798, approximate the layers of a network so, and
call it asymmetric.)

*Images.* Training images, without labels. Nothing is trained. Measure errors on other images.

*Cost.* For each run, a forward pass of both networks up to it. Memory does not grow with the number of
images, because only sums are kept, in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from resjax.network import Network, Variables
from resjax.network.cut import HeadAfter, UnitAfter, cut, cut_variables
from resjax.network.parts import part_of
from resjax.network.refusal import Refusal
from resjax.studies.batches import BATCH_SIZE, Progress, padded_batches, total, within
from resjax.studies.examples import checked_inputs, num_examples, take
from resjax.studies.lesions.prefixes import walker

# Sums are of float32 states, whose variance is known to about 1e-14 of their mean square.
_CONSTANT = 1e-10
_ROWS = 2**16  # positions whose states are float64 at a time


def fit(
    network: Network,
    variables: Variables,
    gone: Sequence[str],
    images: Any,
    kind: str,
    rank: int,
    *,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> Variables:
    """The variables of ``cut(network, gone, images, (kind, rank))``, with maps by least squares.

    Args:
      network, variables: intact, or as an earlier cut has left them.
      gone: names of units.
      images: inputs [N, …], N ≥ 1, such as training images.
      kind, rank: of the maps, see ``resjax.network.maps``.
      batch_size, progress: as in every analysis (``Running``); the batch size does not affect the maps.

    Raises:
      ValueError: as ``cut``, other connections bypass units (``Network.chained``), no example, or states that
        are not finite.
    """
    if not network.chained:
        network.check_chain()
    images = checked_inputs(network, images)
    example = take(images, slice(1))
    smaller = cut(network, gone, example, (kind, rank))
    own = cut_variables(network, variables, gone, example, (kind, rank))
    ends, places = _ends(np.array([unit.name in gone for unit in network.units]))
    for i, (end, place) in enumerate(zip(ends.tolist(), places.tolist(), strict=True)):
        sums = total(
            moments(kind, x, y)
            for batch in padded_batches(
                images, np.zeros(num_examples(images), int), batch_size, within(progress, i, 1, len(ends))
            )
            for x, y in _rows(
                _in_front(smaller, own, place, batch.images)[batch.mask],
                _through(network, variables, end, batch.images)[batch.mask],
            )
        )
        if not all(np.isfinite(one).all() for one in sums.values()):
            name = network.units[end - 1].name
            raise Refusal(f"no map can be fitted: the states in front of or behind {name} are not finite")
        own = _with_map(smaller, own, place, least_squares(kind, rank, sums))
    return own


def passes_to_fit(gone: np.ndarray) -> float:
    """How many passes of the intact network ``fit`` takes for each image, without the units bool [units]."""
    ends, places = _ends(gone)
    return float((ends + places).sum() / len(gone))


def _ends(gone: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Behind each run, how many units of the intact network have run, and of the smaller one."""
    ends = np.flatnonzero(gone & ~np.append(gone[1:], False)) + 1
    return ends, ends - np.cumsum(gone)[ends - 1]


def moments(kind: str, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Sums over rows of x and y, float64 [n, C], and of their products: [C, C], for 'affine' [C]."""
    products = (lambda a, b: (a * b).sum(0)) if kind == "affine" else (lambda a, b: a.T @ b)
    sums = {"n": np.array(len(x)), "x": x.sum(0), "y": y.sum(0)}
    return sums | {"xx": products(x, x), "xy": products(x, y)}


def least_squares(kind: str, rank: int, sums: dict[str, np.ndarray]) -> dict[str, Any]:
    """The parameters of a ``Map``, float32, from the sums of ``moments``."""
    n, x, y = sums["n"], sums["x"] / sums["n"], sums["y"] / sums["n"]
    if kind == "affine":
        var, cov, square = sums["xx"] / n - x * x, sums["xy"] / n - x * y, sums["xx"] / n
        varies = var > _CONSTANT * square
        scale = np.where(varies, cov / np.where(varies, var, 1), 1)
        found: dict[str, Any] = {"scale": scale, "bias": y - scale * x}
    else:
        var = sums["xx"] / n - np.outer(x, x)
        cov = sums["xy"] / n - np.outer(x, y) - var  # of x and y − x
        values, vectors = np.linalg.eigh(var)
        varies = values > _CONSTANT * np.trace(sums["xx"] / n)
        whitened = vectors * np.where(varies, np.where(varies, values, 1) ** -0.5, 0)
        left, singular, right = np.linalg.svd(whitened.T @ cov)
        down, up = whitened @ left[:, :rank], singular[:rank, None] * right[:rank]
        found = {"down": {"kernel": down}, "up": {"kernel": up, "bias": y - x - x @ down @ up}}
    return jax.tree.map(lambda v: jnp.asarray(v, np.float32), found)


def _rows(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """States [B, …, C] as float64 [n, C], some positions at a time."""
    x, y = (v.reshape(-1, v.shape[-1]) for v in (x, y))
    for start in range(0, len(x), _ROWS):
        yield x[start : start + _ROWS].astype(float), y[start : start + _ROWS].astype(float)


def _through(network: Network, variables: Variables, units: int, x: Any) -> np.ndarray:
    """The state behind the first ``units`` units."""
    state, step, _ = walker(network, variables, x)
    for i in range(units):
        state = step(i, state)
    return np.asarray(state)


def _in_front(smaller: Network, variables: Variables, place: int, x: Any) -> np.ndarray:
    """The state in front of the map that stands before unit ``place``, or before the head."""
    module, part, row, _ = _holder(smaller, place)
    state = _through(smaller, variables, place, x)
    return np.asarray(_run_in_front(module, part_of(variables, part), row, state))


@partial(jax.jit, static_argnums=(0, 2))
def _run_in_front(module: nn.Module, variables: Any, row: int | None, state: jax.Array) -> Any:
    own = variables if row is None else jax.tree.map(lambda v: v[row], variables)
    return module.apply(own, state, method="in_front")


def _with_map(smaller: Network, variables: Variables, place: int, found: dict[str, Any]) -> dict[str, Any]:
    """``variables`` with the parameters ``found`` of that map."""
    _, part, row, last = _holder(smaller, place)
    found = found if row is None else jax.tree.map(lambda v: v[None], found)
    params = variables["params"]
    return {**variables, "params": {**params, part: {**params[part], last: found}}}


def _holder(smaller: Network, place: int) -> tuple[Any, str, int | None, str]:
    """The module that begins with the map, the part with its variables, its row there (None for the head),
    and the name of the map."""
    if place == smaller.num_units:
        module, part, row = smaller.head, "head", None
    else:
        unit = smaller.units[place]
        module, part, row = unit.stack.unit, unit.part, unit.row
    assert isinstance(module, UnitAfter | HeadAfter)
    return module, part, row, f"before_{len(module.before) - 1}"
