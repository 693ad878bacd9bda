"""Data parallelism: equal results on 1, 2, 4, 8 devices and on two processes, and the bytes a step sends.

    python benchmarks/scaling.py [--depth 20] [--batch 64] [--steps 4] [--json PATH]

Devices are virtual ones of one CPU and the two processes are real ones that talk through gloo, so nothing
here is a speed. Every layout does the same steps on the same random images from the same state, in a process
of its own; compared are the losses of all steps and the parameters behind the last. Traffic is counted in the
compiled program of ``resjax.train``: every all-reduce within one training step, its bytes times the known
trip counts of the loops around it. The outermost loop, over the steps of a dispatch, counts once.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from results import save
from rich.console import Console
from rich.table import Table

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
SIZES = {"f64": 8, "s64": 8, "u64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "s8": 1,
         "u8": 1, "pred": 1}  # fmt: skip
Counted = dict[str, dict[str, float]]


def count_collectives(hlo: str) -> Counted:
    """{operation: {"number", "bytes"}} of one run of a compiled program, loops of a known length unrolled.

    Bytes are those of an operation's result, on each device. A loop whose length the program does not know
    counts once.
    """
    bodies: dict[str, list[str]] = {}
    entry = name = ""
    for line in hlo.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            name = head[2]
            bodies[name] = []
            entry = name if head[1] else entry
        elif name:
            bodies[name].append(line)
    total: Counted = {}

    def walk(computation: str, times: int) -> None:
        for line in bodies[computation]:
            operation = re.search(r"= (.*?) ([a-z\-]+)\(", line)
            kind = operation[2].removesuffix("-start") if operation else ""
            if operation and kind in COLLECTIVES:
                found = total.setdefault(kind, {"number": 0, "bytes": 0})
                found["number"] += times
                found["bytes"] += times * _bytes(operation[1])
            inner = re.findall(
                r"(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)", line
            )
            branches = re.search(r"branch_computations=\{(.*?)\}", line)
            inner += re.findall(r"[\w.\-]+", branches[1]) if branches else []
            trips = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
            for called in inner:
                if kind not in COLLECTIVES:  # whose own is one addition
                    walk(called, times * (int(trips[1]) if trips else 1))

    walk(entry, 1)
    return total


def _bytes(shapes: str) -> int:
    return sum(
        SIZES[kind] * int(np.prod([int(n) for n in size.split(",") if n]))
        for kind, size in re.findall(r"(\w+)\[([\d,]*)\]", shapes)
        if kind in SIZES
    )


def serve(depth: int, batch: int, steps: int, out: Path) -> None:
    """The steps on all devices of this process, or of all processes; process 0 writes what was found."""
    from resjax import config as configs
    from resjax.training.processes import joined

    config = configs.default("resnet", depth=depth)
    config.train.batch_size, config.train.steps_per_dispatch = batch, steps
    config.data.pad, config.data.flip = 4, True
    with joined(config, out):
        _measure(config, steps, out)


def _measure(config: ConfigDict, steps: int, out: Path) -> None:
    import jax
    import jax.numpy as jnp

    from resjax import data
    from resjax.data.info import Info
    from resjax.train import make_experiment
    from resjax.training.devices import Devices
    from resjax.training.feed import Feed

    rng = np.random.default_rng(0)
    n = 1024
    images, labels = (
        rng.integers(0, 256, (n, 32, 32, 3), np.uint8),
        rng.integers(0, 10, n, np.int32),
    )
    info = Info("random", (32, 32, 3), 10, n, n, mean=(0.5,) * 3, std=(0.29,) * 3)
    experiment = make_experiment(config, data.Arrays(info, images, labels, images, labels))
    devices = Devices()
    feed = Feed(config, experiment.dataset, devices, 0)
    state = devices.copy(experiment.create_state())
    arguments = (state, feed.images, feed.batches(0, steps), jnp.int32(0), jnp.int32(steps), None)
    compiled = devices.train_program(experiment.task).lower(*arguments).compile()
    state, metrics = compiled(*arguments)
    flat = jax.device_get(jax.tree.leaves(state.params))
    if jax.process_index() == 0:
        text = compiled.as_text()
        facts = {
            "devices": len(jax.devices()),
            "processes": jax.process_count(),
            "parameters": sum(leaf.size for leaf in flat),
            "collectives": count_collectives(text),
            "losses": np.asarray(metrics["loss"], np.float64).tolist(),
        }
        np.savez(out / "parameters.npz", *flat)
        (out / "facts.json").write_text(json.dumps(facts))


def run(args: argparse.Namespace, devices: int, processes: int) -> tuple[dict[str, Any], list[Any]]:
    """What ``serve`` found in this layout, and the parameters."""
    per_process = devices // processes
    env = {**os.environ, "RESJAX_CACHE_DIR": "off", "JAX_PLATFORMS": "cpu"}
    env["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={per_process}"
    if processes > 1:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        env |= {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(processes)}
    with tempfile.TemporaryDirectory() as folder:
        sizes = [f"--{k}={getattr(args, k)}" for k in ("depth", "batch", "steps")]
        command = [sys.executable, __file__, *sizes, "--serve", folder]
        started = [
            subprocess.Popen(command, env={**env, "JAX_PROCESS_ID": str(i)} if processes > 1 else env)
            for i in range(processes)
        ]
        codes = [process.wait() for process in started]
        if any(codes):
            raise RuntimeError(f"{devices} devices of {processes} processes failed; see above")
        facts = json.loads((Path(folder) / "facts.json").read_text())
        with np.load(Path(folder) / "parameters.npz") as file:
            return facts, [file[name] for name in file.files]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.depth, args.batch, args.steps, args.serve)
        return

    table = Table("devices", "processes", title=f"ResNet-{args.depth}, batch {args.batch}")
    for column in (
        "loss differs by",
        "parameters by",
        "all-reduces a step",
        "KB a step",
        "bytes/parameter",
    ):
        table.add_column(column, justify="right")
    rows: list[dict[str, Any]] = []
    first: tuple[dict[str, Any], list[Any]] | None = None
    for devices, processes in ((1, 1), (2, 1), (4, 1), (8, 1), (2, 2)):
        facts, parameters = run(args, devices, processes)
        first = first or (facts, parameters)
        scale = max(float(np.abs(p).max()) for p in first[1])
        moved = zip(parameters, first[1], strict=True)
        facts["parameters_differ"] = max(float(np.abs(a - b).max()) for a, b in moved) / scale
        apart = np.abs(np.subtract(facts["losses"], first[0]["losses"]))
        facts["losses_differ"] = float(np.max(apart / np.abs(first[0]["losses"])))
        rows.append(facts)
        save(args.json, {"depth": args.depth, "batch": args.batch, "rows": rows})
        sums = facts["collectives"].get("all-reduce", {"number": 0, "bytes": 0})
        table.add_row(
            str(devices),
            str(processes),
            f"{facts['losses_differ']:.1e}",
            f"{facts['parameters_differ']:.1e}",
            f"{sums['number']:.0f}",
            f"{sums['bytes'] / 1e3:.1f}",
            f"{sums['bytes'] / facts['parameters']:.2f}",
        )
    console = Console()
    console.print(table)
    if others := {k for row in rows for k in row["collectives"]} - {"all-reduce"}:
        console.print(f"also: {', '.join(sorted(others))}; see the JSON file")
    if args.json:
        console.print(f"written: {args.json}")


if __name__ == "__main__":
    main()
