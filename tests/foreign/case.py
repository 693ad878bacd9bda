"""A foreign network, what is to be found in it, and the same network with units left out by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

BATCH, CLASSES, IMAGE = 2, 3, (6, 6, 3)
VOCABULARY, TOKENS = 7, 5


@dataclasses.dataclass(frozen=True)
class Case:
    """``run(variables, x, left_out) -> logits`` leaves out the branches of the units in ``left_out``.

    Attributes:
      units: (name, shortcut) of each unit, in order.
      classes: of each unit a letter; units of the same letter may change places.
      follows: what follows the sums, as ``FoundUnit.follows`` says it.
      train_fn: ``(variables, x, key) -> (logits, new statistics)``; ``statistics`` are those of variables.
      stem_bias: of the gradients of all variables, that of a bias which the stem adds at its end: the
        gradient at the first unit's input, summed over the batch. Where the input has integers.
    """

    run: Callable[..., jax.Array]
    variables: Any
    example: Any
    units: tuple[tuple[str, str], ...]
    classes: str
    follows: str = ""
    train_fn: Callable[..., Any] | None = None
    statistics: Callable[[Any], Any] | None = None
    stem_bias: Callable[[Any], jax.Array] | None = None

    def fn(self, variables: Any, x: Any) -> jax.Array:
        return self.run(variables, x, ())

    def without(self, *units: int) -> Callable[[Any, Any], jax.Array]:
        return lambda variables, x: self.run(variables, x, units)

    def in_double(self) -> Case:
        """The same in float64."""
        return dataclasses.replace(self, variables=in_double(self.variables), example=in_double(self.example))


def is_float(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)


def in_double(tree: Any) -> Any:
    return jax.tree.map(lambda v: np.asarray(v, np.float64) if is_float(v) else v, tree)


def drawn(tree: Any) -> Any:
    """The same tree of arrays, or of shapes, with floating-point leaves away from the initial values of
    libraries, so that no branch is zero."""
    rng = np.random.default_rng(0)

    def leaf(path: Any, v: Any) -> Any:
        if not is_float(v):
            return np.zeros(v.shape, v.dtype) if isinstance(v, jax.ShapeDtypeStruct) else v
        names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        # Where float64 is on, some initializers use it.
        dtype = np.float32 if v.dtype == np.float64 else v.dtype
        noise = rng.normal(size=v.shape)
        if any("var" in name for name in names[-3:]):
            return np.exp(0.3 * noise).astype(dtype)
        if v.ndim == 1:
            return (0.3 * noise + any(name in ("scale", "gamma") for name in names)).astype(dtype)
        return (noise / np.sqrt(v.size / max(v.shape))).astype(dtype)

    return jax.tree_util.tree_map_with_path(leaf, tree)


def images(shape: tuple[int, ...] = IMAGE) -> np.ndarray:
    """float32 [BATCH, *shape]."""
    return np.random.default_rng(1).normal(size=(BATCH, *shape)).astype(np.float32)


def tokens() -> np.ndarray:
    """int32 [BATCH, TOKENS]."""
    return np.random.default_rng(2).integers(0, VOCABULARY, (BATCH, TOKENS)).astype(np.int32)


def masked_tokens() -> dict[str, np.ndarray]:
    """Tokens and which of them count: in the second example the last two do not."""
    mask = np.ones((BATCH, TOKENS), bool)
    mask[1, -2:] = False
    return {"tokens": tokens(), "mask": mask}


def named(pattern: str, count: int, *parts: str, shortcut: str = "identity") -> tuple[tuple[str, str], ...]:
    """(name, shortcut) of ``count`` layers, or of the parts of each: ``blocks/0/attention``, …"""
    layers = [pattern.format(i) for i in range(count)]
    return tuple(
        (f"{layer}/{part}" if part else layer, shortcut) for layer in layers for part in parts or ("",)
    )
