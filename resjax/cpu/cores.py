"""On a CPU, each core can be a device of its own, with its share of the batch.

One device computes with many threads, which meet after every small operation, and its convolutions go to
the kernel of XLA that has threads. Devices of one core each split a step once, by examples, and take a
kernel of one thread, which does up to 1.7 times as much with it (``resjax/cpu/one_thread.py``). In
return they must add up BatchNorm's statistics and the gradients, tens of microseconds a layer: small images
are not worth it. The result is the same but for the order of sums, since BatchNorm sees the whole batch
(``resjax/training/devices.py``). The data set is in memory once a device. Analyses share their batches in the same
way (``resjax/cpu/shared_batches.py``). Measurements: docs/performance.md.
"""

from __future__ import annotations

import os

import jax
from ml_collections import ConfigDict

from resjax.data.info import TABLE

_MOST = 8  # devices; more were not tried
_PIXELS = 32 * 32  # of an image; on smaller ones the devices' sums cost more than they bring
_FLAG = "xla_force_host_platform_device_count"


def share_cores(config: ConfigDict) -> None:
    """Makes as many devices of a CPU as ``config.parallel.cpu_devices`` says, where 0 is a good number.

    Call it before anything asks JAX for a device. Accelerators, and a number given in ``XLA_FLAGS``, stay
    as they are.

    Raises:
      RuntimeError: JAX has its devices already.
    """
    if _FLAG in os.environ.get("XLA_FLAGS", ""):
        return
    count = config.parallel.cpu_devices or _suitable(config)
    if count > 1:
        jax.config.update("jax_num_cpu_devices", count)


def share_cores_to_analyse(config: ConfigDict) -> None:
    """As ``share_cores``, for a run that was trained elsewhere perhaps, or before there was the field.

    Its 1 is kept; any other number was for the machine that it was trained on.
    """
    here = config.copy_and_resolve_references()
    here.parallel.cpu_devices = int(config.parallel.get("cpu_devices", 0) == 1)
    share_cores(here)


def _suitable(config: ConfigDict) -> int:
    # pmap would compute something else on more devices; many processes share a host's cores themselves.
    alone = config.parallel.mode == "jit" and not config.parallel.distributed
    if not alone or "JAX_COORDINATOR_ADDRESS" in os.environ or _pixels(config.data) < _PIXELS:
        return 1
    return number_of_devices(config.train.batch_size)


def _pixels(data: ConfigDict) -> int:
    """Of an image; a user's own are not read for it, and count as large."""
    if data.image_size:
        return data.image_size**2
    known = TABLE.get(data.name)
    return known.image_shape[0] * known.image_shape[1] if known else _PIXELS


def number_of_devices(batch_size: int) -> int:
    """Devices that share a batch equally, at most one for each core that this process may use."""
    there = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None  # on Linux
    cores = len(there) if there else os.cpu_count() or 1
    return max(n for n in range(1, min(cores, _MOST) + 1) if batch_size % n == 0)
