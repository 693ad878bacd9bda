"""Initial variables of a network, part by part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from resjax.network.unit import Stack


def initial_variables(
    modules: Sequence[tuple[str, nn.Module, int]],
    units: Sequence[str],
    stacks: Sequence[Stack],
    key: jax.Array,
    example: Any,
) -> dict[str, Any]:
    """See ``Network.init``; ``modules``, names of ``units`` and ``stacks`` are the network's, and ``example``
    is from ``one_example``."""
    h = example
    parts: dict[str, Any] = {}
    groups = {stack.name: stack.group for stack in stacks}
    shapes: dict[str, Any] = {}

    def init_one(module: nn.Module, keys: jax.Array, h: Any) -> Any:
        rngs = {"params": keys[0], "dropout": keys[1]}
        return module.init(rngs, jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), h), train=False)

    of_parts, of_units = _init_keys(key, [n for _, _, n in modules])
    first = 0  # number of the first unit of the module
    for i, (name, module, n) in enumerate(modules):
        if n:
            keys = of_units[i, :n]
            parts[name] = jax.vmap(lambda k, m=module, h=h: init_one(m, k, h))(keys)
            single = jax.tree.map(lambda v: v[0], parts[name])
        else:
            parts[name] = single = init_one(module, of_parts[i], h)
        out = jax.eval_shape(lambda v, x, m=module: m.apply(v, x, train=False), single, h)
        if n > 1 and out.shape != h.shape:
            raise ValueError(
                f"{units[first]}, a {type(module).__name__} of stack {name!r}, maps {list(h.shape[1:])} to "
                f"{list(out.shape[1:])}, so {n - 1} more of the same form can't follow it: give a unit "
                "that changes the shape a stack of its own (n=1)"
            )
        if group := groups.get(name):
            known = shapes.setdefault(group, (h.shape[1:], out.shape[1:]))
            if known != (h.shape[1:], out.shape[1:]):
                raise ValueError(
                    f"{units[first]}, a {type(module).__name__} of group {group!r}, maps {list(h.shape[1:])} "
                    f"to {list(out.shape[1:])}, but the first one maps {list(known[0])} to {list(known[1])}: "
                    "give units of other shapes another group"
                )
        h, first = out, first + n
    for part in dict.fromkeys(stack.group for stack in stacks if stack.group):
        own = sorted((stack for stack in stacks if stack.group == part), key=lambda stack: stack.start)
        parts[part] = jax.tree.map(lambda *v: jnp.concatenate(v), *(parts.pop(stack.name) for stack in own))
    return {
        collection: {name: v[collection] for name, v in parts.items() if collection in v}
        for collection in ("params", "batch_stats")
    }


def _init_keys(key: jax.Array, units: Sequence[int]) -> tuple[jax.Array, jax.Array]:
    """Keys for parameters and dropout: [part, 2] for whole parts, [part, unit, 2] for units.

    All keys are drawn at once: each draw compiles to ten kernels, and drawing part by part took a third of
    the initial state's compile time. (With JAX's default generator, the first keys of a split do not depend
    on how many are drawn.)
    """
    own = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(units)))
    split = jax.vmap(lambda k: jax.random.split(k, max(2, *units)))(own)
    return split[:, :2], jax.vmap(jax.vmap(jax.random.split))(split)
