"""How a changed network is compared with the intact one, example by example.

There are four numbers, because they disagree (Gromov et al. 2024; Lad et al. 2024). The error says whether
the prediction is right, the loss how confident it is, KL(p_intact ‖ p_changed) how far all probabilities
moved, and the agreement whether the prediction is still the same, right or wrong.

Of logits at several positions [B, …, classes], all four are means over the positions of an example. The error
is what the caller's *metric* gives, from 0 for right to 1 for wrong.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from resjax.network.losses import Loss, Metric, over_positions

MEASURES = ("error", "loss", "kl", "agreement")
_ROUNDING = 1e-5  # of a metric in float32


Array = jax.Array | np.ndarray


class Outcomes(NamedTuple):
    """What a changed network does with each example, [..., B]."""

    wrong: Array  # by the metric: bool, or float from 0 to 1
    loss: Array
    kl: Array  # KL(p_intact ‖ p_changed), nats
    agree: Array  # bool, whether both networks predict the same class; at several positions the share


def compare(logits: jax.Array, intact: jax.Array, labels: jax.Array, loss: Loss, metric: Metric) -> Outcomes:
    """Compares a changed network with the intact one on one batch, example by example.

    Args:
      logits, intact: float [B, …, classes].
      labels: int32 [B, …].
      loss, metric: (logits, labels) → [B].

    Raises:
      ValueError: a loss or a metric that does not give one number for each example.
    """
    log_p, log_q = jax.nn.log_softmax(intact), jax.nn.log_softmax(logits)
    choice = jnp.argmax(logits, -1)
    kl = jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)
    agree = choice == jnp.argmax(intact, -1)
    wrong, own_loss = metric(logits, labels), loss(logits, labels)
    for name, values in (("metric", wrong), ("loss", own_loss)):
        if jnp.shape(values) != labels.shape[:1]:
            raise ValueError(
                f"the {name} gives an array of shape {list(jnp.shape(values))} for labels of shape "
                f"{list(labels.shape)}; allowed: {list(labels.shape[:1])}, one number for each example, such "
                "as the mean over its positions"
            )
    return Outcomes(wrong, own_loss, over_positions(kl, labels), over_positions(agree, labels))


compiled_compare = jax.jit(compare, static_argnums=(3, 4))


def stacked(found: Iterable[Sequence[Outcomes]], masks: Iterable[np.ndarray]) -> Iterator[tuple[Any, Any]]:
    """The parts of ``Scores.of`` from the outcomes of all networks on each batch, and its mask."""
    for outcomes, mask in zip(found, masks, strict=True):
        yield jax.tree.map(lambda *v: np.stack(v), *jax.device_get(outcomes)), mask


@dataclasses.dataclass(frozen=True)
class Scores:
    """What each of m changed networks does with each of N examples, and the means over these.

    *Memory.* Ten bytes for each network and example, 40 MB for 400 networks and 10,000 examples; 13 with a
    metric of floats, and 16 with labels at several positions.
    """

    each: Outcomes  # arrays [m, N]: bool or float ``wrong``, float32 ``loss`` and ``kl``, ``agree``
    labels: np.ndarray  # [N, …], those of the examples
    num_classes: int

    @property
    def wrong(self) -> np.ndarray:
        """bool or float [m, N], the metric of each example."""
        return np.asarray(self.each.wrong)

    @property
    def num_examples(self) -> int:
        return self.wrong.shape[-1]

    @functools.cached_property
    def means(self) -> dict[str, Any]:
        """``MEASURES``, each float64 [m]: the mean of the metric (by default the share of wrong predictions,
        0 … 1), of the loss, of KL(p_intact ‖ p_changed) in nats, and the share of predictions that are the
        same in both networks."""
        own = (np.asarray(values).mean(-1, dtype=np.float64) for values in self.each)
        return dict(zip(MEASURES, own, strict=True))

    @property
    def error(self) -> np.ndarray:
        return np.asarray(self.means["error"])

    @property
    def loss(self) -> np.ndarray:
        return np.asarray(self.means["loss"])

    @property
    def kl(self) -> np.ndarray:
        return np.asarray(self.means["kl"])

    @property
    def agreement(self) -> np.ndarray:
        return np.asarray(self.means["agreement"])

    @property
    def class_error(self) -> np.ndarray | None:
        """[m, classes], NaN for a class without examples; None where examples have labels at several
        positions."""
        if self.labels.ndim != 1:
            return None
        of_class = self.labels[:, None] == np.arange(self.num_classes)
        count = of_class.sum(0).astype(float)
        return np.asarray(self.wrong @ of_class.astype(float) / np.where(count > 0, count, np.nan))

    @property
    def as_intact(self) -> dict[str, Any]:
        """The fields of ``Compared``, where these are the scores of the intact network."""
        return {
            "intact_error": float(np.ravel(self.error)[0]),
            "intact_loss": float(np.ravel(self.loss)[0]),
            "num_examples": self.num_examples,
            "num_classes": self.num_classes,
        }

    def take(self, rows: Any) -> Scores:
        """The scores of some of the networks; ``rows`` indexes the axis m."""
        return dataclasses.replace(self, each=Outcomes(*(values[rows] for values in self.each)))

    @classmethod
    def join(cls, parts: Sequence[Scores]) -> Scores:
        """Those of several groups of networks on the same examples, one after the other."""
        each = (np.concatenate(values) for values in zip(*(part.each for part in parts), strict=True))
        return dataclasses.replace(parts[0], each=Outcomes(*each))

    @classmethod
    def of(cls, parts: Iterable[tuple[Any, np.ndarray]], labels: np.ndarray, num_classes: int) -> Scores:
        """From batches, one at a time: ``Outcomes`` [m, B] with the mask [B] of their real examples, in the
        order of the ``labels`` [N, …].

        Raises:
          ValueError: a metric with other values than 0 … 1.
        """
        real = [Outcomes(*(np.asarray(v)[..., mask] for v in outcomes)) for outcomes, mask in parts]
        for own in real:
            _check_share(np.asarray(own.wrong))
        each = Outcomes(*(np.concatenate(values, -1) for values in zip(*real, strict=True)))
        return cls(each, np.asarray(labels), num_classes)


def _check_share(wrong: np.ndarray) -> None:
    """Raises a ``ValueError`` unless a metric's values lie in 0 … 1 or are NaN, as of a network that
    overflows."""
    if wrong.dtype != bool and np.any((wrong < -_ROUNDING) | (wrong > 1 + _ROUNDING)):
        raise ValueError(
            f"the metric gives values from {np.nanmin(wrong):g} to {np.nanmax(wrong):g}; allowed: 0 (right) "
            "… 1 (wrong), because its mean is an error: pass a measure of another range as loss="
        )
