"""Each core of a CPU as a separate device, with its share of the batch.

A single CPU device uses many threads, which synchronize after every small operation, and its convolutions use
XLA's multi-threaded kernel. Devices of one core each split a step once, by examples, and use a
single-threaded kernel that is up to 1.7 times as fast per core (``resjax.cpu.one_thread``). In return, they
must sum BatchNorm's statistics and the gradients over devices, which costs tens of microseconds per layer. So
training on small images does not benefit. The result is the same up to the order of sums: BatchNorm sees
the whole batch (``resjax.training.devices``). Each device holds a copy of the data set. Analyses share their
batches in the same way (``resjax.cpu.shared_batches``). Measurements: docs/performance.md.
"""

from __future__ import annotations

import os

import jax
from ml_collections import ConfigDict

from resjax.cpu.memory import keep_freed
from resjax.data.info import TABLE

_MOST = 8  # devices; more were not tried
_PIXELS = 32 * 32  # per image; with fewer, sums over devices cost more than they save
_FLAG = "xla_force_host_platform_device_count"


def share_cores(config: ConfigDict, *, sums: bool = True) -> None:
    """Makes ``config.parallel.cpu_devices`` devices of a CPU; 0 chooses a suitable number.

    With ``sums`` over devices, as in training, that is 1 for small images; without, several are faster.

    Call it before the first use of a JAX device. It does not affect accelerators, and a number given in
    ``XLA_FLAGS`` takes precedence.

    Raises:
      RuntimeError: JAX has already initialized its devices.
    """
    if _FLAG in os.environ.get("XLA_FLAGS", ""):
        return
    count = config.parallel.cpu_devices or _suitable(config, sums)
    if count > 1:
        jax.config.update("jax_num_cpu_devices", count)


def share_cores_to_analyse(config: ConfigDict, *, sums: bool = True) -> None:
    """As ``share_cores``, for a finished run, whose config may predate ``cpu_devices``. It also makes the
    process keep the memory that analyses free (``keep_freed``).

    A value of 1 is kept; any other number was meant for the machine that trained.
    """
    keep_freed()
    here = config.copy_and_resolve_references()
    here.parallel.cpu_devices = int(config.parallel.get("cpu_devices", 0) == 1)
    share_cores(here, sums=sums)


def _suitable(config: ConfigDict, sums: bool) -> int:
    # Results of pmap depend on the number of devices; several processes divide a host's cores themselves.
    alone = config.parallel.mode == "jit" and not config.parallel.distributed
    unsuited = sums and _pixels(config.data) < _PIXELS
    if not alone or "JAX_COORDINATOR_ADDRESS" in os.environ or unsuited:
        return 1
    return number_of_devices(config.train.batch_size)


def _pixels(data: ConfigDict) -> int:
    """Pixels of an image. A user's own images count as large: they are not read here."""
    if data.image_size:
        return data.image_size**2
    known = TABLE.get(data.name)
    return known.image_shape[0] * known.image_shape[1] if known else _PIXELS


def number_of_devices(batch_size: int) -> int:
    """The largest number of devices that divides the batch, with at least one core of this process each."""
    cores = available_cores()
    return max(n for n in range(1, min(cores, _MOST) + 1) if batch_size % n == 0)


def available_cores() -> int:
    """The number of cores that this process may use."""
    available = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None  # on Linux
    return len(available) if available else os.cpu_count() or 1
