"""The place where a training step becomes non-finite: the first activation, or the last gradient."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from resjax.network.norms import flatten_norms, layer_norms
from resjax.training.step import (
    Batch,
    Task,
    Teacher,
    TrainState,
    all_finite,
    soft_targets,
    training_input,
    training_loss,
)


def first_nonfinite(state: TrainState, batch: Batch, teacher: Teacher | None = None, *, task: Task) -> str:
    """The layer at which the step from ``state`` on ``batch`` becomes non-finite, in words.

    The forward pass is checked first, part by part from the image, and then the teacher's logits. If every
    activation is finite, the gradients are checked from the loss back: the non-finite gradient nearest to
    the loss causes the others.
    The check runs on one device; with many hosts, each host checks its own ``batch``.
    """
    network = task.network
    state, teacher = jax.tree.map(lambda leaf: leaf.addressable_data(0), (state, teacher))
    x, labels, network_key, order = training_input(state, batch, task=task)
    targets = jax.jit(partial(soft_targets, task=task))(state, batch, teacher=teacher)

    @jax.jit
    def forward(variables: Any) -> jax.Array:
        stem, _ = network.run_stem(network.bound(variables, x), x, train=True, key=network_key)
        finite = lambda parts: jnp.all(jnp.isfinite(parts.y))  # noqa: E731
        out = network.apply(variables, x, train=True, key=network_key, order=order, tap=finite)
        loss = training_loss(out.logits, labels, targets, task=task, teacher=teacher)
        units = [out.taps[stack.name] for stack in network.stacks]
        ends = [jnp.all(jnp.isfinite(out.logits)), all_finite(targets), jnp.isfinite(loss)]
        return jnp.concatenate([jnp.all(jnp.isfinite(stem))[None], *units, jnp.stack(ends)])

    running = range(network.num_units) if order is None else order.tolist()
    names = ["stem", *(network.units[i].name for i in running), "head", "the teacher", "loss"]
    trained = {"params": state.params, "batch_stats": state.batch_stats}
    for name, finite in zip(names, forward(trained), strict=True):
        if not finite:
            return f"the output of {name}" if name != "loss" else "the loss"

    @jax.jit
    def gradients(params: Any) -> Any:
        def loss_fn(params: Any) -> jax.Array:
            variables = {"params": params, "batch_stats": state.batch_stats}
            logits = network.apply(variables, x, train=True, key=network_key, order=order).logits
            return training_loss(logits, labels, targets, task=task, teacher=teacher)

        return layer_norms(network, jax.grad(loss_fn)(params))

    norms = gradients(state.params)
    for name, value in reversed(flatten_norms(network, norms, x.shape[1:])):
        if not jnp.isfinite(value):
            return f"the gradient of {name}"
    return "the update (loss and gradients are finite: the learning rate is too large)"
