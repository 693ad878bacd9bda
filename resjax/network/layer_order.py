"""The order of a network's layers, which is known only when its modules are called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax

from resjax.network.example import one_example


def paths_in_order(modules: Iterable[tuple[str, nn.Module, int]], example: Any) -> dict[str, list[str]]:
    """{part: paths of its parameters} in the order of the calls, from ``Network.modules``.

    The modules are traced with abstract arrays; nothing is computed.
    """
    order: dict[str, list[str]] = {}

    def run(module: nn.Module, name: str, h: jax.Array) -> jax.Array:
        # JAX sorts the keys of a dictionary that leaves a trace, so the order is recorded here.
        keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
        y, variables = module.init_with_output(keys, h, train=False)
        order[name] = _paths(variables.get("params", {}))
        return y

    h = one_example(example)
    for name, module, _ in modules:
        h = jax.eval_shape(lambda x, m=module, n=name: run(m, n, x), h)
    return order


def _paths(tree: Mapping[str, Any]) -> list[str]:
    paths = []
    for key, value in tree.items():
        inner = _paths(value) if isinstance(value, Mapping) else [""]
        paths += [f"{key}/{path}".rstrip("/") for path in inner]
    return paths
