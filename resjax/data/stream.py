"""Large data sets: decoded by worker processes while the device trains.

grain runs the workers, keeps their results in order and passes them through shared memory. A worker decodes
whole batches, addressed by their step; all random numbers are drawn from (seed, position in the training
stream). So the batch of a step does not depend on the number of workers, the step at which the run started,
or the number of hosts: each host decodes its own consecutive part of every global batch.

In the methods, `batch_size` is the size of the global batch, `process_index` the index of this host, and
`process_count` the number of hosts. A `batch_size` that is not divisible by `process_count` raises a
ValueError.
"""

import contextlib
import ctypes
import dataclasses
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, SupportsIndex

import numpy as np
from absl import flags

from resjax.data.decode import center_crop, opened, train_crop
from resjax.data.info import Info
from resjax.data.order import batch_indices

HostBatch = dict[str, np.ndarray]

_READ_AT_ONCE = 32
_M_ARENA_MAX = -8  # from glibc's malloc.h


class Source(Protocol):
    """Encoded images by number; picklable, for worker processes."""

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int], /) -> list[tuple[bytes, int]]: ...

    def where(self, index: int, /) -> str:
        """The file or record of an image, for messages."""
        ...


@dataclasses.dataclass(frozen=True)
class Stream:
    """A data set that is decoded during training."""

    info: Info  # `image_shape` is the shape of the crops
    train: Source  # encoded images to train on
    train_indices: np.ndarray  # the indices of those that are used, int32 [num_train]
    test: Source  # the same for evaluation
    test_indices: np.ndarray
    crop: str  # as in `config.data`
    workers: int
    background: str = "white"

    def train_batches(
        self,
        seed: int,
        batch_size: int,
        start_step: int = 0,
        process_index: int = 0,
        process_count: int = 1,
    ) -> Iterator[HostBatch]:
        """Endless training batches from `start_step` on; a later start costs nothing.

        A batch has 'image' uint8 [b, H, W, C] and 'label' int32 [b], b = batch_size // process_count. Order
        and crops are functions of (seed, step).
        """
        share = _share(batch_size, process_index, process_count)
        return self._run(_TrainBatches(self, seed, batch_size, start_step, share))

    def test_batches(
        self, batch_size: int, process_index: int = 0, process_count: int = 1
    ) -> Iterator[HostBatch]:
        """Every test example exactly once over all hosts; all hosts yield the same number of batches.

        Batches also have 'mask' float32 [b], which is 0 for the padding (zeros) of the last batch, else 1.
        """
        share = _share(batch_size, process_index, process_count)
        return self._run(_TestBatches(self, batch_size, share))

    def _run(self, batches: "_TrainBatches | _TestBatches") -> Iterator[HostBatch]:
        import grain  # not at the top: the import takes a second, and small sets do not need it

        # A record is a whole batch, so a few in flight suffice.
        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
        data = grain.MapDataset.source(batches).to_iter_dataset(options)
        if self.workers:
            # grain reads absl's flags, which a notebook never parses.
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            workers = grain.multiprocessing.MultiprocessingOptions(
                num_workers=min(self.workers, len(batches)), per_worker_buffer_size=2
            )
            data = data.mp_prefetch(workers, worker_init_fn=_start_worker)
        return _Batches(iter(data))


def _start_worker(index: int, count: int) -> None:
    """Ends this worker when its parent has ended, and limits malloc to two arenas, so that the memory of a
    worker stays constant.

    glibc gives each of the worker's many threads a heap; images of different sizes fragment these heaps for
    epochs (memory grows from 135 to 205 MB per worker). Without glibc, nothing is limited.
    """
    del index, count
    threading.Thread(target=_end_with_parent, daemon=True).start()
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 2)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)  # the parent was killed, otherwise it would have stopped this worker


@contextlib.contextmanager
def _no_stops_for_children() -> Iterator[None]:
    """Processes that start meanwhile never get SIGTERM, SIGINT or SIGUSR1, which a terminal or Slurm sends to
    all processes of a job: without batches, the one that trains could not save.

    They inherit which signals are blocked, and so does the process with which Python tracks shared memory.
    That one removes what a killed process has left, and here it does so without a warning.
    """
    if os.name != "posix":
        yield
        return
    stops = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    options = list(sys.warnoptions)
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")
    try:
        multiprocessing.resource_tracker.ensure_running()
        sys.warnoptions[:] = options
        signal.pthread_sigmask(signal.SIG_BLOCK, stops)  # that call allows two of them again
        yield
    finally:
        sys.warnoptions[:] = options
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Batches(Iterator[HostBatch]):
    """grain's iterator; stops its workers when it is garbage-collected or the program ends.

    Workers that are stopped later leak shared memory and print errors. Batches are copied out of that memory
    for the same reason.
    """

    def __init__(self, iterator: Any):
        self._running = [iterator]
        self._starting: contextlib.AbstractContextManager[None] = _no_stops_for_children()
        weakref.finalize(self, lambda running: running.pop().close(), self._running)

    def __next__(self) -> HostBatch:
        with self._starting:  # workers start with the first batch
            batch = next(self._running[0])
        self._starting = contextlib.nullcontext()
        return {key: np.array(value) for key, value in batch.items()}


def _share(batch_size: int, process_index: int, process_count: int) -> slice:
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size={batch_size} cannot be shared by {process_count} processes: "
            "choose a multiple of their number"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index={process_index} is not in 0..{process_count - 1}")
    size = batch_size // process_count
    return slice(process_index * size, (process_index + 1) * size)


def _examples(source: Source, indices: np.ndarray) -> Iterator[tuple[bytes, int]]:
    # Several at once: array_record starts threads for each call, which costs more than the reading.
    for start in range(0, len(indices), _READ_AT_ONCE):
        yield from source.read(indices[start : start + _READ_AT_ONCE].tolist())


@dataclasses.dataclass(frozen=True)
class _TrainBatches:
    """Training batches by number; picklable."""

    data: Stream
    seed: int
    batch_size: int
    start_step: int
    share: slice

    def __len__(self) -> int:
        # Practically endless, and small enough for grain's multiplications.
        return 2**40

    def __getitem__(self, number: SupportsIndex) -> HostBatch:
        step = self.start_step + number.__index__()
        num_train = len(self.data.train_indices)
        places = batch_indices(self.seed, step, num_train, self.batch_size)[self.share]
        first = step * self.batch_size + self.share.start
        size, _, channels = self.data.info.image_shape
        images = np.empty((len(places), size, size, channels), np.uint8)
        labels = np.empty(len(places), np.int32)
        indices = self.data.train_indices[places]
        for j, (encoded, label) in enumerate(_examples(self.data.train, indices)):
            labels[j] = label
            # The 1 separates crops from the shuffle, which draws from (seed, epoch).
            rng = np.random.default_rng((self.seed, first + j, 1))
            with opened(encoded, self.data.train.where(int(indices[j]))) as image:
                images[j] = train_crop(image, size, self.data.crop, rng, channels, self.data.background)
        return {"image": images, "label": labels}


@dataclasses.dataclass(frozen=True)
class _TestBatches:
    """Test batches by number; picklable."""

    data: Stream
    batch_size: int
    share: slice

    def __len__(self) -> int:
        return -(-len(self.data.test_indices) // self.batch_size)

    def __getitem__(self, number: SupportsIndex) -> HostBatch:
        start = number.__index__() * self.batch_size
        indices = self.data.test_indices[start + self.share.start : start + self.share.stop]
        count = self.share.stop - self.share.start
        size, _, channels = self.data.info.image_shape
        images = np.zeros((count, size, size, channels), np.uint8)
        labels = np.zeros(count, np.int32)
        mask = np.zeros(count, np.float32)
        for j, (encoded, label) in enumerate(_examples(self.data.test, indices)):
            labels[j] = label
            with opened(encoded, self.data.test.where(int(indices[j]))) as image:
                images[j] = center_crop(image, size, channels, background=self.data.background)
            mask[j] = 1.0
        return {"image": images, "label": labels, "mask": mask}
