"""Mixup and CutMix: pairs of examples of a batch become one, and so do their labels.

* Mixup (Zhang et al. 2018): x ← λ x + (1 − λ) x′ with λ ~ Beta(α, α).
* CutMix (Yun et al. 2019): a box of x′ replaces that of x. Its sides are those of the image times √(1 − λ),
  λ ~ Beta(α, α), its center is uniform in the image, and what is outside of the image is cut off; then λ is
  the share of pixels that x keeps.

Examples 2k and 2k + 1 of the batch, whose order is random, are mixed with each other, and each step has one λ
and one box, as in most code. λ and the box are drawn from the key of the step and no pair is split over two
devices, so a batch does not depend on their number, and no device waits for images of another. A loss that is
linear in the target distribution, as the cross-entropy is with or without label smoothing, is λ times that of
the own label plus (1 − λ) times that of the other: no soft labels are needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Labels(NamedTuple):
    """The labels of a batch. Without mixing ``other`` and ``share`` are None.

    Attributes:
      own: int32 [B].
      other: int32 [B], those of the examples that were mixed in.
      share: float32 scalar λ, the weight of ``own``.
    """

    own: jax.Array
    other: jax.Array | None = None
    share: jax.Array | None = None

    def weigh(self, loss: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """λ · loss(own) + (1 − λ) · loss(other)."""
        if self.other is None or self.share is None:
            return loss(self.own)
        return self.share * loss(self.own) + (1 - self.share) * loss(self.other)

    @property
    def main(self) -> jax.Array:
        """Of each example the label with the larger weight, int32 [B]."""
        if self.other is None or self.share is None:
            return self.own
        return jnp.where(self.share >= 0.5, self.own, self.other)


def mixed(
    x: jax.Array, labels: jax.Array, key: jax.Array, *, mixup: float, cutmix: float
) -> tuple[jax.Array, Labels]:
    """The batch after mixup, or after CutMix; where both are on, one of them with probability ½ each.

    Args:
      x: images, float [B, H, W, C].
      labels: int32 [B].
      key: of the step.
      mixup, cutmix: α > 0 of each, 0 for none.
    """
    if not (mixup or cutmix):
        return x, Labels(labels)
    which, share, place = jax.random.split(key, 3)

    def of_mixup() -> tuple[jax.Array, jax.Array]:
        weight = jax.random.beta(share, mixup, mixup)
        return weight * x + (1 - weight) * partners(x), weight

    def of_cutmix() -> tuple[jax.Array, jax.Array]:
        inside = box(jax.random.beta(share, cutmix, cutmix), place, x.shape[1:3])
        weight = 1 - jnp.mean(inside, dtype=jnp.float32)
        return jnp.where(inside[None, :, :, None], partners(x), x), weight

    if mixup and cutmix:
        x, weight = jax.lax.cond(jax.random.bernoulli(which), of_mixup, of_cutmix)
    else:
        x, weight = of_mixup() if mixup else of_cutmix()
    return x, Labels(labels, partners(labels), weight)


def partners(a: jax.Array) -> jax.Array:
    """[B, …] with a[2k] and a[2k + 1] exchanged. The last of an odd number stays where it is."""
    even = len(a) // 2 * 2
    pairs = a[:even].reshape(even // 2, 2, *a.shape[1:])
    return jnp.concatenate([pairs[:, ::-1].reshape(even, *a.shape[1:]), a[even:]])


def box(share: jax.Array, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """bool [H, W] = ``shape``: a box of √(1 − ``share``) of both sides, with a uniform center, within the
    image."""
    height, width = shape
    ratio = jnp.sqrt(1 - share)
    y, x = jax.random.uniform(key, (2,)) * jnp.array(shape)
    rows, columns = jnp.arange(height) + 0.5, jnp.arange(width) + 0.5
    inside_rows = jnp.abs(rows - y) < ratio * height / 2
    return inside_rows[:, None] & (jnp.abs(columns - x) < ratio * width / 2)[None]
