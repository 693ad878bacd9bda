"""Losses by name: ``config.train.loss`` → (logits [B, classes], labels int32 [B]) → float32 [B]."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

Loss = Callable[[jax.Array, jax.Array], jax.Array]


def cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """−log softmax(logits)[label], [B].

    ``label_smoothing``, 0 ≤ ε < 1, spreads the probability ε evenly over all classes (Szegedy et al. 2016,
    §7).
    """
    if not label_smoothing:
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), label_smoothing)
    return optax.losses.softmax_cross_entropy(logits, targets)


def rbf_map(logits: jax.Array, labels: jax.Array, rubbish: float) -> jax.Array:
    """LeNet-5's maximum a posteriori criterion (LeCun et al. 1998, Eq. 9), [B].

    With energies y_i = −logits_i, the squared distances to the codes of the classes, it is
    y_label + log(e^(−j) + Σ_i e^(−y_i)) ≥ 0. The constant j > 0, ``rubbish``, is the energy of a "rubbish"
    class. It keeps energies that are already large from growing further. The paper gives no value.
    """
    own = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    all_classes = jnp.pad(logits, ((0, 0), (0, 1)), constant_values=-rubbish)
    return jax.nn.logsumexp(all_classes, axis=1) - own
