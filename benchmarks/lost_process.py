"""How long the other process of a training works on after one of two is killed.

    python benchmarks/lost_process.py [--json PATH]

Two real processes of this machine train together. One is killed with SIGKILL, the first one or the other one,
while the steps are compiled or while they run. Measured is the time from the signal to the end of the other
process, whose exit status and last line are kept.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from results import save
from rich.console import Console
from rich.table import Table

FLAGS = (
    "--config=digits:smoke",
    "--config.log.every=10 steps",
    "--config.checkpoint.every=50 steps",
    "--config.eval.every=100000 steps",
    "--config.train.duration=100000 steps",
)
# What the first process prints when this begins.
MOMENTS = {"compiling": "steps 0 to", "training": "step     80 "}


def environments(number: int = 2) -> Iterator[dict[str, str]]:
    """The environment of each process of a run on this machine, at a port that was just free."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    for own in range(number):
        joined = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(number)}
        yield {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", **joined, "JAX_PROCESS_ID": str(own)}


def start(workdir: Path, flags: tuple[str, ...] = FLAGS) -> list[subprocess.Popen[bytes]]:
    """Two processes that train together; the file ``errN`` beside ``workdir`` gets the stderr of number N."""
    command = [sys.executable, "-m", "resjax.train", *flags, f"--workdir={workdir}"]
    started = []
    for own, environment in enumerate(environments()):
        with stderr_of(workdir, own).open("wb") as file:
            started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file, env=environment))
    return started


def stderr_of(workdir: Path, own: int) -> Path:
    """The file with what process ``own`` printed on stderr."""
    return workdir.parent / f"{workdir.name}-err{own}"


def wait_for(text: str, workdir: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    """Waits until the first process has printed ``text``; raises RuntimeError if one ends before."""
    while text not in stderr_of(workdir, 0).read_text():
        if any(process.poll() is not None for process in processes):
            said = [stderr_of(workdir, own).read_text() for own in range(len(processes))]
            raise RuntimeError(f"a process ended before {text!r} was printed: {said}")
        time.sleep(0.05)


def measure(killed: int, moment: str) -> dict[str, Any]:
    """The time from the death of process ``killed`` at ``moment`` to the end of the other one."""
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / "run"
        processes = start(workdir)
        other = processes[1 - killed]
        try:
            wait_for(MOMENTS[moment], workdir, processes)
            processes[killed].kill()
            begun = time.perf_counter()
            status = other.wait(timeout=300)
            seconds = time.perf_counter() - begun
        finally:
            for process in processes:
                process.kill()
                process.wait()
        last = stderr_of(workdir, 1 - killed).read_text().splitlines()[-1]
    return {"killed": killed, "moment": moment, "seconds": seconds, "status": status, "last": last}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the results")
    args = parser.parse_args()
    table = Table("killed", "while", "ended after", "status", "last line")
    rows = []
    for killed in (1, 0):
        for moment in MOMENTS:
            rows.append(row := measure(killed, moment))
            save(args.json, {"rows": rows})
            seconds = f"{row['seconds']:.1f} s"
            table.add_row(str(killed), moment, seconds, str(row["status"]), row["last"])
    Console().print(table)


if __name__ == "__main__":
    main()
