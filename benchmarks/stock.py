"""The opponent: residual networks and their training step as most people write them in Flax.

Linen modules one after the other in a Python loop, ``nn.Conv``, ``nn.BatchNorm``, Optax, one
``jax.jit``. For small images it is resjax's default network: depth 6n + 2, full pre-activation (He et al.
2016, Fig. 4e), zero-padded shortcuts that take every other pixel (option A); for large ones ResNet-50 v1.5.
The same number of parameters, the same optimizer. ``dtype`` is that of the computation. It imports nothing of
resjax.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.training import train_state

Conv = partial(nn.Conv, use_bias=False, kernel_init=nn.initializers.he_normal())
Norm = partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5)
PAD = ((1, 1), (1, 1))


class Unit(nn.Module):
    """BN ReLU conv BN ReLU conv beside a shortcut.

    The network's first unit finds its input already normalized and rectified.
    """

    features: int
    stride: int = 1
    normalize: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv = partial(Conv, dtype=self.dtype)
        norm = partial(Norm, use_running_average=not train, dtype=self.dtype)
        h = nn.relu(norm()(x)) if self.normalize else x
        h = conv(self.features, (3, 3), (self.stride, self.stride), padding=PAD)(h)
        h = nn.relu(norm()(h))
        h = conv(self.features, (3, 3))(h)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = x[:, :: self.stride, :: self.stride]
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, self.features - x.shape[-1])))
        return x + h


class ResNet(nn.Module):
    """Images [B, 32, 32, 3] → logits [B, classes]; ``depth`` is 6n + 2."""

    depth: int
    classes: int = 10
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = partial(Norm, use_running_average=not train, dtype=self.dtype)
        h = nn.relu(norm()(Conv(16, (3, 3), dtype=self.dtype)(x)))
        for stage, width in enumerate((16, 32, 64)):
            for i in range((self.depth - 2) // 6):
                stride = 2 if stage and not i else 1
                h = Unit(width, stride, bool(stage or i), self.dtype)(h, train)
        h = nn.relu(norm()(h)).astype(jnp.float32)
        return nn.Dense(self.classes)(jnp.mean(h, (1, 2)))


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 with BatchNorm after each, a projection where the shape changes (v1.5)."""

    features: int
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv = partial(Conv, dtype=self.dtype)
        norm = partial(Norm, use_running_average=not train, dtype=self.dtype)
        strides, out = (self.stride, self.stride), 4 * self.features
        h = nn.relu(norm()(conv(self.features, (1, 1))(x)))
        h = nn.relu(norm()(conv(self.features, (3, 3), strides, padding=PAD)(h)))
        h = norm()(conv(out, (1, 1))(h))
        if self.stride != 1 or x.shape[-1] != out:
            x = norm()(conv(out, (1, 1), strides)(x))
        return nn.relu(x + h)


class ResNet50(nn.Module):
    """Images [B, H, W, 3] → logits [B, classes]."""

    classes: int = 1000
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        h = Conv(64, (7, 7), (2, 2), padding=((3, 3), (3, 3)), dtype=self.dtype)(x)
        h = nn.relu(Norm(use_running_average=not train, dtype=self.dtype)(h))
        h = nn.max_pool(h, (3, 3), (2, 2), padding=PAD)
        for stage, n in enumerate((3, 4, 6, 3)):
            for i in range(n):
                h = Bottleneck(64 * 2**stage, 2 if stage and not i else 1, self.dtype)(h, train)
        return nn.Dense(self.classes)(jnp.mean(h.astype(jnp.float32), (1, 2)))


class TrainState(train_state.TrainState):
    batch_stats: Any


def create_state(model: nn.Module, size: int, key: jax.Array) -> TrainState:
    """Fresh parameters, SGD with momentum 0.9, weight decay 1e-4, rate 0.1."""
    variables = jax.jit(partial(model.init, train=False))(key, jnp.zeros((1, size, size, 3)))
    optimizer = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(0.1, momentum=0.9))
    return TrainState.create(
        apply_fn=model.apply,
        params=variables["params"],
        tx=optimizer,
        batch_stats=variables["batch_stats"],
    )


@partial(jax.jit, donate_argnums=0)
def train_step(state: TrainState, images: jax.Array, labels: jax.Array) -> tuple[TrainState, jax.Array]:
    """One update; images float32 [B, H, W, 3], labels int32 [B]. Returns the new state and the loss."""

    def loss_fn(params: Any) -> tuple[jax.Array, Any]:
        logits, updates = state.apply_fn(
            {"params": params, "batch_stats": state.batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
        )
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, updates["batch_stats"]

    (loss, batch_stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    return state.apply_gradients(grads=grads, batch_stats=batch_stats), loss
