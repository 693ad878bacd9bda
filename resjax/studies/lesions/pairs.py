"""Deletions of every two units, and of every run of neighbours: who depends on whom.

*Question.* Does the harm of two deletions add up? With rise(S) the error, or the loss, without the units of
S, minus the intact network's, the interaction of two units is

    rise({i, j}) − rise({i}) − rise({j}).

Near 0, each does its part whatever the other does. Above 0, one stands in for the other: the network can do
without either, not without both. Below 0, they work together only, so that without one the other is of no
use, or else each alone has broken the network already: an error can't rise to chance twice. Look at the
rises; and the loss has no such ceiling.

Runs of neighbours are what one would cut to make a network shallower (Gromov et al. 2024 cut them out of
language models): is the harm of a run that of as many random units (``resjax.studies.lesions.deletions``)?

*Protocol.* As for single deletions (``resjax.studies.lesions.lesion``). A run with a unit inside that can't
be deleted is left out.

*Reading it.* An interaction belongs to these examples and this one network, and carries no interval: nothing
was drawn. One example more or less is 1 ÷ examples of error. The largest of n²/2 numbers is in part luck.

*Cost.* About n² deletions, of which shared beginnings leave n³/3 evaluations of a unit
(``resjax.studies.lesions.prefixes``): take few examples. With ``recalibrate_on`` nothing is shared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.network.losses import Loss, cross_entropy
from resjax.studies import style
from resjax.studies.batches import Progress, check_images
from resjax.studies.lesions.deletions import Deletions, delete_subsets
from resjax.studies.lesions.subsets import candidates, pairs_and_runs
from resjax.studies.spread import intact_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def delete_pairs(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    loss: Loss = cross_entropy,
    recalibrate_on: ArrayLike | None = None,
    batch_size: int = 128,
    progress: Progress | None = None,
) -> Deletions:
    """Deletes every two units, every run of neighbours, and each one alone.

    See ``pair_matrix``, ``run_matrix`` and ``interaction``. The arguments are those of ``delete_subsets``.

    Raises:
      ValueError: as ``delete_subsets``.
    """
    images = np.asarray(images)
    check_images(images)
    allowed, _ = candidates(network, variables, images.shape[1:])
    return delete_subsets(
        network,
        variables,
        images,
        labels,
        pairs_and_runs(allowed),
        loss=loss,
        recalibrate_on=recalibrate_on,
        batch_size=batch_size,
        progress=progress,
    )


def pair_matrix(result: Deletions, what: str = "error") -> np.ndarray:
    """[unit, unit], symmetric: i and j deleted; on the diagonal i alone; NaN what was not measured."""
    chosen = (result.number >= 1) & (result.number <= 2)
    matrix = _by_ends(result.deleted[chosen], getattr(result, what)[chosen])
    return np.where(np.isnan(matrix), matrix.T, matrix)


def run_matrix(result: Deletions, what: str = "error") -> np.ndarray:
    """[first, last]: all units from first to last deleted; NaN below the diagonal."""
    n = len(result.unit)
    first, last = result.deleted.argmax(1), n - 1 - result.deleted[:, ::-1].argmax(1)
    chosen = result.number == last - first + 1
    return _by_ends(result.deleted[chosen], getattr(result, what)[chosen])


def interaction(result: Deletions, what: str = "error") -> np.ndarray:
    """rise({i, j}) − rise({i}) − rise({j}), [unit, unit], symmetric; the diagonal is NaN."""
    rise = pair_matrix(result, what) - intact_value(result, what)
    alone = np.diag(rise)
    together = rise - alone[:, None] - alone[None, :]
    np.fill_diagonal(together, np.nan)
    return together


def _by_ends(deleted: np.ndarray, values: np.ndarray) -> np.ndarray:
    n = deleted.shape[1]
    matrix = np.full((n, n), np.nan)
    matrix[deleted.argmax(1), n - 1 - deleted[:, ::-1].argmax(1)] = values
    return matrix


def plot(results: Deletions | Mapping[str, Deletions]) -> Figure:
    """Interaction of every two units (left) and error without every run of neighbours, one row a network."""
    named = {"": results} if isinstance(results, Deletions) else dict(results)
    narrow = style.is_narrow()
    shape = (2 * len(named), 1) if narrow else (len(named), 2)
    fig, grid = style.axes_grid(*shape)
    width, _ = fig.get_size_inches()
    fig.set_size_inches(width, shape[0] * (3.5 if narrow else 3.3))
    cells = [ax for row in grid for ax in row]
    for (label, result), left, right in zip(named.items(), cells[::2], cells[1::2], strict=True):
        together, run = 100 * interaction(result), 100 * run_matrix(result)
        most = max(float(np.nanmax(np.abs(together), initial=0.0)), 1.0)
        name = f"{label}: " if label else ""
        _heat(left, together, "PuOr_r", (-most, most), f"{name}two units, interaction (points)")
        _heat(right, run.T, "viridis", (0, 100), f"{name}runs of neighbours, error (%)")
        left.set(xlabel="unit", ylabel="unit")
        right.set(xlabel="first deleted", ylabel="last deleted")
    return fig


def _heat(
    ax: Axes, values: np.ndarray, colors: str, limits: tuple[float, float], title: str
) -> None:
    n = len(values)
    image = ax.imshow(
        values, colors, vmin=limits[0], vmax=limits[1], extent=(0.5, n + 0.5, n + 0.5, 0.5)
    )
    ax.set_title(title)
    ax.grid(False)
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.9)
    bar.outline.set_visible(False)
