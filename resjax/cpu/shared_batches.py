"""Batches of an analysis shared by the cores of a CPU, where each is a device (``resjax.training.cores``).

Each core processes part of the examples with single-threaded convolutions. Sums over examples also become
sums over cores. Never run two such programs concurrently: XLA has one thread per device, so they deadlock. An
analysis therefore waits for each result before it starts the next program. Where cores are not devices,
nothing here has any effect::

    @jit(static=2)
    def _run(cores, network, variables, images, labels, mask): ...

    cores = shared_cores()
    variables = cores.copy(variables)
    for batch in padded_batches(images, labels, batch_size, multiple=cores.count):
        found = cores.wait(_run(cores, network, variables, *cores.split(batch)))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from resjax.cpu.one_thread import one_thread

Tree = TypeVar("Tree")


@dataclasses.dataclass(frozen=True)
class Cores:
    """Devices that share batches: those of ``mesh``, which has one axis; None for a single device."""

    mesh: Mesh | None = None

    @property
    def count(self) -> int:
        """Number of devices; batch sizes must be divisible by it."""
        return 1 if self.mesh is None else self.mesh.size

    def copy(self, tree: Tree) -> Tree:
        """A copy of every array on every device."""
        return tree if self.mesh is None else self._put(tree, PartitionSpec())

    def split(self, tree: Tree) -> Tree:
        """Arrays [B, …], the first axis split over the devices."""
        if self.mesh is None:
            return tree
        return self._put(tree, PartitionSpec(*self.mesh.axis_names))

    def wait(self, tree: Tree) -> Tree:
        """Waits until ``tree`` is computed, if the next program must not start before."""
        return tree if self.mesh is None else jax.block_until_ready(tree)

    def if_shared(self, size: int) -> Cores:
        """These devices, if they can share ``size`` examples equally, else a single one."""
        return self if size % self.count == 0 else Cores()

    def _put(self, tree: Tree, spec: PartitionSpec) -> Tree:
        assert self.mesh is not None
        return jax.device_put(tree, NamedSharding(self.mesh, spec))


def jit(static: int) -> Callable[[Callable[..., Any]], Any]:
    """``jax.jit`` with the first ``static`` arguments static. The wrapped function takes a leading ``Cores``
    argument, which decides the form of its convolutions."""

    def decorate(function: Callable[..., Any]) -> Any:
        def on_cores(cores: Cores, *args: Any) -> Any:
            with nullcontext() if cores.mesh is None else one_thread(cores.mesh):
                return function(cores, *args)

        on_cores.__name__ = function.__name__  # not functools.wraps: JAX would read the wrapped signature
        return jax.jit(on_cores, static_argnums=tuple(range(static)))

    return decorate


def shared_cores() -> Cores:
    """The cores that are devices of this process, by ``resjax.training.cores`` or ``jax_num_cpu_devices``."""
    count: int = jax.config.jax_num_cpu_devices  # type: ignore[attr-defined]
    if count < 2 or jax.default_backend() != "cpu" or jax.process_count() > 1:
        return Cores()
    return Cores(Mesh(np.array(jax.devices()), ("data",)))
