"""Each core of a CPU as a device of its own, with its share of the batch.

One device computes with many threads, which meet after every small operation, and its convolutions use
XLA's multi-threaded kernel. Devices of one core each split a step once, by examples, and use a
single-threaded kernel, which does up to 1.7 times as much with it (``resjax.cpu.one_thread``). In return
they must add up BatchNorm's statistics and the gradients, tens of microseconds a layer, so small images are
not worth it. The result is the same up to the order of sums, since BatchNorm sees the whole batch
(``resjax.training.devices``). Each device holds a copy of the data set. Analyses share their batches in the
same way (``resjax.cpu.shared_batches``). Measurements: docs/performance.md.
"""

from __future__ import annotations

import os

import jax
from ml_collections import ConfigDict

from resjax.data.info import TABLE

_MOST = 8  # devices; more were not tried
_PIXELS = 32 * 32  # of an image; below, the devices' sums cost more than they save
_FLAG = "xla_force_host_platform_device_count"


def share_cores(config: ConfigDict) -> None:
    """Makes ``config.parallel.cpu_devices`` devices of a CPU; 0 chooses a suitable number.

    Call it before anything asks JAX for a device. Accelerators, and a number given in ``XLA_FLAGS``, are left
    alone.

    Raises:
      RuntimeError: JAX has its devices already.
    """
    if _FLAG in os.environ.get("XLA_FLAGS", ""):
        return
    count = config.parallel.cpu_devices or _suitable(config)
    if count > 1:
        jax.config.update("jax_num_cpu_devices", count)


def share_cores_to_analyse(config: ConfigDict) -> None:
    """As ``share_cores``, for a finished run, whose config may predate ``cpu_devices``.

    A 1 is kept; any other number was meant for the machine that trained.
    """
    here = config.copy_and_resolve_references()
    here.parallel.cpu_devices = int(config.parallel.get("cpu_devices", 0) == 1)
    share_cores(here)


def _suitable(config: ConfigDict) -> int:
    # pmap computes something else on more devices; many processes share a host's cores themselves.
    alone = config.parallel.mode == "jit" and not config.parallel.distributed
    if not alone or "JAX_COORDINATOR_ADDRESS" in os.environ or _pixels(config.data) < _PIXELS:
        return 1
    return number_of_devices(config.train.batch_size)


def _pixels(data: ConfigDict) -> int:
    """Pixels of an image; a user's own images are not read for it and count as large."""
    if data.image_size:
        return data.image_size**2
    known = TABLE.get(data.name)
    return known.image_shape[0] * known.image_shape[1] if known else _PIXELS


def number_of_devices(batch_size: int) -> int:
    """The most devices that share a batch equally, with one core of this process for each."""
    available = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None  # on Linux
    cores = len(available) if available else os.cpu_count() or 1
    return max(n for n in range(1, min(cores, _MOST) + 1) if batch_size % n == 0)
