"""A function as it was given, with its variables in JAX's order, and its traces.

A trace is a program for inputs of one batch size and one set of dtypes, since jaxprs contain shapes. The
network that is built of it runs at other batch sizes and dtypes, too: the function is then traced again.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from resjax.discovery.program import Program, flatten
from resjax.discovery.refusal import NotFound

Cast = Mapping[np.dtype, np.dtype]
"""{floating dtype of the example or the variables: dtype instead of it}."""

NO_TRAINING = (
    "this network was found in a function for inference; training mode (batch statistics, dropout) needs "
    "train_fn=: resjax.discover(fn, variables, example, train_fn=…) with train_fn(variables, x, key) -> "
    "(logits, new statistics)"
)
_STATISTICS = {
    "batch_stats", "running_mean", "running_var", "moving_mean", "moving_variance", "num_batches_tracked",
    "mean_ema", "var_ema",
}  # fmt: skip
_INNER = {"params", "~"}  # parts of a path that say nothing: Linen, Haiku
_LAST = {"value", "raw_value"}  # of NNX


@dataclasses.dataclass(frozen=True)
class Leaf:
    """An array of the user's variables."""

    index: int  # among all leaves of the pytree
    raw: str  # its path in JAX's words
    path: tuple[str, ...]  # what a person would call it
    spec: jax.ShapeDtypeStruct
    kind: str  # 'params', 'batch_stats' (running statistics) or 'buffers' (never trained)


@dataclasses.dataclass(frozen=True, eq=False)
class Given:
    """``fn``, ``train_fn`` and the form of their arguments.

    Attributes:
      fn: (variables, x) → logits.
      train_fn: (variables, x, key) → (logits, new statistics), or None.
      tree, values: the pytree of variables and all its leaves, arrays or not.
      leaves: its arrays.
      example: pytree of shapes and dtypes of ``x``, with a leading batch axis.
    """

    fn: Callable[..., Any]
    train_fn: Callable[..., Any] | None
    tree: Any
    values: tuple[Any, ...]
    leaves: tuple[Leaf, ...]
    example: Any

    @classmethod
    def of(cls, fn: Any, train_fn: Any, variables: Any, example: Any) -> Given:
        """Checks the arguments of ``discover``.

        Raises:
          NotFound: variables without an array, or an example without a common leading axis.
        """
        paths, tree = jax.tree_util.tree_flatten_with_path(variables)
        kinds, collections = _kinds(variables), _has_collections(variables)
        nnx = all(raw_path(path).split("/")[-1] in _LAST for path, value in paths if is_array(value))
        leaves = tuple(
            Leaf(i, raw_path(path), _path(path, collections, nnx), spec_of(value), kinds(path, value))
            for i, (path, value) in enumerate(paths)
            if is_array(value)
        )
        if not leaves:
            raise NotFound(
                "the variables hold no array; give the network's parameters as a pytree, such as Linen's "
                "variables, an NNX or Equinox module, or a dictionary of arrays: fn(variables, x)"
            )
        inputs = jax.tree.leaves(example)
        if not inputs or not all(is_array(v) and len(v.shape) for v in inputs):
            raise NotFound(
                "the example must be a batch: an array, or a pytree of arrays, with a leading batch axis"
            )
        if len({v.shape[0] for v in inputs}) > 1:
            shapes = ", ".join(str(list(v.shape)) for v in inputs)
            raise NotFound(f"the arrays of the example differ in their leading axis, the batch: {shapes}")
        return cls(fn, train_fn, tree, tuple(v for _, v in paths), leaves, jax.tree.map(spec_of, example))

    @property
    def batch(self) -> int:
        """The batch size of the example."""
        return int(jax.tree.leaves(self.example)[0].shape[0])

    def unusual_batch(self) -> int:
        """A batch size that no axis of the variables or the example has, so that it can be told from them."""
        specs = [*(leaf.spec for leaf in self.leaves), *jax.tree.leaves(self.example)]
        sizes = {n for spec in specs for n in spec.shape}
        return next(n for n in itertools.count(7, 2) if n not in sizes)

    def rebuild(self, arrays: list[Any]) -> Any:
        """The user's pytree with other arrays."""
        values = list(self.values)
        for leaf, array in zip(self.leaves, arrays, strict=True):
            values[leaf.index] = array
        return jax.tree_util.tree_unflatten(self.tree, values)

    def arrays(self, variables: Any) -> list[Any]:
        """The arrays of a pytree of the user's form.

        Raises:
          ValueError: another form.
        """
        paths, _ = jax.tree_util.tree_flatten_with_path(variables)
        if len(paths) != len(self.values):
            own = _names(jax.tree_util.tree_unflatten(self.tree, self.values))
            given = _names(variables)
            first = next(iter([p for p in own if p not in given] + [p for p in given if p not in own]), "")
            where = f"; only {'the network has' if first in own else 'these have'} {first}" if first else ""
            raise ValueError(
                f"the variables have {len(paths)} leaves, those of the network {len(self.values)}: give a "
                f"pytree of the same form{where}"
            )
        for leaf in self.leaves:
            path, value = paths[leaf.index]
            if raw_path(path) != leaf.raw or not is_array(value) or np.shape(value) != leaf.spec.shape:
                what = list(np.shape(value)) if is_array(value) else type(value).__name__
                raise ValueError(
                    f"the variables have {raw_path(path)} of shape {what} where those of the network have "
                    f"{leaf.raw} of shape {list(leaf.spec.shape)}: give a pytree of the same form"
                )
        return [paths[leaf.index][1] for leaf in self.leaves]

    def inputs(self, x: Any) -> list[Any]:
        """The arrays of an input.

        Raises:
          ValueError: another number of arrays than the example has, another shape behind the batch axis, or
            floats instead of integers. Shapes stand as numbers in the trace, such as that of a mean.
        """
        found, specs = jax.tree.leaves(x), jax.tree.leaves(self.example)
        if len(found) != len(specs):
            raise ValueError(f"the input has {len(found)} arrays, the example had {len(specs)}")
        for v, spec in zip(found, specs, strict=True):
            if np.shape(v)[1:] != spec.shape[1:]:
                raise ValueError(
                    f"the input has an array of shape {list(np.shape(v))}, the example had "
                    f"{list(spec.shape)}; only the batch, the first axis, may differ: discover the function "
                    "again with an example of this shape"
                )
            if jax.numpy.issubdtype(v.dtype, np.inexact) > jax.numpy.issubdtype(spec.dtype, np.inexact):
                raise ValueError(f"the input has an array of {v.dtype}, the example had {spec.dtype}")
        return found

    def array_at(self, path: Any) -> int:
        """The number of the array at a path of the variables, or at the end of one.

        Raises:
          NotFound: none, or several.
        """
        text = raw_path(path)
        paths = [leaf.raw for leaf in self.leaves]
        found = [i for i, own in enumerate(paths) if own == text] or [
            i for i, own in enumerate(paths) if own.endswith(f"/{text}")
        ]
        if len(found) != 1:
            raise NotFound(
                f"train_fn returns new statistics at {text!r}, where the variables have {len(found)} "
                "arrays; return (logits, new statistics) with statistics as a part of the variables, of "
                "the same form"
            )
        return found[0]

    def trace(
        self, batch: int, cast: Cast | None = None, cast_x: Cast | None = None, train: bool = False
    ) -> Program:
        """The flat program for inputs of this batch size.

        Raises:
          NotFound: training mode of a function that was given without ``train_fn``.
        """
        specs = [_cast(leaf.spec, cast or {}) for leaf in self.leaves]
        x = jax.tree.map(
            lambda s: _cast(jax.ShapeDtypeStruct((batch, *s.shape[1:]), s.dtype), cast_x or {}), self.example
        )
        if train:
            train_fn, key = self.train_fn, jax.eval_shape(lambda: jax.random.key(0))
            if train_fn is None:
                raise NotFound(NO_TRAINING)
            return flatten(lambda arrays, x, key: train_fn(self.rebuild(arrays), x, key), specs, x, key)
        return flatten(lambda arrays, x: self.fn(self.rebuild(arrays), x), specs, x)


def is_array(value: Any) -> bool:
    """Whether a leaf is an array, or its shape and dtype."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def spec_of(value: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype as JAX would take them."""
    value = np.asarray(value) if isinstance(value, np.generic) else value
    return jax.eval_shape(lambda v: v, value)


def raw_path(path: Any) -> str:
    """A path of a pytree as text, ``params/blocks/0/kernel``."""
    return str(jax.tree_util.keystr(path, simple=True, separator="/"))


def _cast(spec: jax.ShapeDtypeStruct, cast: Cast) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(spec.shape, cast.get(spec.dtype, spec.dtype))


def _path(path: Any, collections: bool, nnx: bool) -> tuple[str, ...]:
    """The parts of a leaf's path that a person would name: 'blocks', '0', 'attention', 'kernel'.

    Of Linen's variables, the name of the collection is left out; of NNX's, the last part, "value".
    """
    text = raw_path(path)
    parts = [part for part in text.split("/")[collections:] if part not in _INNER]
    if nnx:
        parts.pop()
    return tuple(parts) or (text,)


def _has_collections(variables: Any) -> bool:
    return isinstance(variables, Mapping) and "params" in variables


def _kinds(variables: Any) -> Callable[[Any, Any], str]:
    """(path, leaf) → 'params', 'batch_stats' or 'buffers'."""

    def marked(value: Any) -> bool:  # flax.nnx tells kinds of variables by their types
        return bool({"BatchStat", "RngState"} & {base.__name__ for base in type(value).__mro__})

    nnx = {
        jax.tree_util.keystr(path)
        for path, value in jax.tree_util.tree_flatten_with_path(variables, is_leaf=marked)[0]
        if marked(value)
    }
    collections = _has_collections(variables)

    def kind(path: Any, value: Any) -> str:
        parts = raw_path(path).split("/")
        text = jax.tree_util.keystr(path)
        if not jax.numpy.issubdtype(value.dtype, jax.numpy.inexact):
            return "buffers"
        if _STATISTICS & set(parts) or any(text.startswith(known) for known in nnx):
            return "batch_stats"
        return "buffers" if collections and parts[0] != "params" else "params"

    return kind


def _names(variables: Any) -> list[str]:
    """The paths of a pytree's leaves."""
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(variables)]
