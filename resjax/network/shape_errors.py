"""Messages for an input that does not fit the variables of a module."""

from __future__ import annotations

import re
from typing import Any

import flax.linen as nn
import jax
from flax.errors import ScopeParamShapeError

# Flax's error contains the shapes only as text.
_TEXT = re.compile(r'"(\w+)" in "/?([^"]*)".* shape \(([\d, ]*)\).* shape \(([\d, ]*)\)')


def explain(module: nn.Module, x: Any, error: ScopeParamShapeError) -> str:
    """One line about an input [B, …] that does not fit a parameter: both shapes, and the remedy."""
    shapes = [f"[{_row(('B', *v.shape[1:]))}]" for v in jax.tree.leaves(x)]
    who = f"{type(module).__name__} gets an input of shape {' and '.join(shapes)}"
    found = _TEXT.search(str(error))
    if found is None:
        return f"{who}, but its variables are for another shape: {error}"
    name, path = found[1], found[2]
    needs, has = (tuple(map(int, re.findall(r"\d+", found[i]))) for i in (3, 4))
    remedy = "images [N, H, W, C] of the shape on which the network was trained"
    # A convolution of the input itself, ungrouped.
    if len(has) == 4 and needs == (*has[:2], jax.tree.leaves(x)[0].shape[-1], has[3]):
        remedy = f"an input of shape [B, H, W, {has[2]}]"
    return (
        f"{who}, which needs {f'{path}/{name}'.lstrip('/')} of shape [{_row(needs)}]; the variables have "
        f"[{_row(has)}]: give {remedy}, or the network's own variables"
    )


def _row(values: tuple[object, ...]) -> str:
    return ", ".join(map(str, values))
