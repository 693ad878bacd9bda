"""Residual units and their plain twins.

One class implements all variants: a branch of convolutions beside a shortcut. BatchNorm and ReLU have these
placements (He et al. 2016, Fig. 4 and Table 2)::

    post             conv BN ReLU conv BN · add · ReLU         the original unit of He et al. 2015
    bn_after_add     conv BN ReLU conv · add · BN ReLU
    relu_before_add  conv BN ReLU conv BN ReLU · add
    relu_pre         ReLU conv BN ReLU conv BN · add
    pre              BN ReLU conv BN ReLU conv · add           full pre-activation

The stem of a ``pre`` network ends with BN and ReLU, so its first unit starts with the convolution (``first``)
and differs in form from the others.

Without normalization the convolutions have biases, and deep networks stay trainable with SkipInit / ReZero (a
scalar α on the branch, initially 0; De & Smith 2020, Bachlechner et al. 2020) or Fixup (Zhang et al. 2019:
last convolution 0, the others He-initialized × L^(−1/(2m−2)), scalar biases and one multiplier).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from resjax.models.layers import BatchNorm, Conv, Dtype, Initializer, he_normal
from resjax.models.shortcuts import Shortcut
from resjax.network.unit import Unit

PLACEMENTS = ("post", "bn_after_add", "relu_before_add", "relu_pre", "pre")
BRANCH_SCALES = ("none", "skipinit", "fixup")


class ResidualUnit(Unit):
    """y = merge(shortcut(x) + branch(x)), [B, H, W, in] → [B, H/stride, W/stride, out].

    With ``zero_gamma``, the branch's last BatchNorm starts with scale 0 (Goyal et al. 2017, §5.1). This
    BatchNorm must end the branch ('post', 'relu_pre'): through a ReLU or convolution after it, no gradient
    would flow back.
    """

    shortcut: Shortcut | None  # None for the plain twin, which has the same branch
    layers: tuple[tuple[int, int, int], ...]  # (kernel size, features, stride) of each convolution
    placement: str = "pre"  # one of PLACEMENTS
    first: bool = False  # the first unit of a 'pre' network
    norm: bool = True  # with BatchNorm
    zero_gamma: bool = False
    branch_scale: str = "none"  # or 'skipinit' (also ReZero), 'fixup'
    project_input: bool = False  # in 'pre': a projection has the input x, not that of the first convolution
    depth: int = 1  # L, the number of units of the network, for Fixup's initialization
    dtype: Dtype = jnp.float32
    conv_impl: str = "auto"

    @property
    def residual(self) -> bool:
        return self.shortcut is not None

    @property
    def vanishes(self) -> bool | None:
        # The input of a 'post' unit is rectified already, so the ReLU behind the sum changes nothing.
        unchanged = self.shortcut is None or self.shortcut.is_identity
        return True if self.placement == "post" and unchanged else None

    @property
    def rectified(self) -> bool:
        return self.placement in ("post", "bn_after_add")

    def setup(self) -> None:
        # Names are explicit, so that variables are called conv1, bn1, … in all forms of the unit.
        fixup = self.branch_scale == "fixup"
        last = len(self.layers) - 1
        for j, (kernel, features, stride) in enumerate(self.layers):
            conv = Conv(
                features,
                (kernel, kernel),
                (stride, stride),
                use_bias=not self.norm and not fixup,
                kernel_init=_fixup_init(self.depth, last, j) if fixup else he_normal,
                dtype=self.dtype,
                impl=self.conv_impl,
            )
            setattr(self, f"conv{j + 1}", conv)
        if self.norm:
            normalized = [j for j in range(last + 1) if self._normalizes(j)]
            for j in normalized:
                zero = self.zero_gamma and j == normalized[-1]
                init = nn.initializers.zeros if zero else nn.initializers.ones
                setattr(self, f"bn{j + 1}", BatchNorm(scale_init=init, dtype=self.dtype))
            if self.placement == "bn_after_add":
                self.bn_merge = BatchNorm(dtype=self.dtype)
        if self.branch_scale == "skipinit":
            self.alpha = self.param("alpha", nn.initializers.zeros, (), jnp.float32)
        elif fixup:
            self.scale = self.param("scale", nn.initializers.ones, (), jnp.float32)
            shape = (last + 1, 2)
            self.biases = self.param("biases", nn.initializers.zeros, shape, jnp.float32)

    def split(self, x: jax.Array, train: bool) -> tuple[jax.Array | None, jax.Array]:
        h = activated = self._activated(x, 0, train)
        last = len(self.layers) - 1
        for j in range(last + 1):
            if j:
                h = self._activated(h, j, train)
            h = getattr(self, f"conv{j + 1}")(h)
            if self.placement != "pre":
                h = self._norm(j, h, train)
            if self.placement in ("post", "bn_after_add", "relu_before_add") and (
                j < last or self.placement == "relu_before_add"
            ):
                h = nn.relu(self._bias(j, 1, h))
        if self.branch_scale == "skipinit":
            h = self.alpha.astype(h.dtype) * h
        elif self.branch_scale == "fixup":
            h = self._bias(last, 1, self.scale.astype(h.dtype) * h)

        if self.shortcut is None:
            return (x if x.shape == h.shape else None), h
        # A projection has the input of the branch's first convolution; other shortcuts have the input x.
        projected = self.shortcut.projects and not self.project_input
        s, factor = self.shortcut(activated if projected else x, train)
        return s, (h if factor is None else factor * h)

    def skip(self, x: jax.Array, train: bool = False) -> jax.Array:
        if self.shortcut is None:
            return self.merge(x, train)
        if self.shortcut.projects and not self.project_input:
            x = self._activated(x, 0, train)
        return self.merge(self.shortcut(x, train)[0], train)

    def _activated(self, h: jax.Array, j: int, train: bool) -> jax.Array:
        """What is before convolution j, applied to ``h``: in the pre-activation units, BatchNorm and ReLU."""
        if self.placement == "pre":
            h = self._norm(j, h, train)
            h = h if self.first and j == 0 else nn.relu(h)
        elif self.placement == "relu_pre":
            h = nn.relu(h)
        return self._bias(j, 0, h)

    def merge(self, z: jax.Array, train: bool) -> jax.Array:
        if self.placement == "bn_after_add":
            return nn.relu(self.bn_merge(z, train) if self.norm else z)
        return nn.relu(z) if self.placement == "post" else z

    def _normalizes(self, j: int) -> bool:
        if self.placement == "pre":
            return not (self.first and j == 0)
        return not (self.placement == "bn_after_add" and j == len(self.layers) - 1)

    def _norm(self, j: int, h: jax.Array, train: bool) -> jax.Array:
        return getattr(self, f"bn{j + 1}")(h, train) if self.norm and self._normalizes(j) else h

    def _bias(self, j: int, place: int, h: jax.Array) -> jax.Array:
        """Adds Fixup's scalar bias before convolution j (place 0) or after it (place 1)."""
        if self.branch_scale != "fixup":
            return h
        return h + self.biases[j, place].astype(h.dtype)


def _fixup_init(depth: int, last: int, j: int) -> Initializer:
    if j == last:
        return nn.initializers.zeros
    # A branch of m = last + 1 layers: standard deviation × L^(−1/(2m − 2)), so variance × L^(−1/last).
    return nn.initializers.variance_scaling(2.0 * depth ** (-1 / last), "fan_in", "normal")
