"""Why an input does not fit the variables of a module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax


def explain(module: nn.Module, variables: Mapping[str, Any], x: jax.Array) -> str:
    """One line for a user whose input [B, …] Flax has refused (``ScopeParamShapeError``).

    It names the first parameter of another shape than ``x`` needs, both shapes, and what to give instead.
    """
    key = jax.random.key(0)
    fresh = jax.eval_shape(
        lambda x: module.init({"params": key, "dropout": key}, x, train=False)["params"], x
    )
    needed = dict(jax.tree_util.tree_leaves_with_path(fresh))
    given = dict(jax.tree_util.tree_leaves_with_path(variables["params"]))
    path = next(p for p, v in needed.items() if p in given and given[p].shape != v.shape)
    needs, has = needed[path].shape, given[path].shape
    remedy = "images as the network was trained on"
    if len(has) == 4 and (*needs[:2], needs[3]) == (*has[:2], has[3]):  # a convolution
        remedy = f"an input of shape [B, H, W, {has[2]}]"
    shape = ", ".join(map(str, ("B", *x.shape[1:])))
    name = "/".join(str(part.key) for part in path)
    return (
        f"{type(module).__name__} gets an input of shape [{shape}], which needs {name} of shape {needs}; the "
        f"variables have {has}: give {remedy}, or the network's own variables"
    )
