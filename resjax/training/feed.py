"""Batches for the devices: training batches by step, and the evaluation set.

A small data set is copied to every device once; each dispatch then sends only the indices of its examples. A
large data set is decoded during training, and each dispatch sends its images.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from resjax import data
from resjax.data.stream import HostBatch
from resjax.training.devices import Devices
from resjax.training.step import Batch, Metrics, Task, TrainState


class Feed:
    """The training batches of one run, from ``start_step`` on."""

    def __init__(
        self,
        config: ConfigDict,
        dataset: data.Arrays | data.Stream,
        devices: Devices,
        start_step: int,
    ) -> None:
        self._config = config
        self._dataset = dataset
        self._devices = devices
        self._most = config.train.steps_per_dispatch
        self._hosts = (jax.process_index(), jax.process_count())
        self.images: Batch | None = None
        self._stream: Iterator[HostBatch] | None = None
        if isinstance(dataset, data.Arrays):
            images = {"image": dataset.train_images, "label": dataset.train_labels}
            self.images = devices.copy(images)
        else:
            self._stream = dataset.train_batches(
                config.seed, config.train.batch_size, start_step, *self._hosts
            )

    def batches(self, start: int, count: int) -> Batch:
        """Steps ``start`` to ``start + count``, on the devices, padded to ``train.steps_per_dispatch``.

        A stream only moves forward: each call must continue where the last one ended.
        """
        steps = [self._next(start + i) for i in range(count)]
        steps += steps[-1:] * (self._most - count)  # padding, never run: all dispatches have one shape
        stacked = {k: np.stack([step[k] for step in steps]) for k in steps[0]}
        return self._devices.split_for_training(stacked)

    def whole_batch(self, step: int) -> Batch:
        """One step's images and labels for diagnosis (streams: this host's shard)."""
        slots = self._slots()
        if isinstance(self._dataset, data.Arrays):
            index = self._indices(step)[slots]
            images, labels = self._dataset.train_images, self._dataset.train_labels
            return _on_device({"image": images[index], "label": labels[index], "slot": slots})
        size, seed = self._config.train.batch_size, self._config.seed
        batch = next(self._dataset.train_batches(seed, size, step, *self._hosts))
        return _on_device({**batch, "slot": slots})

    def _next(self, step: int) -> HostBatch:
        slots = self._slots()
        if self._stream is not None:
            return {**next(self._stream), "slot": slots}
        return {"index": self._indices(step)[slots], "slot": slots}

    def _indices(self, step: int) -> np.ndarray:
        size = self._config.train.batch_size
        return data.batch_indices(self._config.seed, step, self._dataset.info.num_train, size)

    def _slots(self) -> np.ndarray:
        """Positions of this host's examples in the global batch."""
        index, count = self._hosts
        share = self._config.train.batch_size // count
        return np.arange(index * share, (index + 1) * share, dtype=np.int32)


class Evaluation:
    """The evaluation set on the devices; calling it with a state returns sums over all examples.

    ``batch_size`` is rounded up to a multiple of the number of devices.
    """

    def __init__(
        self,
        task: Task,
        dataset: data.Arrays | data.Stream,
        devices: Devices,
        batch_size: int,
    ) -> None:
        self._dataset = dataset
        self._devices = devices
        self._size = -(-min(batch_size, dataset.info.num_test) // devices.count) * devices.count
        self._run = devices.eval_program(task)
        self._program: jax.stages.Compiled | None = None
        self._batches: Batch | None = None
        if isinstance(dataset, data.Arrays):
            self._batches = devices.split(
                _this_host(_padded_batches(dataset.test_images, dataset.test_labels, self._size))
            )

    def __call__(self, state: TrainState) -> Metrics:
        """Sums of loss and error, and the count, over the whole set; does not wait for the devices."""
        variables = state.variables
        if self._batches is not None:
            return self._sums(variables, self._batches)
        assert isinstance(self._dataset, data.Stream)
        hosts = (jax.process_index(), jax.process_count())
        total: Metrics = {}
        for batch in self._dataset.test_batches(self._size, *hosts):
            one = self._devices.split({k: v[None] for k, v in batch.items()})
            if self._devices.on_cores:
                jax.block_until_ready(total)
            sums = self._sums(variables, one)
            total = jax.tree.map(lambda a, b: a + b, total, sums) if total else sums
        return total

    def _sums(self, variables: dict[str, Any], batches: Batch) -> Metrics:
        if self._program is None:
            # In another thread, so that this one can be stopped meanwhile.
            pool = ThreadPoolExecutor(1)
            compiling = pool.submit(self._run.lower(variables, batches).compile)
            pool.shutdown(wait=False)
            self._program = compiling.result()
        return cast(Metrics, self._program(variables, batches))


def _on_device(batch: HostBatch) -> Batch:
    return {k: jnp.asarray(v) for k, v in batch.items()}


def _padded_batches(images: np.ndarray, labels: np.ndarray, size: int) -> HostBatch:
    """[N, …] → [n, size, …], with a mask that is 0 where the last batch is padded."""
    n = -(-len(images) // size)
    fill = n * size - len(images)

    def batches(a: np.ndarray) -> np.ndarray:
        padded = np.concatenate([a, np.zeros((fill, *a.shape[1:]), a.dtype)])
        return padded.reshape(n, size, *a.shape[1:])

    mask = np.ones(len(images), np.float32)
    return {"image": batches(images), "label": batches(labels), "mask": batches(mask)}


def _this_host(batches: HostBatch) -> HostBatch:
    share = next(iter(batches.values())).shape[1] // jax.process_count()
    start = jax.process_index() * share
    return {k: v[:, start : start + share] for k, v in batches.items()}
