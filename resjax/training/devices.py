"""Arrays and programs on one device, many devices, or many hosts.

``jit`` over a mesh with one axis, ``data``: the batch is split over the devices, everything else is
replicated, and XLA inserts the all-reduces. The program and its results are those of one device (up to the
order of sums): BatchNorm sees the whole batch.

``pmap``: each device runs the step on its share of the batch, and gradients are averaged. There are two
differences: BatchNorm normalizes by the statistics of the share, as in He et al. 2015 (128 examples on two
GPUs: statistics over 64), and dropout draws the same masks on every device. For one process only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from resjax.cpu.one_thread import one_thread
from resjax.training.cores import available_cores
from resjax.training.step import Batch, Task, eval_steps, train_steps

Tree = Any


def any_process(flag: bool) -> bool:
    """Whether ``flag`` is set in any process; all processes must call it at the same point."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


class Devices:
    """The devices of a run; places arrays on them and compiles programs for them.

    Attributes:
      mode: 'jit' or 'pmap', see the module's docstring.
      count: number of devices over all hosts.
      on_cores: whether they share a CPU (``resjax.training.cores``). Never run two programs with sums over
        such devices concurrently: XLA has one thread per device, so they deadlock.
    """

    def __init__(self, mode: str = "jit", devices: list[jax.Device] | None = None) -> None:
        if mode == "pmap" and jax.process_count() > 1:
            raise ValueError(
                f"parallel.mode='pmap' is for one process; this run has {jax.process_count()}: use 'jit'"
            )
        self.mode = mode
        self._devices = jax.devices() if devices is None else devices
        self.count = len(self._devices)
        shared = self.count > jax.process_count()  # the same answer in every process
        self.on_cores = shared and self._devices[0].platform == "cpu"
        self._mesh = Mesh(np.array(self._devices), ("data",))
        self._copied = NamedSharding(self._mesh, PartitionSpec())
        self._split = NamedSharding(self._mesh, PartitionSpec(None, "data"))

    def check_batch_size(self, batch_size: int, *, in_pairs: bool = False) -> None:
        """Raises ValueError if the devices can't share a batch equally, or can't ``in_pairs`` of examples
        (``resjax.training.mixing``)."""
        multiple = self.count * (2 if in_pairs and self.count > 1 else 1)
        if batch_size % multiple:
            pairs = " in the pairs of train.mixup and train.cutmix" if not batch_size % self.count else ""
            fitting = -(-batch_size // multiple) * multiple
            raise ValueError(
                f"train.batch_size={batch_size} can't be shared equally by {self.count} devices{pairs}; "
                f"use a multiple of {multiple}, e.g. {fitting}"
            )

    def copy(self, tree: Tree) -> Tree:
        """A copy of every array on every device."""
        # Not device_put: it rejects random keys if the devices belong to several processes.
        return jax.jit(lambda tree: tree, out_shardings=self._copied)(tree)

    def abstract(self, shapes: Tree) -> Tree:
        """The shapes and shardings of what ``copy`` returns."""
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=self._copied), shapes)

    def split(self, batches: dict[str, np.ndarray]) -> Batch:
        """Arrays [n, B of this host, …] → [n, B, …], the batch axis split over the devices."""
        return {k: jax.make_array_from_process_local_data(self._split, v) for k, v in batches.items()}

    def split_for_training(self, batches: dict[str, np.ndarray]) -> Batch:
        """As ``split``, in the layout of ``train_program``."""
        if self.mode == "jit":
            return self.split(batches)
        own = sum(d.process_index == jax.process_index() for d in self._devices)
        shared = {k: v.reshape(v.shape[0], own, -1, *v.shape[2:]) for k, v in batches.items()}
        return cast(Batch, shared)  # pmap places host arrays itself

    def train_program(self, task: Task) -> jax.stages.Wrapped:
        """``step.train_steps`` on these devices, to be called or compiled with all six arguments: the teacher
        may be None. The state is donated."""
        if self.mode == "jit":
            rest = (self._copied, self._split, self._copied, self._copied, self._copied)
            return jax.jit(
                self._traced(train_steps, task=task),
                in_shardings=(self._copied, *rest),
                out_shardings=self._copied,
                donate_argnums=0,
            )
        return jax.pmap(
            self._traced(train_steps, task=task, axis_name="device"),
            axis_name="device",
            in_axes=(None, None, 1, None, None, None),
            out_axes=None,
            devices=self._devices,
        )

    def eval_program(self, task: Task) -> jax.stages.Wrapped:
        """``step.eval_steps`` on these devices."""
        return jax.jit(
            self._traced(eval_steps, task=task),
            in_shardings=(self._copied, self._split),
            out_shardings=self._copied,
        )

    def _traced(self, steps: Callable[..., Any], **fixed: Any) -> Callable[..., Any]:
        """``steps`` with fixed arguments, and convolutions that suit the number of threads per device."""
        single = self._devices[0].platform == "cpu" and available_cores() == 1
        if self.on_cores or single:
            steps = one_thread(self._mesh if self.mode == "jit" else None)(steps)
        return functools.partial(steps, **fixed)
