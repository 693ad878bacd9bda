"""What an equation computes, as text that is equal for equal equations alone.

JAX's own text of an equation leaves out arrays inside it, and names functions by their addresses, which are
new in each trace. Arrays are replaced by digests. Of a function with a derivative of its own
(``custom_jvp``, ``custom_vjp``), the text of its derivative is added, with the numbers that it closes over.
All other functions, such as those of callbacks, are equal only to themselves.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.extend.core as jex
import numpy as np

from resjax.discovery.program import Node


def text_of(node: Node) -> str:
    """An equation as text."""
    return "".join([_plain(node.alone[0]), *_hidden(node.eqn, node.debug_info, True)])


def digest(array: Any) -> str:
    """A digest of an array, or of a random key."""
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    array = np.asarray(array)
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()[:16]


def _plain(jaxpr: Any) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", str(jaxpr))


def _hidden(eqn: Any, debug_info: Any, derivatives: bool) -> Iterator[str]:
    """What the text of an equation does not show: arrays and functions inside it."""
    own = eqn.primitive.name.startswith(("custom_jvp_call", "custom_vjp_call"))
    yield from (digest(v.val) for v in eqn.invars if isinstance(v, jex.Literal) and np.ndim(v.val))
    for item in _items(eqn.params.values()):
        if isinstance(item, jex.ClosedJaxpr):
            yield from map(digest, item.consts)
        if isinstance(item, jex.ClosedJaxpr | jex.Jaxpr):
            jaxpr = item.jaxpr if isinstance(item, jex.ClosedJaxpr) else item
            for inner in jaxpr.eqns:
                yield from _hidden(inner, debug_info, derivatives)
        elif isinstance(item, np.ndarray | jax.Array):
            yield digest(item)
        elif callable(item) and not own:
            yield f"function {id(item)}"
    if own and derivatives:
        yield from _derivative(eqn, debug_info)


def _items(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, tuple | list):
            yield from _items(value)
        else:
            yield value


def _derivative(eqn: Any, debug_info: Any) -> Iterator[str]:
    """The text of the derivative of an equation; one that can't be traced is equal to itself alone."""
    jaxpr, _ = Node(eqn, (), (), "", debug_info).alone
    floating = [_is_float(v.aval) for v in jaxpr.invars]
    results = [j for j, v in enumerate(jaxpr.outvars) if _is_float(v.aval)]

    def pulled_back(args: list[Any], cotangents: list[Any]) -> Any:
        def run(*floats: Any) -> list[Any]:
            rest = iter(floats)
            full = [next(rest) if f else arg for f, arg in zip(floating, args, strict=True)]
            outs = jax.core.eval_jaxpr(jaxpr, (), *full)
            return [outs[j] for j in results]

        return jax.vjp(run, *(arg for f, arg in zip(floating, args, strict=True) if f))[1](cotangents)

    def spec(v: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype)

    try:
        closed = jax.make_jaxpr(pulled_back)(
            list(map(spec, jaxpr.invars)), [spec(jaxpr.outvars[j]) for j in results]
        )
    except Exception:  # whatever the user's rule raises: perhaps it has none for this mode
        yield f"equation {id(eqn)}"
        return
    yield _plain(closed.jaxpr)
    yield from map(digest, closed.consts)
    for inner in closed.jaxpr.eqns:
        # Derivatives of derivatives are left out, since a rule may call its own function.
        yield from _hidden(inner, debug_info, False)


def _is_float(aval: Any) -> bool:
    return bool(jax.dtypes.issubdtype(aval.dtype, np.inexact))
