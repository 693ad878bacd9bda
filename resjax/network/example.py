"""The form of a network's input: one array or a pytree of arrays, with a leading axis of examples."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def one_example(example: Any) -> Any:
    """The form of a single example, for tracing a network without computing anything.

    Args:
      example: a pytree of arrays or ``jax.ShapeDtypeStruct``, each [N, …]; or (H, W, C), which stands for
        float32 images.

    Returns:
      The same pytree of ``jax.ShapeDtypeStruct`` [1, …], in the dtypes that JAX will use for them.

    Raises:
      ValueError: an example without an array, or with an array without the axis N.
    """
    if isinstance(example, tuple | list) and all(isinstance(n, int | np.integer) for n in example):
        return jax.ShapeDtypeStruct((1, *map(int, example)), jnp.float32)
    leaves = jax.tree.leaves(example)
    if not leaves or not all(hasattr(leaf, "shape") and leaf.shape for leaf in leaves):
        raise ValueError(
            f"example={example!r}; allowed: (H, W, C), or a pytree of arrays or ShapeDtypeStructs, each with "
            "a leading axis of examples"
        )
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), jax.dtypes.canonicalize_dtype(leaf.dtype)),
        example,
    )


def alike(one: Any, other: Any) -> bool:
    """Whether two inputs differ in nothing but the number of examples and the dtypes."""
    forms = [jax.tree.map(lambda v: v.shape[1:], inputs) for inputs in (one, other)]
    return bool(forms[0] == forms[1])


def described(inputs: Any) -> str:
    """'float32 [8, 32, 32, 3]', or of a pytree "['mask'] bool [8, 5], ['tokens'] int32 [8, 5]"."""
    leaves = jax.tree_util.tree_leaves_with_path(inputs)
    texts = [f"{jax.tree_util.keystr(path)} {v.dtype} {list(v.shape)}".strip() for path, v in leaves]
    return ", ".join(texts) or "no array"
