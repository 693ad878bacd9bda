"""The processes of a run on many hosts: how they find and join each other, and how all end together."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
from jax._src.clusters import ClusterEnv  # what jax.distributed.initialize() uses; there is no public name
from ml_collections import ConfigDict

from resjax.config import flat
from resjax.training.checkpoint import Checkpoints
from resjax.training.forward import forward
from resjax.training.links import Watch
from resjax.training.meeting import Place, meet
from resjax.workdir.provenance import versions

JOINING = 300  # seconds for all processes to start
_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_OWN_TO_A_HOST = ("data.workers",)  # fields of the configuration that may differ


@contextlib.contextmanager
def joined(config: ConfigDict, directory: str | Path, seconds: float = JOINING) -> Iterator[None]:
    """Joins the processes of many hosts into one run, if there are any; enter it before JAX uses a device.

    ``config.parallel.distributed`` is enough on TPU pods and under Slurm or MPI, where JAX finds the other
    processes. Elsewhere set the environment variables ``JAX_COORDINATOR_ADDRESS``, ``JAX_NUM_PROCESSES`` and
    ``JAX_PROCESS_ID`` of each process. Where JAX's processes are joined already, nothing is done.

    When another process is lost (killed, or its host does not answer), this one ends within 30 s, by
    ``os._exit(75)``, with a line on stderr that says which one and how the run continues. When another one
    ends with an error, so does this one, with status 1.

    Args:
      config: the configuration, which must be that of all processes.
      directory: the workdir, which must be that of all processes.
      seconds: how long to wait for processes that have not started.

    Raises:
      ValueError: the variables are incomplete or invalid, a process is missing or was started differently, or
        the coordinator's port is in use.
    """
    place = None if jax.distributed.is_initialized() else _place(config.parallel.distributed)
    if place is None or place.number == 1:
        yield
        return
    links, port = meet(place, _says(config, directory), seconds)
    watch = Watch(place.own, place.number, links, lambda: _remedy(directory))
    watch.start()
    try:
        _start_jax(place, port)
        yield
    except BaseException as error:
        watch.leave(error)
        raise
    watch.leave(None)


def _place(wanted: bool) -> Place | None:
    """Where this process is among those of the run; None if it is alone."""
    missing = [name for name in _VARIABLES if name not in os.environ]
    if not missing:
        return _place_given(os.environ)
    if len(missing) < len(_VARIABLES):
        raise ValueError(f"a run on many hosts needs {', '.join(missing)} in the environment as well")
    if not wanted:
        return None
    address, number, own, devices = ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, None, JOINING
    )
    if address is None or number is None or own is None:
        raise ValueError(
            "parallel.distributed=True, but this is no TPU pod and no job of Slurm or MPI that JAX knows. "
            f"Set {', '.join(_VARIABLES)} in the environment of each process"
        )
    return Place(address, number, own, None if devices is None else tuple(devices))


def _place_given(environment: Mapping[str, str]) -> Place:
    address, *counts = (environment[name] for name in _VARIABLES)
    _, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"JAX_COORDINATOR_ADDRESS={address} is not HOST:PORT, such as 10.0.0.1:1234")
    if not all(count.isdecimal() for count in counts) or not int(counts[1]) < int(counts[0]):
        raise ValueError(
            f"JAX_PROCESS_ID={counts[1]} with JAX_NUM_PROCESSES={counts[0]}: the number of a process "
            "is 0, 1, … up to one less than JAX_NUM_PROCESSES"
        )
    return Place(address, int(counts[0]), int(counts[1]))


def _start_jax(place: Place, port: int) -> None:
    own_port = port if place.own == 0 else forward(place.host, port)
    jax.distributed.initialize(
        f"127.0.0.1:{own_port}",
        place.number,
        place.own,
        None if place.devices is None else list(place.devices),
        cluster_detection_method="deactivate",
        coordinator_bind_address=f"[::]:{port}",
    )


def _says(config: ConfigDict, directory: str | Path) -> dict[str, str]:
    """What must be equal in all processes, by name."""
    fields = flat(config.copy_and_resolve_references().to_dict())
    return {
        "--workdir": str(Path(directory).resolve()),
        **{name: str(value) for name, value in flat(versions()).items()},
        **{f"config.{name}": str(value) for name, value in fields.items() if name not in _OWN_TO_A_HOST},
    }


def _remedy(directory: str | Path) -> str:
    step = Checkpoints(directory).newest
    where = f"continues from step {step}" if step else "starts again from step 0"
    return f"The same command on all hosts {where}"
