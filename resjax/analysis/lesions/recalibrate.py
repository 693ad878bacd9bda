"""BatchNorm statistics estimated anew after a lesion: how much of the damage is a stale average?

*Question.* A network with BatchNorm remembers the mean and variance that each normalized value had during
training. Take a unit out, and everything behind it is normalized by numbers that no longer fit. Veit et al.
(2016) leave them; this control estimates them again for the network as it is after the lesion, without
changing a parameter. Damage that goes away was no loss of what the unit computed. But new statistics are a
second intervention: they may also make up for some of that loss, so what stays is a lower bound of it.

*Method.* The lesioned network runs in training mode on training images, where each batch is normalized by
its own mean and variance, and these are combined by the law of total variance, over batches of equal size:

    mean = E[mean of a batch],    variance = E[variance of a batch] + Var[mean of a batch].

In a first layer this is the mean and variance of the whole set. Further on it depends a little on the
batches, as in training. An exponential average does not come into it: Linen's BatchNorm keeps
m·old + (1 − m)·new, so the network is run with old = 0, and once with old = 2²⁰ to find m.

*Reading it.* On an intact network new statistics should change little; if they do, the running ones were not
settled (few steps, a high m), and differences after lesions are to be read against that. Units whose deletion
is harmless only after the new estimate were not used by later layers but shifted them. A network without
BatchNorm has nothing to estimate: its damage can't be blamed on this.

*Cost.* For each deletion one pass over the reference images and two over the evaluated ones; two
compilations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from resjax.analysis import style
from resjax.analysis.batches import Progress, check_images, count_classes
from resjax.analysis.refusal import Refusal
from resjax.analysis.result import Classified
from resjax.analysis.variants import measure
from resjax.losses import Loss, cross_entropy
from resjax.network import Network, Variables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STATISTICS = ("running", "re-estimated")
_FAR = 2.0**20  # so large that its share m stands out from any statistic of a batch


@dataclasses.dataclass(frozen=True)
class Recalibrated(Classified):
    """Deletion of each unit with the trained statistics and with new ones; NaN where a unit can't go.

    Attributes:
      unit: names of all units in order.
      residual: bool [unit], whether the unit has a shortcut in the intact network.
      statistics: 'running' and 're-estimated'.
      error, loss, kl, agreement: [statistics, unit], as in ``DeleteEach``; all are compared with the intact
        network as it was trained.
      intact_error, intact_loss: [statistics], of the whole network.
      left_out: unit name → why it can't be deleted.
      num_examples, num_reference, num_classes: evaluated examples, images that statistics came from, classes.
      choices: what is left open.
    """

    AXES: ClassVar = {
        "residual": ("unit",),
        **dict.fromkeys(("error", "loss", "kl", "agreement"), ("statistics", "unit")),
        **dict.fromkeys(("intact_error", "intact_loss"), ("statistics",)),
    }

    unit: tuple[str, ...]
    residual: np.ndarray
    statistics: tuple[str, ...]
    error: np.ndarray
    loss: np.ndarray
    kl: np.ndarray
    agreement: np.ndarray
    intact_error: np.ndarray
    intact_loss: np.ndarray
    left_out: dict[str, str]
    num_examples: int
    num_reference: int
    num_classes: int
    choices: dict[str, Any]


def reestimate(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    *,
    gates: ArrayLike | None = None,
    batch_size: int = 128,
    seed: int = 0,
) -> dict[str, Any]:
    """``variables`` with BatchNorm statistics of the network with these gates on these images.

    Args:
      network: any with BatchNorm (``resjax.models.layers`` or Linen's own).
      variables: of the network.
      images: float [N, H, W, C], standardized as in training. Batches have one size, so up to one image less
        than there are batches is not used.
      gates: float [units], as for ``Network.apply``; None for the intact network.
      batch_size: most images at a time. Normalization is by batch, so a little of the result depends on it.
      seed: of dropout inside of layers, which acts as in training; stochastic depth does not.

    Raises:
      ValueError: no image or images of a wrong form, no batch statistics, or some of an unknown kind.
    """
    batches = _batches(variables, images, batch_size)
    kept = _kept(network, variables, batches[0], seed)
    return {**variables, "batch_stats": _estimate(network, variables, batches, gates, kept, seed)}


def _batches(variables: Variables, images: ArrayLike, batch_size: int) -> list[np.ndarray]:
    """Equal batches, after all checks."""
    images = np.asarray(images)
    check_images(images)
    _check_kinds(variables.get("batch_stats", {}))
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; allowed: 1 or more")
    count = -(-len(images) // batch_size)
    size = len(images) // count
    return [images[i * size : (i + 1) * size] for i in range(count)]


def _check_kinds(tree: Mapping[str, Any]) -> None:
    if not jax.tree.leaves(tree):
        raise Refusal(
            "this network has no batch statistics to estimate: it has no BatchNorm, so deletions are "
            "already measured without stale ones"
        )
    for path, _ in jax.tree_util.tree_leaves_with_path(tree):
        if path[-1].key not in ("mean", "var"):
            raise Refusal(
                f"batch statistic {path[-1].key!r}; only 'mean' and 'var' of a BatchNorm can be estimated"
            )


def _kept(network: Network, variables: Variables, images: np.ndarray, seed: int) -> Any:
    """m of each statistic: new = m·old + (1 − m)·batch."""
    low, far = (_update(network, variables, images, None, start, seed, 0) for start in (0, _FAR))
    # One number for a module; over its channels, the median is the least rounded.
    kept = jax.tree.map(lambda a, b: np.median((b - a) / _FAR), low, far)
    if max(jax.tree.leaves(kept)) > 1 - 1e-6:
        raise Refusal("some statistics do not change in training, so they can't be estimated")
    return kept


def _estimate(
    network: Network,
    variables: Variables,
    batches: list[np.ndarray],
    gates: ArrayLike | None,
    kept: Any,
    seed: int,
) -> Any:
    seen = []
    for i, images in enumerate(batches):
        first = _update(network, variables, images, gates, 0, seed, i)
        seen.append(jax.tree.map(lambda a, m: a / (1 - m), first, kept))
    total = _combine(jax.tree.map(lambda *v: np.stack(v), *seen))
    return jax.tree.map(lambda v, old: v.astype(old.dtype), total, variables["batch_stats"])


def _combine(tree: Any) -> Any:
    """{'mean': [batches, …], 'var': [batches, …]} anywhere in a tree → those of all batches together."""
    if "mean" not in tree:
        return {name: _combine(inner) for name, inner in tree.items()}
    mean = tree["mean"]
    return {"mean": mean.mean(0), "var": tree["var"].mean(0) + mean.var(0)}


def _update(
    network: Network,
    variables: Variables,
    images: np.ndarray,
    gates: ArrayLike | None,
    start: float,
    seed: int,
    i: int,
) -> Any:
    """Statistics float64 after batch i, if all of them were ``start`` before it."""
    gates = jnp.ones(network.num_units) if gates is None else jnp.asarray(gates)
    if network.unit_dropout is not None:  # a lesion is measured with all other units
        gates = gates * network.unit_dropout.at_test()
        network = dataclasses.replace(network, unit_dropout=None)
    key = jax.random.fold_in(jax.random.key(seed), i)
    new = _train_mode(network, variables, np.float32(start), gates, images, key)
    return jax.tree.map(np.float64, jax.device_get(new))


@partial(jax.jit, static_argnums=0)
def _train_mode(
    network: Network,
    variables: Variables,
    start: jax.Array,
    gates: jax.Array,
    images: jax.Array,
    key: jax.Array,
) -> Variables:
    filled = jax.tree.map(lambda v: jnp.full_like(v, start), variables["batch_stats"])
    mixed = {**variables, "batch_stats": filled}
    return network.apply(mixed, images, train=True, gates=gates, key=key).batch_stats


def with_statistics(
    network: Network, variables: Variables, images: jax.Array, variant: Any, extra: Any
) -> jax.Array:
    """A variant is {"gates": [units], "batch_stats": …}: a lesion, and the statistics it runs with."""
    del extra
    own = {**variables, "batch_stats": variant["batch_stats"]}
    return network.apply(own, images, gates=variant["gates"]).logits


def delete_each_recalibrated(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    reference: ArrayLike,
    loss: Loss = cross_entropy,
    batch_size: int = 128,
    seed: int = 0,
    progress: Progress | None = None,
) -> Recalibrated:
    """Deletes each unit in turn, with running statistics (Veit et al. 2016) and with new ones.

    Args:
      network: any with BatchNorm; a unit that can't be deleted is left out and named.
      variables: of the network, as ``Network.init`` returns them.
      images: float [N, H, W, C], standardized as in training; any N ≥ 1, each counted once.
      labels: int [N].
      reference: float [M, H, W, C], training images that statistics are estimated on.
      loss: (logits [B, classes], labels [B]) → [B].
      batch_size: most examples at a time.
      seed: of dropout inside of layers while statistics are estimated.
      progress: called as ``progress(lesions done, lesions in all)``, estimates and evaluations each a half.

    Raises:
      ValueError: as ``delete_each`` and ``reestimate``.
    """
    images = np.asarray(images)
    check_images(images)
    batches = _batches(variables, reference, batch_size)
    shape, n = images.shape[1:], network.num_units
    deletable = network.deletable(variables, shape)
    if not deletable.any():
        raise Refusal(
            f"none of the {n} units can be deleted: none has a shortcut or keeps its shape"
        )
    gates = np.vstack([np.ones(n), (1 - np.eye(n))[deletable]]).astype(np.float32)
    kept, made = _kept(network, variables, batches[0], seed), []
    for i, row in enumerate(gates):
        if progress:
            progress(i, 2 * len(gates))
        made.append(_estimate(network, variables, batches, row, kept, seed))
    running = jax.tree.map(np.asarray, variables["batch_stats"])
    scores, _ = measure(
        network,
        variables,
        images,
        labels,
        with_statistics,
        {
            "gates": np.concatenate([gates, gates]),
            "batch_stats": jax.tree.map(lambda *v: np.stack(v), *[running] * len(gates), *made),
        },
        loss=loss,
        batch_size=batch_size,
        progress=(lambda done, of: progress(of // 2 + done // 2, of)) if progress else None,
    )

    def by_statistics(values: np.ndarray) -> np.ndarray:
        """[statistics × (intact, lesions)] → [statistics, unit]."""
        out = np.full((len(STATISTICS), n), np.nan)
        out[:, deletable] = values.reshape(len(STATISTICS), -1)[:, 1:]
        return out

    units = network.units
    return Recalibrated(
        unit=tuple(unit.name for unit in units),
        residual=np.array([unit.stack.unit.residual for unit in units]),
        statistics=STATISTICS,
        error=by_statistics(scores.error),
        loss=by_statistics(scores.loss),
        kl=by_statistics(scores.kl),
        agreement=by_statistics(scores.agreement),
        intact_error=scores.error[:: len(gates)],
        intact_loss=scores.loss[:: len(gates)],
        left_out={
            unit.name: "no shortcut, and its input and output differ in shape"
            for unit, can_go in zip(units, deletable, strict=True)
            if not can_go
        },
        num_examples=len(images),
        num_reference=sum(map(len, batches)),
        num_classes=count_classes(network, variables, shape),
        choices={
            "statistics": f"by the law of total variance, from batches of {len(batches[0])}",
            "KL and agreement": "to the intact network with its running statistics",
            "further training": "none",
        },
    )


def plot(results: Recalibrated | Mapping[str, Recalibrated]) -> Figure:
    """Error after the deletion of each unit: filled with running, hollow with re-estimated statistics.

    Lines are the intact networks, dashed with running and dotted with re-estimated statistics.
    """
    named = {"": results} if isinstance(results, Recalibrated) else dict(results)
    fig, ax = style.axes()
    for i, (label, result) in enumerate(named.items()):
        number = 1 + np.arange(len(result.unit))
        for j, name in enumerate(result.statistics):
            look: dict[str, Any] = {"color": style.color(i), "lw": 1.4 - 0.4 * j}
            if j:
                look["markerfacecolor"] = "none"
            text = f"{label}, {name} statistics".strip(", ")
            ax.plot(number, 100 * result.error[j], style.marker(i) + "-:"[j], label=text, **look)
            ax.axhline(100 * result.intact_error[j], lw=1, ls=("--", ":")[j], color=style.color(i))
    longest = max(len(result.unit) for result in named.values())
    ax.set(xlabel="deleted unit", ylabel="error (%)", ylim=(-3, 104))
    ax.set_xlim(0.2, longest + 0.8)
    style.integer_ticks(ax)
    style.legend_above(fig, ax)
    return fig
