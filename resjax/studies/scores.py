"""How a changed network is compared with the intact one, example by example.

There are four numbers, because they disagree (Gromov et al. 2024; Lad et al. 2024). The error says whether
the prediction is right, the loss how confident it is, KL(p_intact ‖ p_changed) how far all probabilities
moved, and the agreement whether the prediction is still the same, right or wrong.

Of logits at several positions [B, …, classes], all four are means over the positions of an example. The error
is what the caller's *metric* gives, from 0 for right to 1 for wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from resjax.network.losses import Loss, Metric, over_positions

MEASURES = ("error", "loss", "kl", "agreement")
_ROUNDING = 1e-5  # of a metric in float32


class Outcomes(NamedTuple):
    """What a changed network does with each example, [..., B]."""

    wrong: jax.Array  # by the metric: bool, or float from 0 to 1
    loss: jax.Array
    kl: jax.Array  # KL(p_intact ‖ p_changed), nats
    agree: jax.Array  # bool, whether both networks predict the same class; at several positions the share


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
    """Means over examples, of m changed networks."""

    error: np.ndarray  # [m], mean of the metric; by default the share of wrong predictions, 0 … 1
    loss: np.ndarray  # [m]
    kl: np.ndarray  # [m], KL(p_intact ‖ p_changed), nats
    agreement: np.ndarray  # [m], share of predictions that are the same in both networks
    wrong: np.ndarray  # bool or float [m, N], the metric of each example
    # [m, classes], NaN for a class without examples; None where an example has labels at several positions.
    class_error: np.ndarray | None
    num_classes: int

    @property
    def num_examples(self) -> int:
        return self.wrong.shape[-1]

    @property
    def means(self) -> dict[str, Any]:
        """``error``, ``loss``, ``kl`` and ``agreement`` [m] by name, to build a result from."""
        return {name: getattr(self, name) for name in MEASURES}

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
        own: dict[str, Any] = {name: v if v is None else v[rows] for name, v in self._arrays().items()}
        return dataclasses.replace(self, **own)

    @classmethod
    def join(cls, parts: Sequence[Scores]) -> Scores:
        """Those of several groups of networks on the same examples, one after the other."""
        arrays = [part._arrays() for part in parts]
        joined: dict[str, Any] = {
            name: first if first is None else np.concatenate([own[name] for own in arrays])
            for name, first in arrays[0].items()
        }
        return dataclasses.replace(parts[0], **joined)

    def _arrays(self) -> dict[str, Any]:
        """The fields with an axis m."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "num_classes"}

    @classmethod
    def of(cls, parts: Iterable[tuple[Any, np.ndarray]], labels: np.ndarray, num_classes: int) -> Scores:
        """From batches, one at a time: ``Outcomes`` [m, B] with the mask [B] of their real examples, in the
        order of the ``labels`` [N, …].

        Raises:
          ValueError: a metric with other values than 0 … 1.
        """
        wrong: list[np.ndarray] = []
        sums = np.zeros((3, 1))
        for outcomes, mask in parts:  # only what is right or wrong is kept of each example
            wrong.append(_checked_share(np.asarray(outcomes.wrong)[..., mask]))
            own = [np.asarray(v)[..., mask].sum(-1, dtype=np.float64) for v in outcomes[1:]]
            sums = sums + np.stack(own)
        all_wrong = np.concatenate(wrong, -1)
        loss, kl, agreement = sums / len(labels)
        class_error = None
        if labels.ndim == 1:
            of_class = np.asarray(labels)[:, None] == np.arange(num_classes)
            each = of_class.sum(0).astype(float)
            class_error = all_wrong @ of_class.astype(float) / np.where(each > 0, each, np.nan)
        return cls(
            error=all_wrong.mean(-1, dtype=np.float64),
            loss=loss,
            kl=kl,
            agreement=agreement,
            wrong=all_wrong,
            class_error=class_error,
            num_classes=num_classes,
        )


def _checked_share(wrong: np.ndarray) -> np.ndarray:
    """The values of a metric, if they lie in 0 … 1 or are NaN, as of a network that overflows."""
    if wrong.dtype != bool and np.any((wrong < -_ROUNDING) | (wrong > 1 + _ROUNDING)):
        raise ValueError(
            f"the metric gives values from {np.nanmin(wrong):g} to {np.nanmax(wrong):g}; allowed: 0 (right) "
            "… 1 (wrong), because its mean is an error: pass a measure of another range as loss="
        )
    return wrong
