"""Reports of the layers of a found network, while its parts run."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp

from resjax.discovery.anatomy import Anatomy, Source, paths_of
from resjax.discovery.layers import layers_of
from resjax.discovery.refusal import NotFound
from resjax.network.network import Report

_REPORT = contextvars.ContextVar[Report | None]("_REPORT", default=None)


@contextlib.contextmanager
def reporting(report: Report) -> Iterator[None]:
    """See ``Network.reporting``."""
    before = _REPORT.set(report)
    try:
        yield
    finally:
        _REPORT.reset(before)


def watched(source: Source, found: Anatomy, place: int, half: int) -> list[int]:
    """The values to report of a half of a part; none outside ``reporting``, and none of the head."""
    parts = layers_of(source, found) if _REPORT.get() is not None else ()
    return [layer.response for layer in parts[place][half]] if place < len(parts) else []


def report(
    source: Source, found: Anatomy, place: int, half: int, units: Sequence[int], values: Sequence[Any]
) -> None:
    """Reports the values of ``watched``; ``units`` are those of the part's class."""
    to = _REPORT.get()
    if to is None or not values:
        return
    names = names_of(source)
    layers = layers_of(source, found)[place][half]
    for j, y in enumerate(batch_first(source, found, place, half, values)):
        to(tuple(names[p][half][j] for p in [i + 1 for i in units] or [place]), y, layers[j].normalized)


@functools.lru_cache(maxsize=64)
def names_of(source: Source) -> tuple[tuple[tuple[str, ...], ...], ...]:
    """Different names of the same layers: the paths of their kernels, without the last part if that is
    enough."""
    found = source.first
    paths = paths_of(source.given, found.program)
    kernels = [
        [[paths[layer.kernel] for layer in half] for half in part] for part in layers_of(source, found)
    ]
    short = {path: "/".join(path[:-1]) for part in kernels for half in part for path in half}
    often = Counter(short.values())
    names = {path: name if name and often[name] == 1 else "/".join(path) for path, name in short.items()}
    uses = Counter(path for part in kernels for half in part for path in half)
    seen = Counter[str]()

    def name(path: tuple[str, ...]) -> str:
        if uses[path] == 1:
            return names[path]
        seen[names[path]] += 1  # layers that share a kernel
        return f"{names[path]}#{seen[names[path]]}"

    return tuple(tuple(tuple(map(name, half)) for half in part) for part in kernels)


def batch_first(source: Source, found: Anatomy, place: int, half: int, values: Sequence[Any]) -> list[Any]:
    """The responses of a half of a part, each as [B, …]; two batch sizes tell the axis of the batch.

    Raises:
      NotFound: a response without such an axis.
    """
    batch, other = _batch(found), source.first
    if _batch(other) == batch:
        other = source.anatomy(batch + 1)
    pairs = zip(layers_of(source, found)[place][half], layers_of(source, other)[place][half], strict=True)
    moved = []
    for (one, another), y in zip(pairs, values, strict=True):
        shapes = found.program.avals[one.response].shape, other.program.avals[another.response].shape
        axes = [i for i, (a, b) in enumerate(zip(*shapes, strict=True)) if a != b]
        if len(axes) != 1 or y.shape[axes[0]] % batch:
            name = names_of(source)[place][half]
            raise NotFound(
                f"of some layer among {', '.join(name)}, the response {list(y.shape)} has no batch axis"
            )
        moved.append(jnp.moveaxis(y, axes[0], 0).reshape(batch, -1))
    return moved


def _batch(found: Anatomy) -> int:
    return int(found.program.avals[found.program.inputs[0]].shape[0])
