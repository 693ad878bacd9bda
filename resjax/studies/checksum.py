"""Checksums of arrays and of functions, which tell whether a kept result still belongs to them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.extend.core as jex
import numpy as np

from resjax.discovery.program import jaxprs_in

_ADDRESS = re.compile(r"\b0x[0-9a-f]+")  # of a Python function that an equation names


def of_arrays(tree: Any) -> str:
    """Changes with the form of a pytree and with every value of its arrays."""
    digest = hashlib.sha256(_ADDRESS.sub("", str(jax.tree.structure(tree))).encode())
    for leaf in jax.tree.leaves(tree):
        if jax.dtypes.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.ascontiguousarray(leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes() if array.dtype.hasobject is False else repr(leaf).encode())
    return digest.hexdigest()


def _of_jaxpr(jaxpr: Any) -> str:
    """Changes with the equations of a ``Jaxpr`` or ``ClosedJaxpr`` and with the constants inside it.

    The text of a jaxpr does not show the constants of the functions that it calls.
    """
    text = _ADDRESS.sub("", str(jaxpr))
    return hashlib.sha256(f"{text}{of_arrays(list(_constants(jaxpr)))}".encode()).hexdigest()


def of_function(function: Callable[..., Any], *arguments: Any) -> str:
    """Changes with what ``function`` computes of arguments of these shapes, constants included.

    It is a checksum of the traced program, so the text of the function may change.
    """
    leaves, tree = jax.tree.flatten(arguments)
    arrays = [i for i, leaf in enumerate(leaves) if hasattr(leaf, "dtype")]

    def of(values: list[Any]) -> Any:
        own = list(leaves)
        for i, value in zip(arrays, values, strict=True):
            own[i] = value
        return function(*jax.tree.unflatten(tree, own))

    return _of_jaxpr(jax.make_jaxpr(of)([leaves[i] for i in arrays]))


def _constants(jaxpr: Any) -> Iterator[Any]:
    if isinstance(jaxpr, jex.ClosedJaxpr):
        yield from jaxpr.consts
        jaxpr = jaxpr.jaxpr
    for eqn in jaxpr.eqns:
        for inner in jaxprs_in(eqn):
            yield from _constants(inner)
