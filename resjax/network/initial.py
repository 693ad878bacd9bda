"""Initial variables of a network, part by part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from resjax.network.example import one_example
from resjax.network.unit import Stack


def variable_shapes(network: Any, example: Any) -> dict[str, Any]:
    """What ``network.init`` returns for inputs like ``example``, without computing it.

    A network is traced once, however often its shapes are asked for.

    Args:
      network: a ``resjax.network.Network``.
      example: as for ``one_example``.

    Returns:
      {collection: {part: …}} of ``jax.ShapeDtypeStruct``.

    Raises:
      ValueError: as ``network.init``.
    """
    shapes: dict[str, Any] = _init.eval_shape(network, jax.random.key(0), one_example(example))
    return shapes


# ``jax.eval_shape`` traces in every call, a compiled function once for each form of its arguments.
_init = jax.jit(lambda network, key, example: network.init(key, example), static_argnums=0)


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
    own = {stack.name: stack for stack in stacks}
    shapes: dict[str, Any] = {}  # {group: input and output of its first unit}

    def variables_of(module: nn.Module, keys: jax.Array, h: Any) -> tuple[Any, Any]:
        rngs = {"params": keys[0], "dropout": keys[1]}
        zeros = jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), h)
        return module.init_with_output(rngs, zeros, train=False)

    of_parts, of_units = _init_keys(key, [n for _, _, n in modules])
    of_rows: dict[str, list[jax.Array]] = {}  # {part: keys of its rows, in their order}
    number = {name: i for i, (name, _, _) in enumerate(modules)}
    for stack in sorted(stacks, key=lambda stack: stack.start):
        of_rows.setdefault(stack.part, []).append(of_units[number[stack.name], : stack.n])
    first = 0  # number of the first unit of the module
    for i, (name, module, n) in enumerate(modules):
        group = own[name].group if n else ""
        # Each part is traced once, for its variables and its output.
        if not n:
            y, parts[name] = variables_of(module, of_parts[i], h)
            out = jax.ShapeDtypeStruct(y.shape, y.dtype)
        elif own[name].part not in parts:
            keys = jnp.concatenate(of_rows[own[name].part])
            y, parts[own[name].part] = jax.vmap(lambda k, m=module, h=h: variables_of(m, k, h))(keys)
            out = jax.ShapeDtypeStruct(y.shape[1:], y.dtype)
        elif shapes[group][0] == h:
            out = shapes[group][1]
        else:
            out = jax.eval_shape(lambda k, m=module, h=h: variables_of(m, k, h)[0], of_parts[i])
        if n > 1 and out.shape != h.shape:
            raise ValueError(
                f"{units[first]}, a {type(module).__name__} of stack {name!r}, maps {list(h.shape[1:])} to "
                f"{list(out.shape[1:])}, so {n - 1} more of the same form can't follow it: give a unit "
                "that changes the shape a stack of its own (n=1)"
            )
        if group:
            known = [list(v.shape[1:]) for v in shapes.setdefault(group, (h, out))]
            if known != [list(h.shape[1:]), list(out.shape[1:])]:
                raise ValueError(
                    f"{units[first]}, a {type(module).__name__} of group {group!r}, maps {list(h.shape[1:])} "
                    f"to {list(out.shape[1:])}, but the first one maps {known[0]} to {known[1]}: "
                    "give units of other shapes another group"
                )
        h, first = out, first + n
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
