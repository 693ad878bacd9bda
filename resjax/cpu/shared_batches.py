"""Batches of an analysis shared by the cores of a CPU, where each is a device (``resjax.training.cores``).

Each core processes part of the examples with single-threaded convolutions. Where cores are not devices,
nothing here has any effect. There are two ways:

*One program for all cores*, where it is large. Sums over examples also become sums over cores. Never run two
such programs concurrently: XLA has one thread per device, so they deadlock. An analysis therefore waits for
each result before it starts the next program::

    @jit(static=2)
    def _run(cores, network, variables, images, labels, mask): ...

    cores = shared_cores()
    variables = cores.copy(variables)
    for batch in padded_batches(images, labels, batch_size, multiple=cores.count):
        found = cores.wait(_run(cores, network, variables, *cores.split(batch)))

If cores can't share a batch equally, or a result belongs to a whole batch, each core takes a batch of its own
through the program (``jit_each``).

*Batches of its own for each core*, where many small programs follow each other: a host thread for each core
runs them, and no core waits for another before the next batch. The programs have one device, so they can't
deadlock; they are traced once and compiled for each device::

    def work(core, variables, batch):  # a generator
        yield _run(core, network, variables, *core.split(batch))

    size = cores.own_size(len(labels), batch_size)
    for found in over_batches(cores, work, variables, list(padded_batches(images, labels, size))): ...
"""

from __future__ import annotations

import contextvars
import dataclasses
import math
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from resjax.cpu.one_thread import one_thread
from resjax.cpu.shapes import that_fit

# Images at a time: so many that their elements stay in the cache, and a kernel is not transformed too often.
AT_ONCE, MOST_IMAGES = 2**15, 8
# The same for a program of one unit. XLA splits a product between threads if its first factor has 2**16
# elements or more, and the threads wait for each other. In Winograd's form, images have 2.25 times as many.
OF_A_UNIT = 2**14
MANY = 32  # images of a core's batch: then there are a multiple of 4, which can be taken a few at a time
MOST_ELEMENTS = 2**14  # of an image; larger ones were not tried
MOST_GIVEN = 2**21  # elements of variables, which are read again for every few images
Tree = TypeVar("Tree")
Batch = TypeVar("Batch")
Part = TypeVar("Part")


@dataclasses.dataclass(frozen=True)
class Cores:
    """Devices that share batches: those of ``mesh``, which has one axis; None for a single device, which is
    ``device`` if it is a core that has batches of its own, else the default one."""

    mesh: Mesh | None = None
    one_thread: bool = False
    # Not compared, so that all cores share a trace.
    device: jax.Device | None = dataclasses.field(default=None, compare=False)

    @property
    def count(self) -> int:
        """Number of devices; batch sizes must be divisible by it."""
        return 1 if self.mesh is None else self.mesh.size

    def copy(self, tree: Tree) -> Tree:
        """A copy of every array on every device."""
        return tree if self.mesh is None and self.device is None else self._put(tree, PartitionSpec())

    def split(self, tree: Tree) -> Tree:
        """Arrays [B, …], the first axis split over the devices."""
        if self.mesh is None:
            return self.copy(tree)
        return self._put(tree, PartitionSpec(*self.mesh.axis_names))

    def first(self, count: int) -> Cores:
        """The first ``count`` of these devices, 1 or more; all where there are no more."""
        if self.mesh is None or count >= self.count:
            return self
        return Cores(Mesh(self.mesh.devices[:count], self.mesh.axis_names))

    def each(self) -> list[Cores]:
        """The devices one by one."""
        if self.mesh is None:
            return [self]
        return [Cores(one_thread=True, device=device) for device in self.mesh.devices.flat]

    def own_size(self, examples: int, batch_size: int) -> int:
        """Examples in each of the batches of single devices, at most ``batch_size`` on all devices together,
        so that all devices get about equally many batches."""
        most = max(batch_size // self.count, 1)
        rounds = -(-examples // (most * self.count))
        return even_size(examples, rounds * self.count, most)

    def wait(self, tree: Tree) -> Tree:
        """Waits until ``tree`` is computed, if the next program must not start before."""
        return tree if self.mesh is None else jax.block_until_ready(tree)

    def if_shared(self, size: int) -> Cores:
        """These devices, if they can share ``size`` examples equally, else a single one."""
        return self if size % self.count == 0 else Cores()

    def _put(self, tree: Tree, spec: PartitionSpec) -> Tree:
        if self.mesh is None:
            return jax.device_put(tree, self.device)
        return jax.device_put(tree, NamedSharding(self.mesh, spec))


def even_size(examples: int, batches: int, most: int) -> int:
    """Examples in each of so many ``batches`` of one size, at most ``most``: as few as possible, but a
    multiple of 4 from ``MANY`` on."""
    size = -(-examples // batches)
    return min(-(-size // 4) * 4, most) if size >= MANY else size


def over_batches(
    cores: Cores,
    work: Callable[[Cores, Any, Batch], Iterator[Part]],
    given: Any,
    batches: Sequence[Batch],
) -> Iterator[list[Part]]:
    """``list(work(core, given, batch))`` of each batch, in order; ``cores`` work on as many at the same time.

    Args:
      work: a generator, which runs programs on a single device. Between its parts it can be stopped. What
        else it uses must bear several threads.
      given: a pytree of arrays, which ``work`` gets on its device.
      batches: for ``work``, of any kind.
    """
    # A thread does not inherit the 64-bit mode of a context of JAX.
    if cores.mesh is None or jax.config.read("jax_enable_x64"):
        for batch in batches:
            yield list(work(Cores(), given, batch))
        return
    idle: queue.SimpleQueue[tuple[Cores, Any]] = queue.SimpleQueue()
    for core in cores.each():
        idle.put((core, core.copy(given)))
    ended = threading.Event()

    def run(batch: Batch) -> list[Part]:
        own, found = idle.get(), list[Part]()
        try:
            for part in work(*own, batch):
                found.append(jax.block_until_ready(part))  # or dispatch would run ahead, and keep its states
                if ended.is_set():
                    break
            return found
        finally:
            idle.put(own)

    with ThreadPoolExecutor(cores.count) as pool:
        waiting = deque(pool.submit(contextvars.copy_context().run, run, batch) for batch in batches)
        try:
            while waiting:
                yield waiting.popleft().result()
        finally:  # also after an error or a stop, here or in the caller
            ended.set()
            pool.shutdown(wait=False, cancel_futures=True)


def few_at_a_time(
    cores: Cores,
    run: Callable[[Any, Any], Tree],
    given: Any,
    of_images: Any,
    most: int = MOST_IMAGES,
    elements: int = AT_ONCE,
) -> Tree:
    """``run(given, of_images)``, a few images after another where each core has one thread, so that all that
    ``run`` computes of them stays in the core's cache.

    Args:
      run: must treat every image alone, and return arrays [B, …].
      given: a pytree of arrays, the same for all images; with too many elements, nothing is gained.
      of_images: a pytree of arrays [B, …], first the images [B, H, W, C]; others run together.
      most: images at a time, fewer where ``run`` holds many states of each. Where neither so many nor fewer
        divide the images of a core, they are more.
      elements: numbers that the images have together, at most; two images may have more.
    """
    images = jax.tree.leaves(of_images)[0]
    size = len(images) // cores.count
    most = min(that_fit(elements, images.shape[1:]), most)
    or_else = (*range(most, 1, -1), *range(most + 1, MOST_IMAGES + 1))
    few = next((few for few in or_else if size % few == 0), size)
    read = sum(math.prod(np.shape(leaf)) for leaf in jax.tree.leaves(given))
    small = math.prod(images.shape[1:]) <= MOST_ELEMENTS and read <= MOST_GIVEN
    alone = cores.mesh is None and not cores.one_thread
    if alone or images.ndim != 4 or not small or few == size:
        return run(given, of_images)

    run_few = jax.jit(run, inline=True)  # so that it is traced once, for its shapes and in the loop

    def after_another(given: Any, of_images: Any) -> Tree:
        own = jax.tree.map(lambda v: v[:few], of_images)
        if jax.eval_shape(run_few, given, own) == jax.eval_shape(lambda own: own, own):
            return _in_place(run_few, given, of_images, few)
        grouped = jax.tree.map(lambda v: v.reshape(-1, few, *v.shape[1:]), of_images)
        found = lax.map(lambda own: run_few(given, own), grouped)
        return jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:]), found)

    return (
        after_another(given, of_images)
        if cores.mesh is None
        else _alone(cores, after_another, given, of_images)
    )


def _in_place(run: Callable[[Any, Any], Tree], given: Any, of_images: Tree, few: int) -> Tree:
    """``run`` of a few images after another, where results replace images. ``lax.map`` would fill new arrays
    with zeros first; XLA splits that between threads, which wait for each other."""

    def step(i: Any, kept: Tree) -> Tree:
        own = jax.tree.map(lambda v: lax.dynamic_slice_in_dim(v, i * few, few), kept)
        return jax.tree.map(
            lambda v, new: lax.dynamic_update_slice_in_dim(v, new, i * few, 0), kept, run(given, own)
        )

    return lax.fori_loop(0, len(jax.tree.leaves(of_images)[0]) // few, step, of_images)


def _alone(cores: Cores, run: Callable[[Any, Any], Tree], given: Any, shared: Any) -> Tree:
    """``run(given, part)`` on each core, with one thread, for its part of the first axis of ``shared``."""
    assert cores.mesh is not None
    split = PartitionSpec(*cores.mesh.axis_names)

    def own(given: Any, part: Any) -> Tree:
        with one_thread():
            return run(given, part)

    each = jax.shard_map(
        own, mesh=cores.mesh, in_specs=(PartitionSpec(), split), out_specs=split, check_vma=False
    )
    return each(given, shared)


def jit(static: int) -> Callable[[Callable[..., Any]], Any]:
    """``jax.jit`` with the first ``static`` arguments static. The wrapped function takes a leading ``Cores``
    argument, which decides the form of its convolutions."""

    def decorate(function: Callable[..., Any]) -> Any:
        def on_cores(cores: Cores, *args: Any) -> Any:
            shared = cores.mesh is not None or cores.one_thread
            with one_thread(cores.mesh) if shared else nullcontext():
                return function(cores, *args)

        on_cores.__name__ = function.__name__  # not functools.wraps: JAX would read the wrapped signature
        return jax.jit(on_cores, static_argnums=tuple(range(static)))

    return decorate


def jit_each(static: int) -> Callable[[Callable[..., Any]], Any]:
    """``jit`` of a program that is compiled once, and in which each core has a batch of its own.

    The wrapped function takes (a single core, the other static arguments, given, *batch). The program takes
    (cores, …, given, *batch): ``given`` is the same for all cores, ``for_each`` makes ``batch``, and
    ``of_each`` takes what the program returns.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        def on_cores(cores: Cores, *args: Any) -> Any:
            fixed, given, batch = args[: static - 1], args[static - 1], args[static:]
            if cores.mesh is None:
                return function(cores, *fixed, given, *batch)

            def own(given: Any, batch: Any) -> Any:
                first = jax.tree.map(lambda v: v[0], batch)
                found = function(Cores(one_thread=True), *fixed, given, *first)
                return jax.tree.map(lambda v: v[None], found)

            return _alone(cores, own, given, batch)

        on_cores.__name__ = function.__name__
        return jit(static)(on_cores)

    return decorate


def for_each(cores: Cores, batches: Sequence[Tree]) -> Tree:
    """Stacks batches, at most one for each core. A core without one gets the first batch again."""
    if cores.mesh is None:
        return batches[0]
    every = [*batches, *[batches[0]] * (cores.count - len(batches))]

    def together(*values: Any) -> Any:
        return np.stack(values) if isinstance(values[0], np.ndarray) else jnp.stack(values)

    return cores.split(jax.tree.map(together, *every))


def of_each(cores: Cores, found: Tree) -> list[Tree]:
    """Splits what a program of ``jit_each`` returns: one result for each core."""

    def own(i: int) -> Tree:
        return jax.tree.map(lambda v: v[i], found)

    return [found] if cores.mesh is None else [own(i) for i in range(cores.count)]


def shared_cores() -> Cores:
    """The cores that are devices of this process, by ``resjax.training.cores`` or ``jax_num_cpu_devices``."""
    count: int = jax.config.jax_num_cpu_devices  # type: ignore[attr-defined]
    if count < 2 or jax.default_backend() != "cpu" or jax.process_count() > 1:
        return Cores()
    return Cores(Mesh(np.array(jax.devices()), ("data",)))
