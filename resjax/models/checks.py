"""Checks that builders share; each raises a ValueError that names the allowed values."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from resjax.models.layers import Dtype
from resjax.network.stochastic_depth import KINDS, UnitDropout


def one_of(name: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r}; allowed: {', '.join(map(str, allowed))}")


def computation(dtype: str, conv: str) -> Dtype:
    """The dtype called ``dtype``; 'float64' is for checks and needs JAX's x64 mode.

    ``conv`` is only checked: 'auto' is the fastest convolution on this device, 'lax' is JAX's own, 'cpu' is
    that of ``resjax.cpu.conv``.
    """
    one_of("model.conv", conv, ("auto", "lax", "cpu"))
    one_of("model.dtype", dtype, ("float32", "bfloat16", "float64"))
    if dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            "model.dtype='float64' needs the environment variable JAX_ENABLE_X64=1; else JAX uses float32"
        )
    return jnp.dtype(dtype)


def rate(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name}={value}; allowed: 0 ≤ rate < 1")


def positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name}={value}; allowed: 1 or more")


def at_least(image_shape: tuple[int, int, int], size: int, network: str, why: str) -> None:
    """Raises ValueError for images with a side of less than ``size`` pixels."""
    if min(image_shape[:2]) < size:
        raise ValueError(
            f"images of {image_shape[0]}×{image_shape[1]} are too small for {network}, {why}: use at "
            f"least {size}×{size} (data.image_size)"
        )


def or_of_size(size: str, of_size: Any, given: Any) -> Any:
    """``given``, a named tuple of the model's fields, with those of ``of_size`` where it has 0."""
    for name, value in given._asdict().items():
        if value < 0:
            raise ValueError(
                f"model.{name}={value}; allowed: 1 or more, or 0 for that of model.size={size!r}"
            )
    return type(given)(*(a or b for a, b in zip(given, of_size, strict=True)))


def patches(image_shape: tuple[int, int, int], patch: int) -> None:
    """Raises ValueError for images that patches of ``patch``×``patch`` pixels do not cover without a rest."""
    height, width, _ = image_shape
    if height % patch or width % patch:
        both = math.gcd(height, width)
        allowed = ", ".join(str(p) for p in range(1, both + 1) if both % p == 0)
        raise ValueError(
            f"model.patch={patch} does not divide images of {height}×{width}; allowed: {allowed}, or resize "
            "them (data.image_size)"
        )


def unit_dropout(
    kind: str, num_units: int, survival: float, active: int, scale_at_test: bool
) -> UnitDropout | None:
    """What the fields ``unit_dropout`` (``kind``), ``unit_survival``, ``units_active`` and
    ``unit_scale_at_test`` of a model describe, for a network of ``num_units``; None for 'none'."""
    one_of("model.unit_dropout", kind, ("none", *KINDS))
    return None if kind == "none" else UnitDropout(kind, num_units, survival, active, scale_at_test)
