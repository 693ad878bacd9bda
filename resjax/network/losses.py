"""Losses by name: ``config.train.loss`` → (logits [B, …, classes], labels int32 [B, …]) → float32 [B].

``share_wrong`` is the metric of analyses where none is given.

Labels of several positions [B, …], such as the next tokens of a text, give the mean over the positions of an
example. A negative label there marks a position that does not count.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

Loss = Callable[[jax.Array, jax.Array], jax.Array]
Metric = Callable[[jax.Array, jax.Array], jax.Array]
"""(logits [B, …, classes], labels int32 [B, …]) → bool or float [B] from 0 to 1: whether, or how far, the
network is wrong about each example. Its mean is "the error"."""


def over_positions(values: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean of ``values`` [B, …] over the positions of each example that have a label of 0 or more, [B];
    where labels are [B], ``values`` as they are."""
    if labels.ndim == 1:
        return values
    counted, axes = labels >= 0, tuple(range(1, labels.ndim))
    return jnp.sum(jnp.where(counted, values, 0), axes) / jnp.maximum(jnp.sum(counted, axes), 1)


def share_wrong(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Whether the most likely class is not the label, bool [B]; of several positions the share, float [B]."""
    return over_positions(jnp.argmax(logits, -1) != labels, labels)


def cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """−log softmax(logits)[label], [B]; of several positions the mean.

    ``label_smoothing``, 0 ≤ ε < 1, spreads the probability ε evenly over all classes (Szegedy et al. 2016,
    §7).
    """
    known = labels if labels.ndim == 1 else jnp.maximum(labels, 0)
    if not label_smoothing:
        each = optax.losses.softmax_cross_entropy_with_integer_labels(logits, known)
        return over_positions(each, labels)
    targets = optax.smooth_labels(jax.nn.one_hot(known, logits.shape[-1]), label_smoothing)
    return over_positions(optax.losses.softmax_cross_entropy(logits, targets), labels)


def distillation(logits: jax.Array, teacher_logits: jax.Array, temperature: float) -> jax.Array:
    """T² · KL(softmax(teacher_logits / T) ‖ softmax(logits / T)) with T = ``temperature`` > 0, [B], in nats.

    This is the loss on soft targets of Hinton, Vinyals & Dean (2015, §2), less the entropy of the targets,
    which does not depend on ``logits``: it is 0 for equal logits, and has the same gradient. For a large T,
    the gradient of the divergence is proportional to 1/T². The factor T² keeps the balance with a loss on
    labels when T is changed.

    Args:
      logits, teacher_logits: [B, classes]; computed in float32 at least.
      temperature: T.
    """
    log_probabilities, log_targets = (
        jax.nn.log_softmax(z.astype(jnp.promote_types(z.dtype, jnp.float32)) / temperature)
        for z in (logits, teacher_logits)
    )
    return temperature**2 * optax.losses.kl_divergence_with_log_targets(log_probabilities, log_targets)


def rbf_map(logits: jax.Array, labels: jax.Array, rubbish: float) -> jax.Array:
    """LeNet-5's maximum a posteriori criterion (LeCun et al. 1998, Eq. 9), [B].

    With energies y_i = −logits_i, the squared distances to the codes of the classes, it is
    y_label + log(e^(−j) + Σ_i e^(−y_i)) ≥ 0. The constant j > 0, ``rubbish``, is the energy of a "rubbish"
    class. It keeps energies that are already large from growing further. The paper gives no value.
    """
    own = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    all_classes = jnp.pad(logits, ((0, 0), (0, 1)), constant_values=-rubbish)
    return jax.nn.logsumexp(all_classes, axis=1) - own
