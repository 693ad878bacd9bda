"""How a changed network is compared with the intact one, example by example.

There are four numbers, because they disagree (Gromov et al. 2024; Lad et al. 2024). The error says whether
the prediction is right, the loss how confident it is, KL(p_intact ‖ p_changed) how far all probabilities
moved, and the agreement whether the prediction is still the same, right or wrong.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from resjax.network.losses import Loss

MEASURES = ("error", "loss", "kl", "agreement")


class Sums(NamedTuple):
    """Sums over examples: ``wrong`` [classes], by true class; ``loss``, ``kl`` and ``agree`` scalars."""

    wrong: jax.Array
    loss: jax.Array
    kl: jax.Array
    agree: jax.Array


def compare(logits: jax.Array, intact: jax.Array, labels: jax.Array, mask: jax.Array, loss: Loss) -> Sums:
    """Compares a changed network with the intact one on one batch.

    Args:
      logits, intact: float [B, classes].
      labels: int32 [B].
      mask: bool [B], False for padding, which is not counted.
      loss: (logits, labels) → [B].
    """
    log_p, log_q = jax.nn.log_softmax(intact), jax.nn.log_softmax(logits)
    choice = jnp.argmax(logits, -1)
    kl = jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)
    wrong = jax.nn.one_hot(labels, logits.shape[-1]) * (choice != labels)[:, None]
    values = (loss(logits, labels), kl, choice == jnp.argmax(intact, -1))
    return Sums(
        jnp.sum(jnp.where(mask[:, None], wrong, 0.0), 0),
        *(jnp.sum(jnp.where(mask, v, 0.0)) for v in values),
    )


compiled_compare = jax.jit(compare, static_argnums=4)


@dataclasses.dataclass(frozen=True)
class Scores:
    """Means over examples, of m changed networks."""

    error: np.ndarray  # [m], share of examples whose most likely class is wrong, 0 … 1
    loss: np.ndarray  # [m]
    kl: np.ndarray  # [m], KL(p_intact ‖ p_changed), nats
    agreement: np.ndarray  # [m], share of examples for which both networks predict the same class
    class_error: np.ndarray  # [m, classes]; NaN for a class without examples
    num_examples: int

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
            "num_classes": self.class_error.shape[-1],
        }

    def take(self, rows: Any) -> Scores:
        """The scores of some of the networks; ``rows`` indexes the axis m."""
        own = {name: getattr(self, name)[rows] for name in (*MEASURES, "class_error")}
        return dataclasses.replace(self, **own)

    @classmethod
    def of(cls, sums: Sums, labels: np.ndarray) -> Scores:
        """From sums over all examples with a leading axis m; ``labels`` [N] are those of the examples."""
        count = len(labels)
        each = np.bincount(labels, minlength=np.shape(sums.wrong)[-1]).astype(float)
        wrong = np.asarray(sums.wrong, np.float64)
        return cls(
            error=wrong.sum(-1) / count,
            loss=np.asarray(sums.loss, np.float64) / count,
            kl=np.asarray(sums.kl, np.float64) / count,
            agreement=np.asarray(sums.agree, np.float64) / count,
            class_error=wrong / np.where(each > 0, each, np.nan),
            num_examples=count,
        )
