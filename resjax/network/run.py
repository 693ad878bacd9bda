"""Runs the modules of a network: a stem or a head, and the units of a loop with gates, keys and a tap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import InvalidRngError, ScopeParamShapeError
from jax import lax

from resjax.network import shape_errors
from resjax.network.periods import Place, scan_places
from resjax.network.unit import CONVOLUTION, STATISTIC, Parts


def run_module(
    module: nn.Module,
    variables: Any,
    x: Any,
    train: bool,
    key: jax.Array | None,
    *args: Any,
    method: str | None = None,
) -> tuple[Any, Any]:
    """Applies one Linen module; returns its output and its batch statistics after the pass."""
    rngs = None if key is None else {"dropout": key}
    try:
        if not train:
            out = module.apply(variables, x, *args, train=False, rngs=rngs, method=method)
            return out, variables.get("batch_stats", {})
        out, updates = module.apply(
            variables, x, *args, train=True, rngs=rngs, method=method, mutable=["batch_stats"]
        )
    except ScopeParamShapeError as error:
        raise ValueError(shape_errors.explain(module, x, error)) from error
    except InvalidRngError as error:
        if not train:
            raise
        raise ValueError("this network draws random numbers in training: pass key=") from error
    return out, updates.get("batch_stats", {})


def run_units(
    places: Sequence[Place],
    h: Any,
    keys: Sequence[Any],
    *,
    train: bool,
    skips: bool,
    tap: Callable[[Parts], Any] | None,
    unroll: Callable[[int], int],
) -> tuple[Any, list[Any], list[Any]]:
    """The state behind the last unit; and for each place its new batch statistics, and what ``tap`` saw.

    Args:
      places: all of a network, or those of a loop, with their gates.
      h: the state in front of them.
      keys: random keys of each place [m], or None for it.
      train, tap: see ``Network.apply``.
      skips: whether a unit with a gate of 0 is not run at all.
      unroll: see ``scan_places``.
    """

    def run_unit(place: Place, h: Any, own: Any) -> tuple[Any, Any]:
        unit = place.stack.unit
        part, gate, key = own

        def run(h: Any) -> tuple[Parts, Any]:
            return run_module(unit, part, h, train, key, gate, method="parts")

        def skip(h: Any) -> tuple[Parts, Any]:
            # The statistics of a unit that did not run remain unchanged.
            y, _ = run_module(unit, part, h, train, key, method="skip")
            shapes = jax.eval_shape(run, h)[0]
            zero = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
            return zero._replace(x=h, y=y), part.get("batch_stats", {})

        parts, stats = lax.cond(gate != 0, run, skip, h) if skips else run(h)
        return parts.y, (stats, tap(parts) if tap else None)

    def step(place: Place, h: Any, own: Any) -> tuple[Any, Any]:
        looped = train and len(place.units) > 1
        body: Any = lambda h, own: run_unit(place, h, own)  # noqa: E731
        return (_rematerialized(body) if looped else body)(h, own)

    xs = [(place.variables, place.gates, own) for place, own in zip(places, keys, strict=True)]
    h, seen = scan_places(places, step, h, xs, unroll=unroll)
    return h, [stats for stats, _ in seen], [taps for _, taps in seen]


def _rematerialized(run_unit: Callable[..., Any]) -> Callable[..., Any]:
    """Stores convolutions and statistics for the backward pass, and recomputes the rest of a unit.

    A loop stores everything that its backward pass needs. Normalized and rectified activations are cheaper to
    recompute than to write and read. The layers of ``resjax.models`` use ``checkpoint_name`` to mark what is
    stored; layers of other libraries are recomputed as a whole.
    """
    keep = jax.checkpoint_policies.save_only_these_names(CONVOLUTION, STATISTIC)
    return jax.checkpoint(run_unit, prevent_cse=False, policy=keep)
