"""Shortcuts of residual units.

If the shapes of input and output differ, a unit needs a *transition* (He et al. 2015, §3.3):

* ``pad_subsample``: option A, every other pixel, new channels zero; no parameters;
* ``pad_pool``: option A as in Huang et al. 2016 and Wilber's code: 2×2 average pooling, new channels zero;
* ``projection``: option B, a strided 1×1 convolution (with BatchNorm in post-activation networks).

He et al. 2016 (Table 1) alter the shortcut of *every* unit, to show that the identity is best:

* ``scale``: λ on the shortcut (and another constant on the branch);
* ``exclusive_gate``: (1 − g(x)) on the shortcut, g(x) on the branch, g = σ(W x + b), W a 1×1 convolution;
* ``shortcut_gate``: (1 − g(x)) on the shortcut only;
* ``projection`` everywhere is option C of He 2015, the table's "1×1 conv shortcut";
* ``dropout``: dropout of rate ½ on the shortcut.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from resjax.models.layers import BatchNorm, Conv, Dtype

TRANSITIONS = ("pad_subsample", "pad_pool", "projection")
ALTERATIONS = ("identity", "scale", "exclusive_gate", "shortcut_gate", "dropout", "projection")
PADDED = tuple(a for a in ALTERATIONS if a != "projection")  # where the transition may be a padding


def pad_shortcut(x: jax.Array, features: int, stride: int, *, pool: bool, centre: bool) -> jax.Array:
    """Option A, [B, H, W, C] → [B, ⌈H/stride⌉, ⌈W/stride⌉, features], the new channels zero.

    ``pool`` averages each window (at the border, only the pixels inside the image) instead of taking its
    first pixel. With ``centre``, half of the zero channels precede the input's channels, else all follow
    them.
    """
    if stride > 1:
        window = (stride, stride)
        if pool:
            x = nn.avg_pool(x, window, window, "SAME", count_include_pad=False)
        else:
            x = x[:, ::stride, ::stride, :]
    new = features - x.shape[-1]
    before = new // 2 if centre else 0
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (before, new - before)))


class Shortcut(nn.Module):
    """[B, H, W, in_features] → shortcut [B, H', W', features] and the branch's factor (None for 1).

    A projection never has a bias, since the branch ends with one or a BatchNorm follows.
    """

    in_features: int
    features: int
    stride: int
    transition: str  # one of TRANSITIONS, used if shapes change
    alteration: str = "identity"  # one of ALTERATIONS
    centre: bool = False  # half of the zero channels of a padded transition come first
    norm: bool = True  # BatchNorm after a projection
    scale: float = 1.0  # factor of the shortcut, for alteration 'scale'
    branch_scale: float = 1.0  # factor of the branch, for alteration 'scale'
    gate_bias: float = -6.0  # initial bias b of the gates; with −6, 1 − g is almost 1
    dtype: Dtype = jnp.float32
    conv_impl: str = "auto"

    @property
    def changes_shape(self) -> bool:
        return self.stride != 1 or self.in_features != self.features

    @property
    def is_identity(self) -> bool:
        """Whether it returns its input."""
        return not self.changes_shape and self.alteration == "identity"

    @property
    def projects(self) -> bool:
        """Whether the shortcut itself is a 1×1 convolution."""
        as_transition = self.changes_shape and self.transition == "projection"
        return as_transition or self.alteration == "projection"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array | float | None]:
        if self.projects:
            s = self._conv1x1(name="conv")(x)
            if self.norm:
                s = BatchNorm(dtype=self.dtype, name="bn")(s, train)
        elif self.changes_shape:
            pool = self.transition == "pad_pool"
            s = pad_shortcut(x, self.features, self.stride, pool=pool, centre=self.centre)
        else:
            s = x

        if self.alteration == "scale":
            return self.scale * s, self.branch_scale
        if self.alteration == "dropout":
            return nn.Dropout(0.5)(s, deterministic=not train), None
        if self.alteration in ("exclusive_gate", "shortcut_gate"):
            bias_init = nn.initializers.constant(self.gate_bias)
            gate = self._conv1x1(use_bias=True, bias_init=bias_init, name="gate")
            g = nn.sigmoid(gate(x))
            return (1 - g) * s, g if self.alteration == "exclusive_gate" else None
        return s, None

    def _conv1x1(self, **more: Any) -> Conv:
        strides = (self.stride, self.stride)
        return Conv(self.features, (1, 1), strides, dtype=self.dtype, impl=self.conv_impl, **more)
