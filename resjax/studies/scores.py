"""How a changed network is compared with the intact one, example by example.

There are four numbers, because they disagree (Gromov et al. 2024; Lad et al. 2024). The error says whether
the prediction is right, the loss how confident it is, KL(p_intact ‖ p_changed) how far all probabilities
moved, and the agreement whether the prediction is still the same, right or wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from resjax.network.losses import Loss

MEASURES = ("error", "loss", "kl", "agreement")


class Outcomes(NamedTuple):
    """What a changed network does with each example, [..., B]."""

    wrong: jax.Array  # bool, whether the most likely class is not the label
    loss: jax.Array
    kl: jax.Array  # KL(p_intact ‖ p_changed), nats
    agree: jax.Array  # bool, whether both networks predict the same class


def compare(logits: jax.Array, intact: jax.Array, labels: jax.Array, loss: Loss) -> Outcomes:
    """Compares a changed network with the intact one on one batch, example by example.

    Args:
      logits, intact: float [B, classes].
      labels: int32 [B].
      loss: (logits, labels) → [B].
    """
    log_p, log_q = jax.nn.log_softmax(intact), jax.nn.log_softmax(logits)
    choice = jnp.argmax(logits, -1)
    kl = jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)
    return Outcomes(choice != labels, loss(logits, labels), kl, choice == jnp.argmax(intact, -1))


compiled_compare = jax.jit(compare, static_argnums=3)


@dataclasses.dataclass(frozen=True)
class Scores:
    """Means over examples, of m changed networks."""

    error: np.ndarray  # [m], share of examples whose most likely class is wrong, 0 … 1
    loss: np.ndarray  # [m]
    kl: np.ndarray  # [m], KL(p_intact ‖ p_changed), nats
    agreement: np.ndarray  # [m], share of examples for which both networks predict the same class
    wrong: np.ndarray  # bool [m, N], of each example
    class_error: np.ndarray  # [m, classes]; NaN for a class without examples

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
            "num_classes": self.class_error.shape[-1],
        }

    def take(self, rows: Any) -> Scores:
        """The scores of some of the networks; ``rows`` indexes the axis m."""
        return Scores(**{f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(self)})

    @classmethod
    def join(cls, parts: Sequence[Scores]) -> Scores:
        """Those of several groups of networks on the same examples, one after the other."""
        names = [f.name for f in dataclasses.fields(cls)]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})

    @classmethod
    def of(cls, parts: Iterable[tuple[Any, np.ndarray]], labels: np.ndarray, num_classes: int) -> Scores:
        """From batches, one at a time: ``Outcomes`` [m, B] with the mask [B] of their real examples, in the
        order of the ``labels`` [N]."""
        wrong, sums = [], np.zeros((3, 1))
        for outcomes, mask in parts:  # only what is right or wrong is kept of each example
            wrong.append(np.asarray(outcomes.wrong)[..., mask])
            own = [np.asarray(v)[..., mask].sum(-1, dtype=np.float64) for v in outcomes[1:]]
            sums = sums + np.stack(own)
        all_wrong = np.concatenate(wrong, -1)
        loss, kl, agreement = sums / len(labels)
        of_class = np.asarray(labels)[:, None] == np.arange(num_classes)
        each = of_class.sum(0).astype(float)
        return cls(
            error=all_wrong.mean(-1),
            loss=loss,
            kl=kl,
            agreement=agreement,
            wrong=all_wrong,
            class_error=all_wrong @ of_class.astype(float) / np.where(each > 0, each, np.nan),
        )
